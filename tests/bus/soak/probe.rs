//! What a call that does nothing takes, beside the same call of a service that
//! does nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ECHO: &str = "org.gptoss.test.Echo";

/// Has one property, as the daemon has `Version`.
struct Echo;

#[zbus::interface(name = "org.gptoss.test.Echo")]
impl Echo {
    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }
}

/// What the calls took, in order.
pub struct Latency {
    daemon: Vec<Duration>,
    echo: Vec<Duration>,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |took: &[Duration], share: f64| {
            took[((took.len() - 1) as f64 * share) as usize].as_micros()
        };
        for (what, took) in [("gptossd", &self.daemon), ("echo service", &self.echo)] {
            let (p50, p99) = (at(took, 0.5), at(took, 0.99));
            writeln!(
                f,
                "no-op call, {what}: p50 {p50} µs, p99 {p99} µs, {} calls",
                took.len()
            )?;
        }
        let ratio = at(&self.daemon, 0.99) as f64 / at(&self.echo, 0.99) as f64;
        write!(f, "p99 of gptossd / p99 of the echo service: {ratio:.2}")
    }
}

/// Calls both in turns until `stop`.
pub fn start(address: String, stop: Arc<AtomicBool>) -> JoinHandle<Latency> {
    let (ready, served) = std::sync::mpsc::channel();
    let service = address.clone();
    let over = Arc::clone(&stop);
    std::thread::spawn(move || block_on(serve(service, ready, over)));
    served.recv().unwrap();
    std::thread::spawn(move || block_on(ask(address, stop)))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

async fn serve(address: String, ready: std::sync::mpsc::Sender<()>, stop: Arc<AtomicBool>) {
    let connection = zbus::connection::Builder::address(address.as_str())
        .serve_at("/", Echo)
        .name(ECHO);
    let _connection = connection.build().await.unwrap();
    ready.send(()).unwrap();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn ask(address: String, stop: Arc<AtomicBool>) -> Latency {
    let connection = zbus::connection::Builder::address(address.as_str());
    let connection = connection.build().await.unwrap();
    let (mut daemon, mut echo) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let manager = "org.gptoss.Daemon1.Manager";
        daemon.push(
            get(
                &connection,
                crate::harness::NAME,
                "/org/gptoss/Daemon1",
                manager,
            )
            .await,
        );
        echo.push(get(&connection, ECHO, "/", ECHO).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.sort();
    echo.sort();
    Latency { daemon, echo }
}

async fn get(connection: &zbus::Connection, name: &str, path: &str, interface: &str) -> Duration {
    let begun = Instant::now();
    let (properties, body) = ("org.freedesktop.DBus.Properties", (interface, "Version"));
    let reply = connection.call_method(Some(name), path, Some(properties), "Get", &body);
    reply.await.unwrap();
    begun.elapsed()
}
