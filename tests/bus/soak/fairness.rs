//! Four users who all want more than there is: 4, 8, 20 and 32 clients, short
//! answers and long ones, three places. Each must have a quarter.

use std::time::Instant;

use gptoss::client::{Client, Options, StreamEvent};

use super::{USERS, as_user};
use crate::harness::user;

/// Tokens computed for each user: of prompts and of answers.
pub fn measure(address: &str, until: Instant) -> Vec<u64> {
    let wants = [
        (4, "share-long"),
        (8, "share-short"),
        (20, "share-long"),
        (32, "share-short"),
    ];
    let users = USERS.into_iter().zip(wants);
    let users: Vec<_> = users
        .map(|(uid, (clients, question))| {
            let address = address.to_owned();
            as_user(uid, move || async move {
                let clients = (0..clients).map(|n| want(address.clone(), question, n, until));
                let all = futures_util::future::join_all(clients).await;
                all.into_iter().sum::<u64>()
            })
        })
        .collect();
    users.into_iter().map(|user| user.join().unwrap()).collect()
}

/// Asks again and again; gives the tokens computed for it until `until`.
async fn want(address: String, question: &str, number: u64, until: Instant) -> u64 {
    let connection = zbus::connection::Builder::address(address.as_str());
    let client = Client::over(connection.build().await.unwrap())
        .await
        .unwrap();
    let mut tokens = 0;
    while Instant::now() < until {
        let messages = user(&format!("{question} {number}"));
        let answer = client.generate(&messages, &Options::default()).await;
        let mut answer = answer.unwrap();
        while let Ok(Some(event)) = answer.next().await {
            if Instant::now() >= until {
                return tokens;
            }
            tokens += match event {
                StreamEvent::Start {
                    prompt_tokens,
                    cached_tokens,
                    ..
                } => prompt_tokens - cached_tokens,
                // The simulator's tokens are bytes.
                StreamEvent::Delta { text, .. } => text.len() as u64,
                _ => 0,
            };
        }
    }
    tokens
}

/// Prints the shares; gives the least and the greatest.
pub fn report(tokens: &[u64]) -> (f64, f64) {
    let total: u64 = tokens.iter().sum();
    let shares: Vec<_> = tokens.iter().map(|n| *n as f64 / total as f64).collect();
    for ((uid, tokens), share) in USERS.iter().zip(tokens).zip(&shares) {
        println!("user {uid}: {tokens} tokens, {:.1} %", share * 100.0);
    }
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    (least, shares.iter().copied().fold(0.0, f64::max))
}
