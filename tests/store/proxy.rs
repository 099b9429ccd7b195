//! Proxies, and how fast a pull may be.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{FAILED, Outcome, TINY, USAGE, World};
use crate::mirror::{HOST, Request, head};

/// A proxy for TLS: it connects and hands bytes on.
pub struct Tunnel {
    port: u16,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    pub fn start() -> Self {
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let seen = targets.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = seen.clone();
                thread::spawn(move || stream.map(|s| tunnel(s, &seen)));
            }
        });
        Self { port, targets }
    }

    pub fn url(&self) -> String {
        format!("http://{HOST}:{}", self.port)
    }

    /// Where it was asked to connect to.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }
}

fn tunnel(client: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let request = Request::read(&mut reader)?;
    assert_eq!(request.method, "CONNECT");
    seen.lock().unwrap().push(request.path.clone());
    let mut server = TcpStream::connect(&request.path).ok()?;
    let mut out = client;
    out.write_all(&head("200 Connection established", &[]))
        .ok()?;
    let mut back = server.try_clone().ok()?;
    thread::spawn(move || copy(&mut back, &mut out));
    copy(&mut reader, &mut server)
}

fn copy(from: &mut impl Read, to: &mut TcpStream) -> Option<()> {
    std::io::copy(from, to).ok()?;
    to.shutdown(std::net::Shutdown::Write).ok()
}

/// A server that is not there.
const NOWHERE: &str = "127.0.0.3:1";

/// A pull from it, with these variables.
fn pull_through(world: &World, variables: &[(&str, &str)]) -> Outcome {
    let catalog = world.path("catalog.toml");
    let mut command = world.command(&[
        "pull",
        TINY,
        "--endpoint",
        &format!("http://{NOWHERE}"),
        "--retries",
        "0",
        "--catalog",
        catalog.to_str().unwrap(),
    ]);
    command.envs(variables.iter().copied());
    command.output().unwrap().into()
}

#[test]
fn proxies_of_the_environment_are_used() {
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let world = World::new();
        let proxy = world.mirror.url();
        pull_through(&world, &[(name, &proxy)]).ok();
        world.assert_installed();
        assert!(world.mirror.requests() >= world.files.len(), "{name}");
    }
    let world = World::new();
    let proxy = world.mirror.url();
    let excepted = [("HTTP_PROXY", &proxy[..]), ("NO_PROXY", "127.0.0.3")];
    pull_through(&world, &excepted).fails(FAILED, &[NOWHERE]);
    assert_eq!(world.mirror.requests(), 0);
}

#[test]
fn a_pull_is_as_fast_as_it_may_be() {
    let world = World::new();
    let total: usize = world.files.values().map(Vec::len).sum();
    let started = Instant::now();
    world.pull(&["--limit-rate", "400k"]).ok();
    // A quarter of a second's bytes may come at once.
    let least = total as f64 / 400_000.0 - 0.25;
    assert!(least > 1.0, "too few bytes to tell");
    let took = started.elapsed();
    assert!(took >= Duration::from_secs_f64(least), "{took:?}");
    world.assert_installed();
}

#[test]
fn rates_that_make_no_sense() {
    let world = World::new();
    for rate in ["0", "10", "-1", "fast", "10T"] {
        let outcome = world.pull(&[&format!("--limit-rate={rate}")]);
        assert_eq!(outcome.code, Some(USAGE), "{outcome:?}");
    }
}
