//! `gptoss-ctl status`: what the daemon says about itself.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Map, Value, json};
use zbus::{OwnedVariant, Variant};

use super::daemon::{Place, block_on, explain};
use super::messages::{decimal, message, size};
use super::run::unwritable;
use super::{CliError, Global};
use crate::client::{Client, ClientError};

/// Arguments of `gptoss-ctl status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let status = block_on(async {
        let status = async {
            let client = args.place.connect().await?;
            gather(&client).await
        };
        status.await.map_err(|e| explain(e, &args.place))
    })?;
    let text = match global.json {
        true => format!("{status:#}\n"),
        false => for_people(&status),
    };
    io::stdout().write_all(text.as_bytes()).map_err(unwritable)
}

async fn gather(client: &Client) -> Result<Value, ClientError> {
    let manager = client.manager();
    let (state, state_details) = manager.availability().await?;
    let (provider, provider_details) = manager.execution_provider().await?;
    let models: Vec<_> = manager.models().await?.iter().map(object).collect();
    Ok(json!({
        "version": manager.version().await?,
        "features": manager.features().await?,
        "availability": with("state", state, &state_details),
        "execution-provider": with("name", provider, &provider_details),
        "loaded-model": manager.loaded_model().await?,
        "models": models,
    }))
}

fn with(key: &str, value: String, details: &HashMap<String, OwnedVariant>) -> Value {
    let mut all = Map::from_iter([(key.to_owned(), value.into())]);
    if let Value::Object(details) = object(details) {
        all.extend(details);
    }
    all.into()
}

/// A dictionary of the daemon's as a JSON object.
pub(super) fn object(entries: &HashMap<String, OwnedVariant>) -> Value {
    let mut keys: Vec<_> = entries.keys().collect();
    keys.sort();
    let entry = |key: &&String| Some(((*key).clone(), plain(entries.get(*key)?)));
    Value::Object(keys.iter().filter_map(entry).collect())
}

/// A variant of the types the daemon uses, as JSON.
fn plain(value: &Variant<'_>) -> Value {
    match value {
        Variant::Str(text) => text.as_str().into(),
        Variant::U64(number) => (*number).into(),
        Variant::U32(number) => (*number).into(),
        Variant::F64(number) => (*number).into(),
        Variant::Bool(yes) => (*yes).into(),
        Variant::Dict(entries) => {
            let entry = |(key, value): (&Variant<'_>, &Variant<'_>)| match key {
                Variant::Str(key) => Some((key.as_str().to_owned(), plain(value))),
                _ => None,
            };
            Value::Object(entries.iter().filter_map(entry).collect())
        }
        other => other.to_string().into(),
    }
}

fn for_people(status: &Value) -> String {
    let text = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let mut lines = vec![format!("gptossd {}", text("/version")), state(status)];
    if !text("/loaded-model").is_empty() {
        lines.push(message!(
            "status-model",
            model = text("/loaded-model"),
            provider = text("/execution-provider/name")
        ));
    }
    let streamed = status.pointer("/execution-provider/streamed-experts");
    if let Some(bytes) = streamed.and_then(Value::as_u64) {
        lines.push(message!("status-streamed", memory = size(bytes)));
    }
    let rejected = status.pointer("/execution-provider/rejected");
    for (name, why) in rejected.and_then(Value::as_object).into_iter().flatten() {
        let why = why.as_str().unwrap_or("");
        lines.push(message!("status-not-on", provider = name, why = why));
    }
    let models = status.pointer("/models").and_then(Value::as_array);
    let name = |model: &Value| Some(model.get("name")?.as_str()?.to_owned());
    let names: Vec<_> = models.into_iter().flatten().filter_map(name).collect();
    lines.push(match names.is_empty() {
        true => message!("status-none-installed"),
        false => message!("status-installed", models = names.join(", ")),
    });
    lines.join("\n") + "\n"
}

/// What the daemon can do now. The words for its state and the reason are the bus'.
fn state(status: &Value) -> String {
    let text = |key: &str| {
        let value = status.pointer("/availability").and_then(|all| all.get(key));
        value.and_then(Value::as_str).unwrap_or("")
    };
    let (state, reason) = (text("state"), text("reason"));
    match state {
        "loading" => {
            let progress = status.pointer("/availability/progress");
            let percent = progress.and_then(Value::as_f64).unwrap_or(0.0) * 100.0;
            message!(
                "status-loading",
                state = state,
                model = text("model"),
                percent = decimal(percent, 0)
            )
        }
        "unavailable" => message!(
            "status-unavailable",
            state = state,
            reason = reason,
            why = text("message")
        ),
        "ready" if !reason.is_empty() => {
            message!("status-slow", state = state, reason = reason)
        }
        "idle" if reason.is_empty() => message!("status-idle", state = state),
        "idle" => message!("status-unloaded", state = state, reason = reason),
        _ => message!("status-state", state = state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_the_reason() {
        let status = json!({
            "version": "1", "loaded-model": "", "models": [],
            "availability": {"state": "unavailable", "reason": "no-model", "message": "pull one"},
            "execution-provider": {"name": "cpu", "rejected": {"cuda": "no driver"}},
        });
        let text = for_people(&status);
        assert!(text.contains("unavailable (no-model): pull one"), "{text}");
        assert!(text.contains("not on cuda: no driver"), "{text}");
        assert!(text.contains("gptoss-ctl pull 20b"), "{text}");
        assert!(!text.contains("disk"), "{text}");
    }

    #[test]
    fn people_read_that_experts_are_on_the_disk() {
        let status = json!({
            "loaded-model": "20b",
            "execution-provider": {"name": "cpu", "streamed-experts": 6_500_000_000u64},
        });
        let text = for_people(&status);
        assert!(text.contains("6.50 GB"), "{text}");
    }

    #[test]
    fn people_read_what_became_of_the_model() {
        let mut status = json!({"availability": {"state": "idle", "reason": "memory-pressure"}});
        let text = for_people(&status);
        assert!(text.contains("unloaded: memory-pressure"), "{text}");
        status = json!({"availability": {"state": "ready", "reason": "battery"}});
        let text = for_people(&status);
        assert!(text.contains("ready (slow: battery)"), "{text}");
    }
}
