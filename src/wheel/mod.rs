//! ONNX Runtime and CUDA's libraries from Python's wheels. Command line only.
//!
//! [`install`] brings a [`Build`] into a store: each wheel that something is missing of
//! is fetched or opened where it lies, proven, and the members that the build names are
//! taken out and proven again. Wheels come one after the other, so that no more than
//! one of them takes room beside what was taken out already.
//!
//! ```text
//! <store>/.staging/onnxruntime-cuda@1.31.1/
//! ├── libcudart.so.13                        taken out, proven
//! ├── libcublas.so.13.part                   being taken out; begun anew after a cut
//! ├── nvidia_cublas-….whl                    fetched, proven; removed once all is out of it
//! └── nvidia_cudnn_cu13-….whl.part           being fetched; gone on with after a cut
//! ```
//!
//! Nothing of an archive decides where anything is written: its members are looked up
//! by the names that the build has for them.

mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use self::unpack::Archive;
use crate::fetch::{self, FetchError, Index, Settings, Source};
use crate::model::incoming::{Progress, Wanted, prove, remaining};
use crate::model::{FileEntry, Staging, Store, StoreError, fsync_directory, require_space};
use crate::runtime::wheels::{Build, Kind, Member, Wheel};
use crate::runtime::{carried, cuda};

/// What the build for CUDA is staged as.
const CUDA: &str = "onnxruntime-cuda";

/// Where wheels come from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// An index on a server.
    Index {
        /// The index.
        index: &'a Index,
        /// How to fetch.
        settings: &'a Settings,
        /// What downloads run on.
        runtime: &'a Runtime,
    },
    /// A folder on this machine with the wheels under their own names.
    Folder(&'a Path),
    /// Nowhere: what an earlier attempt brought must do.
    Staged,
}

/// Whether a store holds a build: every file proven and, of the one for CUDA, safe from
/// others.
pub fn is_there(build: &Build, store: &Store) -> bool {
    let folder = build.folder(store.root());
    match build.kind {
        Kind::Cuda => cuda::verify(&folder, build).is_ok(),
        Kind::Cpu => build.files().all(|file| is_proven(&folder, file)),
    }
}

/// Brings a build into a store; false where it was there.
///
/// # Errors
/// See [`FetchError`]. What was brought is kept for a later attempt, and nothing of the
/// build is where it would be found.
pub fn install(
    build: &Build,
    store: &Store,
    origin: Origin<'_>,
    progress: Arc<dyn Progress>,
) -> Result<bool, FetchError> {
    let staging = stage(build, store)?;
    // Whoever made the folder may change what is proven in it, and it would be refused.
    if build.kind == Kind::Cuda && !cuda::is_ours(&staging.dir) {
        staging.clear()?;
    }
    // Another process may have installed it before the lock was ours.
    if is_there(build, store) {
        staging.discard()?;
        return Ok(false);
    }
    if let Err(error) = bring(build, &staging.dir, origin, progress) {
        staging.discard_if_empty()?;
        return Err(error);
    }
    let files: Vec<FileEntry> = build.files().cloned().collect();
    let folder = build.folder(store.root());
    match build.kind {
        Kind::Cpu => staging.commit_files(&folder, &files)?,
        Kind::Cuda => staging.commit_folder(&folder, &files)?,
    }
    Ok(true)
}

/// Removes a build from a store, and what was staged of it; none of it is proven. False
/// where there was nothing.
///
/// # Errors
/// [`StoreError::Busy`], [`StoreError::Io`].
pub fn remove(build: &Build, store: &Store) -> Result<bool, StoreError> {
    let folder = build.folder(store.root());
    let files = build.files().map(|file| folder.join(&file.path));
    let present: Vec<_> = match build.kind {
        Kind::Cpu => files.filter(|f| f.symlink_metadata().is_ok()).collect(),
        Kind::Cuda => Vec::new(),
    };
    let is_folder = build.kind == Kind::Cuda && folder.symlink_metadata().is_ok();
    let (name, revision) = staged_as(build);
    let was_staged = store
        .staged()
        .contains(&(name.to_owned(), revision.to_owned()));
    if present.is_empty() && !is_folder && !was_staged {
        return Ok(false);
    }
    let staging = stage(build, store)?;
    for file in &present {
        std::fs::remove_file(file).map_err(StoreError::io("remove", file))?;
    }
    if !present.is_empty() {
        fsync_directory(&folder)?;
    }
    if is_folder {
        staging.remove_folder(&folder)?;
    }
    // Only where nothing else is in it.
    let _ = std::fs::remove_dir(carried::folder(store.root()));
    staging.discard()?;
    Ok(true)
}

/// Folders of a store with builds for CUDA of other versions than this program loads.
pub fn of_other_versions(store: &Store) -> Vec<PathBuf> {
    let current = cuda::folder(store.root());
    let entries = std::fs::read_dir(carried::folder(store.root()));
    let entries = entries.into_iter().flatten().flatten();
    let mut others: Vec<_> = entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"cuda-"))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && Some(path) != current.as_ref())
        .collect();
    others.sort();
    others
}

/// Removes one of [`of_other_versions`].
///
/// # Errors
/// [`StoreError::Busy`], [`StoreError::Io`].
pub fn discard(folder: &Path, store: &Store) -> Result<(), StoreError> {
    let staging = store.stage(CUDA, "other")?;
    staging.remove_folder(folder)?;
    staging.discard()
}

/// Bytes still to be written to the disk at the worst moment: everything that is taken
/// out, and the largest wheel beside it.
fn space(build: &Build, dir: &Path, origin: Origin<'_>) -> u64 {
    let members: Vec<Wanted> = build.files().map(Wanted::from).collect();
    let wheel = |wheel: &Wheel| match origin {
        Origin::Index { settings, .. } => {
            let wanted = [Wanted::from(&wheel.file)];
            remaining(dir, &wanted).saturating_add(settings.twice(&wanted))
        }
        Origin::Folder(_) | Origin::Staged => 0,
    };
    let missing = build.wheels.iter().filter(|w| has_missing(dir, w));
    let largest = missing.map(wheel).max().unwrap_or(0);
    remaining(dir, &members).saturating_add(largest)
}

/// By sizes alone: what is there is proven later.
fn has_missing(dir: &Path, wheel: &Wheel) -> bool {
    let members: Vec<_> = wheel
        .members
        .iter()
        .map(|m| Wanted::from(&m.file))
        .collect();
    remaining(dir, &members) > 0
}

/// Brings every file of a build into a staging folder.
fn bring(
    build: &Build,
    dir: &Path,
    origin: Origin<'_>,
    progress: Arc<dyn Progress>,
) -> Result<(), FetchError> {
    require_space(dir, "ONNX Runtime", space(build, dir, origin))?;
    let mut left: Vec<(&Wheel, Vec<&Member>)> = Vec::new();
    for wheel in &build.wheels {
        let missing = wheel.members.iter().filter(|m| !is_proven(dir, &m.file));
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            left.push((wheel, missing));
        }
    }
    let wheels: Vec<&Wheel> = left.iter().map(|(wheel, _)| *wheel).collect();
    let source = locate(&wheels, dir, origin)?;
    for (wheel, members) in left {
        let mut archive = source.open(wheel, dir, &progress)?;
        for member in members {
            archive.unpack(member, dir, &*progress)?;
        }
        source.close(wheel, dir)?;
    }
    Ok(())
}

/// Where the wheels are that something is missing of.
enum Place<'a> {
    Server {
        source: Arc<Source>,
        settings: &'a Settings,
        runtime: &'a Runtime,
    },
    Folder(&'a Path),
    Staged,
}

/// Says where all of them are before the first byte of any comes.
fn locate<'a>(wheels: &[&Wheel], dir: &Path, origin: Origin<'a>) -> Result<Place<'a>, FetchError> {
    let absent = |folder: &Path| -> Vec<String> {
        let names = wheels.iter().map(|wheel| &wheel.file.path);
        let absent = names.filter(|name| !folder.join(name).is_file());
        absent.cloned().collect()
    };
    match origin {
        Origin::Index {
            index,
            settings,
            runtime,
        } => {
            let files = wheels.iter().map(|w| (&*w.project, &*w.file.path));
            let located = runtime.block_on(index.locate(files, settings))?;
            Ok(Place::Server {
                source: Arc::new(Source::Index(Box::new(located))),
                settings,
                runtime,
            })
        }
        Origin::Folder(folder) => match absent(folder) {
            missing if missing.is_empty() => Ok(Place::Folder(folder)),
            missing => Err(FetchError::NotInFolder {
                folder: folder.to_owned(),
                path: missing.join(", "),
                why: "wheels are looked for by their names".into(),
            }),
        },
        Origin::Staged => match absent(dir) {
            missing if missing.is_empty() => Ok(Place::Staged),
            missing => Err(FetchError::Offline { missing }),
        },
    }
}

impl Place<'_> {
    /// Opens a wheel that was proven, after fetching it where it is on a server.
    fn open(
        &self,
        wheel: &Wheel,
        dir: &Path,
        progress: &Arc<dyn Progress>,
    ) -> Result<Archive, FetchError> {
        match self {
            Self::Server {
                source,
                settings,
                runtime,
            } => {
                let wanted = [Wanted::from(&wheel.file)];
                let fetched =
                    fetch::fetch(source.clone(), &wanted, dir, settings, progress.clone());
                runtime.block_on(fetched)?;
                Archive::open(dir, &wheel.file)
            }
            Self::Folder(folder) => Archive::prove(folder, &wheel.file, &**progress),
            Self::Staged => Archive::prove(dir, &wheel.file, &**progress),
        }
    }

    /// Gives back the room of a wheel of which nothing is missing any more.
    fn close(&self, wheel: &Wheel, dir: &Path) -> Result<(), StoreError> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Server { .. } | Self::Staged => {
                let path = dir.join(&wheel.file.path);
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))
            }
        }
    }
}

/// What a build is staged as. That for the processor shares its place with a bundle's,
/// which is the same.
fn staged_as(build: &Build) -> (&str, &str) {
    match build.kind {
        Kind::Cpu => ("onnxruntime", &build.platform),
        Kind::Cuda => (CUDA, &build.version),
    }
}

fn stage(build: &Build, store: &Store) -> Result<Staging, StoreError> {
    let (name, revision) = staged_as(build);
    store.stage(name, revision)
}

fn is_proven(folder: &Path, file: &FileEntry) -> bool {
    let proven = prove(&folder.join(&file.path), &Wanted::from(file));
    matches!(proven, Ok(Some(_)))
}
