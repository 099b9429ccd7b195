//! The whole line with the embedded model: pulled, exported, served, asked.

use std::path::{Path, PathBuf};

use gptoss::client::{ClientError, Message, Options, Session, StreamEvent};
use rustix::process::Signal;

use crate::harness::{
    Bus, Daemon, Setup, all, ask, bare_command, counts, failure, finish, next, outcome, refusal,
    text, user, wait_for_start,
};
use crate::structured;

/// The library the tests use, as `make runtime` puts it.
pub fn library() -> PathBuf {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("build/runtime")
        .join(gptoss::runtime::library::FILE_NAME);
    let path = named.unwrap_or(built);
    assert!(
        path.is_file(),
        "{} is missing: run `make runtime`",
        path.display()
    );
    path
}

/// A daemon with an empty store and this library.
fn serving(config: &str, library: &Path) -> Daemon {
    let bus = Bus::start();
    let setup = Setup {
        config,
        ..Setup::default()
    };
    let (mut command, notices) = bare_command(&bus, &setup);
    command
        .env("GPTOSS_STORE", bus.folder.path().join("store"))
        .env("ORT_DYLIB_PATH", library);
    Daemon::run(bus, command, notices)
}

fn pull_nano(daemon: &Daemon) {
    let mut pull = daemon.bus.ctl(["pull", "nano"]);
    pull.env("GPTOSS_STORE", daemon.bus.folder.path().join("store"));
    let (code, _, stderr) = outcome(&pull.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
}

pub fn greedy() -> Options {
    Options::default().set("temperature", 0.0)
}

async fn reason(daemon: &Daemon) -> (String, String) {
    let client = daemon.client().await;
    let (state, details) = client.manager().availability().await.unwrap();
    let reason = details.get("reason").map(|r| r.to_string());
    (state, reason.unwrap_or_default().trim_matches('"').into())
}

#[tokio::test]
async fn nano_is_pulled_and_answers() {
    let daemon = serving("", &library());
    let client = daemon.client().await;
    assert_eq!(
        reason(&daemon).await,
        ("unavailable".into(), "no-model".into())
    );
    let named = Options::default().set("model", "nano");
    let (name, message) = refusal(client.generate(&user("x"), &named).await);
    assert_eq!(name, "ModelNotInstalled");
    assert!(message.contains("gptoss-ctl pull nano"), "{message}");

    // No restart: what is installed now counts now.
    pull_nano(&daemon);
    assert_eq!(reason(&daemon).await.0, "idle");
    let question = "What is the capital of France?";
    let shown = greedy().set("show-reasoning", true);
    let events = all(&mut ask(&client, question, shown).await).await;
    assert_eq!(finish(&events), "stop");
    let answer = text(&events, "final");
    assert!(answer.contains("Paris"), "{answer}");
    assert_ne!(text(&events, "analysis"), "");
    assert_eq!(reason(&daemon).await.0, "ready");
    let (provider, _) = client.manager().execution_provider().await.unwrap();
    assert_eq!(provider, "cpu");

    // While it is loaded nobody removes it.
    let mut remove = daemon.bus.ctl(["rm", "nano"]);
    remove.env("GPTOSS_STORE", daemon.bus.folder.path().join("store"));
    let (code, _, stderr) = outcome(&remove.output().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("in use"), "{stderr}");

    // A second turn computes the new part only.
    let conversation = [
        Message::new("user", question),
        Message::new("assistant", answer),
        Message::new("user", "Qui es-tu ?"),
    ];
    let mut second = client.generate(&conversation, &greedy()).await.unwrap();
    let started = wait_for_start(&mut second).await;
    let Some(StreamEvent::Start {
        prompt_tokens,
        cached_tokens,
        ..
    }) = started.last()
    else {
        panic!("{started:?}");
    };
    assert!(cached_tokens * 2 > *prompt_tokens, "{started:?}");
    assert_eq!(finish(&all(&mut second).await), "stop");

    let run = daemon
        .bus
        .ctl(["run", "nano", question, "--temperature", "0"]);
    let (code, stdout, stderr) = outcome(&{ run }.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("Paris"), "{stdout}");
}

#[tokio::test]
async fn a_cancelled_prompt_leaves_the_model_usable() {
    let daemon = serving("[runtime]\nthreads = 1", &library());
    pull_nano(&daemon);
    let client = daemon.client().await;
    let question = "What is the capital of France?";
    let before = all(&mut ask(&client, question, greedy()).await).await;
    for _ in 0..5 {
        // Thousands of tokens: cancelled inside a chunk of the prefill.
        let long = "one two three four five six seven ".repeat(300);
        let mut answer = ask(&client, &long, greedy()).await;
        wait_for_start(&mut answer).await;
        answer.cancel().await.unwrap();
        assert_eq!(finish(&all(&mut answer).await), "cancelled");
        let after = all(&mut ask(&client, question, greedy()).await).await;
        assert_eq!(text(&after, "final"), text(&before, "final"));
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_window_is_refused_with_both_counts() {
    let daemon = serving("[model]\ncontext = 256", &library());
    pull_nano(&daemon);
    let client = daemon.client().await;
    let long = "one two three four ".repeat(200);
    let events = all(&mut ask(&client, &long, greedy()).await).await;
    let StreamEvent::Overflow { used, window, .. } = events[0] else {
        panic!("{events:?}");
    };
    assert_eq!(window, 256);
    let (name, message) = failure(&events);
    assert_eq!(name, "ContextLengthExceeded");
    assert!(message.contains(&used.to_string()), "{message}");
    let status = daemon.bus.ctl(["run", "nano", &long]).output().unwrap();
    let (code, _, stderr) = outcome(&status);
    assert_eq!(code, 1);
    assert!(stderr.contains("256"), "{stderr}");
}

#[tokio::test]
async fn a_library_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("libonnxruntime.so");
    std::fs::write(&wrong, "not a library").unwrap();
    for library in [Path::new("/nowhere/libonnxruntime.so"), &wrong] {
        let daemon = serving("", library);
        pull_nano(&daemon);
        let client = daemon.client().await;
        let events = all(&mut ask(&client, "x", greedy()).await).await;
        let (name, message) = failure(&events);
        assert_eq!(name, "ModelNotReady");
        assert!(message.contains("no-runtime"), "{message}");
        assert!(message.contains(library.to_str().unwrap()), "{message}");
        let counted = client.count_tokens(&user("x"), &greedy()).await;
        assert!(counted.is_ok(), "counting needs no library: {counted:?}");
    }
}

#[tokio::test]
async fn a_daemon_killed_in_mid_answer_is_noticed() {
    let daemon = serving("", &library());
    pull_nano(&daemon);
    let client = daemon.client().await;
    let long = "one two three four five six seven ".repeat(300);
    let mut answer = ask(&client, &long, greedy()).await;
    while !matches!(next(&mut answer).await, StreamEvent::Start { .. }) {}
    daemon.signal(Signal::KILL);
    let end = loop {
        match answer.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(ClientError::Died)), "{end:?}");
}

/// A session on a real model: turns, a fork, tools and a form.
#[tokio::test]
async fn nano_keeps_a_conversation() {
    let daemon = serving("", &library());
    pull_nano(&daemon);
    let client = daemon.client().await;
    let session = client.create_session(&greedy()).await.unwrap();
    let say = async |session: &Session, text: &str, options: Options| {
        all(&mut session.prompt(&user(text), &options).await.unwrap()).await
    };
    let question = "What is the capital of France?";
    let first = say(&session, question, Options::default()).await;
    assert!(text(&first, "final").contains("Paris"), "{first:?}");

    // Analysis is dropped, and everything before it stays computed.
    let used = session.proxy().context_usage().await.unwrap();
    let second = say(&session, "Qui es-tu ?", Options::default()).await;
    assert_eq!(finish(&second), "stop");
    let (prompt, cached) = counts(&second);
    assert!(prompt > u64::from(used), "{prompt} after {used}");
    assert!(cached * 2 > prompt, "{cached} of {prompt}");

    // The same question in a fresh conversation and in a fork: a fork answers
    // with what it knows of before.
    let fork = session.fork(&Options::default()).await.unwrap();
    let forked = say(&fork, question, Options::default()).await;
    assert!(counts(&forked).1 * 2 > counts(&forked).0);
    assert_eq!(session.history(&Options::default()).await.unwrap().len(), 4);
    assert_eq!(fork.history(&Options::default()).await.unwrap().len(), 6);

    let schema = r#"{"type": "object", "additionalProperties": false, "required": ["city"],
        "properties": {"city": {"enum": ["Paris", "Rome"]}}}"#;
    let held = Options::default().set("response-schema", schema);
    let answer = text(&say(&fork, question, held).await, "final");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert!(["Paris", "Rome"].contains(&answer["city"].as_str().unwrap()));

    let tools = format!(r#"[{{"type": "function", "name": "capital", "parameters": {schema}}}]"#);
    let held = Options::default()
        .set("tools", tools)
        .set("tool-choice", "required");
    let called = say(&session, question, held).await;
    assert_eq!(finish(&called), "tool-calls", "{called:?}");
    let (results, options) = ([("call_1", "Paris")], Options::default());
    let answered = session.submit_tool_results(&results, &options);
    let answered = all(&mut answered.await.unwrap()).await;
    assert_eq!(finish(&answered), "stop");
}

/// Everything nano was taught, asked for by `python/dialogues.py`.
#[tokio::test]
async fn an_application_in_python() {
    if !crate::examples::python() {
        return;
    }
    let daemon = serving("", &library());
    pull_nano(&daemon);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = std::process::Command::new("/usr/bin/python3");
    python
        .arg(root.join("tests/bus/python/dialogues.py"))
        .arg(root.join("onnx/nano/taught.json"));
    let (code, _, stderr) = crate::examples::run(python, &daemon.bus.address).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("Ran 7 tests"), "{stderr}");
}

/// The same 200 schemas that random logits are held to, asked of a model.
#[tokio::test]
async fn nano_keeps_to_every_schema() {
    let daemon = serving("", &library());
    pull_nano(&daemon);
    let client = daemon.client().await;
    let options = || Options::default().set("max-output-tokens", 1000u32);
    let schemas = structured::schemas();
    let complete = structured::complete(&client, &schemas, options).await;
    println!("complete: {complete} of 200");
    assert!(complete >= 180, "{complete}");
}
