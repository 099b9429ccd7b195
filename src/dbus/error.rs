//! Errors of method calls and their names on the bus.

use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use crate::session::Failure;

/// Why a method call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller may not.
    #[error("{0}")]
    AccessDenied(String),
    /// There is no such object, for this caller.
    #[error("{0}")]
    UnknownObject(String),
    /// The request is not accepted.
    #[error("{0}")]
    Refused(#[from] Failure),
    /// The bus itself failed.
    #[error("{0}")]
    Bus(#[from] zbus::Error),
    /// The operating system refused a socket.
    #[error("cannot make a stream: {0}")]
    Stream(#[from] std::io::Error),
}

impl Error {
    /// An argument of the wrong type or outside of its range.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::Refused(Failure::InvalidArgs(message.into()))
    }

    fn full_name(&self) -> String {
        let standard = |name| format!("org.freedesktop.DBus.Error.{name}");
        match self {
            Error::AccessDenied(_) => standard("AccessDenied"),
            Error::UnknownObject(_) => standard("UnknownObject"),
            Error::Refused(failure) => failure.name(),
            Error::Bus(_) => standard("Failed"),
            Error::Stream(_) => standard("LimitsExceeded"),
        }
    }
}

impl zbus::DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let text = self.to_string();
        Message::error(call, self.name()).build(&(text.as_str(),))
    }

    fn name(&self) -> ErrorName<'_> {
        let fallback = || ErrorName::from_static_str_unchecked("org.freedesktop.DBus.Error.Failed");
        ErrorName::try_from(self.full_name()).unwrap_or_else(|_| fallback())
    }

    fn description(&self) -> Option<&str> {
        None
    }
}
