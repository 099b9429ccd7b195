//! The host with a loader that counts, fails and waits as a test wants.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::runtime::simulated::{Script, SimulatedBackend, tokenizer_json};
use crate::session::loader::LoadedModel;

/// Models `a` and `b` load, `c` fails; each load waits for a word.
struct TestLoader {
    loads: AtomicUsize,
    begun: Mutex<Sender<String>>,
    go: Mutex<Receiver<()>>,
}

struct Control {
    loader: Arc<TestLoader>,
    host: Arc<ModelHost>,
    begun: Receiver<String>,
    go: Sender<()>,
}

fn control() -> Control {
    let (begun_sender, begun) = channel();
    let (go, go_receiver) = channel();
    let loader = Arc::new(TestLoader {
        loads: AtomicUsize::new(0),
        begun: Mutex::new(begun_sender),
        go: Mutex::new(go_receiver),
    });
    let host = ModelHost::new(
        Arc::clone(&loader) as Arc<dyn Loader>,
        EngineSettings::default(),
    );
    Control {
        loader,
        host,
        begun,
        go,
    }
}

impl Loader for TestLoader {
    fn models(&self) -> Vec<ModelSummary> {
        Vec::new()
    }

    fn resolve(&self, name: Option<&str>) -> Result<String, Unavailable> {
        Ok(name.unwrap_or("a").to_owned())
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
        Ok(())
    }

    fn load(&self, model: &str, progress: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        progress(0.5);
        self.begun.lock().unwrap().send(model.to_owned()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        if model == "c" {
            return Err(too_large());
        }
        Ok(LoadedModel {
            backend: Box::new(SimulatedBackend::new(Script {
                model: model.to_owned(),
                ..Script::default()
            })),
            provider: ProviderInfo::default(),
            on_device: false,
            replaceable: false,
        })
    }
}

impl Control {
    fn acquire(&self, model: &str) -> tokio::task::JoinHandle<Result<Lease, Unavailable>> {
        let (host, model) = (Arc::clone(&self.host), model.to_owned());
        tokio::spawn(async move { host.acquire(&model).await })
    }

    async fn begun(&self) -> String {
        loop {
            match self.begun.try_recv() {
                Ok(model) => return model,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

fn too_large() -> Unavailable {
    Unavailable::NotEnoughMemory {
        need: 2,
        have: 1,
        message: "2 are needed".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_load_serves_everyone_who_waits() {
    let control = control();
    let first = control.acquire("a");
    let second = control.acquire("a");
    assert_eq!(control.begun().await, "a");
    assert_eq!(
        *control.host.watch_availability().borrow(),
        Availability::Loading {
            model: "a".into(),
            progress: 0.5
        }
    );
    control.go.send(()).unwrap();
    let (first, second) = (
        first.await.unwrap().unwrap(),
        second.await.unwrap().unwrap(),
    );
    assert_eq!(first.engine().info().model, "a");
    assert!(Arc::ptr_eq(&first.0, &second.0));
    assert_eq!(control.loader.loads.load(Ordering::Relaxed), 1);
    assert_eq!(control.host.loaded_model(), "a");
    assert_eq!(control.host.availability().await.state(), "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_waits_until_the_first_is_free() {
    let control = control();
    control.go.send(()).unwrap();
    let first = control.host.acquire("a").await.unwrap();
    assert_eq!(control.begun().await, "a");
    let other = control.acquire("b");
    let mut availability = control.host.watch_availability();
    availability
        .wait_for(|now| matches!(now, Availability::Loading { model, .. } if model == "b"))
        .await
        .unwrap();
    // Someone who still wants the first model now stands behind.
    let again = control.acquire("a");
    assert!(control.begun.try_recv().is_err(), "it is still in use");
    drop(first);
    assert_eq!(control.begun().await, "b");
    control.go.send(()).unwrap();
    drop(other.await.unwrap().unwrap());
    assert_eq!(control.begun().await, "a");
    control.go.send(()).unwrap();
    again.await.unwrap().unwrap();
    assert_eq!(control.loader.loads.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_to_those_who_waited_and_tried_again_later() {
    let control = control();
    let first = control.acquire("c");
    assert_eq!(control.begun().await, "c");
    let mut waiting = control.host.watch_waiting();
    let second = control.acquire("c");
    waiting.wait_for(|n| *n == 2).await.unwrap();
    control.go.send(()).unwrap();
    for task in [first, second] {
        let failed = task.await.unwrap().err();
        assert_eq!(failed, Some(too_large()));
    }
    assert_eq!(control.loader.loads.load(Ordering::Relaxed), 1);
    let state = control.host.availability().await;
    assert!(matches!(state, Availability::Unavailable(why) if why.reason() == "not-enough-memory"));
    let later = control.acquire("c");
    assert_eq!(control.begun().await, "c");
    control.go.send(()).unwrap();
    assert!(later.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_outlives_who_asked_for_it() {
    let control = control();
    let asked = control.acquire("a");
    assert_eq!(control.begun().await, "a");
    asked.abort();
    control.go.send(()).unwrap();
    let mut availability = control.host.watch_availability();
    availability
        .wait_for(|now| now.state() == "ready")
        .await
        .unwrap();
    control.host.acquire("a").await.unwrap();
    assert_eq!(control.loader.loads.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_host_loads_nothing() {
    let control = control();
    control.host.stop();
    assert!(control.host.acquire("a").await.is_err());
    assert_eq!(control.loader.loads.load(Ordering::Relaxed), 0);
    assert_eq!(control.host.pulse(), None);
}
