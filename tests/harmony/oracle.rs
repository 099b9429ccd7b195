//! Our ids and events against the official library's. Ignored on their own:
//! `agrees_with_the_official_library` runs them with the library's vocabulary.

use std::sync::OnceLock;

use gptoss::harmony::{
    BuiltinTool, Channel, Conversation, Effort, Event, Message, Parser, Role, Settings, StopKind,
    history, render, render_history,
};
use openai_harmony::chat as official;
use openai_harmony::{
    HarmonyEncoding, HarmonyEncodingName, StreamableParser, load_harmony_encoding,
};
use proptest::prelude::*;
use serde::Deserialize;

use super::vocabulary::tokenizer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    settings: Settings,
    messages: Vec<Message>,
    same_as: Option<Vec<Message>>,
    differs: Option<String>,
    text: Option<String>,
}

fn entries() -> Vec<Entry> {
    serde_json::from_str(include_str!("conversations.json")).expect("a valid table")
}

fn encoding() -> &'static HarmonyEncoding {
    static ENCODING: OnceLock<HarmonyEncoding> = OnceLock::new();
    ENCODING.get_or_init(|| {
        load_harmony_encoding(HarmonyEncodingName::HarmonyGptOss).expect("the rebuilt vocabulary")
    })
}

/// The library's prompt for the same conversation.
fn official_ids(settings: &Settings, messages: &[Message]) -> Vec<u32> {
    let leading = messages
        .iter()
        .take_while(|message| matches!(message.role, Role::System | Role::Developer))
        .count();
    let mut all = vec![system_message(settings)];
    all.extend(developer_message(settings, &messages[..leading]));
    all.extend(messages[leading..].iter().map(official_message));
    encoding()
        .render_conversation_for_completion(
            all.iter(),
            official::Role::Assistant,
            // The type has no public name; by default it drops old analysis.
            Some(&Default::default()),
        )
        .expect("the library renders it")
}

fn system_message(settings: &Settings) -> official::Message {
    let mut content = official::SystemContent::new()
        .with_model_identity(&settings.identity)
        .with_reasoning_effort(match settings.effort {
            Effort::Low => official::ReasoningEffort::Low,
            Effort::Medium => official::ReasoningEffort::Medium,
            Effort::High => official::ReasoningEffort::High,
        });
    content.knowledge_cutoff = settings.knowledge_cutoff.clone();
    content.conversation_start_date = settings.current_date.clone();
    for tool in &settings.builtin {
        content = match tool {
            BuiltinTool::Python => content.with_python_tool(),
            BuiltinTool::Browser => content.with_browser_tool(),
        };
    }
    official::Message::from_role_and_content(official::Role::System, content)
}

fn developer_message(settings: &Settings, messages: &[Message]) -> Option<official::Message> {
    let mut content = official::DeveloperContent::new();
    let mut instructions: Vec<&str> = messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    let format = settings.response_format.as_ref().map(|format| {
        let description = format.description.iter().flat_map(|text| text.lines());
        let comment: String = description.map(|line| format!("// {line}\n")).collect();
        let schema = serde_json::to_string(&format.schema).expect("a schema is JSON");
        format!(
            "# Response Formats\n\n## {}\n\n{comment}{schema}",
            format.name
        )
    });
    let has_tools = !settings.functions.is_empty();
    if instructions.is_empty() && !has_tools {
        let text = official::Content::from(format?);
        return Some(official::Message::from_role_and_content(
            official::Role::Developer,
            text,
        ));
    }
    // The library has no response formats: they are text behind the rest.
    let mut tail = format;
    if !has_tools {
        instructions.extend(tail.as_deref());
    }
    if !instructions.is_empty() {
        content = content.with_instructions(instructions.join("\n\n"));
    }
    if has_tools {
        let tools = settings.functions.iter().map(|tool| {
            official::ToolDescription::new(&tool.name, &tool.description, tool.parameters.clone())
        });
        content = content.with_function_tools(tools.collect());
    } else {
        tail = None;
    }
    let message = official::Message::from_role_and_content(official::Role::Developer, content);
    Some(match tail {
        Some(tail) => message.adding_content(format!("\n\n{tail}")),
        None => message,
    })
}

fn official_message(message: &Message) -> official::Message {
    let role = match message.role {
        Role::User => official::Role::User,
        Role::Assistant => official::Role::Assistant,
        Role::Tool => official::Role::Tool,
        Role::System | Role::Developer => official::Role::Developer,
    };
    let author = official::Author {
        role,
        name: message.name.clone(),
    };
    let mut out = official::Message::from_author_and_content(author, message.content.as_str());
    out.channel = message.channel.map(|channel| channel.to_string());
    out.recipient = message.recipient.clone();
    if message.role == Role::Tool {
        out.recipient = Some("assistant".to_owned());
    }
    out.content_type = message.content_type.as_deref().map(|name| match name {
        "code" => name.to_owned(),
        name => format!("<|constrain|>{name}"),
    });
    out
}

#[test]
#[ignore = "needs the library's vocabulary"]
fn conversations_render_alike() {
    let tokenizer = tokenizer();
    let entries = entries();
    assert!(entries.len() >= 60, "{} conversations", entries.len());
    for entry in entries {
        let conversation = Conversation {
            settings: entry.settings,
            messages: entry.messages,
        };
        let spelt_out = entry.same_as.as_ref().unwrap_or(&conversation.messages);
        let official = official_ids(&conversation.settings, spelt_out);
        let ours = render(&tokenizer, &conversation).expect("a conversation of the table");
        let show = |ids: &[u32]| tokenizer.decode_with_control_tokens(ids);
        match (entry.differs, entry.text) {
            (None, None) => {
                assert_eq!(show(&ours), show(&official), "{}: texts differ", entry.name)
            }
            (Some(reason), Some(text)) => {
                assert_ne!(
                    ours, official,
                    "{}: no difference any more: {reason}",
                    entry.name
                );
                let text = text.replace('«', "<|").replace('»', "|>") + "<|start|>assistant";
                let shown = show(&ours);
                let behind = shown.split_once("<|end|>").map(|(_, behind)| behind);
                assert_eq!(behind, Some(text.as_str()), "{}", entry.name);
                continue;
            }
            _ => panic!("{}: `differs` and `text` belong together", entry.name),
        }
        assert_eq!(ours, official, "{}: ids differ", entry.name);
    }
}

/// Texts that a split pattern or a merge loop could choke on.
#[test]
#[ignore = "needs the library's vocabulary"]
fn long_texts_encode_alike() {
    let tokenizer = tokenizer();
    for (piece, count) in [
        (" ", 4_000),
        (" \t", 2_000),
        ("\n", 4_000),
        ("A", 4_000),
        ("aB", 2_000),
        ("!", 4_000),
        ("1", 4_000),
        ("<|start|>", 400),
        ("👩‍👩‍👧‍👦", 1_000),
        ("e\u{301}", 6_000),
        ("彩神争霸", 2_000),
    ] {
        for end in ["", "a"] {
            let text = piece.repeat(count) + end;
            let ids = tokenizer.encode(&text);
            assert!(tokenizer.decode(&ids) == text, "{piece:?} times {count}");
            let official = encoding().tokenizer().encode_ordinary(&text);
            assert!(ids == official, "{piece:?} times {count}, then {end:?}");
        }
    }
}

/// What both parsers say about a message.
type Parsed = (Option<String>, Option<String>, Option<String>, String);

fn parse_officially(ids: &[u32]) -> Vec<Parsed> {
    let role = Some(official::Role::Assistant);
    let mut parser = StreamableParser::new(encoding().clone(), role).expect("a parser");
    for id in ids {
        parser.process(*id).expect("a well-formed stream");
    }
    parser.process_eos().expect("a well-formed end");
    let text = |message: &official::Message| match &message.content[..] {
        [official::Content::Text(text)] => text.text.clone(),
        other => panic!("{other:?}"),
    };
    parser
        .messages()
        .iter()
        .map(|message| {
            let kind = message.content_type.as_deref();
            let kind = kind.map(|kind| kind.trim_start_matches("<|constrain|>").to_owned());
            (
                message.channel.clone(),
                message.recipient.clone(),
                kind,
                text(message),
            )
        })
        .collect()
}

fn parse_ourselves(ids: &[u32]) -> Vec<Event> {
    let mut parser = Parser::new(tokenizer());
    let mut events = Vec::new();
    for id in ids {
        parser.push_into(*id, &mut events);
    }
    events.extend(parser.finish());
    events
}

fn parsed(events: &[Event]) -> Vec<Parsed> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::MessageEnd(message) => Some((
                message.channel.map(|channel| channel.to_string()),
                message.recipient.clone(),
                message.content_type.clone(),
                message.content.clone(),
            )),
            _ => None,
        })
        .collect()
}

/// A message of the assistant and how its header is written.
#[derive(Debug, Clone)]
struct Written {
    channel: Channel,
    recipient: Option<&'static str>,
    content_type: Option<&'static str>,
    recipient_first: bool,
    text: String,
}

impl Written {
    /// The ids behind `<|start|>assistant`, with the end.
    fn ids(&self, is_last: bool) -> Vec<u32> {
        let tokenizer = tokenizer();
        let special = tokenizer.special();
        let mut ids = Vec::new();
        let recipient = self.recipient.map(|name| format!(" to={name}"));
        let recipient = recipient.unwrap_or_default();
        if self.recipient_first {
            ids.extend(tokenizer.encode(&recipient));
        }
        ids.push(special.channel);
        ids.extend(tokenizer.encode(self.channel.as_str()));
        if !self.recipient_first {
            ids.extend(tokenizer.encode(&recipient));
        }
        match self.content_type {
            Some("code") => ids.extend(tokenizer.encode(" code")),
            Some(kind) => {
                ids.extend(tokenizer.encode(" "));
                ids.push(special.constrain);
                ids.extend(tokenizer.encode(kind));
            }
            None => {}
        }
        ids.push(special.message);
        ids.extend(tokenizer.encode(&self.text));
        ids.push(match (self.recipient, is_last) {
            (Some(_), _) => special.call,
            (None, true) => special.ret,
            (None, false) => special.end,
        });
        ids
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z ,.!?\n]{0,80}",
        prop::collection::vec(
            prop::sample::select(vec![
                "<|end|>",
                "<|start|>",
                "<|channel|>",
                "final",
                " to=",
                "👩‍👩‍👧",
                "e\u{301}",
                "\u{0}",
                "  ",
                "\r\n",
                "你好",
                "مرحبا",
                "'s",
                "1234567",
                "<|return|>",
                "\u{fffd}",
            ]),
            0..12
        )
        .prop_map(|pieces| pieces.concat()),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    let recipient = prop::sample::select(vec![
        (None, vec![None]),
        (Some("functions.get_weather"), vec![None, Some("json")]),
        (Some("functions.a-B_9"), vec![Some("json")]),
        (Some("python"), vec![None, Some("code")]),
        (Some("browser.search"), vec![None, Some("json")]),
    ]);
    let channel =
        prop::sample::select(vec![Channel::Analysis, Channel::Commentary, Channel::Final]);
    (
        recipient,
        channel,
        any::<prop::sample::Index>(),
        any::<bool>(),
        text(),
    )
        .prop_map(
            |((recipient, types), channel, kind, recipient_first, text)| {
                let is_function = recipient.is_some_and(|name| name.starts_with("functions."));
                Written {
                    channel: match recipient {
                        None => channel,
                        Some(_) if is_function => Channel::Commentary,
                        Some(_) => Channel::Analysis,
                    },
                    recipient,
                    content_type: *kind.get(&types),
                    recipient_first,
                    text: match recipient {
                        None | Some("python") => text,
                        Some(_) => {
                            serde_json::json!({ text.as_str(): [text.as_str()] }).to_string()
                        }
                    },
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "needs the library's vocabulary"]
    fn texts_encode_alike(text in text()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text);
        prop_assert_eq!(&ids, &encoding().tokenizer().encode_ordinary(&text));
        prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    #[ignore = "needs the library's vocabulary"]
    fn well_formed_streams_parse_alike(messages in prop::collection::vec(written(), 1..5)) {
        let tokenizer = tokenizer();
        let mut ids = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if index > 0 {
                ids.push(tokenizer.special().start);
                ids.extend(tokenizer.encode("assistant"));
            }
            ids.extend(message.ids(index + 1 == messages.len()));
        }
        let events = parse_ourselves(&ids);
        prop_assert_eq!(parsed(&events), parse_officially(&ids));
        let recovered = events.iter().find(|event| matches!(event, Event::Recovered { .. }));
        prop_assert_eq!(recovered, None);
        let stop = if messages.last().is_some_and(|message| message.recipient.is_some()) {
            StopKind::Call
        } else {
            StopKind::Return
        };
        prop_assert_eq!(events.last(), Some(&Event::Stop(stop)));
    }
}

/// What the table's prompts hold of the assistant's, read back as output.
#[test]
#[ignore = "needs the library's vocabulary"]
fn rendered_answers_parse_as_they_were() {
    let tokenizer = tokenizer();
    let special = tokenizer.special();
    let mut messages_seen = 0;
    for entry in entries() {
        for message in entry.same_as.unwrap_or(entry.messages) {
            let well_formed = message.role == Role::Assistant
                && message.name.is_none()
                && message.channel.is_some()
                && !message.content.is_empty()
                && message.recipient.as_deref() != Some("all");
            if !well_formed {
                continue;
            }
            let alone = Conversation {
                settings: Settings::default(),
                messages: vec![message.clone()],
            };
            let prompt = render_history(&tokenizer, &alone).expect("a message of the table");
            let start = prompt
                .iter()
                .rposition(|id| *id == special.start)
                .expect("a message");
            let output = &prompt[start + 1 + tokenizer.encode("assistant").len()..];
            let events = parse_ourselves(output);
            // The library takes a type without recipient for the recipient.
            if message.recipient.is_some() || message.content_type.is_none() {
                assert_eq!(parsed(&events), parse_officially(output), "{}", entry.name);
            }
            let expected = Message {
                call_id: message.recipient.is_some().then(|| "call_1".to_owned()),
                ..message
            };
            assert_eq!(history(events), [expected], "{}", entry.name);
            messages_seen += 1;
        }
    }
    assert!(messages_seen > 40, "{messages_seen}");
}
