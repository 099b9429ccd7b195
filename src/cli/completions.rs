//! `gptoss-ctl completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::reason;
use super::help::{self, Place};
use super::messages::{language, message};
use super::{Arguments, CliError, ExitStatus};

/// Arguments of `gptoss-ctl completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell.
    shell: Shell,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), CliError> {
    let mut command = help::translated(Arguments::command(), language(), Place::Shell);
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "gptoss-ctl", &mut text);
    super::terminal::write_out(&text).map_err(|e| {
        let message = message!("cannot-write", why = reason(&e));
        CliError::new(ExitStatus::Failed, message)
    })
}
