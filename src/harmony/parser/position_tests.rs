//! Where a stream stands, and how the final answer is forced from there.

use super::tests::{said, tokens};
use super::*;
use crate::harmony::tokenizer::tests::small;

#[test]
fn positions() {
    let mut parser = Parser::new(small());
    let mut seen = vec![parser.position()];
    let marked = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary \
                  to=functions.f<|message|>{}<|call|>";
    for id in tokens(marked) {
        parser.push(id);
        if seen.last() != Some(&parser.position()) {
            seen.push(parser.position());
        }
    }
    let arguments = Position::Arguments {
        name: "f".to_owned(),
    };
    assert_eq!(
        seen,
        [
            Position::Start,
            Position::Header,
            Position::Text(Channel::Analysis),
            Position::Between,
            Position::Header,
            arguments,
            Position::Between,
        ]
    );
}

#[test]
fn forcing_the_final_answer_is_clean_from_everywhere() {
    use crate::harmony::render::force_final;
    for marked in [
        "",
        "<|channel|>analysis<|message|>hm",
        "<|channel|>analysis<|message|>hm<|end|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>comm",
    ] {
        let tokenizer = small();
        let mut parser = Parser::new(tokenizer.clone());
        let mut events: Vec<Event> = tokens(marked)
            .into_iter()
            .flat_map(|id| parser.push(id))
            .collect();
        let mut forced = force_final(&tokenizer, &parser.position());
        forced.extend(tokenizer.encode("Yes."));
        forced.push(tokenizer.special().ret);
        events.extend(forced.into_iter().flat_map(|id| parser.push(id)));
        let said = said(&events);
        assert_eq!(
            said[said.len() - 2..],
            ["final: Yes.", "return"],
            "{marked}"
        );
    }
}
