//! `gptoss-ctl completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, CliError, ExitStatus};

/// Arguments of `gptoss-ctl completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell.
    shell: Shell,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Arguments::command(),
        "gptoss-ctl",
        &mut text,
    );
    super::terminal::write_out(&text)
        .map_err(|e| CliError::new(ExitStatus::Failed, format!("cannot write: {e}")))
}
