//! `gptoss-ctl list`.

use super::{CliError, ExitStatus, Global};

/// Arguments of `gptoss-ctl list`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_global: &Global, _args: Args) -> Result<(), CliError> {
    Err(CliError::new(
        ExitStatus::Failed,
        "this build has no list yet",
    ))
}
