//! Why a bundle could not be written or used.

use std::path::{Path, PathBuf};

use crate::model::StoreError;

/// An error of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is nothing at that path.
    #[error("there is no bundle {}", .0.display())]
    NotFound(PathBuf),
    /// What is there is no OCI image layout, or one that breaks its rules.
    #[error("this is no usable bundle: {0}; nothing was installed")]
    Malformed(String),
    /// A piece of a split bundle is missing or too short.
    #[error("{} {why}: copy all pieces into one folder, whole", path.display())]
    Piece {
        /// The piece.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A blob's bytes are not what its digest says.
    #[error("{what} in the bundle is damaged: {why}. Nothing was installed; copy the bundle again")]
    WrongBytes {
        /// The file or document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bundle holds several models, or not the one asked for.
    #[error("the bundle holds {}: name one of them with --model", found.join(", "))]
    Choose {
        /// Names of the models.
        found: Vec<String>,
    },
    /// A signature that is not right, or a key that cannot be used.
    #[error("{0}")]
    Signature(String),
    /// The pieces would be too many.
    #[error("that makes {pieces} pieces, and {most} are the most: choose larger ones with --split")]
    Pieces {
        /// As many as it would make.
        pieces: u64,
        /// As many as there may be.
        most: u64,
    },
    /// The place for a new bundle is taken.
    #[error("{} exists already; remove it or name another place with -o", .0.display())]
    Occupied(PathBuf),
    /// A file of the installed model is not what its manifest says.
    #[error(
        "{path} of the installed model is damaged ({why}); `gptoss-ctl verify` tells more. No bundle was written"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a runtime is not what it was taken for.
    #[error("{} is not what this version of gptoss pins: {why}. No bundle was written", path.display())]
    OtherRuntime {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BundleError {
    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed(why.into())
    }

    /// A failed operation of the file system.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let error = StoreError::io(action, path);
        move |source| Self::Store(error(source))
    }
}
