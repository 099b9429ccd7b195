//! The downloader: a hub or any mirror of one, resumable and proven. Command
//! line only.
//!
//! [`fetch`] brings a list of files into a folder. A file is written as
//! `NAME.part` while its SHA-256 is computed, and gets its own name only when
//! size and digest are right, so that whatever is there under its own name was
//! proven once. After a cut, in the connection or of the process, it goes on
//! where the part ends. Wrong bytes are deleted and fetched once more; if they
//! are wrong again, that is an error.
//!
//! [`Hub`] resolves `OWNER/NAME` and a revision into such a list, [`Registry`] brings
//! the documents that do so for a name in a registry of container images. A [`Folder`]
//! on this machine may have the files as well: a mirror's, or the hub's own cache.

mod attempt;
mod client;
mod error;
mod folder;
mod hub;
mod rate;
mod registry;
mod retry;
mod source;
mod transfer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use client::Endpoint;
pub use error::FetchError;
pub use folder::{Brought, Folder};
pub use hub::{Hub, Resolved, is_checkpoint_file};
pub use rate::RateLimit;
pub use registry::{Reference, Registry, SCHEME};
pub use source::{Repository, Source};

use crate::model::incoming::{Progress, Wanted, prove};
use crate::model::{FileEntry, StoreError};

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files at once.
    pub jobs: usize,
    /// Attempts in a row that may bring nothing before a file is given up.
    pub retries: u32,
    /// A connection that brings next to nothing for this long is cut.
    pub stall: Duration,
    /// Bound on the speed of all transfers together.
    pub limit: Option<Arc<RateLimit>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            jobs: 4,
            retries: 5,
            stall: Duration::from_secs(30),
            limit: None,
        }
    }
}

/// Fetches files into an existing folder, several at once, and proves them.
///
/// Files that are there already are proven again instead of fetched. On an
/// error the other transfers stop as well; what they brought stays.
///
/// # Errors
/// The first failure.
pub async fn fetch(
    source: Arc<Source>,
    files: &[Wanted],
    dir: &Path,
    settings: &Settings,
    progress: Arc<dyn Progress>,
) -> Result<Vec<FileEntry>, FetchError> {
    let permits = Arc::new(Semaphore::new(settings.jobs.max(1)));
    let mut tasks = JoinSet::new();
    for (index, wanted) in files.iter().enumerate() {
        let transfer = transfer::Transfer {
            source: source.clone(),
            wanted: wanted.clone(),
            dir: dir.to_owned(),
            settings: settings.clone(),
            progress: progress.clone(),
        };
        let permits = permits.clone();
        tasks.spawn(async move {
            // The semaphore is never closed; without a permit it would only be faster.
            let _permit = permits.acquire_owned().await;
            (index, transfer.run().await)
        });
    }
    let mut entries: Vec<Option<FileEntry>> = vec![None; files.len()];
    while let Some(joined) = tasks.join_next().await {
        let (index, result) = joined.map_err(FetchError::task)?;
        // Dropping the set on the way out aborts the other transfers.
        entries[index] = Some(result?);
    }
    Ok(entries.into_iter().flatten().collect())
}

/// Proves what is there of some files, without any connection: those that are, and
/// those that are not, or are wrong.
///
/// # Errors
/// [`FetchError::Store`].
pub fn prove_there(
    dir: &Path,
    files: &[Wanted],
) -> Result<(Vec<FileEntry>, Vec<Wanted>), FetchError> {
    let (mut entries, mut missing) = (Vec::new(), Vec::new());
    for file in files {
        let path = dir.join(&file.path);
        match prove(&path, file).map_err(StoreError::io("read", &path))? {
            Some(entry) => entries.push(entry),
            None => missing.push(file.clone()),
        }
    }
    Ok((entries, missing))
}
