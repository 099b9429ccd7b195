//! What an administrator does.

use std::collections::HashMap;
use std::time::Duration;

use gptoss::client::{Client, Options};
use zbus::OwnedVariant;

use crate::harness::{Daemon, LONG, Setup, all, ask, outcome, refusal, text, wait_for_start};

async fn wait_for_state(client: &Client, wanted: &str) {
    let reached = async {
        while client.manager().availability().await.unwrap().0 != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(LONG, reached).await;
    reached.unwrap_or_else(|_| panic!("never {wanted}"));
}

#[tokio::test]
async fn models_are_loaded_and_unloaded() {
    let script = "[[answers]]\nwhen = 'wait'\nprefill-delay-ms = 3600000";
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    let admin = client.admin().await.unwrap();
    let none = HashMap::new();
    wait_for_state(&client, "idle").await;
    admin.load("simulated", &none).await.unwrap();
    wait_for_state(&client, "ready").await;
    assert_eq!(client.manager().loaded_model().await.unwrap(), "simulated");

    // What runs is not taken away.
    let mut running = ask(&client, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    admin.unload(&none).await.unwrap();
    let stats = admin.stats().await.unwrap();
    assert_eq!(stats["requests"], OwnedVariant::from(1u64));
    assert_eq!(stats["requests-running"], OwnedVariant::from(1u64));
    running.cancel().await.unwrap();
    all(&mut running).await;
    wait_for_state(&client, "idle").await;
    assert_eq!(client.manager().loaded_model().await.unwrap(), "");
    assert_eq!(client.manager().execution_provider().await.unwrap().0, "");

    let again = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_eq!(text(&again, "final"), "You said: x");
    let unknown = admin.load("120b", &none).await;
    assert_eq!(refusal(unknown.map_err(Into::into)).0, "ModelNotInstalled");
    admin.rescan().await.unwrap();
}

#[tokio::test]
async fn a_model_that_nobody_uses_is_unloaded() {
    let daemon = Daemon::with(Setup {
        config: "[model]\nunload-idle-seconds = 1",
        ..Setup::default()
    });
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    wait_for_state(&client, "ready").await;
    wait_for_state(&client, "idle").await;
    let again = all(&mut ask(&client, "y", Options::default()).await).await;
    assert_eq!(text(&again, "final"), "You said: y");
}

/// ollama#3144: no numbers for whoever watches the machine.
#[tokio::test]
async fn sessions_and_clients_are_counted() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let admin = client.admin().await.unwrap();
    let counted = async |sessions: u64| {
        admin.stats().await.unwrap()["sessions"] == OwnedVariant::from(sessions)
    };
    assert!(counted(0).await);
    let session = client.create_session(&Options::default()).await.unwrap();
    assert!(counted(1).await);
    session.close().await.unwrap();
    let gone = async {
        while !counted(0).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn the_command_line_waits() {
    let daemon = Daemon::start("load-delay-ms = 300");
    let client = daemon.client().await;
    let run = async |mut command: std::process::Command| {
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        outcome(&done.await.unwrap())
    };
    let (code, stdout, stderr) = run(daemon.bus.ctl(["load", "simulated"])).await;
    assert_eq!(
        (code, stdout.trim()),
        (0, "simulated is loaded"),
        "{stderr}"
    );
    assert_eq!(client.manager().availability().await.unwrap().0, "ready");
    let (code, _, stderr) = run(daemon.bus.ctl(["unload"])).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(client.manager().availability().await.unwrap().0, "idle");
    let (code, _, stderr) = run(daemon.bus.ctl(["load", "120b"])).await;
    assert_eq!(code, 3, "{stderr}");

    let broken = Daemon::start("load-failure = \"not-enough-memory\"");
    let (code, _, stderr) = run(broken.bus.ctl(["load"])).await;
    assert_eq!(code, 5, "{stderr}");
}
