//! A file that is not complete yet: `NAME.part` and the digest of what it holds.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Checksum, CopyError, Wanted, copy_hashed, prove};
use crate::model::{FileEntry, StoreError, create_file};

/// Bytes of shared blocks that are read between two words about progress.
const SHARED_BLOCK: u64 = 64 << 20;

/// Name of a file's part.
pub fn part_name(path: &str) -> String {
    format!("{path}.part")
}

/// Bytes still to be brought into `dir`.
pub fn remaining(dir: &Path, files: &[Wanted]) -> u64 {
    let missing = |file: &Wanted| {
        let length = |name: &str| dir.join(name).symlink_metadata().map_or(0, |m| m.len());
        match length(&file.path) {
            n if n == file.size => 0,
            _ => file.size.saturating_sub(length(&part_name(&file.path))),
        }
    };
    files.iter().map(missing).sum()
}

/// How far an earlier attempt came with a file.
#[derive(Debug)]
pub enum Begun {
    /// To its end.
    Proven(FileEntry),
    /// Somewhere, or nowhere: the part goes on from there.
    Part(Box<Partial>),
}

/// Bytes of a file that [`begin`] will read, which may take long.
pub fn left_there(dir: &Path, wanted: &Wanted) -> u64 {
    let length = |name: &str| dir.join(name).symlink_metadata().map_or(0, |m| m.len());
    length(&wanted.path).max(length(&part_name(&wanted.path)))
}

/// Proves what an earlier attempt left of a file in `dir`; what is wrong under its
/// own name is removed.
///
/// # Errors
/// [`StoreError::Io`].
pub fn begin(dir: &Path, wanted: &Wanted) -> Result<Begun, StoreError> {
    let path = dir.join(&wanted.path);
    let entry = prove(&path, wanted).map_err(StoreError::io("read", &path))?;
    if entry.is_none() && path.symlink_metadata().is_ok() {
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    let part = Partial::open(dir, wanted)?;
    Ok(match entry {
        Some(entry) => {
            part.delete()?;
            Begun::Proven(entry)
        }
        None => Begun::Part(Box::new(part)),
    })
}

/// An open part; its digest covers exactly its `len` bytes.
#[derive(Debug)]
pub struct Partial {
    wanted: Wanted,
    path: PathBuf,
    complete: PathBuf,
    file: File,
    checksum: Checksum,
    len: u64,
}

impl Partial {
    /// Opens the part an earlier attempt left, or a new one. Reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: &Path, wanted: &Wanted) -> Result<Self, StoreError> {
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
    pub fn length(&self) -> u64 {
        self.len
    }

    /// Bytes missing.
    pub fn missing(&self) -> u64 {
        self.wanted.size - self.len
    }

    /// Appends bytes; the caller sees to it that they fit.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
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
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .map_err(StoreError::io("shorten", &self.path))?;
        self.checksum = Checksum::new(&self.wanted);
        self.len = 0;
        Ok(())
    }

    /// Deletes the part.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn delete(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))
    }

    /// Compares the digest of the complete part.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&mut self) -> Result<FileEntry, String> {
        let checksum = std::mem::replace(&mut self.checksum, Checksum::new(&self.wanted));
        let sha256 = checksum.finish(&self.wanted)?;
        Ok(FileEntry {
            path: self.wanted.path.clone(),
            size: self.wanted.size,
            sha256,
        })
    }

    /// Flushes a proven part and gives it the file's own name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn complete(&self) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.complete))
            .map_err(StoreError::io("write", &self.complete))
    }

    /// Takes over all of another file by sharing its blocks, and reads them. False
    /// where something is there already, or the file system cannot, or the file has
    /// another size: then nothing has changed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn share(
        &mut self,
        original: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool, StoreError> {
        let fits = |file: &File| file.metadata().is_ok_and(|m| m.len() == self.wanted.size);
        if self.len > 0
            || !fits(original)
            || rustix::fs::ioctl_ficlone(&self.file, original).is_err()
        {
            return Ok(false);
        }
        // It may have grown meanwhile.
        if !fits(&self.file) {
            self.restart()?;
            return Ok(false);
        }
        let error = |action| StoreError::io(action, &self.path);
        self.file.rewind().map_err(error("read"))?;
        while self.len < self.wanted.size {
            let read = self.checksum.update_from(&mut self.file, SHARED_BLOCK);
            match read.map_err(error("read"))? {
                0 => break,
                n => self.len += n,
            }
            progress(self.len);
        }
        Ok(true)
    }

    /// Appends what is missing from `source`, which goes on where the part ends
    /// and is never read beyond the file's size. `progress` hears of the part's
    /// length. Afterwards [`Partial::missing`] tells whether the source was too
    /// short; after an error the part keeps what was written.
    ///
    /// # Errors
    /// Which side failed.
    pub fn fill(
        &mut self,
        source: impl Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), CopyError<StoreError>> {
        let mut source = source.take(self.missing());
        self.file
            .seek(SeekFrom::Start(self.len))
            .map_err(StoreError::io("write", &self.path))
            .map_err(CopyError::Write)?;
        let (file, path) = (&mut self.file, &self.path);
        let (checksum, len) = (&mut self.checksum, &mut self.len);
        let mut write = |block: &[u8]| {
            file.write_all(block)
                .map_err(StoreError::io("write", path))?;
            *len += block.len() as u64;
            progress(*len);
            Ok(())
        };
        copy_hashed(&mut source, &mut |block| checksum.update(block), &mut write)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incoming::Expected;

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
            assert_eq!(
                (part.length(), part.missing()),
                (cut as u64, 6 - cut as u64)
            );
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
        assert_eq!(part.length(), 0);
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

    #[test]
    fn it_is_filled_from_a_longer_source() {
        for cut in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
            part.append(&b"hello\n"[..cut]).unwrap();
            let mut told = 0;
            part.fill(&b"hello\nand more"[cut..], &mut |n| told = n)
                .unwrap();
            assert_eq!((told, part.missing()), (6, 0));
            part.check().unwrap();
            part.complete().unwrap();
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
        }
    }
}
