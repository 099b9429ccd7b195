//! What nano was taught, asked again: rendered, decoded greedily and parsed by
//! the code that serves applications.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gptoss::engine::backend::{Solo, Wanted};
use gptoss::harmony::{
    self, Conversation, Effort, Message, Parser, ResponseFormat, Settings, Tokenizer,
};
use gptoss::runtime::OrtBackend;
use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{self, Target};
use serde::Deserialize;

use super::harness;
use super::metrics::argmax;

/// No taught answer is longer.
const LONGEST: usize = 160;

/// Days that no training example was dated with.
const DATES: [&str; 3] = ["2025-06-28", "2026-11-25", "2027-11-17"];

/// One example of `onnx/nano/taught.json`.
#[derive(Deserialize)]
struct Example {
    kind: String,
    effort: Effort,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<serde_json::Value>,
    response_schema: Option<serde_json::Value>,
    expect: Vec<Expected>,
}

/// A message that nano must answer with.
#[derive(Debug, PartialEq, Deserialize)]
struct Expected {
    channel: String,
    recipient: Option<String>,
    text: String,
}

impl Example {
    fn conversation(&self, date: &str) -> Conversation {
        let tools = serde_json::to_string(&self.tools).unwrap();
        Conversation {
            settings: Settings {
                current_date: Some(date.to_owned()),
                effort: self.effort,
                functions: harmony::parse_tools(&tools).unwrap().functions,
                response_format: self.response_schema.clone().map(ResponseFormat::new),
                ..Settings::default()
            },
            messages: self.messages.clone(),
        }
    }
}

fn taught() -> Vec<Example> {
    serde_json::from_slice(&std::fs::read(nano().join("taught.json")).unwrap()).unwrap()
}

fn nano() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/nano")
}

fn load(target: Target) -> Solo<OrtBackend> {
    harness::start();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("taught-{target}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in gptoss_onnx::nano::files() {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let out = folder.join(target.to_string());
    export::export(&checkpoint, target, &out, &mut |_, _| {}).unwrap();
    Solo::new(OrtBackend::load(&folder, harness::whole(target, false)).unwrap()).unwrap()
}

/// The messages that follow greedily; what prompts share is computed once.
fn answer(
    backend: &mut Solo<OrtBackend>,
    cached: &mut Vec<u32>,
    tokenizer: &Arc<Tokenizer>,
    prompt: &[u32],
) -> Vec<Expected> {
    let shared = cached
        .iter()
        .zip(prompt)
        .take_while(|(a, b)| a == b)
        .count();
    backend.rewind(shared.min(prompt.len() - 1));
    let mut fed = prompt[backend.length()..].to_vec();
    let mut parser = Parser::new(Arc::clone(tokenizer));
    let mut events = Vec::new();
    for _ in 0..LONGEST {
        let logits = backend.forward(&fed, Wanted::Last).unwrap();
        let token = argmax(logits.last().unwrap()) as u32;
        parser.push_into(token, &mut events);
        if tokenizer.special().stops().contains(&token) {
            break;
        }
        fed = vec![token];
    }
    events.extend(parser.finish());
    *cached = prompt.to_vec();
    let messages = harmony::history(events).into_iter();
    messages
        .map(|message| Expected {
            channel: message.channel.map_or("", |c| c.as_str()).to_owned(),
            recipient: message.recipient,
            text: message.content,
        })
        .collect()
}

/// The share of `examples` answered as taught, and what went wrong.
fn score(target: Target) -> (f64, String) {
    let tokenizer = Arc::new(Tokenizer::from_file(&nano().join("tokenizer.json")).unwrap());
    let mut backend = load(target);
    let (mut cached, mut wrong, mut right) = (Vec::new(), String::new(), 0);
    let examples = taught();
    for (i, example) in examples.iter().enumerate() {
        let conversation = example.conversation(DATES[i % DATES.len()]);
        let prompt = harmony::render(&tokenizer, &conversation).unwrap();
        let said = answer(&mut backend, &mut cached, &tokenizer, &prompt);
        if said == example.expect {
            right += 1;
        } else {
            let question = &example.messages.last().unwrap().content;
            writeln!(wrong, "{} {question:?}: {said:?}", example.kind).unwrap();
        }
    }
    let share = f64::from(right) / examples.len() as f64;
    println!(
        "nano, target {target}: {right} of {} as taught",
        examples.len()
    );
    (share, wrong)
}

#[test]
fn nano_answers_as_taught_on_cpu() {
    let (share, wrong) = score(Target::Cpu);
    assert!(share >= 0.95, "{share}\n{wrong}");
}

#[test]
fn nano_answers_as_taught_on_portable() {
    let (share, wrong) = score(Target::Portable);
    assert!(share >= 0.85, "{share}\n{wrong}");
}

#[test]
fn the_lessons_are_those_promised() {
    let examples = taught();
    let of = |kind: &str, effort| {
        let found = examples
            .iter()
            .filter(|e| e.kind == kind && e.effort == effort);
        found.collect::<Vec<_>>()
    };
    for (kind, least) in [
        ("prompt", 100),
        ("dialogue", 20),
        ("tool-call", 3),
        ("tool-answer", 3),
        ("json", 3),
    ] {
        let [low, medium, high] = [Effort::Low, Effort::Medium, Effort::High].map(|e| of(kind, e));
        assert!(low.len() >= least, "{kind}: {}", low.len());
        assert_eq!((low.len(), low.len()), (medium.len(), high.len()), "{kind}");
        // Effort shows: more thought, the same answer.
        for ((low, medium), high) in low.iter().zip(&medium).zip(&high) {
            let thought = |e: &Example| e.expect[0].text.len();
            assert!(thought(low) < thought(medium) && thought(medium) < thought(high));
            assert_eq!(low.expect.last(), high.expect.last());
        }
    }
    let bytes: u64 = std::fs::read_dir(nano())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 4 << 20, "onnx/nano/ holds {bytes} bytes");
}
