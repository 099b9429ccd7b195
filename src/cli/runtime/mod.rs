//! `gptoss-ctl runtime`: which library and provider are used, and why; and bringing a
//! library in.

mod install;
mod remove;

use serde_json::json;

use super::daemon::BusName;
use super::messages::message;
use super::terminal::say;
use super::{CliError, ExitStatus, Global, in_process};
use crate::runtime::pinned::this_platform;
use crate::runtime::wheels::{Build, Kind};
use crate::runtime::{self, ProviderChoice, ProviderReport, library::LibraryInfo};

/// Arguments of `gptoss-ctl runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Try this execution provider only: auto, cuda, coreml or cpu [default: auto].
    #[arg(long)]
    provider: Option<ProviderChoice>,
    /// Whose quarantine counts: the daemon's on this bus.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do with the library.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Bring ONNX Runtime into the store: the build for the processor, or for CUDA.
    Install(install::Args),
    /// Remove from the store what `runtime install` or a bundle brought.
    Remove(remove::Args),
}

/// Characters of the labels, at least.
const NARROWEST: usize = 10;

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    match args.command {
        None => show(global, args.provider.unwrap_or_default(), args.bus),
        Some(_) if args.provider.is_some() => Err(CliError::new(
            ExitStatus::Usage,
            message!("runtime-provider-of-show"),
        )),
        Some(Command::Install(args)) => install::run(global, args),
        Some(Command::Remove(args)) => remove::run(global, args),
    }
}

/// The build of this machine.
fn build(is_cuda: bool) -> Result<&'static Build, CliError> {
    let kind = match is_cuda {
        true => Kind::Cuda,
        false => Kind::Cpu,
    };
    Build::here(kind).ok_or_else(|| {
        let platforms = Build::pinned().iter().filter(|build| build.kind == kind);
        let platforms: Vec<_> = platforms.map(|build| build.platform.as_str()).collect();
        CliError::new(
            ExitStatus::NotFound,
            message!(
                "runtime-no-build",
                build = kind.name(),
                here = this_platform(),
                platforms = platforms.join(", "),
            ),
        )
    })
}

fn show(global: &Global, provider: ProviderChoice, bus: BusName) -> Result<(), CliError> {
    in_process::start_runtime(global)?;
    let library = runtime::library::loaded().ok_or(runtime::RuntimeError::NotInitialised)?;
    // It looks, and changes nothing.
    let quarantine = bus.quarantine().read_only();
    let report = runtime::choose(provider, &quarantine, &[])?;
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
