//! Everything that can go wrong with a request, and its name on the bus.

use super::loader::Unavailable;
use crate::engine::{EngineFailure, SubmitError};
use crate::harmony::RenderError;

/// Names of our own errors begin with this.
pub const ERROR_PREFIX: &str = "org.gptoss.Daemon1.Error.";

/// The full name of one of our own errors.
pub fn error_name(name: &str) -> String {
    format!("{ERROR_PREFIX}{name}")
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request makes no sense.
    #[error("{0}")]
    InvalidArgs(String),
    /// It asks for something this version cannot do.
    #[error("{0}")]
    NotSupported(String),
    /// It asks for a form of the answer that cannot be enforced.
    #[error("{0}")]
    SchemaNotSupported(String),
    /// The user has too much already; names the limit.
    #[error("{0}")]
    LimitsExceeded(String),
    /// The model is not there.
    #[error("{0}")]
    ModelNotInstalled(String),
    /// The model cannot be loaded.
    #[error("the model is not available ({reason}): {message}")]
    ModelNotReady {
        /// The word for it in `Availability`.
        reason: &'static str,
        /// Details.
        message: String,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {used} tokens and the context window is {window}: shorten the \
         conversation, or have the administrator raise model.context"
    )]
    ContextLengthExceeded {
        /// Tokens of the prompt.
        used: usize,
        /// Positions of the window.
        window: usize,
    },
    /// A turn of the session is not over yet.
    #[error("the session is still answering: wait for its end, cancel it, or fork the session")]
    SessionBusy,
    /// Tool calls and results do not match; says which.
    #[error("{0}")]
    ToolResultMismatch(String),
    /// The reader did not keep up.
    #[error("the reader of the stream did not keep up: {0} bytes are waiting for it")]
    SlowConsumer(usize),
    /// Ended from outside.
    #[error("{0}")]
    Cancelled(String),
    /// The model failed while it computed.
    #[error("{0}")]
    BackendFailure(String),
}

impl Failure {
    /// The D-Bus error name.
    pub fn name(&self) -> String {
        match self {
            Failure::InvalidArgs(_) | Failure::NotSupported(_) | Failure::LimitsExceeded(_) => {
                format!("org.freedesktop.DBus.Error.{}", self.short_name())
            }
            _ => error_name(self.short_name()),
        }
    }

    /// The same without what comes before the last dot.
    pub fn short_name(&self) -> &'static str {
        match self {
            Failure::InvalidArgs(_) => "InvalidArgs",
            Failure::NotSupported(_) => "NotSupported",
            Failure::LimitsExceeded(_) => "LimitsExceeded",
            Failure::SchemaNotSupported(_) => "SchemaNotSupported",
            Failure::ModelNotInstalled(_) => "ModelNotInstalled",
            Failure::ModelNotReady { .. } => "ModelNotReady",
            Failure::ContextLengthExceeded { .. } => "ContextLengthExceeded",
            Failure::SessionBusy => "SessionBusy",
            Failure::ToolResultMismatch(_) => "ToolResultMismatch",
            Failure::SlowConsumer(_) => "SlowConsumer",
            Failure::Cancelled(_) => "Cancelled",
            Failure::BackendFailure(_) => "BackendFailure",
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::NoModel(message) => Failure::ModelNotInstalled(message),
            other => Failure::ModelNotReady {
                reason: other.reason(),
                message: other.to_string(),
            },
        }
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        Failure::InvalidArgs(error.to_string())
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Overloaded { .. } => Failure::LimitsExceeded(format!("queue: {error}")),
            SubmitError::ContextExceeded { prompt, window } => Failure::ContextLengthExceeded {
                used: prompt,
                window,
            },
            SubmitError::Unavailable(failure) => failure.into(),
            other => Failure::InvalidArgs(other.to_string()),
        }
    }
}

impl From<EngineFailure> for Failure {
    fn from(failure: EngineFailure) -> Self {
        match failure {
            EngineFailure::Stopped => Failure::Cancelled("the daemon is stopping".into()),
            EngineFailure::Suspended => Failure::ModelNotReady {
                reason: "paused",
                message: failure.to_string(),
            },
            other => Failure::BackendFailure(other.to_string()),
        }
    }
}
