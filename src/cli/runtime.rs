//! `gptoss-ctl runtime`.

use super::{CliError, ExitStatus, Global};

/// Arguments of `gptoss-ctl runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_global: &Global, _args: Args) -> Result<(), CliError> {
    Err(CliError::new(
        ExitStatus::Failed,
        "this build has no runtime yet",
    ))
}
