//! The command line of `gptossd`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::config::Scope;

/// The inference daemon for OpenAI's gpt-oss models.
///
/// Answers local applications on D-Bus as org.gptoss.Daemon1. It has no
/// network of its own; `gptoss-ctl` fetches models.
#[derive(Debug, Parser)]
#[command(name = "gptossd", version)]
pub struct Arguments {
    /// The bus to serve on.
    #[arg(long, value_enum, default_value = "system")]
    pub bus: BusName,
    /// Read this settings file instead of the installed ones.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the model store [default: the user's own, then the machine's].
    #[arg(long, env = "GPTOSS_STORE", value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Answer from a script, without any model.
    #[arg(long, value_name = "SCRIPT")]
    pub simulate: Option<PathBuf>,
    /// Check the settings and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// `--bus`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BusName {
    /// One daemon for the machine.
    System,
    /// One of the user's own.
    Session,
}

impl Arguments {
    /// Whose settings files count.
    pub fn scope(&self) -> Scope {
        match self.bus {
            BusName::System => Scope::System,
            BusName::Session => Scope::User,
        }
    }
}
