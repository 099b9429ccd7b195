//! Many clients at once that ask, cancel, leave and do not read; afterwards
//! everything is as it was.

use gptoss::client::{Client, Options};
use zbus::OwnedVariant;

use crate::harness::{Daemon, LONG, Setup, all, ask, finish, text};

const SCRIPT: &str = r#"
    context-window = 100000
    [[answers]]
    when = "slow"
    text = "<|channel|>final<|message|>a"
    repeat = 1000000
    token-delay-ms = 1
    [[answers]]
    when = "stuck"
    prefill-delay-ms = 3600000
    [[answers]]
    when = "flood"
    text = "<|channel|>final<|message|>0123456789"
    repeat = 3000
"#;

/// Open descriptors of the daemon.
pub fn descriptors(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fd", daemon.child.id());
    std::fs::read_dir(folder).unwrap().count()
}

/// One client's life; `round` decides how it behaves.
async fn live(daemon: &Daemon, round: usize) {
    let connection = daemon.bus.connect().await;
    let client = Client::over(connection.clone()).await.unwrap();
    for turn in 0..3 {
        match (round + turn) % 6 {
            0 | 1 => {
                let question = format!("question {round} {turn}");
                let events = all(&mut ask(&client, &question, Options::default()).await).await;
                assert_eq!(text(&events, "final"), format!("You said: {question}"));
                assert_eq!(finish(&events), "stop");
            }
            2 => {
                let mut answer = ask(&client, "slow", Options::default()).await;
                let _ = answer.next().await;
                drop(answer);
            }
            3 => {
                let mut answer = ask(&client, "stuck", Options::default()).await;
                // It may have to wait for its turn: either way it ends so.
                answer.cancel().await.unwrap();
                assert_eq!(finish(&all(&mut answer).await), "cancelled");
            }
            4 => {
                // Never read: the spool overflows, nobody else waits for it.
                let answer = ask(&client, "flood", Options::default()).await;
                ask_until_answered(&client).await;
                drop(answer);
            }
            _ => {
                let _unread = ask(&client, "stuck", Options::default()).await;
                connection.close().await.unwrap();
                return;
            }
        }
    }
}

async fn ask_until_answered(client: &Client) {
    let events = all(&mut ask(client, "next", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: next");
}

/// Nobody has anything.
async fn idle(daemon: &Daemon) -> bool {
    let client = daemon.client().await;
    let stats = client.admin().await.unwrap().stats().await.unwrap();
    let none = OwnedVariant::from(0u64);
    stats["requests"] == none && stats["sessions"] == none
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let daemon = Daemon::with(Setup {
        script: SCRIPT,
        config: "[limits]\nrequests-per-user = 1000\nqueue = 1000\nspool-bytes = 16384\n\
                 tokens-per-user = 100000000",
        ..Setup::default()
    });
    let before = {
        let client = daemon.client().await;
        all(&mut ask(&client, "x", Options::default()).await).await;
        drop(client);
        quiet(&daemon, None).await
    };
    let daemon = std::sync::Arc::new(daemon);
    let clients: Vec<_> = (0..48)
        .map(|round| {
            let daemon = std::sync::Arc::clone(&daemon);
            tokio::spawn(async move { live(&daemon, round).await })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    quiet(&daemon, Some(before)).await;
}

/// Waits until the daemon has no requests and no sessions, and as many descriptors as
/// `expected`; gives that number.
pub async fn quiet(daemon: &Daemon, expected: Option<usize>) -> usize {
    let settled = async {
        loop {
            let idle = idle(daemon).await;
            let open = descriptors(daemon);
            if idle && expected.is_none_or(|n| open == n) {
                return open;
            }
        }
    };
    let settled = tokio::time::timeout(LONG, settled).await;
    settled.unwrap_or_else(|_| panic!("{} descriptors are left", descriptors(daemon)))
}
