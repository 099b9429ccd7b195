//! The small vocabularies in this repository: other ids, other merges.

use std::path::Path;
use std::sync::Arc;

use gptoss::harmony::{
    Channel, Conversation, Event, Message, Parser, Recovery, Role, Settings, StopKind, Tokenizer,
    history, parse_tools, render, render_history,
};
use proptest::prelude::*;
use serde_json::Value;

fn load(path: &str) -> Arc<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    Arc::new(Tokenizer::from_file(&path).expect("a tokenizer of this repository"))
}

fn both() -> [Arc<Tokenizer>; 2] {
    [
        load("onnx/nano/tokenizer.json"),
        load("tests/parity/grid64/tokenizer.json"),
    ]
}

#[test]
fn ids_are_the_files_own() {
    for tokenizer in both() {
        let special = tokenizer.special();
        assert!(tokenizer.vocab_size() < 5000);
        assert!(special.start < 5000, "not the published id");
        assert_eq!(
            tokenizer.decode_with_control_tokens(&[special.start]),
            "<|start|>"
        );
        assert!(special.stops().iter().all(|id| tokenizer.is_special(*id)));
        let prompt = render(&tokenizer, &Conversation::default()).expect("a prompt");
        assert_eq!(prompt.iter().filter(|id| **id == special.start).count(), 2);
    }
}

proptest! {
    #[test]
    fn text_survives_and_is_never_control(
        pieces in prop::collection::vec(
            prop_oneof![
                any::<String>(),
                prop::sample::select(vec!["<|start|>", "<|end|>", "<|", "|>", "é", "\n\n", "  "])
                    .prop_map(str::to_owned),
            ],
            0..6,
        ),
    ) {
        for tokenizer in both() {
            let text = pieces.concat();
            let ids = tokenizer.encode(&text);
            prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
            prop_assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

fn text_of(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// A message of `taught.json`: `content` in the prompt, `text` in the answer.
fn message_of(value: &Value) -> Message {
    let role = text_of(value, "role").unwrap_or_else(|| "assistant".to_owned());
    Message {
        role: role.parse().expect("a role"),
        content: text_of(value, "content")
            .or(text_of(value, "text"))
            .expect("a text"),
        channel: text_of(value, "channel").map(|name| name.parse().expect("a channel")),
        name: text_of(value, "name"),
        recipient: text_of(value, "recipient"),
        ..Message::default()
    }
}

/// All that nano was taught goes through renderer and parser unharmed.
#[test]
fn what_nano_says_is_understood() {
    let tokenizer = load("onnx/nano/tokenizer.json");
    let taught = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/nano/taught.json");
    let taught = std::fs::read(taught).expect("what nano was taught");
    let taught: Vec<Value> = serde_json::from_slice(&taught).expect("a list");
    assert!(taught.len() > 100);
    for example in taught {
        let messages = |key: &str| -> Vec<Message> {
            example[key]
                .as_array()
                .expect("messages")
                .iter()
                .map(message_of)
                .collect()
        };
        let tools = example.get("tools").map(Value::to_string);
        let mut conversation = Conversation {
            settings: Settings {
                functions: parse_tools(tools.as_deref().unwrap_or("[]"))
                    .expect("tools")
                    .functions,
                ..Settings::default()
            },
            messages: messages("messages"),
        };
        let prompt = render(&tokenizer, &conversation).expect("a prompt");
        let expected = messages("expect");
        // Rendered one by one, since analysis before the answer would be dropped.
        let mut parser = Parser::new(tokenizer.clone());
        let mut events = Vec::new();
        let start = tokenizer.special().start;
        conversation.messages.clear();
        for message in &expected {
            let alone = Conversation {
                messages: vec![message.clone()],
                ..conversation.clone()
            };
            let ids = render_history(&tokenizer, &alone).expect("an answer");
            let at = ids.iter().rposition(|id| *id == start).expect("a message");
            let header = if events.is_empty() {
                1 + tokenizer.encode("assistant").len()
            } else {
                0
            };
            for id in &ids[at + header..] {
                parser.push_into(*id, &mut events);
            }
        }
        assert!(prompt.len() > 20);
        let recovered = events
            .iter()
            .find(|event| matches!(event, Event::Recovered { .. }));
        assert_eq!(recovered, None, "{example}");
        let said = history(events);
        assert_eq!(said.len(), expected.len(), "{example}");
        for (said, expected) in said.iter().zip(&expected) {
            assert_eq!(said.content, expected.content);
            assert_eq!(said.channel, expected.channel);
            assert_eq!(said.recipient, expected.recipient);
        }
    }
}

/// The bytes of a character come as four tokens where there are no merges.
#[test]
fn byte_tokens_come_out_as_whole_characters() {
    let tokenizer = load("tests/parity/grid64/tokenizer.json");
    let special = tokenizer.special();
    let mut ids = vec![special.channel];
    ids.extend(tokenizer.encode("final"));
    ids.push(special.message);
    let emoji = tokenizer.encode("😀");
    assert_eq!(emoji.len(), 4);
    ids.extend(&emoji);
    ids.extend(&emoji[..2]);
    ids.push(special.ret);
    let mut parser = Parser::new(tokenizer);
    let events: Vec<Event> = ids.into_iter().flat_map(|id| parser.push(id)).collect();
    let delta = |text: &str| Event::Delta {
        channel: Channel::Final,
        text: text.to_owned(),
    };
    assert_eq!(
        events,
        [
            delta("😀"),
            delta("\u{fffd}"),
            Event::MessageEnd(Message::assistant(Channel::Final, "😀\u{fffd}")),
            Event::Stop(StopKind::Return),
        ]
    );
}

/// An application that reads no recovery still sees the answer.
#[test]
fn an_answer_without_any_frame_is_an_answer() {
    for tokenizer in both() {
        let mut parser = Parser::new(tokenizer.clone());
        let mut events: Vec<Event> = tokenizer
            .encode("It is 4.")
            .into_iter()
            .flat_map(|id| parser.push(id))
            .collect();
        events.extend(parser.finish());
        assert!(matches!(
            &events[0],
            Event::Recovered {
                kind: Recovery::MissingHeader,
                ..
            }
        ));
        let said = history(events);
        assert_eq!(said, [Message::assistant(Channel::Final, "It is 4.")]);
        assert_eq!(said[0].role, Role::Assistant);
    }
}
