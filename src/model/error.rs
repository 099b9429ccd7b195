//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use super::access::{Advice, Need, advice};
use super::plan::human_size;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such model is installed.
    #[error("model {wanted} is not installed in {}; `gptoss-ctl list` shows what is, `gptoss-ctl pull {wanted}` fetches one", looked.join(" or "))]
    NotInstalled {
        /// The name asked for.
        wanted: String,
        /// The stores' folders, in words.
        looked: Vec<String>,
    },
    /// The store is on a disk that is not there.
    #[error("the store {} is not there: {why}. If it is to be made there all the same: `mkdir -p {}`", root.display(), root.join("models").display())]
    NotMounted {
        /// The store's folder.
        root: PathBuf,
        /// What speaks for that.
        why: String,
    },
    /// A revision's beginning that several revisions share.
    #[error("{wanted} may mean {}; give more of the revision", candidates.join(" or "))]
    Ambiguous {
        /// The name asked for.
        wanted: String,
        /// `NAME@REVISION` of each candidate.
        candidates: Vec<String>,
    },
    /// A name that is not a plain path component.
    #[error("{what} \"{name}\" is refused: {why}")]
    BadName {
        /// Which kind of name.
        what: &'static str,
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process works on the same model.
    #[error("another gptoss-ctl is working on {model}; wait for it to end and try again")]
    Busy {
        /// `NAME@REVISION`.
        model: String,
    },
    /// A daemon, or another program, runs the model.
    #[error("{model} is in use: `gptoss-ctl unload` has the daemon let go of it; then try again")]
    InUse {
        /// `NAME@REVISION`.
        model: String,
    },
    /// The same revision was installed meanwhile.
    #[error("{model} is installed already")]
    AlreadyInstalled {
        /// `NAME@REVISION`.
        model: String,
    },
    /// A manifest that cannot be used.
    #[error("{} is not a usable manifest: {why}", path.display())]
    BadManifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A catalog that cannot be used.
    #[error("catalog {origin} cannot be used: {why}")]
    BadCatalog {
        /// The catalog's file, or `built-in`.
        origin: String,
        /// What is wrong with it.
        why: String,
    },
    /// A complete staging folder lacks a file of its manifest, or holds another size.
    #[error("{} was to be installed but {why}; nothing was installed", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Less free space than the work needs.
    #[error("{} has {} free and {what} needs {}; free some space or name a store on another disk with --store", path.display(), human_size(*available), human_size(*needed))]
    NoSpace {
        /// A folder on the file system in question.
        path: PathBuf,
        /// What needs the space.
        what: String,
        /// Bytes wanted.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// An operation of the file system failed.
    #[error("cannot {action} {}: {source}{}", path.display(), ending(action, path, source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// What to do about an [`StoreError::Io`], where that is known.
    pub fn advice(&self) -> Option<Advice> {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => advice(source, Need::of(action), path),
            _ => None,
        }
    }

    /// An [`StoreError::Io`], for use in `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What to do, as the end of a sentence.
fn ending(action: &str, path: &Path, source: &io::Error) -> String {
    match advice(source, Need::of(action), path) {
        Some(advice) => format!("; {advice}"),
        None => String::new(),
    }
}
