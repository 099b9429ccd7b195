//! Proves an installed model's bytes again.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Mutex;
use std::thread;

use serde::Serialize;

use super::digest::sha256_file;
use super::{Catalog, FileEntry, Installed, Published, PublishedFile};

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum FileState {
    /// Size and SHA-256 are the manifest's.
    Proven,
    /// It is not there.
    Missing,
    /// It has another size.
    WrongSize {
        /// Bytes there are.
        found: u64,
    },
    /// It has the right size and other bytes.
    WrongDigest {
        /// Its SHA-256.
        found: String,
    },
    /// It cannot be read, or is no regular file.
    Unreadable {
        /// The system's reason.
        why: String,
    },
    /// The catalog that pinned the model pins other bytes than the manifest lists.
    NotPublished,
}

/// One file of a [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedFile {
    /// Path below the revision's folder.
    pub path: String,
    /// Bytes it must have.
    pub size: u64,
    /// What became of it.
    #[serde(flatten)]
    pub state: FileState,
    /// The published file whose bytes these are. None where no catalog that was
    /// asked lists their digest, and where they were not hashed.
    pub published: Option<PublishedFile>,
}

/// What [`verify`] found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Every file of the manifest, in its order.
    pub files: Vec<VerifiedFile>,
    /// The published model these bytes are, by the first catalog that knows it.
    pub published: Option<Published>,
}

impl Report {
    /// Whether every file is proven.
    pub fn is_sound(&self) -> bool {
        self.wrong().next().is_none()
    }

    /// The report after the files at `paths` were brought back and proven.
    #[must_use]
    pub fn mended(&self, model: &Installed, catalogs: &[Catalog], paths: &HashSet<&str>) -> Self {
        let entries = model.manifest.all_files();
        let states = entries.zip(&self.files).map(|(entry, file)| {
            let state = match &file.state {
                _ if paths.contains(entry.path.as_str()) => FileState::Proven,
                // What its bytes are is judged once more.
                FileState::NotPublished => FileState::Proven,
                state => state.clone(),
            };
            (entry, state)
        });
        report(model, catalogs, states)
    }

    /// Every file that is not.
    pub fn wrong(&self) -> impl Iterator<Item = &VerifiedFile> {
        self.files.iter().filter(|f| f.state != FileState::Proven)
    }
}

/// Hashes every file of an installed model again, on all cores, and looks the
/// digests up in `catalogs`.
///
/// `progress` hears of the bytes done and of all bytes, from several threads.
/// Wrong and unreadable files are in the report.
pub fn verify(
    model: &Installed,
    catalogs: &[Catalog],
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Report {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    verify_with(model, catalogs, threads, progress)
}

/// [`verify`] on a given number of threads.
pub fn verify_with(
    model: &Installed,
    catalogs: &[Catalog],
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Report {
    let entries: Vec<&FileEntry> = model.manifest.all_files().collect();
    let total = model.manifest.total_size();
    // The largest first, so that no thread is left with one at the end.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(entries[i].size));
    let queue = Mutex::new(VecDeque::from(order));
    let done = Mutex::new(0u64);
    let states = Mutex::new(vec![FileState::Missing; entries.len()]);
    let advance = |bytes: u64| {
        let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
        *done += bytes;
        progress(*done, total);
    };
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front();
            let Some(i) = next else { return };
            let state = examine(model, entries[i], advance);
            states.lock().unwrap_or_else(|e| e.into_inner())[i] = state;
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.clamp(1, entries.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let states = states.into_inner().unwrap_or_else(|e| e.into_inner());
    report(model, catalogs, entries.into_iter().zip(states))
}

fn report<'a>(
    model: &Installed,
    catalogs: &[Catalog],
    states: impl Iterator<Item = (&'a FileEntry, FileState)>,
) -> Report {
    let manifest = &model.manifest;
    let pinned_by = catalogs
        .iter()
        .find(|c| manifest.catalog.as_deref() == Some(c.origin()));
    let contradictions = pinned_by.map_or_else(Vec::new, |c| c.contradictions(manifest));
    let published = |entry: &FileEntry, state: &FileState| {
        let digest = match state {
            FileState::Proven => &entry.sha256,
            FileState::WrongDigest { found } => found,
            _ => return None,
        };
        PublishedFile::find(catalogs, &manifest.revision, &entry.path, digest)
    };
    let mut files: Vec<VerifiedFile> = states
        .map(|(entry, state)| VerifiedFile {
            path: entry.path.clone(),
            size: entry.size,
            published: published(entry, &state),
            state: match state {
                FileState::Proven if contradictions.contains(&entry.path) => {
                    FileState::NotPublished
                }
                state => state,
            },
        })
        .collect();
    for path in contradictions {
        if !files.iter().any(|f| f.path == path) {
            files.push(VerifiedFile {
                path,
                size: 0,
                state: FileState::NotPublished,
                published: None,
            });
        }
    }
    let sound = |path: &str| {
        files
            .iter()
            .any(|f| f.path == path && f.state == FileState::Proven)
    };
    let proven: Vec<FileEntry> = manifest
        .files
        .iter()
        .filter(|f| sound(&f.path))
        .cloned()
        .collect();
    Report {
        published: catalogs.iter().find_map(|c| c.recognise(&proven)),
        files,
    }
}

fn examine(model: &Installed, entry: &FileEntry, advance: impl Fn(u64)) -> FileState {
    let path = model.dir.join(&entry.path);
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return FileState::Missing,
        Err(e) => return FileState::Unreadable { why: e.to_string() },
        Ok(m) if m.is_file() && m.len() != entry.size => {
            return FileState::WrongSize { found: m.len() };
        }
        Ok(_) => {}
    }
    match sha256_file(&path, advance) {
        Ok((found, _)) if found != entry.size => FileState::WrongSize { found },
        Ok((_, found)) if found != entry.sha256 => FileState::WrongDigest { found },
        Ok(_) => FileState::Proven,
        Err(e) => FileState::Unreadable { why: e.to_string() },
    }
}
