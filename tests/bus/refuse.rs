//! What the daemon does not take, and how it says so.

use std::collections::HashMap;

use gptoss::client::{Message, Options, StreamEvent};
use zbus::Variant;

use crate::harness::{
    Daemon, Setup, all, ask, failure, finish, outcome, refusal, text, user, wait_for_start,
};

#[tokio::test]
async fn wrong_types_and_values_are_invalid() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let cases: [(&str, Variant<'_>); 10] = [
        ("temperature", "hot".into()),
        ("temperature", (-1.0).into()),
        ("temperature", f64::NAN.into()),
        ("seed", 1u32.into()),
        ("stop", "x".into()),
        ("max-output-tokens", 0u32.into()),
        ("reasoning-effort", "huge".into()),
        ("tools", "nonsense".into()),
        ("handle-token", "../x".into()),
        ("priority", "now".into()),
    ];
    for (key, value) in cases {
        let options = Options::default().set(key, value);
        let (name, message) = refusal(client.generate(&user("x"), &options).await);
        assert_eq!(name, "InvalidArgs", "{key}: {message}");
        assert!(message.contains(key) || key == "tools", "{key}: {message}");
    }
    for messages in [
        vec![],
        vec![Message::new("boss", "x")],
        vec![Message {
            channel: Some("loud".into()),
            ..Message::new("assistant", "x")
        }],
    ] {
        let (name, _) = refusal(client.generate(&messages, &Options::default()).await);
        assert_eq!(name, "InvalidArgs");
    }
    // Types the interface does not have.
    let raw = daemon.bus.connect().await;
    let call = async |body: &str| {
        let reply = raw
            .call_method(
                Some("org.gptoss.Daemon1"),
                "/org/gptoss/Daemon1",
                Some("org.gptoss.Daemon1.Manager"),
                "Generate",
                &(body,),
            )
            .await;
        refusal(reply.map_err(Into::into)).0
    };
    assert_eq!(call("x").await, "InvalidArgs");
    let good = all(&mut ask(&client, "still there", Options::default()).await).await;
    assert_eq!(finish(&good), "stop");
}

#[tokio::test]
async fn unknown_keys_are_ignored() {
    let daemon = Daemon::start("");
    let raw = daemon.bus.connect().await;
    let message = HashMap::from([
        ("role", Variant::from("user")),
        ("content", "x".into()),
        ("mood", 7u8.into()),
    ]);
    let options = HashMap::from([("sparkles", Variant::from(vec![1u32]))]);
    let reply = raw
        .call_method(
            Some("org.gptoss.Daemon1"),
            "/org/gptoss/Daemon1",
            Some("org.gptoss.Daemon1.Manager"),
            "CountTokens",
            &(vec![message], options),
        )
        .await
        .unwrap();
    let count: u32 = reply.body().deserialize().unwrap();
    assert!(count > 10);
}

/// llama.cpp#19051, llama.cpp#24097: a schema is not enforced, silently.
#[tokio::test]
async fn what_cannot_be_enforced_is_refused() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let set = |key, value: &str| Options::default().set(key, value);
    for (key, value, expected) in [
        (
            "response-schema",
            r#"{"type": "array", "uniqueItems": true}"#,
            "SchemaNotSupported",
        ),
        ("response-schema", "{", "InvalidArgs"),
        ("tool-choice", "required", "InvalidArgs"),
        ("tool-choice", "a-tool-nobody-offers", "InvalidArgs"),
    ] {
        let refused = client.generate(&user("x"), &set(key, value)).await;
        let (name, message) = refusal(refused);
        assert_eq!(name, expected, "{key} {value}: {message}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_named() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let options = Options::default().set("model", "21b");
    let (name, message) = refusal(client.generate(&user("x"), &options).await);
    assert_eq!(name, "ModelNotInstalled");
    assert!(message.contains("21b"), "{message}");
    let counted = client.count_tokens(&user("x"), &options).await;
    assert_eq!(refusal(counted).0, "ModelNotInstalled");
}

/// ollama#17427, ollama#8099: a prompt is cut to fit, silently.
#[tokio::test]
async fn a_prompt_that_does_not_fit_is_an_error_with_both_counts() {
    let daemon = Daemon::start("context-window = 300");
    let client = daemon.client().await;
    let events = all(&mut ask(&client, &"x".repeat(500), Options::default()).await).await;
    let (messages, options) = (user(&"x".repeat(500)), Options::default());
    let used = client.count_tokens(&messages, &options).await.unwrap();
    let overflow = &events[0];
    assert!(
        matches!(overflow, StreamEvent::Overflow { used: u, window: 300, dropped_messages: 0 } if *u == u64::from(used)),
        "{overflow:?}"
    );
    let (name, message) = failure(&events);
    assert_eq!(name, "ContextLengthExceeded");
    assert!(
        message.contains(&used.to_string()) && message.contains("300"),
        "{message}"
    );
    let fine = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_ne!(text(&fine, "final"), "");
}

#[tokio::test]
async fn limits_are_named() {
    let daemon = Daemon::with(Setup {
        script: "[[answers]]\nwhen = \"wait\"\nprefill-delay-ms = 3600000",
        config: "[limits]\nrequests-per-user = 2\nprompt-bytes = 2000\ntokens-per-user = 1500",
        ..Setup::default()
    });
    let (client, other) = (daemon.client().await, daemon.client().await);
    let mut running = ask(&client, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    let events = all(&mut ask(&client, &"y".repeat(1400), Options::default()).await).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "LimitsExceeded");
    assert!(message.contains("limits.tokens-per-user"), "{message}");
    let _waiting = ask(&other, "x", Options::default()).await;
    // Another connection of the same user is no way around it.
    let (name, message) = refusal(other.generate(&user("x"), &Options::default()).await);
    assert_eq!(name, "LimitsExceeded");
    assert!(message.contains("limits.requests-per-user"), "{message}");
    let long = user(&"x".repeat(3000));
    let (name, message) = refusal(client.count_tokens(&long, &Options::default()).await);
    assert_eq!(name, "LimitsExceeded");
    assert!(message.contains("limits.prompt-bytes"), "{message}");
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    let daemon = Daemon::with(Setup {
        script: "[[answers]]\nwhen = \"wait\"\nprefill-delay-ms = 3600000",
        config: "[limits]\nqueue = 1",
        ..Setup::default()
    });
    let client = daemon.client().await;
    let mut running = ask(&client, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    let mut waiting = ask(&client, "x", Options::default()).await;
    waiting.next().await.unwrap();
    let refused = all(&mut ask(&client, "y", Options::default()).await).await;
    let (name, message) = failure(&refused);
    assert_eq!(name, "LimitsExceeded");
    assert!(message.contains("queue"), "{message}");
}

#[tokio::test]
async fn another_user_is_denied() {
    if running_as_root() {
        let daemon = Daemon::start("");
        let mut command = daemon
            .bus
            .ctl_as_another_user(["run", "simulated", "hello"]);
        let output = command.output().unwrap();
        let (code, stdout, stderr) = outcome(&output);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(
            stderr.contains("serves the user who started it"),
            "{stderr}"
        );
    } else {
        eprintln!("not root: cannot become another user");
    }
}

fn running_as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[tokio::test]
async fn handle_tokens_name_the_request() {
    let daemon = Daemon::start("[[answers]]\nwhen = \"wait\"\nprefill-delay-ms = 3600000");
    let client = daemon.client().await;
    let named = || Options::default().set("handle-token", "mine");
    let mut running = ask(&client, "wait", named()).await;
    let path = running.request().inner().path().to_string();
    assert!(path.starts_with("/org/gptoss/Daemon1/request/"), "{path}");
    assert!(path.ends_with("/mine"), "{path}");
    let twice = client.generate(&user("x"), &named()).await;
    assert_eq!(refusal(twice).0, "InvalidArgs");
    wait_for_start(&mut running).await;
    running.cancel().await.unwrap();
    all(&mut running).await;
}
