//! The downloader: a hub or any mirror of one, resumable and proven. Command
//! line only.
//!
//! [`fetch`] brings a list of files into a folder. A file is written as
//! `NAME.part` while its SHA-256 is computed, and gets its own name only when
//! size and digest are right, so that whatever is there under its own name was
//! proven once. After a cut, in the connection or of the process, it goes on
//! where the part ends. Wrong bytes are deleted and fetched once more; if they
//! are wrong again, that is an error. Connections that no file needs for itself bring
//! ranges of large files ahead of their parts.
//!
//! [`Hub`] resolves `OWNER/NAME` and a revision into such a list, [`Registry`] brings
//! the documents that do so for a name in a registry of container images, [`Index`] finds
//! where an index of Python's packages has files that are pinned already. A [`Folder`]
//! on this machine may have the files as well: a mirror's, or the hub's own cache.

mod attempt;
mod client;
mod connection;
mod error;
mod folder;
mod hub;
mod index;
mod rate;
mod registry;
mod retry;
mod source;
mod transfer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use client::Endpoint;
pub use error::FetchError;
pub use folder::{Brought, Folder};
pub use hub::{Hub, Resolved, is_checkpoint_file};
pub use index::{Index, Located};
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
    /// Connections at once, of all files together.
    pub connections: usize,
    /// Bytes that a connection brings at once of a file that has several: files of at
    /// least two such windows may.
    pub window: u64,
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
            connections: 8,
            window: 64 << 20,
            retries: 5,
            stall: Duration::from_secs(30),
            limit: None,
        }
    }
}

impl Settings {
    /// Whether a file of that size may come over several connections.
    fn is_wide(&self, size: u64) -> bool {
        self.connections > 1 && size / 2 >= self.window
    }

    /// Files at once of so many.
    fn lanes(&self, files: usize) -> usize {
        self.jobs.min(self.connections).min(files).max(1)
    }

    /// Bytes of these files that may lie on the disk twice for a moment, at most: a
    /// window is removed once all of it was appended to its part.
    pub fn twice(&self, files: &[Wanted]) -> u64 {
        let wide = files.iter().filter(|file| self.is_wide(file.size)).count();
        let at_once = self.lanes(files.len()).min(wide) as u64;
        self.window.saturating_mul(at_once)
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
    let lanes = settings.lanes(files.len());
    let spare = Arc::new(Semaphore::new(settings.connections.saturating_sub(lanes)));
    let (queue, next): (Arc<[Wanted]>, _) = (files.into(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..lanes {
        let (queue, next, spare) = (queue.clone(), next.clone(), spare.clone());
        let (source, dir) = (source.clone(), dir.to_owned());
        let (settings, progress) = (settings.clone(), progress.clone());
        tasks.spawn(async move {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(wanted) = queue.get(index) else {
                    break;
                };
                let transfer = transfer::Transfer {
                    source: source.clone(),
                    wanted: wanted.clone(),
                    dir: dir.clone(),
                    settings: settings.clone(),
                    progress: progress.clone(),
                    spare: spare.clone(),
                };
                done.push((index, transfer.run().await?));
            }
            // No file is left for this connection: it helps with those at work.
            spare.add_permits(1);
            Ok::<_, FetchError>(done)
        });
    }
    let mut entries: Vec<Option<FileEntry>> = vec![None; files.len()];
    while let Some(joined) = tasks.join_next().await {
        // Dropping the set on the way out aborts the other transfers.
        for (index, entry) in joined.map_err(FetchError::task)?? {
            entries[index] = Some(entry);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incoming::Expected;

    #[test]
    fn connections_are_shared_out() {
        let settings = |jobs, connections| Settings {
            jobs,
            connections,
            window: 100,
            ..Settings::default()
        };
        let file = |size| Wanted {
            path: "f".into(),
            size,
            expected: Expected::Sha256(String::new()),
        };
        let files = [file(1000), file(199), file(200), file(50), file(1000)];
        // Jobs and connections; files at once, and bytes that are there twice.
        for (jobs, connections, lanes, twice) in [
            (4, 8, 4, 300),
            (2, 8, 2, 200),
            (8, 8, 5, 300),
            (4, 2, 2, 200),
            (4, 1, 1, 0),
            (0, 0, 1, 0),
        ] {
            let settings = settings(jobs, connections);
            assert_eq!(settings.lanes(files.len()), lanes, "{jobs} {connections}");
            assert_eq!(settings.twice(&files), twice, "{jobs} {connections}");
        }
        assert_eq!(settings(4, 8).twice(&files[3..4]), 0);
    }
}
