//! What an answer is held to: a schema, tool calls, a reasoning budget.
//!
//! `structured/schemas.json` has 200 schemas, written for this test, that use
//! every keyword llguidance claims, nested, recursive, in unions and with long
//! enumerations.

use gptoss::client::{Client, Options, StreamEvent};
use serde_json::Value;

use crate::harness::{Daemon, all, ask, finish, outcome, text};

const SCHEMAS: &str = include_str!("structured/schemas.json");

/// A model of random logits: it wants to say what no JSON allows, so that what
/// is allowed is all the same to it.
const RANDOM: &str = r#"
context-window = 65536
[[answers]]
text = "\u0001"
repeat = 100000
"#;

const TOOLS: &str = r#"[
    {"type": "function", "name": "weather", "parameters": {"type": "object",
        "additionalProperties": false, "required": ["city"],
        "properties": {"city": {"enum": ["Paris", "Rome"]}}}},
    {"type": "function", "name": "time", "parameters": {"type": "object",
        "additionalProperties": false, "required": ["zone"],
        "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}}}
]"#;

fn recovered(events: &[StreamEvent]) -> bool {
    let is = |event: &StreamEvent| matches!(event, StreamEvent::Recovered { .. });
    events.iter().any(is)
}

fn calls(events: &[StreamEvent]) -> Vec<(String, Value)> {
    let call = |event: &StreamEvent| match event {
        StreamEvent::ToolCall {
            name, arguments, ..
        } => Some((name.clone(), serde_json::from_str(arguments).unwrap())),
        _ => None,
    };
    events.iter().filter_map(call).collect()
}

pub fn schemas() -> Vec<Value> {
    let schemas: Vec<Value> = serde_json::from_str(SCHEMAS).unwrap();
    assert_eq!(schemas.len(), 200);
    schemas
}

/// How many of the schemas' answers were complete. Those must be valid.
pub async fn complete(client: &Client, schemas: &[Value], options: impl Fn() -> Options) -> usize {
    let mut complete = 0;
    for (seed, schema) in schemas.iter().enumerate() {
        // The same in every run: a failure can be looked into.
        let options = options()
            .set("response-schema", schema.to_string())
            .set("seed", seed as u64);
        let events = all(&mut ask(client, "x", options).await).await;
        assert!(!recovered(&events), "{schema}: {events:?}");
        let answer = text(&events, "final");
        match finish(&events) {
            "stop" => {}
            "length" => continue,
            other => panic!("{schema}: {other}"),
        }
        let answer: Value = match serde_json::from_str(&answer) {
            Ok(answer) => answer,
            // JSON, but no double: nothing here could judge it.
            Err(error) if error.to_string().contains("number out of range") => continue,
            Err(error) => panic!("{schema}: {error} in {answer:?}"),
        };
        complete += 1;
        let options = jsonschema::options().should_validate_formats(true);
        let validator = options.build(schema).unwrap();
        if let Err(error) = validator.validate(&answer) {
            panic!("{schema} does not allow {answer}: {error}");
        }
    }
    complete
}

#[tokio::test]
async fn random_logits_have_the_form_of_every_schema() {
    let daemon = Daemon::start(RANDOM);
    let client = daemon.client().await;
    let options = || {
        Options::default()
            .set("max-reasoning-tokens", 4u32)
            .set("max-output-tokens", 2000u32)
    };
    let complete = complete(&client, &schemas(), options).await;
    println!("complete: {complete} of 200");
    assert!(complete >= 180, "{complete}");
}

#[tokio::test]
async fn a_tool_that_must_be_called_is() {
    let daemon = Daemon::start(RANDOM);
    let client = daemon.client().await;
    for choice in ["required", "time", "weather"] {
        let options = Options::default()
            .set("tools", TOOLS)
            .set("tool-choice", choice)
            .set("max-reasoning-tokens", 4u32);
        let events = all(&mut ask(&client, "x", options).await).await;
        assert_eq!(finish(&events), "tool-calls", "{events:?}");
        assert_eq!(text(&events, "final"), "");
        assert!(!recovered(&events), "{events:?}");
        let calls = calls(&events);
        let [(name, arguments)] = calls.as_slice() else {
            panic!("{events:?}");
        };
        assert!(choice == "required" || name == choice);
        match name.as_str() {
            "weather" => assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap())),
            _ => assert!((-12..=12).contains(&arguments["zone"].as_i64().unwrap())),
        }
    }
}

/// ollama#12606: endless reasoning.
#[tokio::test]
async fn reasoning_has_a_budget_and_the_answer_follows() {
    let script = "[[answers]]\ntext = '<|channel|>analysis<|message|>abcdefghij<|end|>\
                  <|start|>assistant<|channel|>final<|message|>yes'";
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    for (budget, analysis) in [
        (0u32, ""),
        (3, "abc"),
        (10, "abcdefghij"),
        (99, "abcdefghij"),
    ] {
        let options = Options::default()
            .set("show-reasoning", true)
            .set("max-reasoning-tokens", budget)
            .set("max-output-tokens", 60u32);
        let events = all(&mut ask(&client, "x", options).await).await;
        assert_eq!(text(&events, "analysis"), analysis);
        let reasoned = events.iter().find_map(|event| match event {
            StreamEvent::Usage(usage) => Some(usage.reasoning_tokens),
            _ => None,
        });
        assert!(reasoned.unwrap() <= u64::from(budget) + 1, "{reasoned:?}");
        // The script does not know that it was cut off and goes on from where it
        // would have been.
        assert_ne!(text(&events, "final"), "");
        if analysis.len() == 10 {
            assert!(!recovered(&events), "{budget}: {events:?}");
            assert_eq!(text(&events, "final"), "yes");
        }
    }
}

#[tokio::test]
async fn the_command_line_takes_a_schema() {
    let daemon = Daemon::start(RANDOM);
    let file = daemon.bus.folder.path().join("schema.json");
    std::fs::write(&file, r#"{"enum": ["up", "down"]}"#).unwrap();
    let file = file.to_str().unwrap();
    let mut run = daemon.bus.ctl([
        "run",
        "simulated",
        "Where to?",
        "--max-reasoning-tokens",
        "0",
        "--schema",
        file,
    ]);
    let (code, stdout, stderr) = outcome(&run.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(["\"up\"", "\"down\""].contains(&stdout.trim()), "{stdout}");
    let mut run = daemon
        .bus
        .ctl(["run", "simulated", "x", "--schema", "/nowhere/schema.json"]);
    let (code, _, stderr) = outcome(&run.output().unwrap());
    assert_eq!(code, 3, "{stderr}");
}
