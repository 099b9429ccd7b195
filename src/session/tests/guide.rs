//! Guides against a model that wants something else.

use super::*;
use serde_json::Value;

use crate::harmony::{ResponseFormat, parse_tools};
use crate::runtime::simulated::{encode, tokenizer_json};

const TOOLS: &str = r#"[
    {"type": "function", "name": "weather", "parameters": {"type": "object", "additionalProperties": false,
        "required": ["city"], "properties": {"city": {"enum": ["Paris", "Rome"]}}}},
    {"type": "function", "name": "stop"}
]"#;

/// What came of an answer.
struct Heard {
    events: Vec<Event>,
    tokens: usize,
}

impl Heard {
    fn text(&self, wanted: Channel) -> String {
        let text = |event: &Event| match event {
            Event::Delta { channel, text } if *channel == wanted => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    fn calls(&self) -> Vec<(String, Value)> {
        let call = |event: &Event| match event {
            Event::ToolCall {
                name, arguments, ..
            } => Some((name.clone(), serde_json::from_str(arguments).unwrap())),
            _ => None,
        };
        self.events.iter().filter_map(call).collect()
    }

    fn recovered(&self) -> bool {
        let recovered = |event: &Event| matches!(event, Event::Recovered { .. });
        self.events.iter().any(recovered)
    }
}

/// A model that says `wish` where it may, and else anything that is allowed.
fn speak(guidance: Guidance, form: Option<&str>, tools: &str, wish: &str, seed: u64) -> Heard {
    let tokenizer = Arc::new(Tokenizer::from_bytes(&tokenizer_json()).unwrap());
    let grammars = Grammars::new(&tokenizer).unwrap();
    let offered = parse_tools(tools).unwrap();
    let settings = Settings {
        functions: offered.functions,
        builtin: offered.builtin,
        response_format: form.map(|text| ResponseFormat::new(serde_json::from_str(text).unwrap())),
        ..Settings::default()
    };
    let forms = Forms::new(&settings, &grammars).unwrap();
    let mut guide = HarmonyGuide::new(guidance, forms, &tokenizer);
    let mut parser = Parser::new(Arc::clone(&tokenizer));
    let special = *tokenizer.special();
    let mut wishes = VecDeque::from(encode(wish));
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut events = Vec::new();
    let mut tokens = 0;
    while tokens < 5000 {
        let wanted = wishes.front().copied();
        let id = match guide.choice() {
            Choice::Any => wanted.unwrap_or(special.ret),
            Choice::Only(id) => id,
            Choice::Nothing => panic!("stuck after {tokens} tokens: {events:?}"),
            Choice::Of(allowed) => {
                let is_allowed = |id: u32| allowed[id as usize / 32] >> (id % 32) & 1 == 1;
                let size = tokenizer.vocab_size() as u32;
                let all: Vec<u32> = (0..size).filter(|id| is_allowed(*id)).collect();
                assert!(!all.is_empty());
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match wanted {
                    Some(id) if is_allowed(id) => id,
                    // Ends where it can: anything may go on for ever.
                    _ if is_allowed(special.ret) => special.ret,
                    _ if is_allowed(special.call) => special.call,
                    _ => all[(random % all.len() as u64) as usize],
                }
            }
        };
        if wanted == Some(id) {
            wishes.pop_front();
        }
        guide.said(id);
        parser.push_into(id, &mut events);
        tokens += 1;
        if special.stops().contains(&id) {
            return Heard { events, tokens };
        }
    }
    panic!("it never ended: {events:?}");
}

const PERSON: &str = r#"{"type": "object", "additionalProperties": false,
    "required": ["name", "age"], "properties": {
    "name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}}}"#;

#[test]
fn reasoning_ends_with_its_budget() {
    let wish = format!(
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>",
        "é".repeat(50)
    );
    for budget in [1, 6, 7] {
        let guidance = Guidance {
            reasoning: Some(budget),
            ..Guidance::default()
        };
        let heard = speak(guidance, None, "[]", &wish, 1);
        // A character of two tokens is not torn.
        let expected = "é".repeat(budget.div_ceil(2));
        assert_eq!(heard.text(Channel::Analysis), expected);
        assert!(!heard.recovered());
    }
    let none = Guidance {
        reasoning: Some(0),
        ..Guidance::default()
    };
    let heard = speak(none, None, "[]", "yes<|return|>", 1);
    assert_eq!(heard.text(Channel::Analysis), "");
    assert_eq!(heard.text(Channel::Final), "yes");
    let plenty = Guidance {
        reasoning: Some(1000),
        ..Guidance::default()
    };
    let heard = speak(plenty, None, "[]", &wish, 1);
    assert_eq!(heard.text(Channel::Analysis), "é".repeat(50));
    assert_eq!(heard.text(Channel::Final), "yes");
}

#[test]
fn the_answer_has_its_form() {
    let wishes = [
        "<|channel|>final<|message|>Sure! It is Ada.<|return|>",
        "<|channel|>analysis<|message|>Hm, who?<|return|><|end|><|start|>assistant<|channel|>final<|message|>{\"age\": 7, \"name\": \"Ada\"} Voila<|return|>",
        "Ada<|return|>",
        "<|channel|>final <|constrain|>json<|message|>{<|end|>",
    ];
    for (seed, wish) in wishes.iter().enumerate() {
        let heard = speak(
            Guidance::default(),
            Some(PERSON),
            "[]",
            wish,
            seed as u64 + 1,
        );
        let answer: Value = serde_json::from_str(&heard.text(Channel::Final)).unwrap();
        assert!(["Ada", "Bob"].contains(&answer["name"].as_str().unwrap()));
        assert!((1..100).contains(&answer["age"].as_i64().unwrap()));
        assert!(!heard.recovered(), "{:?}", heard.events);
    }
}

#[test]
fn a_tool_must_be_called() {
    let wish = "<|channel|>analysis<|message|>Easy.<|return|><|end|><|start|>assistant<|channel|>final<|message|>no<|return|>";
    for (must_call, expected) in [
        (vec!["weather", "stop"], vec!["weather", "stop"]),
        (vec!["weather"], vec!["weather"]),
        (vec!["stop"], vec!["stop"]),
    ] {
        for seed in 1..10 {
            let guidance = Guidance {
                must_call: must_call.iter().map(|s| (*s).to_owned()).collect(),
                ..Guidance::default()
            };
            let heard = speak(guidance, None, TOOLS, wish, seed);
            assert_eq!(heard.text(Channel::Final), "");
            let calls = heard.calls();
            let [(name, arguments)] = calls.as_slice() else {
                panic!("{:?}", heard.events);
            };
            assert!(expected.contains(&name.as_str()));
            if name == "weather" {
                assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()));
            }
            assert!(!heard.recovered(), "{:?}", heard.events);
        }
    }
}

#[test]
fn arguments_have_the_tools_form_and_a_form_leaves_the_tools() {
    let wish = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"town\": \"Oslo\"}<|call|>";
    for form in [None, Some(PERSON)] {
        let heard = speak(Guidance::default(), form, TOOLS, wish, 3);
        let calls = heard.calls();
        let city = calls[0].1["city"].as_str().unwrap();
        assert!(["Paris", "Rome"].contains(&city));
    }
    // Without a call it is the answer that counts.
    let wish = "<|channel|>commentary<|message|>I shall look.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>";
    let heard = speak(Guidance::default(), Some(PERSON), TOOLS, wish, 3);
    assert_eq!(heard.text(Channel::Commentary), "I shall look.");
    assert!(heard.text(Channel::Final).contains("name"));
}

#[test]
fn built_in_tools_are_called_as_the_model_learnt_it() {
    const BUILTIN: &str = r#"[{"type": "browser"}, {"type": "python"}]"#;
    let call = |events: &[Event]| {
        let call = events.iter().find_map(|event| match event {
            Event::ToolCall {
                name, arguments, ..
            } => Some((name.clone(), arguments.clone())),
            _ => None,
        });
        call.unwrap()
    };
    let code = "<|channel|>analysis to=python code<|message|>print(1)<|call|>";
    let wrong_end = "<|channel|>analysis to=python code<|message|>print(1)<|return|>";
    let search = "<|channel|>analysis to=browser.search code<|message|>{\"question\": \"Ada\"}";
    let answer = "<|channel|>final<|message|>no<|return|>";
    let must = |names: &[&str]| Guidance {
        must_call: names.iter().map(|s| (*s).to_owned()).collect(),
        ..Guidance::default()
    };
    for (guidance, form, wish, expected) in [
        (must(&[]), None, code, "python"),
        (must(&[]), Some(PERSON), code, "python"),
        (must(&[]), Some(PERSON), wrong_end, "python"),
        (must(&[]), None, search, "browser.search"),
        (must(&[]), Some(PERSON), search, "browser.search"),
        (must(&["python"]), None, answer, "python"),
        (must(&["browser.search"]), None, answer, "browser.search"),
    ] {
        let heard = speak(guidance, form, BUILTIN, wish, 2);
        let (name, arguments) = call(&heard.events);
        assert_eq!(name, expected, "{wish}");
        match name.as_str() {
            "python" if wish != answer => assert_eq!(arguments, "print(1)"),
            "python" => {}
            _ => {
                let arguments: Value = serde_json::from_str(&arguments).unwrap();
                assert!(arguments["query"].is_string(), "{arguments}");
            }
        }
        assert!(!heard.recovered(), "{:?}", heard.events);
    }
}

#[test]
fn a_budget_and_a_form_together() {
    let guidance = Guidance {
        reasoning: Some(4),
        ..Guidance::default()
    };
    let wish = "<|channel|>analysis<|message|>abcdefgh<|end|>";
    let heard = speak(guidance, Some(PERSON), "[]", wish, 5);
    assert_eq!(heard.text(Channel::Analysis), "abcd");
    serde_json::from_str::<Value>(&heard.text(Channel::Final)).unwrap();
    assert!(heard.tokens < 200);
}

/// What a guide costs with the tokenizer that `GPTOSS_TOKENIZER` names, such as
/// the published one: `cargo test --release --lib guide -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    use std::time::Instant;
    let path = std::env::var_os("GPTOSS_TOKENIZER").expect("GPTOSS_TOKENIZER");
    let tokenizer = Arc::new(Tokenizer::from_file(path.as_ref()).unwrap());
    let begun = Instant::now();
    let grammars = Grammars::new(&tokenizer).unwrap();
    println!("vocabulary: {:?}", begun.elapsed());
    let schemas: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/bus/structured/schemas.json")).unwrap();
    let begun = Instant::now();
    let made = schemas.iter().map(|schema| grammars.json(schema).unwrap());
    let made: Vec<Grammar> = made.collect();
    println!("a grammar: {:?}", begun.elapsed() / made.len() as u32);

    let answer = r#"{"name": "Ada Lovelace, countess", "age": 36, "tags": ["first", "programmer"], "note": "She wrote the first program for a machine that was never built."}"#;
    let schema = json!({"type": "object", "additionalProperties": false,
        "required": ["name", "age", "tags", "note"], "properties": {"name": {"type": "string"},
        "age": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
        "note": {"type": "string"}}});
    let ids = tokenizer.encode(answer);
    let template = grammars.json(&schema).unwrap();
    for round in 0..3 {
        let mut grammar = template.clone();
        let begun = Instant::now();
        for &id in &ids {
            let Choice::Of(allowed) = grammar.choice(tokenizer.special().ret) else {
                panic!("a choice");
            };
            assert!(allowed[id as usize / 32] >> (id % 32) & 1 == 1);
            grammar.said(id);
        }
        println!(
            "round {round}: {:?} a token",
            begun.elapsed() / ids.len() as u32
        );
    }
}
