//! Files of a checkpoint in a folder on this machine: a site's mirror, or the cache
//! of the hub's own tools.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::FetchError;
use crate::model::incoming::{BringError, Original, Progress, Wanted, bring};
use crate::model::{FileEntry, StoreError, check_file_name};
use crate::platform;

/// A folder with files of a repository at a revision.
///
/// ```text
/// ~/.cache/huggingface/hub            HF_HUB_CACHE, or hub in HF_HOME
/// └── models--OWNER--NAME
///     ├── blobs/DIGEST                the bytes
///     └── snapshots/COMMIT
///         └── config.json             a link: ../../blobs/DIGEST
///
/// /srv/models                         --endpoint file:///srv/models
/// ├── OWNER/NAME/resolve/REVISION/    a mirror's files as its URLs have them,
/// ├── OWNER/NAME/                     or one folder a repository,
/// └── config.json                     or the checkpoint itself
/// ```
///
/// Source: huggingface_hub, "Understand caching".
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// What somebody named: links lead where they lead.
    Named,
    /// A repository's folder in the hub's cache, which no link may leave.
    Cache {
        repository: OwnedFd,
        snapshot: String,
    },
}

/// What a folder had of some files.
#[derive(Debug, Default)]
pub struct Brought {
    /// What is there now, proven.
    pub entries: Vec<FileEntry>,
    /// What the folder did not have, or with other bytes.
    pub missing: Vec<Wanted>,
}

impl Folder {
    /// The hub's cache of `repo` at the commit `revision`; none where there is none.
    pub fn in_cache(repo: &str, revision: &str) -> Option<Self> {
        let cache = hf_hub::resolve_cache_dir();
        let path = cache.join(format!("models--{}", repo.replace('/', "--")));
        let repository = platform::open_folder(&path).ok()?;
        let snapshot = format!("snapshots/{revision}");
        path.join(&snapshot).is_dir().then_some(Self {
            path,
            place: Place::Cache {
                repository,
                snapshot,
            },
        })
    }

    /// What `root` has of `repo` at `revision`.
    ///
    /// # Errors
    /// [`FetchError::NotInFolder`] where it has none of it.
    pub fn named(root: &Path, repo: &str, revision: &str) -> Result<Self, FetchError> {
        let mirrored = root.join(repo);
        let candidates = [
            mirrored.join("resolve").join(revision),
            mirrored,
            root.to_owned(),
        ];
        let has_config = |path: &&PathBuf| path.join("config.json").is_file();
        match candidates.iter().find(has_config) {
            Some(path) => Ok(Self {
                path: path.clone(),
                place: Place::Named,
            }),
            None => Err(FetchError::NotInFolder {
                folder: root.to_owned(),
                path: "config.json".into(),
                why: format!(
                    "nor has {repo}, or {repo}/resolve/{revision}, in it; name the checkpoint's \
                     folder, or a mirror's"
                ),
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file and nothing else: no pipe is waited for.
    fn open(&self, name: &str) -> io::Result<File> {
        check_file_name(name).map_err(io::Error::other)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match &self.place {
            Place::Named => OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits() as i32)
                .open(self.path.join(name))?,
            Place::Cache {
                repository,
                snapshot,
            } => platform::open_beneath(repository, &format!("{snapshot}/{name}"), flags)?,
        };
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(
                ErrorKind::InvalidData,
                "it is no regular file",
            )),
        }
    }

    /// Brings what it has of `files` into `dir` and proves it there. Their bytes are
    /// the store's own afterwards: whoever may write here changes nothing there.
    ///
    /// What it lacks, or cannot give, or has with other bytes is left to others, who
    /// may have it.
    ///
    /// # Errors
    /// [`FetchError::Store`].
    pub fn bring(
        &self,
        files: &[Wanted],
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Brought, FetchError> {
        let mut brought = Brought::default();
        for file in files {
            match self.bring_one(file, dir, progress)? {
                Ok(entry) => brought.entries.push(entry),
                Err(None) => brought.missing.push(file.clone()),
                Err(Some(why)) => {
                    let place = self.path.display();
                    progress.retrying(&file.path, &format!("not taken from {place}: {why}"));
                    brought.missing.push(file.clone());
                }
            }
        }
        Ok(brought)
    }

    /// Brings all of `files` into `dir` and proves them there.
    ///
    /// # Errors
    /// [`FetchError::NotInFolder`], [`FetchError::WrongCopy`], [`FetchError::Store`].
    pub fn bring_all(
        &self,
        files: &[Wanted],
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<FileEntry>, FetchError> {
        files
            .iter()
            .map(|file| self.bring_strictly(file, dir, progress))
            .collect()
    }

    fn bring_strictly(
        &self,
        file: &Wanted,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<FileEntry, FetchError> {
        let absent = |error: io::Error| FetchError::NotInFolder {
            folder: self.path.clone(),
            path: file.path.clone(),
            why: error.to_string(),
        };
        let open = |_| self.open(&file.path).map(Original::File);
        let entry = bring(dir, file, &open, progress).map_err(|error| match error {
            BringError::Open(e) => absent(e),
            BringError::Read(e) => StoreError::io("read", &self.path.join(&file.path))(e).into(),
            BringError::Wrong(why) => FetchError::WrongCopy {
                path: file.path.clone(),
                place: self.path.display().to_string(),
                why,
            },
            BringError::Store(e) => e.into(),
        })?;
        progress.proven(&file.path);
        Ok(entry)
    }

    /// A file, or why not: without a reason, since it is not there.
    fn bring_one(
        &self,
        file: &Wanted,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Result<FileEntry, Option<String>>, FetchError> {
        // Nothing is read, and no part begun, for what is not there.
        match self.open(&file.path).and_then(|f| f.metadata()) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Err(None)),
            Err(e) => return Ok(Err(Some(e.to_string()))),
            Ok(m) if m.len() != file.size => {
                let why = format!("it has {} bytes and must have {}", m.len(), file.size);
                return Ok(Err(Some(why)));
            }
            Ok(_) => {}
        }
        match self.bring_strictly(file, dir, progress) {
            Ok(entry) => Ok(Ok(entry)),
            Err(FetchError::NotInFolder { why, .. } | FetchError::WrongCopy { why, .. }) => {
                Ok(Err(Some(why)))
            }
            Err(FetchError::Store(StoreError::Io { path, source, .. }))
                if path.starts_with(&self.path) =>
            {
                Ok(Err(Some(source.to_string())))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::incoming::Expected;

    struct Notes(std::sync::Mutex<Vec<String>>);

    impl Progress for Notes {
        fn position(&self, _: &str, _: u64) {}
        fn checking(&self, _: &str, _: u64) {}
        fn resumed(&self, _: &str, _: u64) {}
        fn proven(&self, _: &str) {}
        fn retrying(&self, path: &str, why: &str) {
            self.0.lock().unwrap().push(format!("{path}: {why}"));
        }
    }

    fn wanted(path: &str, bytes: &[u8]) -> Wanted {
        Wanted {
            path: path.into(),
            size: bytes.len() as u64,
            expected: Expected::Sha256(crate::model::sha256_bytes(bytes)),
        }
    }

    /// A cache's repository with `file` as a link to `target`.
    fn cache(root: &Path, file: &str, target: &str) -> Folder {
        let snapshot = root.join("repository/snapshots/r");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(root.join("repository/blobs")).unwrap();
        fs::write(root.join("repository/blobs/b"), "inside").unwrap();
        fs::write(root.join("outside"), "inside").unwrap();
        symlink(target, snapshot.join(file)).unwrap();
        Folder {
            path: root.join("repository"),
            place: Place::Cache {
                repository: File::open(root.join("repository")).unwrap().into(),
                snapshot: "snapshots/r".into(),
            },
        }
    }

    #[test]
    fn links_lead_within_the_cache_and_not_out_of_it() {
        for (target, taken) in [
            ("../../blobs/b", true),
            ("../../../outside", false),
            ("ROOT/outside", false),
            ("ROOT/repository/blobs/b", false),
            ("../../blobs", false),
            ("../../blobs/absent", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let store = tempfile::tempdir().unwrap();
            let target = target.replace("ROOT", root.path().to_str().unwrap());
            let folder = cache(root.path(), "f", &target);
            let notes = Notes(Default::default());
            let files = [wanted("f", b"inside")];
            let brought = folder.bring(&files, store.path(), &notes).unwrap();
            assert_eq!(brought.entries.len(), usize::from(taken), "{target}");
            assert_eq!(brought.missing.len(), usize::from(!taken), "{target}");
            let left = fs::read_dir(store.path()).unwrap().count();
            assert_eq!(left, usize::from(taken), "{target}");
        }
    }

    #[test]
    fn neither_pipes_nor_other_bytes_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        let folder = Folder {
            path: root.path().to_owned(),
            place: Place::Named,
        };
        let pipe = root.path().join("pipe");
        let (here, readable) = (rustix::fs::CWD, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(here, &pipe, rustix::fs::FileType::Fifo, readable, 0).unwrap();
        fs::write(root.path().join("other"), "inside").unwrap();
        fs::write(root.path().join("short"), "in").unwrap();
        let files = ["pipe", "other", "short", "absent"].map(|name| wanted(name, b"wanted"));
        let notes = Notes(Default::default());
        let brought = folder.bring(&files, store.path(), &notes).unwrap();
        assert!(brought.entries.is_empty());
        assert_eq!(brought.missing, files);
        let notes = notes.0.into_inner().unwrap();
        assert_eq!(
            notes.len(),
            3,
            "what is not there is not complained of: {notes:?}"
        );
        for file in &files {
            let error = folder.bring_all(
                std::slice::from_ref(file),
                store.path(),
                &Notes(Default::default()),
            );
            assert!(error.is_err(), "{}", file.path);
        }
    }

    #[test]
    fn a_mirrors_folders_and_a_checkpoints() {
        let root = tempfile::tempdir().unwrap();
        let found = || Folder::named(root.path(), "o/n", "r").map(|f| f.path);
        assert!(found().is_err());
        for folder in ["", "o/n", "o/n/resolve/r"] {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.json"), "{}").unwrap();
            assert_eq!(found().unwrap(), folder.join(""));
        }
    }
}
