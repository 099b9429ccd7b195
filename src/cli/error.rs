//! What a failed command tells: a message for people, a code for programs.

use std::process::ExitCode;

/// Exit codes of `gptoss-ctl`. 0 is success; clap itself exits with 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The work failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such model, file or repository.
    NotFound = 3,
    /// Bytes are not what they must be.
    Verification = 4,
    /// Too little disk or memory.
    NoSpace = 5,
    /// The daemon does not answer.
    Unreachable = 6,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// The exit code.
    pub status: ExitStatus,
    /// What happened and what to do about it.
    pub message: String,
}

impl CliError {
    /// A failure with this code and message.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}
