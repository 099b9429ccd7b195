//! What the bus costs. A measurement, not a test:
//! `cargo test --release --test bus overhead -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use gptoss::client::{Options, StreamEvent};

use crate::harness::{Daemon, all, ask, user};

const ROUNDS: usize = 500;

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    println!("{what}: p50 {} µs, p99 {} µs", at(0.5), at(0.99));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn overhead() {
    let script = r#"
        context-window = 100000
        [[answers]]
        when = "long"
        text = "<|channel|>final<|message|>a"
        repeat = 20000
    "#;
    let daemon = Daemon::start(script);
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;

    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        client.manager().version().await.unwrap();
        took.push(begun.elapsed());
    }
    report("property Version", took);

    let (messages, options) = (user("hello"), Options::default());
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        client.count_tokens(&messages, &options).await.unwrap();
        took.push(begun.elapsed());
    }
    report("CountTokens", took);

    let (mut replied, mut first) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut answer = client.generate(&messages, &options).await.unwrap();
        replied.push(begun.elapsed());
        while !matches!(answer.next().await, Ok(Some(StreamEvent::Delta { .. }))) {}
        first.push(begun.elapsed());
        all(&mut answer).await;
    }
    report("Generate, reply", replied);
    report("Generate, first text", first);

    let begun = Instant::now();
    let events = all(&mut ask(&client, "long", Options::default()).await).await;
    let tokens = events.len() as f64;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "stream: {:.0} events/s, {:.1} µs each",
        tokens / seconds,
        seconds / tokens * 1e6
    );
}
