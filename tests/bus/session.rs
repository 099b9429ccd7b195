//! Conversations that the daemon keeps.

use std::collections::HashMap;

use futures_util::StreamExt;
use gptoss::client::{Answer, ClientError, Message, Options, Session, StreamEvent};

use crate::harness::{
    Daemon, LONG, Setup, all, counts, failure, finish, refusal, text, user, wait_for_start,
};

const CALLING: &str = r#"
[[answers]]
when = "weather"
text = "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>"
[[answers]]
when = "6 times 7"
text = "<|channel|>analysis<|message|>I compute.<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
[[answers]]
when = "look up"
text = "<|channel|>analysis to=browser.search code<|message|>{\"query\":\"gpt-oss\"}<|call|>"
[[answers]]
when = "42"
text = "<|channel|>final<|message|>It is 42."
[[answers]]
when = "18 degrees"
text = "<|channel|>final<|message|>It is mild."
[[answers]]
when = "wait"
prefill-delay-ms = 3600000
[[answers]]
when = "break"
failure = "error"
fail-after = 3
"#;

const TOOLS: &str = r#"[{"type": "function", "name": "weather", "parameters": {"type": "object",
    "properties": {"city": {"type": "string"}}}}]"#;

async fn session(daemon: &Daemon, options: Options) -> Session {
    let client = daemon.client().await;
    client.create_session(&options).await.unwrap()
}

async fn prompt(session: &Session, text: &str) -> Answer {
    session
        .prompt(&user(text), &Options::default())
        .await
        .unwrap()
}

async fn say(session: &Session, text: &str) -> Vec<StreamEvent> {
    all(&mut prompt(session, text).await).await
}

/// Role, channel and text of each message.
async fn history(session: &Session, options: Options) -> Vec<(String, String, String)> {
    let messages = session.history(&options).await.unwrap();
    let parts = |m: Message| (m.role, m.channel.unwrap_or_default(), m.content);
    messages.into_iter().map(parts).collect()
}

fn said(role: &str, channel: &str, content: &str) -> (String, String, String) {
    (role.into(), channel.into(), content.into())
}

#[tokio::test]
async fn turns_are_remembered_and_counted() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let session = client.create_session(&Options::default()).await.unwrap();
    assert_eq!(session.proxy().model().await.unwrap(), "simulated");
    assert_eq!(session.proxy().context_window().await.unwrap(), 8192);
    let empty = session.proxy().context_usage().await.unwrap();

    let first = say(&session, "one").await;
    assert_eq!(text(&first, "final"), "You said: one");
    let one = [
        said("user", "", "one"),
        said("assistant", "final", "You said: one"),
    ];
    assert_eq!(history(&session, Options::default()).await, one);
    let shown = Options::default().set("show-reasoning", true);
    let analysis = said("assistant", "analysis", "They said: one");
    assert!(history(&session, shown).await.contains(&analysis));

    // The next prompt is known to the token before it is sent.
    let used = session.proxy().context_usage().await.unwrap();
    assert!(used > empty);
    let mut messages = session.history(&Options::default()).await.unwrap();
    messages.extend(user("two"));
    let expected = client.count_tokens(&messages, &Options::default()).await;
    let second = say(&session, "two").await;
    let (prompt, cached) = counts(&second);
    assert_eq!(prompt, u64::from(expected.unwrap()));
    // A message is its text, its role and three control tokens; the beginning
    // of the answer is one and `assistant`. A token is a byte.
    assert_eq!(prompt, u64::from(used) + 3 + 3 + 4 + 1 + 9);
    // Up to the analysis, which is dropped, nothing is computed again.
    assert!(cached > counts(&first).0 / 2, "{cached}");
    assert_eq!(history(&session, Options::default()).await.len(), 4);
}

#[tokio::test]
async fn tools_are_called_and_answered() {
    let daemon = Daemon::start(CALLING);
    let session = session(&daemon, Options::default().set("tools", TOOLS)).await;
    for round in 1..=2 {
        let id = format!("call_{round}");
        let events = say(&session, "What is the weather?").await;
        assert_eq!(finish(&events), "tool-calls");
        let called = events.iter().any(|event| {
            matches!(event, StreamEvent::ToolCall { id: called, name, arguments }
                if *called == id && name == "weather" && arguments == r#"{"city":"Paris"}"#)
        });
        assert!(called, "{events:?}");
        let submit = async |results: &[(&str, &str)]| {
            session
                .submit_tool_results(results, &Options::default())
                .await
        };
        for wrong in [
            &[][..],
            &[("call_9", "x")],
            &[(&id[..], "x"), (&id[..], "y")],
        ] {
            assert_eq!(refusal(submit(wrong).await).0, "ToolResultMismatch");
        }
        let meanwhile = session.prompt(&user("and?"), &Options::default()).await;
        let (name, message) = refusal(meanwhile);
        assert_eq!(name, "ToolResultMismatch");
        assert!(message.contains(&id), "{message}");

        let mut answer = submit(&[(&id, "18 degrees")]).await.unwrap();
        let events = all(&mut answer).await;
        assert_eq!(text(&events, "final"), "It is mild.");
    }
    let messages = session.history(&Options::default()).await.unwrap();
    let result = messages.iter().find(|m| m.role == "tool").unwrap();
    assert_eq!(result.call_id.as_deref(), Some("call_1"));
    assert_eq!(result.content, "18 degrees");
}

#[tokio::test]
async fn the_tools_it_was_trained_with_are_the_applications_to_run() {
    let daemon = Daemon::start(CALLING);
    let tools = r#"[{"type": "python"}, {"type": "browser"}]"#;
    let options = || Options::default().set("tools", tools);
    let session = session(&daemon, options()).await;
    let usage = async |s: &Session| s.proxy().context_usage().await.unwrap();
    let plain = crate::session::session(&daemon, Options::default()).await;
    let described = usage(&session).await - usage(&plain).await;
    assert!(described > 1000, "{described}");

    for (question, name, arguments, result) in [
        ("6 times 7", "python", "print(6 * 7)", "42"),
        (
            "look up",
            "browser.search",
            r#"{"query":"gpt-oss"}"#,
            "[0] 42",
        ),
    ] {
        let events = say(&session, question).await;
        assert_eq!(finish(&events), "tool-calls");
        let call = events.iter().find_map(|event| match event {
            StreamEvent::ToolCall {
                id,
                name,
                arguments,
            } => Some((id, &name[..], &arguments[..])),
            _ => None,
        });
        let (id, called, with) = call.unwrap();
        assert_eq!((called, with), (name, arguments));
        let results = [(id.as_str(), result)];
        let options = Options::default();
        let answer = session.submit_tool_results(&results, &options);
        let events = all(&mut answer.await.unwrap()).await;
        assert_eq!(text(&events, "final"), "It is 42.");
    }
    // Made to, it calls one whatever it would have said.
    let must = options().set("tool-choice", "python");
    let session = crate::session::session(&daemon, must).await;
    let events = say(&session, "hello").await;
    assert_eq!(finish(&events), "tool-calls");
    let wrong = Options::default().set("tools", r#"[{"type": "python"}, {"type": "python"}]"#);
    let refused = daemon.client().await.create_session(&wrong).await;
    assert_eq!(refusal(refused).0, "InvalidArgs");
}

#[tokio::test]
async fn a_fork_goes_its_own_way() {
    let daemon = Daemon::start("");
    let session = session(&daemon, Options::default()).await;
    let first = say(&session, "one").await;
    let fork = session.fork(&Options::default()).await.unwrap();
    assert_ne!(fork.proxy().inner().path(), session.proxy().inner().path());
    let forked = say(&fork, "two").await;
    assert!(
        counts(&forked).1 > counts(&first).0 / 2,
        "the prefix is shared"
    );
    say(&session, "three").await;
    session.close().await.unwrap();
    let texts = |history: Vec<(String, String, String)>| -> Vec<String> {
        history.into_iter().map(|(_, _, text)| text).collect()
    };
    let forks = texts(history(&fork, Options::default()).await);
    assert_eq!(forks, ["one", "You said: one", "two", "You said: two"]);
}

#[tokio::test]
async fn one_turn_at_a_time() {
    let daemon = Daemon::start(CALLING);
    let session = session(&daemon, Options::default()).await;
    let mut running = prompt(&session, "wait").await;
    wait_for_start(&mut running).await;
    let second = session.prompt(&user("x"), &Options::default()).await;
    assert_eq!(refusal(second).0, "SessionBusy");
    assert_eq!(history(&session, Options::default()).await, []);
    let fork = session.fork(&Options::default()).await.unwrap();
    assert_eq!(history(&fork, Options::default()).await, []);
    running.cancel().await.unwrap();
    assert_eq!(finish(&all(&mut running).await), "cancelled");
    // Whoever has the last event may go on at once.
    assert_eq!(text(&say(&session, "x").await, "final"), "You said: x");
}

#[tokio::test]
async fn a_turn_that_fails_or_loses_its_reader_never_was() {
    let daemon = Daemon::start(CALLING);
    let session = session(&daemon, Options::default()).await;
    assert_eq!(failure(&say(&session, "break").await).0, "BackendFailure");
    assert_eq!(history(&session, Options::default()).await, []);
    let mut left = prompt(&session, "wait").await;
    wait_for_start(&mut left).await;
    drop(left);
    let again = async {
        loop {
            match session.prompt(&user("y"), &Options::default()).await {
                Ok(mut answer) => return all(&mut answer).await,
                busy => assert_eq!(refusal(busy).0, "SessionBusy"),
            }
        }
    };
    let events = tokio::time::timeout(LONG, again).await.unwrap();
    assert_eq!(text(&events, "final"), "You said: y");
    assert_eq!(history(&session, Options::default()).await.len(), 2);
}

#[tokio::test]
async fn what_a_stop_string_cuts_was_never_said() {
    let daemon = Daemon::start("[[answers]]\ntext = '<|channel|>final<|message|>yes STOP no'");
    let session = session(&daemon, Options::default().set("stop", vec![" STOP"])).await;
    assert_eq!(text(&say(&session, "x").await, "final"), "yes");
    let messages = history(&session, Options::default()).await;
    assert_eq!(messages.last().unwrap(), &said("assistant", "final", "yes"));
}

#[tokio::test]
async fn nobody_else_can_see_or_use_it() {
    let daemon = Daemon::start("");
    let session = session(&daemon, Options::default()).await;
    say(&session, "secret").await;
    let path = session.proxy().inner().path().to_string();
    let stranger = daemon.bus.connect().await;
    let (own, properties) = (
        "org.gptoss.Daemon1.Session",
        "org.freedesktop.DBus.Properties",
    );
    let service = Some("org.gptoss.Daemon1");
    let refused = |reply: zbus::Result<zbus::Message>, what: &str| {
        let (name, message) = refusal(reply.map_err(ClientError::from));
        assert_eq!(name, "UnknownObject", "{what}: {message}");
    };
    for method in ["History", "Fork"] {
        let options = (HashMap::<&str, zbus::Variant<'_>>::new(),);
        let call = stranger.call_method(service, path.as_str(), Some(own), method, &options);
        refused(call.await, method);
    }
    let close = stranger.call_method(service, path.as_str(), Some(own), "Close", &());
    refused(close.await, "Close");
    for property in ["Model", "ContextUsage", "ContextWindow"] {
        let body = (own, property);
        let get = stranger.call_method(service, path.as_str(), Some(properties), "Get", &body);
        refused(get.await, property);
    }
    let all = (own,);
    let all = stranger.call_method(service, path.as_str(), Some(properties), "GetAll", &all);
    let all: HashMap<String, zbus::OwnedVariant> = all.await.unwrap().body().deserialize().unwrap();
    assert!(all.is_empty(), "{all:?}");
    assert_eq!(history(&session, Options::default()).await.len(), 2);
}

#[tokio::test]
async fn closing_ends_the_turn_and_tells_the_owner_alone() {
    let daemon = Daemon::start(CALLING);
    let session = session(&daemon, Options::default()).await;
    let mut closed = session.proxy().receive_closed().await.unwrap();
    let stranger = daemon.bus.connect().await;
    let rule = "type='signal',interface='org.gptoss.Daemon1.Session'";
    let rule = zbus::MatchRule::try_from(rule).unwrap();
    let overheard = zbus::MessageStream::for_match_rule(rule, &stranger, None).await;
    let mut overheard = overheard.unwrap();

    let mut running = prompt(&session, "wait").await;
    wait_for_start(&mut running).await;
    session.close().await.unwrap();
    assert_eq!(finish(&all(&mut running).await), "cancelled");
    let signal = tokio::time::timeout(LONG, closed.next())
        .await
        .unwrap()
        .unwrap();
    let details = signal.args().unwrap().details().to_owned();
    assert_eq!(details["reason"].to_string(), "\"closed\"");
    let gone = session.prompt(&user("x"), &Options::default()).await;
    assert_eq!(refusal(gone).0, "UnknownObject");
    let silence = std::time::Duration::from_millis(100);
    assert!(
        tokio::time::timeout(silence, overheard.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_unused_session_expires() {
    let daemon = Daemon::with(Setup {
        config: "[limits]\nsession-idle-seconds = 1",
        ..Setup::default()
    });
    let session = session(&daemon, Options::default()).await;
    let mut closed = session.proxy().receive_closed().await.unwrap();
    let signal = tokio::time::timeout(LONG, closed.next())
        .await
        .unwrap()
        .unwrap();
    let details = signal.args().unwrap().details().to_owned();
    assert_eq!(details["reason"].to_string(), "\"expired\"");
    let gone = session.prompt(&user("x"), &Options::default()).await;
    assert_eq!(refusal(gone).0, "UnknownObject");
}

#[tokio::test]
async fn who_leaves_the_bus_leaves_no_session() {
    let daemon = Daemon::with(Setup {
        config: "[limits]\nsessions-per-user = 2",
        ..Setup::default()
    });
    let client = daemon.client().await;
    let create = async || client.create_session(&Options::default()).await;
    let kept = create().await.unwrap();
    {
        let leaving = daemon.client().await;
        leaving.create_session(&Options::default()).await.unwrap();
        let (name, message) = refusal(create().await);
        assert_eq!(name, "LimitsExceeded");
        assert!(message.contains("limits.sessions-per-user"), "{message}");
    }
    let again = async {
        loop {
            match create().await {
                Ok(session) => return session,
                full => assert_eq!(refusal(full).0, "LimitsExceeded"),
            }
        }
    };
    tokio::time::timeout(LONG, again).await.unwrap();
    kept.close().await.unwrap();
}

#[tokio::test]
async fn a_session_keeps_its_model_and_its_handle() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let options = Options::default().set("handle-token", "mine");
    let session = client.create_session(&options).await.unwrap();
    let path = session.proxy().inner().path().to_string();
    assert!(
        path.contains("/session/") && path.ends_with("/mine"),
        "{path}"
    );
    let (name, message) = refusal(client.create_session(&options).await);
    assert_eq!(name, "InvalidArgs");
    assert!(message.contains("each session"), "{message}");
    // A request's handle is another matter.
    let answer = session.prompt(&user("x"), &options).await;
    all(&mut answer.unwrap()).await;

    let same = Options::default().set("model", "simulated");
    all(&mut session.prompt(&user("x"), &same).await.unwrap()).await;
    let other = Options::default().set("model", "120b");
    let refused = session.prompt(&user("x"), &other).await;
    assert_eq!(refusal(refused).0, "ModelNotInstalled");
    let bad = Options::default().set("temperature", -1.0);
    assert_eq!(refusal(client.create_session(&bad).await).0, "InvalidArgs");
}

#[tokio::test]
async fn an_overflow_is_said_and_loses_nothing() {
    let daemon = Daemon::start("context-window = 600");
    let session = session(&daemon, Options::default()).await;
    say(&session, "one").await;
    let before = history(&session, Options::default()).await;
    let events = say(&session, &"x".repeat(600)).await;
    let overflow = events.iter().find_map(|event| match event {
        StreamEvent::Overflow { used, window, .. } => Some((*used, *window)),
        _ => None,
    });
    let (used, window) = overflow.expect("an overflow event");
    assert!(used > 600 && window == 600, "{used} {window}");
    assert_eq!(failure(&events).0, "ContextLengthExceeded");
    assert_eq!(history(&session, Options::default()).await, before);
    assert_eq!(text(&say(&session, "y").await, "final"), "You said: y");
}

#[tokio::test]
async fn the_oldest_turns_go_where_the_application_says_so() {
    let daemon = Daemon::start("context-window = 800");
    let options = Options::default()
        .set("on-overflow", "drop-oldest")
        .set("max-output-tokens", 150u32);
    let session = session(&daemon, options).await;
    let mut dropped = 0;
    for round in 0..12 {
        let question = format!("question number {round:04}");
        let events = say(&session, &question).await;
        assert_eq!(text(&events, "final"), format!("You said: {question}"));
        let (prompt, _) = counts(&events);
        assert!(prompt + 150 <= 800, "{prompt}");
        dropped += events.iter().fold(0, |sum, event| match event {
            StreamEvent::Overflow {
                used,
                dropped_messages,
                ..
            } => {
                assert!(*used + 150 > 800);
                sum + dropped_messages
            }
            _ => sum,
        });
    }
    // A question, its analysis, its answer.
    assert!(dropped > 0 && dropped % 3 == 0, "{dropped}");
    let all = history(&session, Options::default().set("show-reasoning", true)).await;
    assert_eq!(all.len() as u64 + dropped, 36);
    let left = history(&session, Options::default()).await;
    assert_eq!(left.last().unwrap().2, "You said: question number 0011");
    assert_eq!(left[0].0, "user", "whole turns");

    // One turn that is too long by itself is an error even so.
    let events = say(&session, &"x".repeat(900)).await;
    assert_eq!(failure(&events).0, "ContextLengthExceeded");
    assert_eq!(history(&session, Options::default()).await, left);
    let wrong = Options::default().set("on-overflow", "forget");
    let refused = session.prompt(&user("x"), &wrong).await;
    assert_eq!(refusal(refused).0, "InvalidArgs");
}
