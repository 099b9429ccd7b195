//! The simulator through the engine, and its vocabulary.

use super::vocabulary::SPECIALS;
use super::*;
use crate::engine::{
    Engine, EngineEvent, EngineFailure, EngineSettings, FinishReason, GenerationRequest, Owner,
    Priority, Sampling, Solo,
};

fn script(toml: &str) -> Script {
    toml::from_str(toml).unwrap()
}

fn prompt(user: &str) -> Vec<u32> {
    encode(&format!(
        "<|start|>system<|message|>rules<|end|><|start|>user<|message|>{user}<|end|><|start|>assistant"
    ))
}

fn events(script: Script, user: &str) -> Vec<EngineEvent> {
    let backend = SimulatedBackend::new(script);
    let engine = Engine::start(Box::new(backend), EngineSettings::default()).unwrap();
    let mut stream = engine
        .submit(GenerationRequest {
            owner: Owner(0),
            priority: Priority::Interactive,
            arrival: 0,
            prompt: prompt(user),
            boundaries: Vec::new(),
            max_new: 1000,
            sampling: Sampling::default(),
            stop_tokens: vec![special("<|return|>"), special("<|call|>")],
            guide: None,
        })
        .unwrap();
    std::iter::from_fn(|| stream.blocking_next()).collect()
}

fn text(events: &[EngineEvent]) -> String {
    let id = |e: &EngineEvent| match e {
        EngineEvent::Token { id, .. } => Some(*id),
        _ => None,
    };
    let mut bytes = Vec::new();
    for id in events.iter().filter_map(id) {
        match u8::try_from(id) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(SPECIALS[id as usize - 256].as_bytes()),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn it_echoes_without_a_script() {
    let events = events(Script::default(), "héllo");
    assert_eq!(
        text(&events),
        "<|channel|>analysis<|message|>They said: héllo<|end|>\
         <|start|>assistant<|channel|>final<|message|>You said: héllo<|return|>"
    );
    assert!(matches!(
        events.last(),
        Some(EngineEvent::Done {
            reason: FinishReason::Stop(_),
            ..
        })
    ));
}

#[test]
fn the_first_matching_answer_is_given() {
    let toml = r#"
        [[answers]]
        when = "weather"
        text = "<|channel|>commentary to=functions.w<|message|>{}<|call|>"
        [[answers]]
        text = "<|channel|>final<|message|>ab"
        repeat = 2
    "#;
    assert_eq!(
        text(&events(script(toml), "the weather?")),
        "<|channel|>commentary to=functions.w<|message|>{}<|call|>"
    );
    let twice = "<|channel|>final<|message|>ab".repeat(2) + "<|return|>";
    assert_eq!(text(&events(script(toml), "else")), twice);
}

#[test]
fn ids_can_be_scripted() {
    let events = events(script("[[answers]]\ntokens = [72, 105]"), "x");
    assert_eq!(text(&events), "Hi<|return|>");
}

#[test]
fn failures_are_scripted() {
    let failing = |how: &str| {
        let toml = format!("[[answers]]\nfail-after = 2\nfailure = \"{how}\"");
        events(script(&toml), "x")
    };
    for how in ["error", "panic"] {
        let events = failing(how);
        let tokens = events
            .iter()
            .filter(|e| matches!(e, EngineEvent::Token { .. }));
        assert_eq!(tokens.count(), 2);
        let Some(EngineEvent::Failed(failure)) = events.last() else {
            panic!("{events:?}");
        };
        assert_eq!(how == "panic", matches!(failure, EngineFailure::Panicked));
        // The words of a panic may quote anybody's request.
        let quoted = failure.to_string().contains("the script says so");
        assert_eq!(quoted, how == "error");
    }
}

#[test]
fn a_delay_is_cut_short_by_a_cancellation() {
    let toml = "prefill-chunk = 1000\n[[answers]]\nprefill-delay-ms = 3600000";
    let mut backend = Solo::new(SimulatedBackend::new(script(toml))).unwrap();
    backend.backend().cancel_handle().cancel();
    let result = backend.forward(&prompt("x"), Wanted::Last);
    assert!(matches!(result, Err(BackendError::Cancelled)));
    assert_eq!(backend.length(), 0);
}

#[test]
fn mistakes_in_a_script_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Script::from_file(&path).map_err(|e| e.to_string())
    };
    assert!(
        check("a.toml", "prefil-chunk = 3")
            .unwrap_err()
            .contains("prefil-chunk")
    );
    assert!(check("b.json", "{\"prefill-chunk\": 0}").is_err());
    assert!(
        check("c.toml", "[[answers]]\ntokens = [999]")
            .unwrap_err()
            .contains("999")
    );
    assert_eq!(check("d.json", "{\"model\": \"m\"}").unwrap().model, "m");
    assert!(Script::from_file(&folder.path().join("none")).is_err());
}

#[test]
fn the_vocabulary_is_one_token_a_byte() {
    let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer_json()).unwrap();
    let text = "aé☃\u{0}\u{7f}\u{ad} \n🙂";
    let encoded = tokenizer.encode(text, false).unwrap();
    let expected: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(encoded.get_ids(), expected);
    for (name, id) in SPECIALS.iter().zip(256..) {
        assert_eq!(tokenizer.token_to_id(name), Some(id));
    }
    assert_eq!(tokenizer.get_vocab_size(true), VOCAB_SIZE);
}
