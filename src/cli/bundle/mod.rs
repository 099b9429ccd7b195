//! `gptoss-ctl bundle`: models on a medium, for machines without a network.

mod create;
pub(super) mod import;
mod runtime;
mod verify;

use crate::bundle::SignedBy;
use crate::model::Signature;

use super::{CliError, Global};

/// What to do with a bundle.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write an installed model to a folder or a tar file.
    Create(create::Args),
    /// Prove a bundle's bytes and signature; nothing is installed.
    Verify(verify::Args),
    /// Install a model from a bundle.
    Import(import::Args),
}

/// Runs the command.
pub fn run(global: &Global, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(args) => create::run(global, args),
        Command::Verify(args) => verify::run(global, args),
        Command::Import(args) => import::run(global, args),
    }
}

/// What a manifest keeps of a signature that was checked.
fn record(signed: SignedBy, over: &crate::bundle::Digest) -> Signature {
    Signature {
        key_id: signed.key_id,
        comment: signed.comment,
        over: over.to_string(),
    }
}
