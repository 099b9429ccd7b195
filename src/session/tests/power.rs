//! Sleep and battery, with a loader whose provider proves itself as told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::engine::{
    EngineEvent, EngineFailure, EngineSettings, GenerationRequest, Owner, Priority, Sampling,
    TokenStream,
};
use crate::harmony::Tokenizer;
use crate::runtime::simulated::{Answer, Script, SimulatedBackend, tokenizer_json};
use crate::session::host::Lease;
use crate::session::loader::{LoadedModel, Loader, ModelSummary, Pause, Unavailable};

#[derive(Default)]
struct Machine {
    on_device: bool,
    broken: AtomicBool,
    proofs: AtomicUsize,
    loads: Mutex<usize>,
    /// Whether a load waits for `go`, once it has said that it has `begun`.
    gated: AtomicBool,
    begun: tokio::sync::Notify,
    go: tokio::sync::Notify,
}

impl Machine {
    /// Has a load begin, and stay at its beginning.
    async fn begin_load(
        &self,
        host: &Arc<ModelHost>,
    ) -> tokio::task::JoinHandle<Result<(), Unavailable>> {
        self.gated.store(true, Ordering::Relaxed);
        let host = Arc::clone(host);
        let asked = tokio::spawn(async move { host.acquire("m").await.map(drop) });
        self.begun.notified().await;
        asked
    }

    fn go_on(&self) {
        self.gated.store(false, Ordering::Relaxed);
        self.go.notify_one();
    }
}

impl Loader for Machine {
    fn models(&self) -> Vec<ModelSummary> {
        Vec::new()
    }

    fn resolve(&self, name: Option<&str>) -> Result<String, Unavailable> {
        Ok(name.unwrap_or("m").to_owned())
    }

    fn probe(&self, _model: &str) -> Result<(), Unavailable> {
        Ok(())
    }

    fn tokenizer(&self, _model: &str) -> Result<Arc<Tokenizer>, Unavailable> {
        Ok(Arc::new(Tokenizer::from_bytes(&tokenizer_json()).unwrap()))
    }

    fn context_window(&self, _model: &str) -> Result<usize, Unavailable> {
        Ok(100)
    }

    fn prove_again(&self) -> Result<(), Unavailable> {
        self.proofs.fetch_add(1, Ordering::Relaxed);
        match self.broken.load(Ordering::Relaxed) {
            true => Err(Unavailable::SelfTestFailed {
                provider: "p".into(),
                message: "nonsense".into(),
            }),
            false => Ok(()),
        }
    }

    fn load(
        &self,
        _model: &str,
        _progress: &mut dyn FnMut(f64),
    ) -> Result<LoadedModel, Unavailable> {
        *self.loads.lock().unwrap() += 1;
        if self.gated.load(Ordering::Relaxed) {
            self.begun.notify_one();
            tokio::runtime::Handle::current().block_on(self.go.notified());
        }
        Ok(LoadedModel {
            backend: Box::new(SimulatedBackend::new(Script {
                answers: vec![Answer {
                    prefill_delay_ms: 3_600_000,
                    ..Answer::default()
                }],
                ..Script::default()
            })),
            provider: ProviderInfo::default(),
            on_device: self.on_device,
            replaceable: false,
        })
    }
}

fn host(on_device: bool) -> (Arc<Machine>, Arc<ModelHost>) {
    let machine = Arc::new(Machine {
        on_device,
        ..Machine::default()
    });
    let loader = Arc::clone(&machine) as Arc<dyn Loader>;
    let host = ModelHost::new(loader, EngineSettings::default());
    (machine, host)
}

/// A request that computes until it is interrupted.
async fn computing(lease: &Lease) -> TokenStream {
    let mut stream = lease
        .engine()
        .submit(GenerationRequest {
            owner: Owner(1),
            priority: Priority::Interactive,
            arrival: 0,
            prompt: vec![1, 2],
            boundaries: Vec::new(),
            max_new: 1,
            sampling: Sampling::greedy(),
            stop_tokens: Vec::new(),
            guide: None,
        })
        .unwrap();
    assert_eq!(
        stream.next().await,
        Some(EngineEvent::Started { cached: 0 })
    );
    stream
}

async fn reason(host: &Arc<ModelHost>) -> (&'static str, &'static str) {
    let now = host.availability().await;
    match &now {
        Availability::Unavailable(Unavailable::Paused(pause)) => ("paused", pause.why()),
        now => (now.state(), now.reason()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_processor_computes_outlasts_a_sleep() {
    let (machine, host) = host(false);
    let lease = host.acquire("m").await.unwrap();
    let stream = computing(&lease).await;
    host.sleep().await;
    assert_eq!(host.pulse(), None);
    assert_eq!(reason(&host).await, ("paused", "sleep"));
    let late = {
        let host = Arc::clone(&host);
        tokio::spawn(async move { host.acquire("m").await.map(drop) })
    };
    host.wake().await;
    late.await.unwrap().unwrap();
    assert_eq!(machine.proofs.load(Ordering::Relaxed), 1);
    assert_eq!(*machine.loads.lock().unwrap(), 1);
    assert_eq!(reason(&host).await, ("ready", ""));
    assert_eq!(lease.engine().statistics().running, 1, "it goes on");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_holds_is_given_up_before_a_sleep() {
    let (machine, host) = host(true);
    let lease = host.acquire("m").await.unwrap();
    let mut stream = computing(&lease).await;
    let ended = tokio::spawn(async move {
        let failed = EngineEvent::Failed(EngineFailure::Suspended);
        assert_eq!(stream.next().await, Some(failed));
        drop(lease);
    });
    host.sleep().await;
    ended.await.unwrap();
    assert_eq!(host.loaded_model(), "");
    host.wake().await;
    assert_eq!(reason(&host).await, ("idle", "sleep"));
    drop(host.acquire("m").await.unwrap());
    assert_eq!(*machine.loads.lock().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_a_sleep_broke_is_told() {
    let (machine, host) = host(false);
    drop(host.acquire("m").await.unwrap());
    host.sleep().await;
    machine.broken.store(true, Ordering::Relaxed);
    host.wake().await;
    assert_eq!(reason(&host).await, ("unavailable", "self-test-failed"));
    assert_eq!(host.loaded_model(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_battery_new_requests_are_refused() {
    let (_machine, host) = host(false);
    assert!(host.set_power(Pace::Paused));
    assert!(!host.set_power(Pace::Paused));
    let refused = host.acquire("m").await.map(drop);
    assert_eq!(refused, Err(Unavailable::Paused(Pause::Battery)));
    assert_eq!(reason(&host).await, ("paused", "battery"));
    host.set_power(Pace::Slow);
    drop(host.acquire("m").await.unwrap());
    assert_eq!(reason(&host).await, ("ready", "battery"));
    host.set_power(Pace::Full);
    assert_eq!(reason(&host).await, ("ready", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_not_unloaded_for_its_memory() {
    let (_machine, host) = host(false);
    let lease = host.acquire("m").await.unwrap();
    assert!(!host.unload_unused().await);
    drop(lease);
    assert!(host.unload_unused().await);
    assert_eq!(reason(&host).await, ("idle", "memory-pressure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_into_a_device_before_a_sleep_is_loaded_again() {
    let (machine, host) = host(true);
    let asked = machine.begin_load(&host).await;
    host.sleep().await;
    machine.go_on();
    host.wake().await;
    asked.await.unwrap().unwrap();
    assert_eq!(*machine.loads.lock().unwrap(), 2);
}

/// A device that was in use before holds nothing of the load that is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_an_unload_and_a_wake_do_not_wait_for_one_another() {
    let (machine, host) = host(true);
    drop(host.acquire("m").await.unwrap());
    assert!(host.unload().await);
    let asked = machine.begin_load(&host).await;
    let soon = Duration::from_secs(20);
    let slept = tokio::time::timeout(soon, host.sleep()).await;
    slept.expect("the load is none of the device's yet");
    machine.go_on();
    let woken = tokio::time::timeout(soon, host.wake()).await;
    woken.expect("the load waits for the machine to be awake");
    asked.await.unwrap().unwrap();
    assert_eq!(*machine.loads.lock().unwrap(), 3);
}
