//! Requests that end before their time, and that what comes next is not hurt.

use std::process::Stdio;

use gptoss::client::{Client, Options, StreamEvent};

use crate::harness::{
    Daemon, Setup, all, ask, failure, finish, next, refusal, text, wait_for_start,
};

/// `prefill` and `decode` never end by themselves.
const HANGING: &str = r#"
    [[answers]]
    when = "prefill"
    prefill-delay-ms = 3600000
    [[answers]]
    when = "decode"
    text = "<|channel|>final<|message|>a"
    repeat = 1000000
    token-delay-ms = 1
"#;

/// The daemon answers someone else, so nothing hangs any more.
async fn answers(client: &Client) {
    let events = all(&mut ask(client, "and now?", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: and now?");
}

#[tokio::test]
async fn cancelled_by_its_object_in_prefill() {
    let daemon = Daemon::start(HANGING);
    let client = daemon.client().await;
    let mut answer = ask(&client, "prefill", Options::default()).await;
    wait_for_start(&mut answer).await;
    answer.cancel().await.unwrap();
    let events = all(&mut answer).await;
    assert_eq!(finish(&events), "cancelled");
    answers(&client).await;
    let gone = answer.cancel().await;
    assert_eq!(refusal(gone).0, "UnknownObject");
}

#[tokio::test]
async fn cancelled_by_its_object_in_decode() {
    let daemon = Daemon::start(HANGING);
    let client = daemon.client().await;
    let mut answer = ask(&client, "decode", Options::default()).await;
    while !matches!(next(&mut answer).await, StreamEvent::Delta { .. }) {}
    answer.cancel().await.unwrap();
    let events = all(&mut answer).await;
    assert_eq!(finish(&events), "cancelled");
    let usage = events
        .iter()
        .any(|e| matches!(e, StreamEvent::Usage(u) if u.output_tokens > 0));
    assert!(usage, "{:?}", events.last());
    answers(&client).await;
}

#[tokio::test]
async fn cancelled_while_it_waits() {
    let daemon = Daemon::start(HANGING);
    let client = daemon.client().await;
    let mut running = ask(&client, "prefill", Options::default()).await;
    wait_for_start(&mut running).await;
    let mut waiting = ask(&client, "x", Options::default()).await;
    next(&mut waiting).await;
    waiting.cancel().await.unwrap();
    assert_eq!(finish(&all(&mut waiting).await), "cancelled");
    running.cancel().await.unwrap();
    assert_eq!(finish(&all(&mut running).await), "cancelled");
}

#[tokio::test]
async fn a_closed_reader_cancels() {
    let daemon = Daemon::start(HANGING);
    let client = daemon.client().await;
    for hanging in ["prefill", "decode"] {
        let mut answer = ask(&client, hanging, Options::default()).await;
        wait_for_start(&mut answer).await;
        drop(answer);
        answers(&client).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_the_bus_loses_its_requests() {
    let daemon = Daemon::start(HANGING);
    let (leaving, staying) = (daemon.bus.connect().await, daemon.client().await);
    let client = Client::over(leaving.clone()).await.unwrap();
    let mut answer = ask(&client, "prefill", Options::default()).await;
    wait_for_start(&mut answer).await;
    // The stream stays open: only the bus can tell.
    leaving.close().await.unwrap();
    answers(&staying).await;
    assert!(answer.next().await.is_err(), "the stream is closed");
}

#[tokio::test]
async fn a_killed_client_loses_its_requests() {
    let daemon = Daemon::start(HANGING);
    let mut command = daemon.bus.ctl(["run", "simulated", "decode"]);
    let mut killed = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    std::io::Read::read_exact(killed.stdout.as_mut().unwrap(), &mut first).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    answers(&daemon.client().await).await;
}

#[tokio::test]
async fn a_slow_reader_ends_and_holds_nobody_up() {
    let script = r#"
        context-window = 1000000
        [[answers]]
        when = "long"
        text = "<|channel|>final<|message|>a"
        repeat = 20000
    "#;
    let daemon = Daemon::with(Setup {
        script,
        config: "[limits]\nspool-bytes = 16384",
        ..Setup::default()
    });
    let client = daemon.client().await;
    let mut slow = ask(&client, "long", Options::default()).await;
    wait_for_start(&mut slow).await;
    // Behind it in the queue: answered once the slow one has ended.
    answers(&client).await;
    let events = all(&mut slow).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "SlowConsumer", "{message}");
    assert!(text(&events, "final").len() < 20000);
}

#[tokio::test]
async fn only_its_owner_can_cancel() {
    let daemon = Daemon::start(HANGING);
    let (owner, other) = (daemon.client().await, daemon.bus.connect().await);
    let mut answer = ask(&owner, "prefill", Options::default()).await;
    wait_for_start(&mut answer).await;
    let path = answer.request().inner().path().to_owned();
    let stolen = gptoss::client::RequestProxy::builder(&other)
        .path(path)
        .build()
        .await
        .unwrap();
    let refused = stolen.cancel().await.map_err(Into::into);
    assert_eq!(refusal::<()>(refused).0, "UnknownObject");
    answer.cancel().await.unwrap();
    assert_eq!(finish(&all(&mut answer).await), "cancelled");
}
