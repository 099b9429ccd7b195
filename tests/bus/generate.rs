//! Answers as they should be.

use std::collections::HashMap;
use std::time::Duration;

use gptoss::client::{Client, Message, Options, StreamEvent};
use zbus::{OwnedVariant, Variant};

use crate::harness::{
    Daemon, LONG, Setup, all, ask, counts, failure, finish, next, refusal, text, user,
    wait_for_start,
};

#[tokio::test]
async fn an_answer_streams() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "héllo 🙂", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: héllo 🙂");
    assert_eq!(text(&events, "analysis"), "", "reasoning is asked for");
    assert_eq!(finish(&events), "stop");
    let starts = events
        .iter()
        .filter(|e| matches!(e, StreamEvent::Start { .. }));
    assert_eq!(starts.count(), 1);
    let deltas = events
        .iter()
        .filter(|e| matches!(e, StreamEvent::Delta { .. }));
    assert!(deltas.count() > 10, "it comes token by token");
    let Some(StreamEvent::Usage(usage)) = events.iter().rev().nth(1) else {
        panic!("{events:?}");
    };
    let (messages, options) = (user("héllo 🙂"), Options::default());
    let counted = client.count_tokens(&messages, &options).await.unwrap();
    assert_eq!(usage.prompt_tokens, u64::from(counted));
    assert!(usage.output_tokens > usage.reasoning_tokens);
    assert!(usage.reasoning_tokens > 0);
}

#[tokio::test]
async fn reasoning_is_shown_on_demand() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let options = Options::default().set("show-reasoning", true);
    let events = all(&mut ask(&client, "x", options).await).await;
    assert_eq!(text(&events, "analysis"), "They said: x");
    assert_eq!(text(&events, "final"), "You said: x");
}

#[tokio::test]
async fn a_conversation_reuses_what_is_computed() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let start = |events: Vec<StreamEvent>| match events.into_iter().next() {
        Some(StreamEvent::Start {
            prompt_tokens,
            cached_tokens,
            ..
        }) => (prompt_tokens, cached_tokens),
        other => panic!("{other:?}"),
    };
    let first = all(&mut ask(&client, "one", Options::default()).await).await;
    assert_eq!(start(first).1, 0);
    let mut messages = user("one").to_vec();
    messages.push(Message::new("assistant", "You said: one"));
    messages.push(Message::new("user", "two"));
    let mut answer = client
        .generate(&messages, &Options::default())
        .await
        .unwrap();
    let events = all(&mut answer).await;
    assert_eq!(text(&events, "final"), "You said: two");
    let (prompt, cached) = start(events);
    assert!(cached > 0 && cached < prompt, "{cached} of {prompt}");
}

#[tokio::test]
async fn instructions_and_effort_reach_the_prompt() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let count = async |messages: &[Message], effort: &str| {
        let options = Options::default().set("reasoning-effort", effort);
        client.count_tokens(messages, &options).await.unwrap()
    };
    let plain = user("x");
    let instructed = [Message::new("system", "Be brief."), plain[0].clone()];
    assert!(count(&instructed, "low").await > count(&plain, "low").await);
    // A token a byte: medium is three letters longer than low.
    let (low, medium) = (count(&plain, "low").await, count(&plain, "medium").await);
    assert_eq!(medium - low, 3);
}

#[tokio::test]
async fn a_tool_call_is_an_event() {
    let script = r#"
        [[answers]]
        text = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\":\"Lyon\"}<|call|>"
    "#;
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    let tools = r#"[{"type":"function","name":"weather","parameters":{"type":"object"}}]"#;
    let options = Options::default().set("tools", tools);
    let events = all(&mut ask(&client, "x", options).await).await;
    let call = events
        .iter()
        .find(|e| matches!(e, StreamEvent::ToolCall { .. }));
    let Some(StreamEvent::ToolCall {
        id,
        name,
        arguments,
    }) = call
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (name.as_str(), arguments.as_str()),
        ("weather", r#"{"city":"Lyon"}"#)
    );
    assert!(!id.is_empty());
    assert_eq!(finish(&events), "tool-calls");
}

#[tokio::test]
async fn long_arguments_come_in_parts() {
    let script = r#"
        [[answers]]
        text = "<|channel|>commentary to=functions.save<|message|>{\"text\":\"LONG\"}<|call|>"
    "#;
    let script = script.replace("LONG", &"word é ".repeat(1500));
    let daemon = Daemon::start(&format!("context-window = 32768\n{script}"));
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", Options::default()).await).await;
    let mut whole = String::new();
    let mut parts = 0;
    for event in &events {
        if let StreamEvent::ToolCallDelta { arguments, .. }
        | StreamEvent::ToolCall { arguments, .. } = event
        {
            whole += arguments;
            parts += 1;
        }
    }
    assert!(parts > 2);
    let parsed: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(parsed["text"], "word é ".repeat(1500));
}

#[tokio::test]
async fn malformed_output_is_recovered_and_reported() {
    let script = r#"
        [[answers]]
        text = "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>Yes"
    "#;
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "Yes");
    let recovered = events
        .iter()
        .any(|e| matches!(e, StreamEvent::Recovered { kind, .. } if kind == "missing-end"));
    assert!(recovered, "{events:?}");
    assert_eq!(finish(&events), "stop");
}

#[tokio::test]
async fn lengths_and_stop_strings_end_an_answer() {
    let daemon = Daemon::start("[[answers]]\ntext = \"<|channel|>final<|message|>one two three\"");
    let client = daemon.client().await;
    // <|channel|>, "final", <|message|> and three letters.
    let short = Options::default().set("max-output-tokens", 10u32);
    let events = all(&mut ask(&client, "x", short).await).await;
    assert_eq!(
        (text(&events, "final").as_str(), finish(&events)),
        ("one", "length")
    );
    let stop = Options::default().set("stop", vec!["tx", "wo t"]);
    let events = all(&mut ask(&client, "x", stop).await).await;
    assert_eq!(
        (text(&events, "final").as_str(), finish(&events)),
        ("one t", "stop")
    );
}

#[tokio::test]
async fn logprobs_come_with_their_text() {
    let daemon = Daemon::start("[[answers]]\ntext = \"<|channel|>final<|message|>héy\"");
    let client = daemon.client().await;
    let options = Options::default().set("logprobs", 2u32);
    let events = all(&mut ask(&client, "x", options).await).await;
    let mut ids = Vec::new();
    for event in &events {
        if let StreamEvent::Delta { logprobs, .. } = event {
            for entry in logprobs {
                assert_eq!(entry.top.len(), 2);
                assert!(entry.logprob > -1e-3);
                assert_eq!(entry.top[0].id, entry.id);
                ids.push(entry.id);
            }
        }
    }
    let expected: Vec<u32> = "héy".bytes().map(u32::from).collect();
    assert_eq!(ids, expected);
}

/// ollama#5253: who waits does not know for how long.
#[tokio::test]
async fn requests_are_served_in_order_and_know_their_place() {
    let script = r#"
        [[answers]]
        when = "wait"
        prefill-delay-ms = 3600000
    "#;
    let daemon = Daemon::start(script);
    let (one, two) = (daemon.client().await, daemon.client().await);
    let mut running = ask(&one, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    let mut first = ask(&one, "first", Options::default()).await;
    assert_eq!(position(&next(&mut first).await), Some(1));
    let mut second = ask(&two, "second", Options::default()).await;
    assert_eq!(position(&next(&mut second).await), Some(2));
    drop(running);
    assert_eq!(position(&next(&mut second).await), Some(1));
    let events = all(&mut second).await;
    let Some(StreamEvent::Start { queue_position, .. }) = events.first() else {
        panic!("{events:?}");
    };
    assert_eq!(*queue_position, 2);
    assert_eq!(text(&events, "final"), "You said: second");
    assert_eq!(text(&all(&mut first).await, "final"), "You said: first");
}

fn position(event: &StreamEvent) -> Option<u64> {
    match event {
        StreamEvent::Queued {
            position,
            waiting_for,
        } if waiting_for == "queue" => Some(*position),
        _ => None,
    }
}

#[tokio::test]
async fn prompts_wait_for_a_model_that_loads() {
    let daemon = Daemon::start("load-delay-ms = 300");
    let client = daemon.client().await;
    let (mut first, mut second) = (
        ask(&client, "one", Options::default()).await,
        ask(&client, "two", Options::default()).await,
    );
    let mut positions = Vec::new();
    for answer in [&mut first, &mut second] {
        match next(answer).await {
            StreamEvent::Queued {
                position,
                waiting_for,
            } if waiting_for == "model" => positions.push(position),
            other => panic!("{other:?}"),
        }
    }
    positions.sort();
    assert_eq!(positions, [0, 1]);
    let (first, second) = (all(&mut first).await, all(&mut second).await);
    assert_eq!(text(&first, "final"), "You said: one");
    assert_eq!(text(&second, "final"), "You said: two");
}

#[tokio::test]
async fn two_clients_get_their_own_answers() {
    let daemon = Daemon::with(Setup {
        config: "[limits]\nrequests-per-user = 100",
        ..Setup::default()
    });
    let ask_many = async |client: Client, who: &str| {
        for round in 0..10 {
            let question = format!("{who} {round}");
            let events = all(&mut ask(&client, &question, Options::default()).await).await;
            assert_eq!(text(&events, "final"), format!("You said: {question}"));
        }
    };
    let (one, two) = (daemon.client().await, daemon.client().await);
    tokio::join!(ask_many(one, "one"), ask_many(two, "two"));
}

#[tokio::test]
async fn a_failing_backend_fails_its_request_alone() {
    let script = r#"
        [[answers]]
        when = "error"
        fail-after = 15
        text = "<|channel|>final<|message|>some text"
        [[answers]]
        when = "panic"
        fail-after = 3
        failure = "panic"
    "#;
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "error", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "some tex", "what was said is kept");
    assert_eq!(failure(&events).0, "BackendFailure");
    let events = all(&mut ask(&client, "panic", Options::default()).await).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "BackendFailure");
    assert!(message.contains("panicked"), "{message}");
    // The model is loaded again.
    let events = all(&mut ask(&client, "fine", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: fine");
}

#[tokio::test]
async fn what_was_prepared_is_not_computed_again() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let admin = client.admin().await.unwrap();
    let text = "a long text that many questions will be about";
    let message = HashMap::from([("role", "user"), ("content", text)]);
    let message: HashMap<_, Variant<'_>> = message
        .into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect();
    let messages = Variant::from(vec![message]);
    let options = HashMap::from([("messages", &messages)]);
    client.manager().prewarm(&options).await.unwrap();
    let prepared = async {
        let count = |stats: &HashMap<String, OwnedVariant>, key: &str| {
            u64::try_from(stats[key].try_clone().unwrap()).unwrap()
        };
        loop {
            let stats = admin.stats().await.unwrap();
            if count(&stats, "requests-completed") == 1 && count(&stats, "requests") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, prepared).await.unwrap();
    let events = all(&mut ask(&client, text, Options::default()).await).await;
    let (prompt, cached) = counts(&events);
    assert_eq!(cached, prompt - 1, "the last one has to be computed");

    let wrong = Variant::from("text");
    let wrong = HashMap::from([("messages", &wrong)]);
    let refused = client.manager().prewarm(&wrong).await;
    let (name, message) = refusal(refused.map_err(Into::into));
    assert_eq!(name, "InvalidArgs");
    assert!(message.contains("aa{sv}"), "{message}");
}
