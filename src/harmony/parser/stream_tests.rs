//! Random and mutated streams; `make test-fuzz` tries ten million of them.

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

/// Streams as the model should write them.
const WELL_FORMED: [&str; 5] = [
    "<|channel|>analysis<|message|>¡zq7x it is so<|end|>\
     <|start|>assistant<|channel|>final<|message|>Yes. ¡zk9<|return|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
    "<|channel|>analysis<|message|>two ¡zv1u<|end|>\
     <|start|>assistant<|channel|>commentary<|message|>I look. ¡zk9<|end|>\
     <|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>",
    "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
    "<|channel|>final<|message|>é😀 ¡zq7x<|return|>",
];

/// What goes wrong with one of them.
#[derive(Debug, Clone)]
enum Mutation {
    Delete(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Replace(prop::sample::Index, u32),
    Insert(prop::sample::Index, Vec<u32>),
    Swap(prop::sample::Index, prop::sample::Index),
}

impl Mutation {
    fn of(self, ids: &mut Vec<u32>) {
        if ids.is_empty() {
            return;
        }
        let range = |at: prop::sample::Index, length: usize| {
            let at = at.index(ids.len());
            at..(at + length).min(ids.len())
        };
        match self {
            Mutation::Delete(at, length) => drop(ids.drain(range(at, length))),
            Mutation::Repeat(at, length) => {
                let range = range(at, length);
                let part = ids[range.clone()].to_vec();
                ids.splice(range.start..range.start, part);
            }
            Mutation::Replace(at, id) => {
                let at = at.index(ids.len());
                ids[at] = id;
            }
            Mutation::Insert(at, part) => {
                let at = at.index(ids.len() + 1);
                ids.splice(at..at, part);
            }
            Mutation::Swap(a, b) => {
                let (a, b) = (a.index(ids.len()), b.index(ids.len()));
                ids.swap(a, b);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 1usize..6).prop_map(|(at, n)| Mutation::Delete(at, n)),
        (at(), 1usize..6).prop_map(|(at, n)| Mutation::Repeat(at, n)),
        (at(), 0u32..320).prop_map(|(at, id)| Mutation::Replace(at, id)),
        (at(), piece()).prop_map(|(at, part)| Mutation::Insert(at, part)),
        (at(), at()).prop_map(|(a, b)| Mutation::Swap(a, b)),
    ]
}

/// Random pieces, or something well-formed with faults.
fn stream() -> impl Strategy<Value = Vec<u32>> {
    let mutated = (
        prop::sample::select(&WELL_FORMED[..]),
        prop::collection::vec(mutation(), 0..6),
    );
    prop_oneof![
        prop::collection::vec(piece(), 0..30).prop_map(|pieces| pieces.concat()),
        mutated.prop_map(|(text, mutations)| {
            let mut ids = tokens(text);
            mutations.into_iter().for_each(|m| m.of(&mut ids));
            ids
        }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_stream_is_survived_and_its_text_kept(ids in stream()) {
        let tokenizer = small();
        let events = parse_ids(&ids);
        let handed_out = events.iter().flat_map(texts).collect::<Vec<_>>().join("\0");

        // Not a letter of a control token, unless the model spelt it in letters.
        let plain = tokenizer.decode(&ids);
        if !plain.contains("<|") {
            prop_assert!(!handed_out.contains("<|"), "{events:?}");
        }
        // Words that no header knows come out again, as often as they went in.
        let runs = ids.split(|id| tokenizer.is_special(*id));
        let runs: Vec<_> = runs.map(|run| tokenizer.decode(run)).collect();
        for word in ["zq7x", "zk9", "zv1u"] {
            let went_in: usize = runs.iter().map(|run| run.matches(word).count()).sum();
            prop_assert!(
                handed_out.matches(word).count() >= went_in,
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
        ids in stream(),
        cut in any::<prop::sample::Index>(),
    ) {
        // Events are a function of the tokens alone: a prefix gives a prefix.
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
