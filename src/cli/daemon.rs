//! What the subcommands that talk to the daemon share.

use std::future::Future;

use clap::ValueEnum;

use super::error::{Spoken, reason};
use super::messages::message;
use super::{CliError, ExitStatus};
use crate::client::{Bus, ClientError};
use crate::runtime::Quarantine;

/// `--bus`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BusName {
    /// The machine's daemon.
    System,
    /// The user's own.
    Session,
}

impl From<BusName> for Bus {
    fn from(name: BusName) -> Bus {
        match name {
            BusName::System => Bus::System,
            BusName::Session => Bus::Session,
        }
    }
}

impl BusName {
    /// What the daemon on this bus knows of providers that broke.
    pub fn quarantine(self) -> Quarantine {
        match self {
            BusName::System => Quarantine::of_machine(),
            BusName::Session => Quarantine::of_user(),
        }
    }
}

/// Runs a subcommand's asynchronous part.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let failed = |e: std::io::Error| CliError::new(ExitStatus::Failed, reason(&e));
    runtime.map_err(failed)?.block_on(work)
}

/// The command's failure for the client's, with what to do about it.
pub fn explain(error: ClientError, bus: BusName) -> CliError {
    match error {
        ClientError::Unreachable(why) => {
            let message = match bus {
                BusName::System => message!("daemon-unreachable", why = why),
                BusName::Session => message!("daemon-unreachable-own", why = why),
            };
            CliError::new(ExitStatus::Unreachable, message)
        }
        ClientError::Died => CliError::new(ExitStatus::Unreachable, error.spoken()),
        ClientError::Refused { name, message } => refusal(&name, &message),
        other => CliError::new(ExitStatus::Failed, other.spoken()),
    }
}

/// The command's failure for an error the daemon named.
pub fn refusal(name: &str, message: &str) -> CliError {
    let status = match name.rsplit('.').next() {
        Some("ModelNotInstalled") => ExitStatus::NotFound,
        Some("InvalidArgs") => ExitStatus::Usage,
        Some("ModelNotReady") if message.contains("(not-enough-memory)") => ExitStatus::NoSpace,
        Some("Cancelled") => ExitStatus::Unreachable,
        _ => ExitStatus::Failed,
    };
    CliError::new(status, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let status = |name: &str| refusal(&format!("org.gptoss.Daemon1.Error.{name}"), "").status;
        assert_eq!(status("ModelNotInstalled"), ExitStatus::NotFound);
        assert_eq!(status("ContextLengthExceeded"), ExitStatus::Failed);
        let gone = explain(ClientError::Unreachable("x".into()), BusName::System);
        assert_eq!(gone.status, ExitStatus::Unreachable);
        assert!(gone.message.contains("systemctl start gptossd"));
        let memory = refusal(
            "org.gptoss.Daemon1.Error.ModelNotReady",
            "a (not-enough-memory): b",
        );
        assert_eq!(memory.status, ExitStatus::NoSpace);
    }
}
