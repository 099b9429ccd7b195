//! What breaks for users of other runtimes, from their issue trackers. Each test
//! names the issues it stands for; what belongs to a surface of its own is tested
//! there, under the same names: grep for `#NUMBER`.

use gptoss::client::{Message, Options, StreamEvent};

use crate::harness::{Daemon, all, ask, finish, refusal, text, user};

const TOOLS: &str = r#"[{"type": "function", "name": "weather", "parameters": {"type": "object",
    "required": ["city"], "additionalProperties": false,
    "properties": {"city": {"type": "string", "maxLength": 20}}}}]"#;

/// The events of an answer in which the model writes this.
async fn hear(output: &str, options: Options) -> Vec<StreamEvent> {
    let script = format!(
        "[[answers]]\ntext = {}",
        serde_json::to_string(output).unwrap()
    );
    let daemon = Daemon::start(&script);
    let client = daemon.client().await;
    all(&mut ask(&client, "x", options).await).await
}

fn with_tools() -> Options {
    Options::default()
        .set("tools", TOOLS)
        .set("show-reasoning", true)
}

fn calls(events: &[StreamEvent]) -> Vec<(&str, &str)> {
    let mut calls = Vec::new();
    for event in events {
        if let StreamEvent::ToolCall {
            name, arguments, ..
        } = event
        {
            calls.push((name.as_str(), arguments.as_str()));
        }
    }
    calls
}

/// Every text and name that an application is given.
fn given(events: &[StreamEvent]) -> String {
    let texts = events.iter().map(|event| match event {
        StreamEvent::Delta { text, .. } => text.clone(),
        StreamEvent::ToolCall {
            name, arguments, ..
        }
        | StreamEvent::ToolCallDelta {
            name, arguments, ..
        } => format!("{name} {arguments}"),
        _ => String::new(),
    });
    texts.collect::<Vec<_>>().join("\0")
}

/// ollama#17638, ollama#12884, ollama#12064: malformed arguments end the whole
/// request with a server error.
#[tokio::test]
async fn malformed_arguments_are_no_failure() {
    let wrong = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": Paris, }<|call|>";
    // Of a tool that is offered they can't be malformed.
    let events = hear(wrong, with_tools()).await;
    let [("weather", arguments)] = calls(&events)[..] else {
        panic!("{events:?}");
    };
    let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
    assert!(arguments["city"].is_string());
    assert_eq!(finish(&events), "tool-calls");
    // Of one that is not there is no call, and it is said what the model wrote.
    let events = hear(wrong, Options::default()).await;
    assert_eq!((finish(&events), calls(&events)), ("stop", vec![]));
    let told = events.iter().any(|event| {
        matches!(event, StreamEvent::Recovered { kind, raw }
            if kind == "invalid-arguments" && raw == "{\"city\": Paris, }")
    });
    assert!(told, "{events:?}");
}

/// llama.cpp#27720, llama.cpp#25321: a malformed channel header kills some 4 % of
/// the turns. vllm#50690, harmony#80: a strict parser discards a complete answer.
#[tokio::test]
async fn malformed_headers_lose_nothing() {
    for output in [
        "<|channel|>final<|channel|>final<|message|>It is mild.",
        "<|channel|>analysis<|message|>Hm.<|end|>assistant<|channel|>final<|message|>It is mild.",
        "<|channel|>final It is mild.",
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|message|>It is mild.",
        "<|channel|>analysis<|message|>Hm.<|end|>It is mild.",
        "It is mild.",
    ] {
        let events = hear(output, Options::default()).await;
        assert_eq!(finish(&events), "stop", "{output}");
        assert_eq!(text(&events, "final"), "It is mild.", "{output}");
    }
}

/// vllm#32587: `<|channel|>` leaks into tool names.
#[tokio::test]
async fn no_control_token_in_what_is_given() {
    for output in [
        "<|channel|>commentary to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.weather<|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.weather<|channel|><|message|>{}<|call|>",
    ] {
        for options in [Options::default(), with_tools()] {
            let events = hear(output, options).await;
            let calls = calls(&events);
            assert_eq!(calls.len(), 1, "{events:?}");
            assert_eq!(calls[0].0, "weather");
            assert!(!given(&events).contains("<|"), "{events:?}");
        }
    }
}

/// vllm#23167: commentary without tools, and the answer is lost.
#[tokio::test]
async fn a_preamble_is_shown_and_the_answer_too() {
    let output = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Mild.";
    for options in [Options::default(), with_tools()] {
        let events = hear(output, options).await;
        assert_eq!(text(&events, "commentary"), "I look.");
        assert_eq!(text(&events, "final"), "Mild.");
    }
}

/// codex#3721, llama.cpp#16934: `reasoning` or `reasoning_content`, never agreed.
/// Here it is a channel like another, and is taken back as such.
#[tokio::test]
async fn reasoning_is_a_channel_and_is_taken_back() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let shown = || Options::default().set("show-reasoning", true);
    let events = all(&mut ask(&client, "one", shown()).await).await;
    assert_eq!(text(&events, "analysis"), "They said: one");
    let reasoning = Message {
        channel: Some("analysis".into()),
        ..Message::new("assistant", "I must look at the sky, which takes a while.")
    };
    let call = Message {
        channel: Some("commentary".into()),
        recipient: Some("functions.weather".into()),
        call_id: Some("call_1".into()),
        ..Message::new("assistant", "{}")
    };
    let result = Message {
        call_id: Some("call_1".into()),
        ..Message::new("tool", "mild")
    };
    let question = user("one")[0].clone();
    let count = async |messages: &[&Message]| {
        let messages: Vec<_> = messages.iter().map(|m| (*m).clone()).collect();
        client.count_tokens(&messages, &with_tools()).await.unwrap()
    };
    // Within a turn of tools it counts; after an answer it is dropped.
    let with = count(&[&question, &reasoning, &call, &result]).await;
    assert!(with > count(&[&question, &call, &result]).await + 40);
    let answer = Message::new("assistant", "Mild.");
    let next = Message::new("user", "two");
    let with = count(&[&question, &reasoning, &answer, &next]).await;
    assert_eq!(with, count(&[&question, &answer, &next]).await);
}

/// vllm#39929: a response format suppresses tool calls.
#[tokio::test]
async fn a_schema_leaves_the_tools() {
    let schema = r#"{"type": "object", "required": ["mild"], "additionalProperties": false,
        "properties": {"mild": {"type": "boolean"}}}"#;
    let options = || with_tools().set("response-schema", schema);
    let call = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Lyon\"}<|call|>";
    let events = hear(call, options()).await;
    assert_eq!(calls(&events), [("weather", r#"{"city": "Lyon"}"#)]);
    let events = hear("<|channel|>final<|message|>It is {mild}", options()).await;
    let answer: serde_json::Value = serde_json::from_str(&text(&events, "final")).unwrap();
    assert!(answer["mild"].is_boolean());
}

/// lmstudio#1555, ollama#11691, sglang#9259, vllm#23120: a grammar blocks
/// harmony's own tokens.
#[tokio::test]
async fn a_schema_leaves_the_frame() {
    let schema = r#"{"enum": ["mild", "cold"]}"#;
    let output = "<|channel|>analysis<|message|>It has {no} form.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>\"mild\"";
    let events = hear(output, with_tools().set("response-schema", schema)).await;
    assert_eq!(text(&events, "analysis"), "It has {no} form.");
    assert_eq!(text(&events, "commentary"), "I look.");
    assert_eq!(text(&events, "final"), "\"mild\"");
    let recovered = |e: &StreamEvent| matches!(e, StreamEvent::Recovered { .. });
    assert!(!events.iter().any(recovered), "{events:?}");
}

/// ollama#17427, ollama#8099: a prompt is cut to half of the context, silently.
#[tokio::test]
async fn no_prompt_is_cut() {
    let daemon = Daemon::start("context-window = 600");
    let client = daemon.client().await;
    let long = format!("begin {} end", "x".repeat(800));
    let events = all(&mut ask(&client, &long, Options::default()).await).await;
    let (name, message) = crate::harness::failure(&events);
    assert_eq!(name, "ContextLengthExceeded");
    assert!(message.contains("600"), "{message}");
    // Nearly full it is whole still.
    let fits = format!("begin {} end", "x".repeat(100));
    let events = all(&mut ask(
        &client,
        &fits,
        Options::default().set("max-output-tokens", 240u32),
    )
    .await)
    .await;
    assert!(
        text(&events, "final").starts_with("You said: begin"),
        "{events:?}"
    );
}

/// Alpaca#473, Alpaca#817, ollama#739: applications can't share one runtime, and
/// see each other's where they do.
#[tokio::test]
async fn applications_share_a_model_and_nothing_else() {
    let daemon = Daemon::start("");
    let (one, other) = (daemon.client().await, daemon.client().await);
    let session = one.create_session(&Options::default()).await.unwrap();
    let mut answer = session
        .prompt(&user("secret"), &Options::default())
        .await
        .unwrap();
    all(&mut answer).await;
    let path = session.proxy().inner().path().to_owned();
    let stolen = gptoss::client::SessionProxy::builder(other.manager().inner().connection())
        .path(path)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .unwrap();
    let history = stolen.history(&std::collections::HashMap::new()).await;
    let (name, message) = refusal(history.map_err(Into::into));
    assert_eq!(name, "UnknownObject", "{message}");
    let events = all(&mut ask(&other, "mine", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: mine");
}

/// llama.cpp#22916: no priority, no pre-emption.
#[tokio::test]
async fn who_waits_for_an_answer_goes_first() {
    let script = r#"
        [[answers]]
        when = "index my mail"
        text = "<|channel|>final<|message|>0123456789"
        repeat = 100
        token-delay-ms = 2
    "#;
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    let background = Options::default().set("priority", "background");
    let mut slow = ask(&client, "index my mail", background).await;
    crate::harness::wait_for_start(&mut slow).await;
    let events = all(&mut ask(&client, "hello", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: hello");
    // It went by in the middle of the other, which goes on where it was.
    let rest = all(&mut slow).await;
    assert_eq!(finish(&rest), "stop");
    assert_eq!(text(&rest, "final"), "0123456789".repeat(100));
    let usage = |events: &[StreamEvent]| {
        let usage = events.iter().find_map(|event| match event {
            StreamEvent::Usage(numbers) => Some(*numbers),
            _ => None,
        });
        usage.unwrap()
    };
    assert!(usage(&events).queue_ms < usage(&rest).decode_ms);
}
