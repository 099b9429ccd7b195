// SPDX-License-Identifier: Apache-2.0
//! One question whose answer has a form, in Rust:
//! `cargo run --example ask -- QUESTION`.

use gptoss::client::{Bus, Client, ClientError, Message, Options, StreamEvent};

const FORM: &str = r#"{"type": "object", "additionalProperties": false,
    "required": ["answer", "sure"],
    "properties": {"answer": {"type": "string", "maxLength": 200}, "sure": {"type": "boolean"}}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let question: Vec<String> = std::env::args().skip(1).collect();
    let client = Client::connect(Bus::Session).await?;
    let options = Options::default()
        .set("response-schema", FORM)
        .set("max-reasoning-tokens", 200u32);
    let messages = [Message::new("user", question.join(" "))];
    let mut answer = client.generate(&messages, &options).await?;
    while let Some(event) = answer.next().await? {
        match event {
            StreamEvent::Delta { channel, text, .. } if channel == "final" => print!("{text}"),
            StreamEvent::Error { name, message } => {
                return Err(ClientError::Refused { name, message });
            }
            _ => {}
        }
    }
    println!();
    Ok(())
}
