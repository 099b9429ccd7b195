//! `gptoss-ctl load` and `unload`: what the daemon keeps in memory.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use zbus::Variant;

use super::CliError;
use super::daemon::{Place, block_on, explain, refusal};
use super::messages::message;
use super::run::unwritable;
use crate::client::ClientError;
use crate::model::split_revision;

/// How often the daemon is asked how far it is.
const POLL: Duration = Duration::from_millis(100);

/// The daemon's error where a model cannot be had.
const NOT_READY: &str = "org.gptoss.Daemon1.Error.ModelNotReady";

/// Answers after which the state is that of the load that was asked for.
const SETTLED: usize = 10;

/// Answers after which the load that was asked for is at work.
const AT_WORK: usize = 1;

/// Arguments of `gptoss-ctl load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// The model, as `gptoss-ctl list` shows it; the default one where not given.
    model: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `gptoss-ctl unload`.
#[derive(Debug, clap::Args)]
pub struct UnloadArgs {
    #[command(flatten)]
    place: Place,
}

/// Runs `load`: returns once the model can answer.
pub fn load(args: LoadArgs) -> Result<(), CliError> {
    let failed = |e| explain(e, &args.place);
    block_on(async {
        let client = args.place.connect().await.map_err(failed)?;
        let admin = client.admin().await.map_err(failed)?;
        let model = args.model.as_deref().unwrap_or_default();
        let asked = admin.load(model, &HashMap::new()).await;
        asked.map_err(|e| failed(e.into()))?;
        for polled in 0usize.. {
            let now = client.manager().availability().await;
            let (state, details) = now.map_err(|e| failed(e.into()))?;
            let text = |key: &str| match details.get(key).map(|value| &**value) {
                Some(Variant::Str(text)) => text.as_str().to_owned(),
                _ => String::new(),
            };
            match state.as_str() {
                // Another model may be on its way out.
                "ready" if polled >= AT_WORK && is_named(&text("model"), model) => {
                    let loaded = message!("load-loaded", model = text("model")) + "\n";
                    return io::stdout()
                        .write_all(loaded.as_bytes())
                        .map_err(unwritable);
                }
                "idle" | "ready" if polled > SETTLED => {
                    return Err(refusal(NOT_READY, &message!("load-gone")));
                }
                // What an earlier load left may still be said.
                "unavailable" if polled > SETTLED => {
                    let (reason, why) = (text("reason"), text("message"));
                    let message = message!("load-unavailable", reason = reason, why = why);
                    return Err(refusal(NOT_READY, &message));
                }
                _ => {}
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    })
}

/// Whether the model that is `loaded` is the one that was asked for: by its name,
/// with some or all of its revision, or not at all.
fn is_named(loaded: &str, asked: &str) -> bool {
    let (name, revision) = split_revision(asked);
    let (loaded_name, loaded_revision) = split_revision(loaded);
    // The newest revision is said without.
    asked.is_empty()
        || name == loaded_name
            && (loaded_revision.is_empty() || loaded_revision.starts_with(revision))
}

/// Runs `unload`: returns once the memory is free.
pub fn unload(args: UnloadArgs) -> Result<(), CliError> {
    let failed = |e: ClientError| explain(e, &args.place);
    block_on(async {
        let client = args.place.connect().await.map_err(failed)?;
        let admin = client.admin().await.map_err(failed)?;
        let asked = admin.unload(&HashMap::new()).await;
        asked.map_err(|e| failed(e.into()))?;
        loop {
            let now = client.manager().availability().await;
            let (state, _) = now.map_err(|e| failed(e.into()))?;
            if !["ready", "loading"].contains(&state.as_str()) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_model_goes_by_its_name_and_revision() {
        for (loaded, asked) in [
            ("nano", ""),
            ("nano", "nano"),
            ("nano", "nano@sha256-f6"),
            ("nano@sha256-f643", "nano@sha256-f6"),
        ] {
            assert!(is_named(loaded, asked), "{loaded} {asked}");
        }
        for (loaded, asked) in [("nano", "20b"), ("nano@sha256-f643", "nano@sha256-0")] {
            assert!(!is_named(loaded, asked), "{loaded} {asked}");
        }
    }
}
