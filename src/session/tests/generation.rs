//! Generations without a bus.

use super::*;
use crate::engine::{EngineSettings, Owner};
use crate::runtime::simulated::{Script, SimulatedBackend, tokenizer_json};
use crate::session::loader::{LoadedModel, Loader, ModelSummary, ProviderInfo, Unavailable};
use crate::session::prompt::{MessageParts, Options};
use crate::session::quota::{Quota, QuotaLimits};

struct Scripted(Script);

impl Loader for Scripted {
    fn models(&self) -> Vec<ModelSummary> {
        Vec::new()
    }
    fn resolve(&self, _name: Option<&str>) -> Result<String, Unavailable> {
        Ok("m".into())
    }
    fn probe(&self, _model: &str) -> Result<(), Unavailable> {
        Ok(())
    }
    fn tokenizer(&self, _model: &str) -> Result<Arc<Tokenizer>, Unavailable> {
        Ok(Arc::new(Tokenizer::from_bytes(&tokenizer_json()).unwrap()))
    }
    fn context_window(&self, _model: &str) -> Result<usize, Unavailable> {
        Ok(self.0.context_window)
    }
    fn prove_again(&self) -> Result<(), Unavailable> {
        Ok(())
    }
    fn load(&self, _model: &str, _: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable> {
        Ok(LoadedModel {
            backend: Box::new(SimulatedBackend::new(self.0.clone())),
            provider: ProviderInfo::default(),
            on_device: false,
            replaceable: false,
        })
    }
}

fn start(answer: &str, options: &Options) -> (Generation, Arc<Quota>) {
    let script = format!("[[answers]]\ntext = '''{answer}'''");
    let loader = Scripted(toml::from_str(&script).unwrap());
    let host = ModelHost::new(Arc::new(loader), EngineSettings::default());
    let quota = Quota::new(QuotaLimits {
        requests_per_user: 1,
        tokens_per_user: 10_000,
        sessions_per_user: 1,
    });
    let message = MessageParts {
        role: "user".into(),
        content: "hi".into(),
        ..MessageParts::default()
    };
    let prompt = Prompt::new(vec![message], options, 1000).unwrap();
    let place = Arc::new(quota.request(Owner(1)).unwrap());
    let generation = Generation::start(host, "m".into(), prompt, place, None);
    (generation, quota)
}

async fn events(answer: &str, options: &Options) -> Vec<StreamEvent> {
    let (mut generation, _) = start(answer, options);
    let mut events = Vec::new();
    while let Some(event) = generation.next().await {
        events.push(event);
    }
    events
}

fn final_text(events: &[StreamEvent]) -> String {
    let text = |e: &StreamEvent| match e {
        StreamEvent::Delta {
            channel: "final",
            text,
            ..
        } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

#[tokio::test]
async fn one_last_event_and_it_is_last() {
    let events = events("<|channel|>final<|message|>yes", &Options::default()).await;
    let last = events.iter().filter(|e| e.is_last()).count();
    assert_eq!(last, 1);
    assert!(events.last().unwrap().is_last());
    assert!(matches!(events[events.len() - 2], StreamEvent::Usage(_)));
    assert_eq!(final_text(&events), "yes");
}

#[tokio::test]
async fn a_stop_string_is_looked_for_in_the_answer_alone() {
    let options = Options {
        stop: Some(vec!["stop".into()]),
        show_reasoning: Some(true),
        ..Options::default()
    };
    let answer = "<|channel|>analysis<|message|>stop?<|end|>\
                  <|start|>assistant<|channel|>final<|message|>go, stop, more";
    let events = events(answer, &options).await;
    assert_eq!(final_text(&events), "go, ");
    assert!(matches!(
        events.last(),
        Some(StreamEvent::End {
            finish_reason: Finish::Stop
        })
    ));
}

#[tokio::test]
async fn the_beginning_of_a_stop_string_is_text_in_the_end() {
    let options = Options {
        stop: Some(vec!["stop".into()]),
        ..Options::default()
    };
    let events = events("<|channel|>final<|message|>non-sto", &options).await;
    assert_eq!(final_text(&events), "non-sto");
}

#[tokio::test]
async fn invalid_arguments_are_reported_with_their_text() {
    let answer = "<|channel|>commentary to=functions.f<|message|>not json<|call|>";
    let events = events(answer, &Options::default()).await;
    let reported = events.iter().any(|e| {
        matches!(e, StreamEvent::Recovered { kind: crate::harmony::Recovery::InvalidArguments { .. }, raw } if raw == "not json")
    });
    assert!(reported, "{events:?}");
    assert!(matches!(
        events.last(),
        Some(StreamEvent::End {
            finish_reason: Finish::Stop
        })
    ));
}

#[tokio::test]
async fn interrupts_have_their_words() {
    for how in [Interrupt::Cancel, Interrupt::Stop] {
        let (mut generation, _) = start("<|channel|>final<|message|>yes", &Options::default());
        generation.interrupter().interrupt(how);
        // Later ones change nothing.
        generation.interrupter().interrupt(Interrupt::Cancel);
        let mut last = None;
        while let Some(event) = generation.next().await {
            last = Some(event);
        }
        match (how, last) {
            (
                Interrupt::Cancel,
                Some(StreamEvent::End {
                    finish_reason: Finish::Cancelled,
                }),
            ) => {}
            (Interrupt::Stop, Some(StreamEvent::Error { message, .. })) => {
                assert!(message.contains("stopping"));
            }
            (how, last) => panic!("{how:?}: {last:?}"),
        }
    }
}

#[tokio::test]
async fn the_end_gives_the_place_back() {
    let (mut generation, quota) = start("<|channel|>final<|message|>yes", &Options::default());
    assert_eq!(quota.users(), 1);
    while generation.next().await.is_some() {}
    // The place goes with the task, which has sent everything.
    while quota.users() > 0 {
        tokio::task::yield_now().await;
    }
}
