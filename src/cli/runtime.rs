//! `gptoss-ctl runtime`: which library and provider are used, and why.

use serde_json::json;

use super::daemon::BusName;
use super::messages::message;
use super::terminal::say;
use super::{CliError, Global, in_process};
use crate::runtime::{self, ProviderChoice, ProviderReport, library::LibraryInfo};

/// Arguments of `gptoss-ctl runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Try this execution provider only: auto, cuda, coreml or cpu.
    #[arg(long, default_value = "auto")]
    provider: ProviderChoice,
    /// Whose quarantine counts: the daemon's on this bus.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
}

/// Characters of the labels, at least.
const NARROWEST: usize = 10;

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    in_process::start_runtime(global)?;
    let library = runtime::library::loaded().ok_or(runtime::RuntimeError::NotInitialised)?;
    // It looks, and changes nothing.
    let quarantine = args.bus.quarantine().read_only();
    let report = runtime::choose(args.provider, &quarantine, &[])?;
    if global.json {
        say!("{:#}", as_json(&library, &report));
    } else {
        print(&library, &report);
    }
    Ok(())
}

fn as_json(library: &LibraryInfo, report: &ProviderReport) -> serde_json::Value {
    let rejected = report.rejected.iter();
    let rejected: Vec<_> = rejected
        .map(|(provider, reason)| json!({"provider": provider.to_string(), "reason": reason}))
        .collect();
    json!({
        "library": library.path,
        "version": library.version,
        "build": library.build,
        "compiled_providers": library.providers,
        "provider": report.provider.to_string(),
        "rejected": rejected,
    })
}

fn print(library: &LibraryInfo, report: &ProviderReport) {
    let mut rows = vec![
        (
            message!("runtime-library"),
            library.path.display().to_string(),
        ),
        (message!("runtime-version"), library.version.clone()),
        (message!("runtime-compiled"), library.providers.join(", ")),
        (
            message!("runtime-provider"),
            message!("runtime-proven", provider = %report.provider),
        ),
    ];
    for (provider, reason) in &report.rejected {
        rows.push((
            message!("runtime-not", provider = %provider),
            reason.clone(),
        ));
    }
    let labels = rows.iter().map(|(label, _)| label.chars().count());
    let width = labels.max().unwrap_or(0).max(NARROWEST);
    for (label, value) in rows {
        say!("{label:width$} {value}");
    }
}
