//! What the subcommands that talk to the daemon share.

use std::future::Future;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use super::error::{Spoken, reason};
use super::messages::message;
use super::{CliError, ExitStatus};
use crate::client::{Bus, Client, ClientError};
use crate::platform::default_socket;
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

/// The arguments that say where the daemon is.
#[derive(Debug, Args)]
struct Flags {
    /// The bus the daemon is on.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
    /// The daemon's own socket, instead of a bus.
    #[arg(long, value_name = "PATH", env = "GPTOSS_SOCKET")]
    socket: Option<PathBuf>,
}

/// Where the daemon is. What the command line says counts before the environment, and
/// a socket of the environment before a bus of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a bus.
    Bus(BusName),
    /// On a socket of its own.
    Socket(PathBuf),
}

impl Place {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// There is no such bus, or nobody listens on the socket.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        match self {
            Place::Bus(bus) => Client::connect((*bus).into()).await,
            Place::Socket(path) => Client::connect_socket(path).await,
        }
    }

    /// What the daemon there knows of providers that broke.
    pub fn quarantine(&self) -> Quarantine {
        match self {
            Place::Bus(bus) => bus.quarantine(),
            Place::Socket(_) => Quarantine::of_user(),
        }
    }

    /// Whether it is the machine's daemon.
    pub fn is_system(&self) -> bool {
        *self == Place::Bus(BusName::System)
    }
}

impl FromArgMatches for Place {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Flags { bus, socket } = Flags::from_arg_matches(matches)?;
        let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let nowhere = matches.value_source("bus") == Some(ValueSource::DefaultValue);
        match (given("bus"), given("socket"), socket) {
            (true, true, _) => Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                "--bus and --socket: the daemon is on one of them\n",
            )),
            (false, _, Some(path)) => Ok(Place::Socket(path)),
            (false, _, None) if nowhere => {
                let socket = default_socket(&|name| std::env::var_os(name));
                Ok(socket.map_or(Place::Bus(bus), Place::Socket))
            }
            (true, false, _) | (false, _, None) => Ok(Place::Bus(bus)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Place {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
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
pub fn explain(error: ClientError, place: &Place) -> CliError {
    match error {
        ClientError::Unreachable(why) => {
            let message = match place {
                Place::Bus(BusName::System) => message!("daemon-unreachable", why = why),
                Place::Bus(BusName::Session) => message!("daemon-unreachable-own", why = why),
                Place::Socket(path) => message!(
                    "daemon-unreachable-socket",
                    why = why,
                    path = %path.display()
                ),
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
    use clap::builder::Resettable;

    use super::*;

    #[test]
    fn exit_codes() {
        let status = |name: &str| refusal(&format!("org.gptoss.Daemon1.Error.{name}"), "").status;
        assert_eq!(status("ModelNotInstalled"), ExitStatus::NotFound);
        assert_eq!(status("ContextLengthExceeded"), ExitStatus::Failed);
        let gone = |place| explain(ClientError::Unreachable("x".into()), &place);
        let system = gone(Place::Bus(BusName::System));
        assert_eq!(system.status, ExitStatus::Unreachable);
        assert!(system.message.contains("systemctl start gptossd"));
        let socket = gone(Place::Socket("/a/b".into()));
        assert!(socket.message.contains("gptossd --socket /a/b"));
        let memory = refusal(
            "org.gptoss.Daemon1.Error.ModelNotReady",
            "a (not-enough-memory): b",
        );
        assert_eq!(memory.status, ExitStatus::NoSpace);
    }

    #[test]
    fn the_command_line_says_where_before_the_environment() {
        let command = || Place::augment_args(Command::new("gptoss-ctl"));
        let parse = |words: &[&str], socket: Option<&'static str>| {
            let words = std::iter::once("gptoss-ctl").chain(words.iter().copied());
            // As if that variable were set, and no other.
            let command = command()
                .mut_arg("bus", |arg| arg.env(Resettable::Reset))
                .mut_arg("socket", |arg| match socket {
                    Some(path) => arg.env(Resettable::Reset).default_value(path),
                    None => arg.env(Resettable::Reset),
                });
            Place::from_arg_matches(&command.try_get_matches_from(words)?)
        };
        let bus = |name| Place::Bus(name);
        assert_eq!(parse(&[], None).unwrap(), bus(BusName::System));
        assert_eq!(
            parse(&["--bus", "session"], None).unwrap(),
            bus(BusName::Session)
        );
        assert_eq!(
            parse(&["--socket", "/a"], None).unwrap(),
            Place::Socket("/a".into())
        );
        assert_eq!(parse(&[], Some("/b")).unwrap(), Place::Socket("/b".into()));
        assert_eq!(
            parse(&["--bus", "system"], Some("/b")).unwrap(),
            bus(BusName::System)
        );
        let both = parse(&["--bus", "system", "--socket", "/a"], None);
        assert_eq!(both.unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
