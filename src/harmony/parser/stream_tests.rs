//! Random streams. `PROPTEST_CASES=10000000` makes a soak of it.

use proptest::prelude::*;

use super::tests::{parse_ids, texts, tokens};
use super::*;
use crate::harmony::tokenizer::tests::small;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(1500),
        ..default
    }
}

/// Pieces that random streams are made of; words that mean something to a
/// header among them.
fn piece() -> impl Strategy<Value = Vec<u32>> {
    let marked = prop::sample::select(vec![
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
        "<|endoftext|>",
        "<|reserved|>",
        "assistant",
        "analysis",
        "commentary",
        "final",
        " to=functions.f",
        " to=python",
        "to=",
        "functions.g",
        " json",
        "code",
        "user",
        "{\"a\": 1}",
        " ",
        "\n",
        "¡zq7x",
        " ¡qy8w ¡zk9",
        "é",
        "😀",
        "<|start|>assistant<|channel|>final<|message|>",
        "<|end|><|start|>assistant",
        "<|message|>¡zv1u",
    ]);
    prop_oneof![
        4 => marked.prop_map(tokens),
        1 => prop::collection::vec(0u32..320, 1..4),
        1 => Just(tokens("😀")[..2].to_vec()),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_stream_is_survived_and_its_text_kept(pieces in prop::collection::vec(piece(), 0..30)) {
        let ids = pieces.concat();
        let tokenizer = small();
        let events = parse_ids(&ids);
        let handed_out = events.iter().flat_map(texts).collect::<Vec<_>>().join("\0");

        // Not a letter of a control token, unless the model spelt it in letters.
        let plain = tokenizer.decode(&ids);
        if !plain.contains("<|") {
            prop_assert!(!handed_out.contains("<|"), "{events:?}");
        }
        // Words that no header knows come out again, as often as they went in.
        for word in ["zq7x", "zk9", "zv1u"] {
            prop_assert!(
                handed_out.matches(word).count() >= plain.matches(word).count(),
                "{word} lost: {events:?}"
            );
        }
        // What stands behind `<|message|>` comes out in order, whole.
        let mut streamed = String::new();
        for event in &events {
            match event {
                Event::Delta { text, .. } => streamed += text,
                Event::ToolCallDelta { arguments, .. } => streamed += arguments,
                Event::Recovered { kind: Recovery::ForeignRole { .. }, raw } => streamed += raw,
                _ => {}
            }
        }
        let mut at = 0;
        for body in bodies(&ids) {
            let found = streamed[at..].find(&body);
            prop_assert!(found.is_some(), "{body:?} is not in {:?}: {events:?}", &streamed[at..]);
            at += found.unwrap() + body.len();
        }
    }

    #[test]
    fn cutting_a_stream_anywhere_loses_nothing_said(
        pieces in prop::collection::vec(piece(), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        // Events are a function of the tokens alone: a prefix gives a prefix.
        let ids = pieces.concat();
        let at = cut.index(ids.len() + 1);
        let mut parser = Parser::new(small());
        let first: Vec<Event> = ids[..at].iter().flat_map(|id| parser.push(*id)).collect();
        let all: Vec<Event> = {
            let mut parser = Parser::new(small());
            ids.iter().flat_map(|id| parser.push(*id)).collect()
        };
        prop_assert_eq!(&all[..first.len()], &first[..]);
    }
}

/// The texts that directly follow `<|message|>` in the stream, up to the next
/// control token, decoded on their own.
fn bodies(ids: &[u32]) -> Vec<String> {
    let tokenizer = small();
    let message = tokenizer.special().message;
    let mut bodies = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        if *id == message {
            let text: Vec<u32> = ids[index + 1..]
                .iter()
                .copied()
                .take_while(|id| !tokenizer.is_special(*id))
                .collect();
            // A character cut by a stray control token is whole again without it.
            let text = tokenizer.decode(&text);
            bodies.push(text.trim_matches('\u{fffd}').to_owned());
        }
    }
    bodies
}
