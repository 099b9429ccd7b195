//! Why an export, or the reading of an exported model, failed.

use std::path::PathBuf;

use super::sink::File;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file could not be written: no space, no permission.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A weight is infinite or not a number.
    #[error("tensor {name} is not finite at element {index}: the checkpoint is damaged")]
    NonFinite {
        /// The tensor.
        name: String,
        /// Flat index of the first such element.
        index: usize,
    },
    /// The model does not fit one protobuf message.
    #[error("the model's {bytes} bytes do not fit one message: export it to files")]
    TooLarge {
        /// Bytes of its weights.
        bytes: u64,
    },
    /// The graph names a tensor that nothing provides: a defect of this crate.
    #[error("no data for the graph's tensor {0}; please report this")]
    Incomplete(String),
}

/// Failures while weights are made, before the file's path is known.
#[derive(Debug)]
pub(super) enum JobError {
    Io { file: File, source: std::io::Error },
    NonFinite { name: String, index: usize },
    Incomplete(String),
}

impl JobError {
    /// The error as others see it; `path` says where a file is.
    pub(super) fn at(self, path: impl FnOnce(File) -> PathBuf) -> ExportError {
        match self {
            JobError::Io { file, source } => ExportError::Write {
                path: path(file),
                source,
            },
            JobError::NonFinite { name, index } => ExportError::NonFinite { name, index },
            JobError::Incomplete(name) => ExportError::Incomplete(name),
        }
    }
}

/// Why an exported model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}; export the model again")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a model, or one that another program or version wrote.
    #[error("{path} {reason}; export the model again")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of weights is shorter than the graph says.
    #[error("{path} has {found} bytes, the graph needs {needed}; verify the model")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Bytes needed at least.
        needed: u64,
    },
}
