use super::*;
use crate::harmony::tokenizer::tests::small;

/// `<|name|>` is the control token, the rest is text.
pub(super) fn tokens(marked: &str) -> Vec<u32> {
    let tokenizer = small();
    let special = tokenizer.special();
    let names = [
        ("<|start|>", special.start),
        ("<|end|>", special.end),
        ("<|message|>", special.message),
        ("<|channel|>", special.channel),
        ("<|constrain|>", special.constrain),
        ("<|return|>", special.ret),
        ("<|call|>", special.call),
        ("<|endoftext|>", special.endoftext),
        ("<|reserved|>", 308),
    ];
    let mut ids = Vec::new();
    let mut rest = marked;
    while !rest.is_empty() {
        let next = names
            .iter()
            .filter_map(|(name, id)| rest.find(name).map(|at| (at, *name, *id)))
            .min();
        let Some((at, name, id)) = next else {
            ids.extend(tokenizer.encode(rest));
            break;
        };
        ids.extend(tokenizer.encode(&rest[..at]));
        ids.push(id);
        rest = &rest[at + name.len()..];
    }
    ids
}

pub(super) fn parse_ids(ids: &[u32]) -> Vec<Event> {
    let mut parser = Parser::new(small());
    let mut events = Vec::new();
    for id in ids {
        parser.push_into(*id, &mut events);
    }
    events.extend(parser.finish());
    events
}

fn parse(marked: &str) -> Vec<Event> {
    parse_ids(&tokens(marked))
}

/// What was said, as `channel: text` and `name(arguments)`; `return` or `call`.
pub(super) fn said(events: &[Event]) -> Vec<String> {
    let mut out = Vec::new();
    let mut streamed = String::new();
    for event in events {
        match event {
            Event::Delta { text, .. } => streamed += text,
            Event::ToolCallDelta { arguments, .. } => streamed += arguments,
            Event::ToolCall {
                name, arguments, ..
            } => out.push(format!("{name}({arguments})")),
            Event::MessageEnd(message) => {
                if message.recipient.is_none() {
                    assert_eq!(streamed, message.content);
                    out.push(format!("{}: {}", message.channel.unwrap(), message.content));
                }
                streamed.clear();
            }
            Event::Recovered { .. } => {}
            Event::Stop(StopKind::Return) => out.push("return".to_owned()),
            Event::Stop(StopKind::Call) => out.push("call".to_owned()),
        }
    }
    out
}

fn recoveries(events: &[Event]) -> Vec<(Recovery, &str)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Recovered { kind, raw } => Some((kind.clone(), raw.as_str())),
            _ => None,
        })
        .collect()
}

fn call(id: usize, name: &str) -> (String, String) {
    (format!("call_{id}"), name.to_owned())
}

#[test]
fn a_turn_as_it_should_be() {
    let events = parse(
        "<|channel|>analysis<|message|>Think é😀.<|end|><|start|>assistant<|channel|>commentary\
         <|message|>I will look.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
    );
    assert_eq!(
        said(&events),
        [
            "analysis: Think é😀.",
            "commentary: I will look.",
            "final: Yes.",
            "return"
        ]
    );
    assert_eq!(recoveries(&events), []);
    assert_eq!(
        history(events),
        [
            Message::assistant(Channel::Analysis, "Think é😀."),
            Message::assistant(Channel::Commentary, "I will look."),
            Message::assistant(Channel::Final, "Yes."),
        ]
    );
}

#[test]
fn calls_as_they_should_be() {
    for header in [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary json",
    ] {
        let events = parse(&format!(
            "{header}<|message|>{{\"city\": \"Lyon\"}}<|call|>"
        ));
        assert_eq!(recoveries(&events), [], "{header}");
        assert_eq!(
            said(&events),
            ["get_weather({\"city\": \"Lyon\"})", "call"],
            "{header}"
        );
        assert_eq!(
            history(events),
            [Message::function_call(
                "call_1",
                "get_weather",
                "{\"city\": \"Lyon\"}"
            )],
            "{header}"
        );
    }
    let events = parse("<|channel|>analysis to=python code<|message|>print(1)<|call|>");
    assert_eq!(recoveries(&events), []);
    assert_eq!(said(&events), ["python(print(1))", "call"]);
    let message = &history(events)[0];
    assert_eq!(message.recipient.as_deref(), Some("python"));
    assert_eq!(message.channel, Some(Channel::Analysis));
    assert_eq!(message.content_type.as_deref(), Some("code"));

    let events = parse("<|channel|>analysis to=browser.search<|message|>{\"query\":\"x\"}<|call|>");
    assert_eq!(said(&events), ["browser.search({\"query\":\"x\"})", "call"]);
}

#[test]
fn several_calls_in_a_turn_have_their_own_ids() {
    let marked = "<|channel|>commentary to=functions.a<|message|>{}<|end|><|start|>assistant\
                  <|channel|>commentary to=functions.b<|message|>{}<|call|>";
    let mut parser = Parser::new(small()).first_call(7);
    let events: Vec<Event> = tokens(marked)
        .into_iter()
        .flat_map(|id| parser.push(id))
        .collect();
    assert_eq!(recoveries(&events), []);
    assert_eq!(said(&events), ["a({})", "b({})", "call"]);
    let ids: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolCall { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(ids, ["call_7", "call_8"]);
    assert_eq!(parser.next_call(), 9);
    assert_eq!(parser.finish(), []);
}

/// Output, what was said, what was recovered.
type Case = (
    &'static str,
    &'static [&'static str],
    Vec<(Recovery, &'static str)>,
);

fn check_all(cases: Vec<Case>) {
    for (marked, expected, faults) in cases {
        let events = parse(marked);
        assert_eq!(said(&events), expected, "{marked}");
        assert_eq!(recoveries(&events), faults, "{marked}");
    }
}

#[test]
fn headers_that_real_models_break() {
    use Recovery::*;
    check_all(vec![
        // A type behind `final` is no recipient.
        (
            "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
            &["final: {}", "return"],
            vec![],
        ),
        // Text without header, from the first token on.
        (
            "Hello there.<|return|>",
            &["final: Hello there.", "return"],
            vec![(MissingHeader, "")],
        ),
        (
            "\n\nassistants help<|end|>",
            &["final: \n\nassistants help"],
            vec![(MissingHeader, "")],
        ),
        ("to", &["final: to"], vec![(MissingHeader, "")]),
        (
            "<|message|>Yes<|return|>",
            &["final: Yes", "return"],
            vec![(MissingChannel, "")],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|>So, yes.<|return|>",
            &["analysis: a", "final: So, yes.", "return"],
            vec![(MissingHeader, "")],
        ),
        // Pieces of the frame missing.
        (
            "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>",
            &["analysis: a", "final: b", "return"],
            vec![(MissingEnd, "")],
        ),
        (
            "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>",
            &["analysis: a", "final: b", "return"],
            vec![(MissingEnd, "")],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>",
            &["analysis: a", "final: b", "return"],
            vec![(MissingStart, "")],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>",
            &["analysis: a", "final: b", "return"],
            vec![(MissingStart, "")],
        ),
        (
            "<|channel|>final The answer is 4.<|return|>",
            &["final: The answer is 4.", "return"],
            vec![(MissingMessage, "")],
        ),
        (
            "<|channel|>final Four<|return|>",
            &["final: Four", "return"],
            vec![(MissingMessage, "")],
        ),
        (
            "<|channel|>Sure, the answer is 4.<|return|>",
            &["final: Sure, the answer is 4.", "return"],
            vec![(MissingMessage, "")],
        ),
        (
            "<|start|>assistant Sure, it is 4.<|return|>",
            &["final: Sure, it is 4.", "return"],
            vec![(RepeatedHeader, ""), (MissingMessage, "")],
        ),
        // Channels.
        (
            "<|channel|>thinking<|message|>hm<|end|>",
            &["commentary: hm"],
            vec![(UnknownChannel, "thinking")],
        ),
        (
            "<|channel|><|message|>hm<|end|>",
            &["final: hm"],
            vec![(MissingChannel, "")],
        ),
        (
            "<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>",
            &["commentary: {\"a\":1}", "return"],
            vec![(CallWithoutRecipient, "")],
        ),
        (
            "<|channel|>analysis<|channel|>final<|message|>x<|return|>",
            &["final: x", "return"],
            vec![],
        ),
        // Begun again.
        (
            "<|start|>assistant<|channel|>final<|message|>x<|return|>",
            &["final: x", "return"],
            vec![(RepeatedHeader, "")],
        ),
        (
            "<|channel|>analy<|start|>assistant<|channel|>final<|message|>x<|return|>",
            &["final: x", "return"],
            vec![(RepeatedHeader, "analy")],
        ),
        // Words that mean nothing.
        (
            "<|channel|>final <|constrain|>json%%<|message|>{}<|return|>",
            &["final: {}", "return"],
            vec![(MalformedHeader, "%%")],
        ),
        // The end inside a header.
        ("<|channel|>fin", &[], vec![(TruncatedHeader, "fin")]),
        ("<|channel|>final", &[], vec![(TruncatedHeader, "final")]),
        (
            "<|channel|>final<|return|>",
            &["return"],
            vec![(TruncatedHeader, "final")],
        ),
        ("<|return|>", &["return"], vec![(TruncatedHeader, "")]),
        (
            "<|channel|>final<|message|>cut o",
            &["final: cut o"],
            vec![],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant",
            &["analysis: a"],
            vec![(TruncatedHeader, "assistant")],
        ),
        // Another role.
        (
            "<|channel|>final<|message|>a<|end|><|start|>user<|message|>b<|end|><|return|>",
            &["final: a", "return"],
            vec![(
                ForeignRole {
                    role: "user".to_owned(),
                },
                "b",
            )],
        ),
        (
            "<|channel|>commentary to=functions.f<|message|>{}<|end|><|start|>functions.f to=assistant\
             <|channel|>commentary<|message|>made up<|end|>",
            &["f({})"],
            vec![(
                ForeignRole {
                    role: "functions.f".to_owned(),
                },
                "made up",
            )],
        ),
        // Control tokens where none belongs.
        (
            "<|channel|>final<|message|>a<|reserved|>b<|message|><|constrain|>c<|return|>",
            &["final: abc", "return"],
            vec![(StrayToken, "")],
        ),
        (
            "<|channel|>final<|message|>a<|end|><|end|>\n<|start|>assistant<|channel|>final<|message|>b<|endoftext|>",
            &["final: a", "final: b", "return"],
            vec![(StrayToken, ""), (StrayText, "\n"), (EndOfText, "")],
        ),
    ]);
}

#[test]
fn calls_that_real_models_break() {
    use Recovery::*;
    let repaired = |id: usize, name| {
        let (id, name) = call(id, name);
        RepairedArguments { id, name }
    };
    let invalid = |id: usize, name| {
        let (id, name) = call(id, name);
        InvalidArguments { id, name }
    };
    let unfinished = |id: usize, name| {
        let (id, name) = call(id, name);
        UnfinishedCall { id, name }
    };
    check_all(vec![
        // A channel glued to the name, as a control token and as text.
        (
            "<|channel|>commentary to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![],
        ),
        (
            "<|channel|>commentaryto=functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![],
        ),
        (
            "<|channel|>commentary to=functions.f?x=1<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![(RepairedRecipient, "functions.f?x=1")],
        ),
        (
            "<|channel|>commentary to=get_weather<|message|>{}<|call|>",
            &["get_weather({})", "call"],
            vec![(RepairedRecipient, "get_weather")],
        ),
        (
            "<|channel|>commentary to= functions.f <|constrain|>json<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![],
        ),
        (
            "<|channel|>commentary functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![],
        ),
        (
            "<|start|>commentary to=functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![(RepeatedHeader, "")],
        ),
        (
            "<|channel|>commentary to=functions.<|message|>{}<|call|>",
            &["commentary: {}", "return"],
            vec![
                (UnusableRecipient, "functions."),
                (CallWithoutRecipient, ""),
            ],
        ),
        (
            "<|channel|>final to=user<|message|>hi<|return|>",
            &["final: hi", "return"],
            vec![],
        ),
        // On the wrong channel, or on none.
        (
            "<|channel|>analysis to=functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![(MovedCall, "")],
        ),
        (
            " to=functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![(MissingChannel, "")],
        ),
        (
            "<|channel|>tools to=functions.f<|message|>{}<|call|>",
            &["f({})", "call"],
            vec![(UnknownChannel, "tools")],
        ),
        // The wrong end.
        (
            "<|channel|>commentary to=functions.f<|message|>{}<|return|>",
            &["f({})", "call"],
            vec![(WrongTerminator, "")],
        ),
        (
            "<|channel|>commentary to=functions.f<|call|>",
            &["f({})", "call"],
            vec![(MissingMessage, ""), (repaired(1, "f"), "")],
        ),
        (
            "<|channel|>commentary to=functions.f {\"a\": 1}<|call|>",
            &["f({\"a\": 1})", "call"],
            vec![(MissingMessage, "")],
        ),
        // Arguments.
        (
            "<|channel|>commentary to=functions.f<|message|>```json\n{\"a\": 1,}\n```<|call|>",
            &["f({\"a\": 1})", "call"],
            vec![(repaired(1, "f"), "```json\n{\"a\": 1,}\n```")],
        ),
        (
            "<|channel|>commentary to=functions.f<|message|>weather in Lyon<|call|>",
            &["call"],
            vec![(invalid(1, "f"), "weather in Lyon")],
        ),
        // Cut short.
        (
            "<|channel|>commentary to=functions.f<|message|>{\"a\": ",
            &[],
            vec![(unfinished(1, "f"), "{\"a\": ")],
        ),
        (
            "<|channel|>analysis to=python code<|message|>rm(",
            &[],
            vec![(unfinished(1, "python"), "rm(")],
        ),
        (
            "<|channel|>analysis to=python zq7xode<|message|>rm(",
            &[],
            vec![
                (MalformedHeader, "zq7xode"),
                (unfinished(1, "python"), "rm("),
            ],
        ),
        (
            "<|channel|>commentary to=functions.f<|message|>{\"a\": 1}",
            &["f({\"a\": 1})"],
            vec![(MissingEnd, "")],
        ),
    ]);
}

#[test]
fn invalid_arguments_stay_in_the_history() {
    let events = parse("<|channel|>commentary to=functions.f<|message|>no<|call|>");
    let messages = history(events);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].call_id.as_deref(), Some("call_1"));
    assert_eq!(messages[0].content, "no");
}

#[test]
fn an_endless_header_is_text() {
    for header in [
        "<|channel|>analysis ",
        "<|start|>assistant ",
        "",
        "<|channel|>final to=",
    ] {
        let garbage = "blah ".repeat(400);
        let events = parse(&format!("{header}{garbage}<|return|>"));
        let text: String = events.iter().flat_map(texts).collect();
        assert!(text.matches("blah").count() >= 400, "{header}");
        let word = "x".repeat(3000);
        let events = parse(&format!("{header}{word}<|return|>"));
        let text: String = events.iter().flat_map(texts).collect();
        assert!(text.matches('x').count() >= 3000, "{header}");
    }
}

#[test]
fn text_comes_at_once_when_it_can_be_no_header() {
    let mut parser = Parser::new(small());
    let events = parser.push(small().encode("H")[0]);
    assert_eq!(recoveries(&events), [(Recovery::MissingHeader, "")]);
    assert!(events.contains(&Event::Delta {
        channel: Channel::Final,
        text: "H".to_owned()
    }));
}

/// All text that an event hands out.
pub(super) fn texts(event: &Event) -> Vec<&str> {
    match event {
        Event::Delta { text, .. } => vec![text],
        Event::ToolCallDelta {
            name, arguments, ..
        }
        | Event::ToolCall {
            name, arguments, ..
        } => {
            vec![name, arguments]
        }
        Event::MessageEnd(message) => {
            let mut texts = vec![message.content.as_str()];
            texts.extend(message.recipient.as_deref());
            texts.extend(message.content_type.as_deref());
            texts
        }
        Event::Recovered { kind, raw } => {
            let mut texts = vec![raw.as_str()];
            if let Recovery::ForeignRole { role } = kind {
                texts.push(role);
            }
            texts
        }
        Event::Stop(_) => vec![],
    }
}
