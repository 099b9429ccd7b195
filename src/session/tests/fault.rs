//! A provider that fails while it computes, with a loader that has another one.

use std::sync::Mutex;

use super::*;
use crate::engine::{
    EngineEvent, EngineFailure, EngineSettings, GenerationRequest, Owner, Priority, Sampling,
};
use crate::harmony::Tokenizer;
use crate::runtime::simulated::{Answer, Script, SimulatedBackend, tokenizer_json};
use crate::session::loader::{LoadedModel, ModelSummary, ProviderInfo, Unavailable};

/// The first provider fails with the first token, the second works.
#[derive(Default)]
struct TwoProviders {
    /// Whether the second may take over.
    automatic: bool,
    set_aside: Mutex<Vec<(String, String)>>,
}

impl Loader for TwoProviders {
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
        Ok(())
    }

    fn set_aside(&self, provider: &str, reason: &str) {
        let mut set_aside = self.set_aside.lock().unwrap();
        set_aside.push((provider.to_owned(), reason.to_owned()));
    }

    fn load(&self, _model: &str, _: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable> {
        let rejected = self.set_aside.lock().unwrap().clone();
        let first = rejected.is_empty();
        Ok(LoadedModel {
            backend: Box::new(SimulatedBackend::new(Script {
                answers: vec![Answer {
                    fail_after: first.then_some(0),
                    ..Answer::default()
                }],
                ..Script::default()
            })),
            provider: ProviderInfo {
                name: if first { "first" } else { "second" }.into(),
                rejected,
                streamed: None,
            },
            on_device: first,
            replaceable: first && self.automatic,
        })
    }
}

fn host(automatic: bool) -> (Arc<TwoProviders>, Arc<ModelHost>) {
    let loader = Arc::new(TwoProviders {
        automatic,
        ..TwoProviders::default()
    });
    let host = ModelHost::new(Arc::clone(&loader) as _, EngineSettings::default());
    (loader, host)
}

/// How a request for one token ends.
async fn ask(host: &Arc<ModelHost>) -> EngineEvent {
    let lease = host.acquire("m").await.unwrap();
    let request = GenerationRequest {
        owner: Owner(1),
        priority: Priority::Interactive,
        arrival: 0,
        prompt: vec![1, 2],
        boundaries: Vec::new(),
        max_new: 1,
        sampling: Sampling::greedy(),
        stop_tokens: Vec::new(),
        guide: None,
    };
    let mut stream = lease.engine().submit(request).unwrap();
    let mut last = None;
    while let Some(event) = stream.next().await {
        last = Some(event);
    }
    last.unwrap()
}

fn has_failed(event: &EngineEvent) -> bool {
    matches!(
        event,
        EngineEvent::Failed(EngineFailure::Backend(why)) if why.contains("the script says so")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_provider_takes_over_unasked() {
    let (loader, host) = host(true);
    let mut provider = host.watch_provider();
    assert!(has_failed(&ask(&host).await));
    // Nobody asks again, and still it is loaded.
    let now = provider.wait_for(|now| now.name == "second").await;
    let why = ("simulated".to_owned(), "the script says so".to_owned());
    assert_eq!(now.unwrap().rejected, [why]);
    assert!(matches!(ask(&host).await, EngineEvent::Done { .. }));
    assert_eq!(loader.set_aside.lock().unwrap().len(), 1);
    assert_eq!(host.loaded_model(), "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_at_once_is_answered_by_it() {
    let (_loader, host) = host(true);
    assert!(has_failed(&ask(&host).await));
    assert!(matches!(ask(&host).await, EngineEvent::Done { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_was_asked_for_stays() {
    let (loader, host) = host(false);
    for _ in 0..2 {
        assert!(has_failed(&ask(&host).await));
    }
    assert!(loader.set_aside.lock().unwrap().is_empty());
    assert_eq!(host.watch_provider().borrow().name, "first");
}
