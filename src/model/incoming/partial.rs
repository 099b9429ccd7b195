//! A file that is not complete yet: `NAME.part` and the digest of what it holds.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::window::{self, Windows};
use super::{Checksum, CopyError, Wanted, copy_hashed, prove};
use crate::model::{FileEntry, StoreError, create_file};
use crate::platform;

/// Bytes of shared blocks that are read between two words about progress.
const SHARED_BLOCK: u64 = 64 << 20;

/// Bytes of a window that are taken over at once.
const TAKEN_OVER: usize = 1 << 20;

/// Windows' lengths that bytes are brought ahead of the part's end at most: what is
/// brought there must be read again, from memory if it was not long ago.
const AHEAD: u64 = 16;

/// Name of a file's part.
pub fn part_name(path: &str) -> String {
    format!("{path}.part")
}

/// Bytes still to be brought into `dir`.
pub fn remaining(dir: &Path, files: &[Wanted]) -> u64 {
    let missing = |file: &Wanted| {
        let length = |name: &str| dir.join(name).symlink_metadata().map_or(0, |m| m.len());
        if length(&file.path) == file.size {
            return 0;
        }
        let part = length(&part_name(&file.path));
        let ahead = window::held(dir, &file.path, file.size, part);
        file.size.saturating_sub(part).saturating_sub(ahead)
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
    let mut part = Partial::open(dir, wanted)?;
    Ok(match entry {
        Some(entry) => {
            part.delete()?;
            Begun::Proven(entry)
        }
        None => Begun::Part(Box::new(part)),
    })
}

/// Bytes of a file that are brought in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The window they belong into, unless they go on where the part ends.
    window: u64,
    /// The first of them.
    pub from: u64,
    /// Behind the last of them.
    pub to: u64,
}

/// An open part; its digest covers exactly its `len` bytes. What came before its turn
/// is in windows beside it.
#[derive(Debug)]
pub struct Partial {
    wanted: Wanted,
    path: PathBuf,
    complete: PathBuf,
    file: File,
    checksum: Checksum,
    len: u64,
    windows: Windows,
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
            windows: Windows::open(dir, &wanted.path, wanted.size, len)?,
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

    /// Bytes there are, those in windows included.
    pub fn present(&self) -> u64 {
        self.len + self.windows.held(self.len)
    }

    /// Bytes missing at its end; windows may have some of them.
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

    /// The first bytes that are neither there nor among those `taken`, up to the next
    /// that are. With a length of windows, at most up to the next multiple of it, and
    /// none that are too far ahead.
    pub fn gap(&self, taken: &[Span], window: Option<u64>) -> Option<Span> {
        let taken = taken.iter().map(|span| span.from..span.to);
        let mut known: Vec<Range<u64>> = self.windows.extents().chain(taken).collect();
        known.sort_by_key(|range| range.start);
        let mut from = self.len;
        for range in known.iter().filter(|range| !range.is_empty()) {
            if range.start > from {
                break;
            }
            from = from.max(range.end);
        }
        let next = known.iter().map(|range| range.start).find(|s| *s > from);
        let end = next.unwrap_or(self.wanted.size).min(self.wanted.size);
        let Some(length) = window else {
            let window = from;
            return (from < end).then_some(Span {
                window,
                from,
                to: end,
            });
        };
        if from >= end || from - self.len >= AHEAD.saturating_mul(length) {
            return None;
        }
        let number = from / length;
        // One that was begun in this place is gone on with.
        let begun = self.windows.extents().find(|extent| extent.end == from);
        let begun = begun.filter(|extent| extent.start / length == number);
        Some(Span {
            window: begun.map_or(from, |extent| extent.start),
            from,
            to: end.min((number + 1).saturating_mul(length)),
        })
    }

    /// Writes bytes of a span, of which those before `at` are there: to the part where
    /// that ends there, else to the span's window.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write(&mut self, span: &Span, at: u64, bytes: &[u8]) -> Result<(), StoreError> {
        match at == self.len {
            true => self.append(bytes),
            false => self.windows.append(span.window, bytes),
        }
    }

    /// Takes over some bytes from the window that the part has reached; how many.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn absorb(&mut self) -> Result<u64, StoreError> {
        let bytes = self.windows.read(self.len, TAKEN_OVER)?;
        if !bytes.is_empty() {
            self.append(&bytes)?;
            self.windows.remove_before(self.len)?;
        }
        Ok(bytes.len() as u64)
    }

    /// Removes the windows beside it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_windows(&mut self) -> Result<(), StoreError> {
        self.windows.clear()
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.windows.clear()?;
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
    pub fn delete(&mut self) -> Result<(), StoreError> {
        self.windows.clear()?;
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
        if self.len > 0 || !fits(original) || platform::share_blocks(&self.file, original).is_err()
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
    /// A part of a file of `size` whose first `len` bytes are there.
    fn begun(dir: &Path, size: u64, len: usize) -> Partial {
        let mut part = Partial::open(dir, &wanted(size)).unwrap();
        part.append(&vec![7; len]).unwrap();
        part
    }

    fn span(part: &Partial, taken: &[Span], window: Option<u64>) -> Option<(u64, u64, u64)> {
        let gap = part.gap(taken, window)?;
        Some((gap.window, gap.from, gap.to))
    }

    #[test]
    fn gaps_are_given_out_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = begun(dir.path(), 1000, 30);
        assert_eq!(span(&part, &[], None), Some((30, 30, 1000)));
        let mut taken = Vec::new();
        for expected in [(30, 30, 100), (100, 100, 200), (200, 200, 300)] {
            let gap = part.gap(&taken, Some(100)).unwrap();
            assert_eq!((gap.window, gap.from, gap.to), expected);
            taken.push(gap);
        }
        // The second brings some, and is cut: it is gone on with in the same window.
        let second = taken.remove(1);
        part.write(&second, 100, &[7; 40]).unwrap();
        assert_eq!(span(&part, &taken, Some(100)), Some((100, 140, 200)));
        // Another length of windows finds the same gaps, and begins one where it must.
        assert_eq!(span(&part, &taken, Some(64)), Some((140, 140, 192)));
        assert_eq!(span(&part, &taken, Some(150)), Some((100, 140, 150)));
        assert_eq!(span(&part, &taken, Some(20)), Some((140, 140, 160)));
        assert_eq!(span(&part, &[], None), Some((30, 30, 100)));
    }

    #[test]
    fn nothing_is_brought_too_far_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let part = begun(dir.path(), 10_000, 5);
        let mut taken = Vec::new();
        while let Some(gap) = part.gap(&taken, Some(10)) {
            taken.push(gap);
        }
        assert_eq!(taken.last().map(|span| span.to), Some(10 * (AHEAD + 1)));
    }

    #[test]
    fn windows_become_the_part_in_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
        let first = part.gap(&[], Some(2)).unwrap();
        let second = part.gap(&[first], Some(2)).unwrap();
        let third = part.gap(&[first, second], Some(2)).unwrap();
        assert_eq!(part.gap(&[first, second, third], Some(2)), None);
        part.write(&third, 4, b"o").unwrap();
        part.write(&second, 2, b"l").unwrap();
        part.write(&second, 3, b"l").unwrap();
        assert_eq!(part.absorb().unwrap(), 0);
        assert_eq!((part.length(), part.present()), (0, 3));
        assert_eq!(remaining(dir.path(), &[wanted(6)]), 3);
        part.write(&first, 0, b"he").unwrap();
        while part.absorb().unwrap() > 0 {}
        // The third is reached while it is still coming.
        assert_eq!((part.length(), part.present()), (5, 5));
        part.write(&third, 5, b"\n").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        part.check().unwrap();
        part.complete().unwrap();
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
    }

    #[test]
    fn another_process_goes_on_with_windows() {
        let pieces: [(u64, &[u8]); 3] = [(0, b"he"), (2, b"ll"), (4, b"o\n")];
        // Whichever of them were brought, and however far the part was taken over.
        for there in 0..8 {
            for taken_over in 0..=2 {
                let dir = tempfile::tempdir().unwrap();
                let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
                for (i, (at, bytes)) in pieces.iter().enumerate().rev() {
                    if there & (1 << i) != 0 {
                        let (from, to) = (*at, at + 2);
                        let span = Span {
                            window: from,
                            from,
                            to,
                        };
                        part.write(&span, *at, bytes).unwrap();
                    }
                }
                // Killed after so many bytes of the next window were appended.
                if there & 3 == 3 {
                    part.append(&b"ll"[..taken_over]).unwrap();
                }
                let present = part.present();
                let mut part = Partial::open(dir.path(), &wanted(6)).unwrap();
                assert_eq!(part.present(), present);
                while part.absorb().unwrap() > 0 {}
                while let Some(gap) = part.gap(&[], None) {
                    let (from, to) = (gap.from as usize, gap.to as usize);
                    part.write(&gap, gap.from, &b"hello\n"[from..to]).unwrap();
                    while part.absorb().unwrap() > 0 {}
                }
                part.check().unwrap();
                part.complete().unwrap();
                assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            }
        }
    }

    #[test]
    fn windows_go_with_the_part() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = begun(dir.path(), 1000, 0);
        let span = Span {
            window: 500,
            from: 500,
            to: 600,
        };
        part.write(&span, 500, &[7; 50]).unwrap();
        part.restart().unwrap();
        assert_eq!((part.present(), part.gap(&[], None).unwrap().to), (0, 1000));
        part.write(&span, 500, &[7; 50]).unwrap();
        part.delete().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
