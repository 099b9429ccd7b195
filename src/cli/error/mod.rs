//! What a failed command tells: a message for people, a code for programs.
//!
//! Errors of the layers below say themselves in English; here they are said in the
//! language of the person ([`Spoken`]), one file a layer.

mod access;
mod bundle;
mod checkpoint;
mod client;
mod fetch;
mod runtime;
mod settings;
mod store;
mod system;

use std::io;
use std::process::ExitCode;

use gptoss_onnx::checkpoint::CheckpointError;
use gptoss_onnx::export::ExportError;

pub(super) use system::reason;

use super::messages::message;
use crate::bundle::BundleError;
use crate::config::ConfigError;
use crate::fetch::FetchError;
use crate::model::{StoreError, is_no_space};
use crate::runtime::RuntimeError;

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

/// An error of a layer below, in the language of the person: its own words where
/// that is English.
///
/// Every variant is matched, so that a new one is not forgotten. What an error holds
/// as free text stays as it is.
pub(super) trait Spoken {
    /// What is told.
    fn spoken(&self) -> String;
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NotInstalled { .. } | StoreError::NotMounted { .. } => ExitStatus::NotFound,
            StoreError::BadName { .. } | StoreError::Ambiguous { .. } => ExitStatus::Usage,
            StoreError::BadManifest { .. } | StoreError::Incomplete { .. } => {
                ExitStatus::Verification
            }
            StoreError::NoSpace { .. } => ExitStatus::NoSpace,
            StoreError::Io { source, .. } if is_no_space(source) => ExitStatus::NoSpace,
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ExitStatus::NotFound
            }
            StoreError::Busy { .. }
            | StoreError::InUse { .. }
            | StoreError::AlreadyInstalled { .. }
            | StoreError::BadCatalog { .. }
            | StoreError::Io { .. } => ExitStatus::Failed,
        };
        Self::new(status, error.spoken())
    }
}

impl From<FetchError> for CliError {
    fn from(error: FetchError) -> Self {
        let status = match error {
            FetchError::Store(error) => return error.into(),
            FetchError::NotFound { .. } | FetchError::NotInFolder { .. } => ExitStatus::NotFound,
            FetchError::WrongBytes { .. } | FetchError::WrongCopy { .. } => {
                ExitStatus::Verification
            }
            FetchError::BadEndpoint(_) | FetchError::BadReference { .. } => ExitStatus::Usage,
            FetchError::Unauthorized { .. }
            | FetchError::Login { .. }
            | FetchError::Interrupted { .. }
            | FetchError::Offline { .. }
            | FetchError::BadAnswer { .. }
            | FetchError::Client(_) => ExitStatus::Failed,
        };
        Self::new(status, error.spoken())
    }
}

impl From<BundleError> for CliError {
    fn from(error: BundleError) -> Self {
        let status = match error {
            BundleError::Store(error) => return error.into(),
            BundleError::NotFound(_) => ExitStatus::NotFound,
            BundleError::Occupied(_) | BundleError::Choose { .. } | BundleError::Pieces { .. } => {
                ExitStatus::Usage
            }
            BundleError::Malformed(_)
            | BundleError::Piece { .. }
            | BundleError::WrongBytes { .. }
            | BundleError::Signature(_)
            | BundleError::OtherRuntime { .. }
            | BundleError::Damaged { .. } => ExitStatus::Verification,
        };
        Self::new(status, error.spoken())
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(ExitStatus::Failed, error.spoken())
    }
}

impl From<CheckpointError> for CliError {
    fn from(error: CheckpointError) -> Self {
        Self::new(
            ExitStatus::Verification,
            message!("error-checkpoint", why = error.spoken()),
        )
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        let status = match &error {
            _ if is_no_space(&error) => ExitStatus::NoSpace,
            ExportError::NonFinite { .. } => ExitStatus::Verification,
            _ => ExitStatus::Failed,
        };
        Self::new(status, message!("error-export", why = error.spoken()))
    }
}

impl From<RuntimeError> for CliError {
    fn from(error: RuntimeError) -> Self {
        let status = match &error {
            RuntimeError::NotEnoughMemory { .. } | RuntimeError::NotEnoughGpuMemory { .. } => {
                ExitStatus::NoSpace
            }
            RuntimeError::LibraryNotFound { .. } => ExitStatus::NotFound,
            RuntimeError::NotPinned { .. } | RuntimeError::Untrusted { .. } => {
                ExitStatus::Verification
            }
            _ => ExitStatus::Failed,
        };
        Self::new(status, error.spoken())
    }
}
