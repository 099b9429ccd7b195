//! A file that is not complete yet: `NAME.part` and the digest of what it holds.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Wanted;
use super::checksum::Checksum;
use crate::model::{FileEntry, StoreError, create_file};

/// Name of a file's part.
pub(super) fn part_name(path: &str) -> String {
    format!("{path}.part")
}

/// An open part; its digest covers exactly its `len` bytes.
pub(super) struct Partial {
    wanted: Wanted,
    path: PathBuf,
    complete: PathBuf,
    file: File,
    checksum: Checksum,
    len: u64,
}

impl Partial {
    /// Opens the part an earlier attempt left, or a new one. Reads all of it.
    pub(super) fn open(dir: &Path, wanted: &Wanted) -> Result<Self, StoreError> {
        let path = dir.join(part_name(&wanted.path));
        let error = |action| StoreError::io(action, &path);
        let mut file = create_file(&path).map_err(error("open"))?;
        let mut checksum = Checksum::new(wanted);
        let there = file.metadata().map_err(error("read"))?.len();
        let len = if there > wanted.size {
            0
        } else {
            checksum
                .update_from(&mut file, there)
                .map_err(error("read"))?
        };
        file.set_len(len).map_err(error("shorten"))?;
        Ok(Self {
            wanted: wanted.clone(),
            complete: dir.join(&wanted.path),
            path,
            file,
            checksum,
            len,
        })
    }

    /// Bytes there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes missing.
    pub(super) fn missing(&self) -> u64 {
        self.wanted.size - self.len
    }

    /// Appends bytes; the caller sees to it that they fit.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        debug_assert!(bytes.len() as u64 <= self.missing());
        let written = self
            .file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| self.file.write_all(bytes));
        written.map_err(StoreError::io("write", &self.path))?;
        self.checksum.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .map_err(StoreError::io("shorten", &self.path))?;
        self.checksum = Checksum::new(&self.wanted);
        self.len = 0;
        Ok(())
    }

    /// Deletes the part.
    pub(super) fn delete(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))
    }

    /// Compares the digest of the complete part; if it is wrong, says how.
    pub(super) fn check(&mut self) -> Result<FileEntry, String> {
        let checksum = std::mem::replace(&mut self.checksum, Checksum::new(&self.wanted));
        let sha256 = checksum.finish(&self.wanted)?;
        Ok(FileEntry {
            path: self.wanted.path.clone(),
            size: self.wanted.size,
            sha256,
        })
    }

    /// Flushes a proven part and gives it the file's own name.
    pub(super) fn complete(&self) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.complete))
            .or_else(|e| self.explain(e))
    }

    fn explain(&self, error: io::Error) -> Result<(), StoreError> {
        Err(StoreError::io("write", &self.complete)(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Expected;

    fn wanted(size: u64) -> Wanted {
        Wanted {
            path: "f".into(),
            size,
            expected: Expected::Sha256(
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into(),
            ),
        }
    }

    #[test]
    fn it_goes_on_where_an_earlier_one_ended() {
        for cut in 0..=6 {
            let dir = tempfile::tempdir().unwrap();
            let (first, second) = b"hello\n".split_at(cut);
            Partial::open(dir.path(), &wanted(6))
                .unwrap()
                .append(first)
                .unwrap();
            let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
            assert_eq!((part.len(), part.missing()), (cut as u64, 6 - cut as u64));
            part.append(second).unwrap();
            part.check().unwrap();
            part.complete().unwrap();
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
            assert!(!dir.path().join("f.part").exists());
        }
    }

    #[test]
    fn a_part_that_is_too_long_is_not_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f.part"), "much too long").unwrap();
        let part = Partial::open(dir.path(), &wanted(6)).unwrap();
        assert_eq!(part.len(), 0);
        assert_eq!(dir.path().join("f.part").metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_restart_forgets_the_digest_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
        part.append(b"wrong").unwrap();
        part.restart().unwrap();
        part.append(b"hello\n").unwrap();
        part.check().unwrap();
        part.complete().unwrap();
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
    }
}
