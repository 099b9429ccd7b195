//! A library that a bundle or `gptoss-ctl runtime install` brought into a store.
//!
//! ```text
//! <store>/runtime/
//! ├── libonnxruntime.so.1.31.1
//! ├── onnxruntime-LICENSE
//! ├── onnxruntime-ThirdPartyNotices.txt
//! └── cuda-1.31.1/                          see cuda.rs
//! ```
//!
//! A library is code, and whoever may write to the store need not be trusted with
//! this process: the machine's daemon reads a store that the puller owns. So the
//! file is not opened where it lies. Its bytes are copied into memory that nobody
//! can change any more, proven against the digest inside this program, and loaded
//! from there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::error::RuntimeError;
use super::library::FILE_NAME;
use super::pinned::PinnedRuntime;
use crate::model::{FileEntry, sha256_read};
use crate::platform;

/// Where a store keeps the library that was brought into it.
pub fn folder(store: &Path) -> PathBuf {
    store.join("runtime")
}

/// Proven bytes in memory that nobody can change.
#[derive(Debug)]
pub(super) struct Proven {
    memory: File,
}

impl Proven {
    /// Copies and proves the library at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, RuntimeError> {
        let wrong = |why: String| RuntimeError::NotPinned {
            path: path.to_owned(),
            why,
        };
        let Some(pinned) = PinnedRuntime::here() else {
            return Err(wrong("none is pinned for this platform".into()));
        };
        let mut memory = copy(path, &pinned.library).map_err(|e| wrong(e.to_string()))?;
        let (_, found) = memory
            .rewind()
            .and_then(|()| sha256_read(&mut memory, |_| ()))
            .map_err(|e| wrong(e.to_string()))?;
        if found != pinned.library.sha256 {
            return Err(wrong(format!("its SHA-256 is {found}")));
        }
        Ok(Self { memory })
    }

    /// A path by which the loader opens it.
    pub(super) fn path(&self) -> PathBuf {
        platform::path_of(&self.memory)
    }
}

/// The file's bytes in sealed memory.
fn copy(path: &Path, library: &FileEntry) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let source = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let metadata = source.metadata()?;
    if !metadata.is_file() || metadata.len() != library.size {
        let why = format!("it is no file of {} bytes", library.size);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut memory = platform::executable_memory(FILE_NAME)?;
    io::copy(&mut source.take(library.size), &mut memory)?;
    platform::seal(&memory)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::model::sha256_bytes;

    fn entry(bytes: &[u8]) -> FileEntry {
        FileEntry {
            path: FILE_NAME.into(),
            size: bytes.len() as u64,
            sha256: sha256_bytes(bytes),
        }
    }

    #[test]
    fn the_copy_cannot_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("library");
        std::fs::write(&path, b"code").unwrap();
        let mut file = copy(&path, &entry(b"code")).unwrap();
        // What happens to the file afterwards is of no importance.
        std::fs::write(&path, b"evil").unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"code");
        file.rewind().unwrap();
        assert!(file.write_all(b"evil").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn other_bytes_are_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let Some(pinned) = PinnedRuntime::here() else {
            return;
        };
        for (size, word) in [(pinned.library.size, "SHA-256"), (17, "no file of")] {
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            let error = Proven::of(&path).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("not loaded"),
                "{error}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Proven::of(&path).is_err());
    }
}
