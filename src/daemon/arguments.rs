//! The command line of `gptossd`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::config::Scope;
use crate::platform;

/// The inference daemon for OpenAI's gpt-oss models.
///
/// Answers local applications on D-Bus as org.gptoss.Daemon1, and without a bus on
/// a socket of its own. It has no network; `gptoss-ctl` fetches models.
#[derive(Debug, Parser)]
#[command(name = "gptossd", version)]
pub struct Arguments {
    /// The bus to serve on [default: system, or none with --socket].
    #[arg(long, value_enum)]
    pub bus: Option<BusName>,
    /// Serve on a Unix socket here, for this user and root alone. No bus is needed.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
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
    /// The bus to serve on, if any.
    pub fn bus(&self) -> Option<BusName> {
        let socket = self.socket.clone().or_else(|| self.default_socket());
        match (self.bus, socket) {
            (None, None) => Some(BusName::System),
            (named, _) => named,
        }
    }

    /// Where to serve where neither a bus nor a socket is named, on a system without
    /// a bus.
    pub fn default_socket(&self) -> Option<PathBuf> {
        match (self.bus, &self.socket) {
            (None, None) => platform::default_socket(&|name| std::env::var_os(name)),
            _ => None,
        }
    }

    /// Whose daemon it is: whose settings files count, and whose quarantine.
    pub fn scope(&self) -> Scope {
        match self.bus() {
            Some(BusName::System) => Scope::System,
            Some(BusName::Session) | None => Scope::User,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_needs_no_bus_and_may_have_one() {
        let parse = |words: &[&str]| {
            let words = std::iter::once("gptossd").chain(words.iter().copied());
            Arguments::try_parse_from(words).unwrap()
        };
        let machine = parse(&[]);
        let bus = machine
            .default_socket()
            .is_none()
            .then_some(BusName::System);
        assert_eq!(machine.bus(), bus);
        let alone = parse(&["--socket", "/a"]);
        assert_eq!(alone.bus(), None);
        assert_eq!(alone.scope(), Scope::User);
        let both = parse(&["--socket", "/a", "--bus", "session"]);
        assert_eq!(both.bus(), Some(BusName::Session));
    }
}
