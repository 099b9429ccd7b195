//! `gptoss-ctl selftest`: the embedded model on each provider.

use std::time::Instant;

use serde::Serialize;

use super::messages::message;
use super::progress::Ui;
use super::{CliError, ExitStatus, Global, in_process};
use crate::runtime::{self, Provider, RuntimeError, library};

/// Arguments of `gptoss-ctl selftest`.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Row {
    provider: String,
    passed: bool,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    milliseconds: u64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    library: String,
    version: String,
    providers: Vec<Row>,
}

/// Runs the command.
pub fn run(global: &Global, _args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    in_process::start_runtime(global)?;
    let library = library::loaded().ok_or(RuntimeError::NotInitialised)?;
    let mut providers = Vec::new();
    for provider in Provider::of_this_system() {
        let started = Instant::now();
        let reason = runtime::prove(*provider)?.err();
        providers.push(Row {
            provider: provider.to_string(),
            passed: reason.is_none(),
            reason,
            milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }
    let people = text(&providers);
    let passed = providers.iter().any(|row| row.passed);
    let outcome = Outcome {
        library: library.path.display().to_string(),
        version: library.version,
        providers,
    };
    ui.result(&people, &outcome);
    match passed {
        true => Ok(()),
        false => Err(CliError::new(
            ExitStatus::Verification,
            message!("selftest-none"),
        )),
    }
}

fn text(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let found = match &row.reason {
            None => message!("selftest-passed", milliseconds = row.milliseconds),
            Some(reason) => message!("selftest-failed", why = reason),
        };
        format!("{:<7} {found}", row.provider)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
