//! One long file, or the pieces it was cut into.
//!
//! ```text
//! 20b.tar        as one
//! 20b.tar.000    cut: all but the last of the same size, so that each fits a
//! 20b.tar.001    file system (FAT32: 4 GiB less one byte) or a medium
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::BundleError;
use super::media::open_part;
use crate::model::create_file;

/// Digits of a piece's number.
const DIGITS: usize = 3;
/// Most pieces.
pub(super) const PIECES_MAX: usize = 1000;

/// Path of a piece.
fn piece_path(whole: &Path, number: usize) -> PathBuf {
    let mut path = whole.as_os_str().to_owned();
    path.push(format!(".{number:0DIGITS$}"));
    path.into()
}

/// The whole's path, if `path` is that of a first piece.
pub(super) fn whole_of(path: &Path) -> Option<PathBuf> {
    let first = path.extension()? == "000";
    first.then(|| path.with_extension(""))
}

/// Whether the whole is there in pieces.
pub(super) fn exist_for(whole: &Path) -> bool {
    piece_path(whole, 0).exists()
}

struct Piece {
    path: PathBuf,
    file: File,
    start: u64,
    length: u64,
}

/// Reads at any place. Nothing is held but open files.
pub(super) struct Pieces {
    pieces: Vec<Piece>,
    length: u64,
}

impl Pieces {
    /// Of a file, or of `PATH.000`, `PATH.001` and so on.
    pub(super) fn open(path: &Path) -> Result<Self, BundleError> {
        let mut opened = Self {
            pieces: Vec::new(),
            length: 0,
        };
        if path.exists() {
            opened.add(path.to_owned())?;
            return Ok(opened);
        }
        for number in 0..PIECES_MAX {
            let piece = piece_path(path, number);
            if !piece.exists() {
                break;
            }
            opened.add(piece)?;
        }
        if opened.pieces.is_empty() {
            return Err(BundleError::NotFound(path.to_owned()));
        }
        opened.check_sizes()?;
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), BundleError> {
        let (file, length) = open_part(&path)?;
        self.pieces.push(Piece {
            path,
            file,
            start: self.length,
            length,
        });
        self.length = self.length.saturating_add(length);
        Ok(())
    }

    /// All but the last piece have one size, so that a short one is noticed by name.
    fn check_sizes(&self) -> Result<(), BundleError> {
        let Some((last, others)) = self.pieces.split_last() else {
            return Ok(());
        };
        let Some(first) = others.first() else {
            return Ok(());
        };
        let wrong = others.iter().find(|p| p.length != first.length);
        let wrong = wrong.or((last.length > first.length).then_some(last));
        match wrong {
            None => Ok(()),
            Some(piece) => Err(BundleError::Piece {
                path: piece.path.clone(),
                why: format!(
                    "has {} bytes where the first piece has {}",
                    piece.length, first.length
                ),
            }),
        }
    }

    /// Bytes of all pieces.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// What must be there and is not when the bundle ends too early.
    pub(super) fn missing(&self) -> String {
        match &self.pieces[..] {
            [only] if whole_of(&only.path).is_none() => {
                format!("{} is cut short", only.path.display())
            }
            pieces => {
                let whole = pieces.first().and_then(|p| whole_of(&p.path));
                let next = whole.map(|w| piece_path(&w, pieces.len()));
                let next = next.unwrap_or_default();
                format!(
                    "{} is missing or the piece before it is cut short",
                    next.display()
                )
            }
        }
    }

    /// Reads some bytes at a place; none at the end.
    pub(super) fn read_at(&self, block: &mut [u8], at: u64) -> io::Result<usize> {
        let after = self.pieces.partition_point(|p| p.start <= at);
        let Some(piece) = after.checked_sub(1).map(|i| &self.pieces[i]) else {
            return Ok(0);
        };
        let inside = at - piece.start;
        let room = (piece.length.saturating_sub(inside)).min(block.len() as u64);
        // A block is never longer than an address.
        piece.file.read_at(&mut block[..room as usize], inside)
    }

    /// The bytes from `at` to `end`.
    pub(super) fn section(&self, at: u64, end: u64) -> Section<'_> {
        Section {
            pieces: self,
            at,
            end: end.min(self.length),
        }
    }
}

/// A range of the pieces.
pub(super) struct Section<'a> {
    pieces: &'a Pieces,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let room = (self.end.saturating_sub(self.at)).min(block.len() as u64) as usize;
        let n = self.pieces.read_at(&mut block[..room], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Writes a file, or its pieces, under names of their own until all is there.
pub(super) struct PieceWriter {
    whole: PathBuf,
    /// Bytes of a piece; none for one file.
    limit: Option<u64>,
    /// Every piece so far: where it is and where it will be.
    written: Vec<(PathBuf, PathBuf)>,
    current: Option<(File, u64)>,
}

impl PieceWriter {
    pub(super) fn new(whole: &Path, limit: Option<u64>) -> Self {
        Self {
            whole: whole.to_owned(),
            limit,
            written: Vec::new(),
            current: None,
        }
    }

    /// The open piece with room in it.
    fn piece(&mut self) -> io::Result<&mut (File, u64)> {
        let full = |(_, length): &(File, u64)| self.limit.is_some_and(|limit| *length >= limit);
        if self.current.as_ref().is_some_and(full)
            && let Some((file, _)) = self.current.take()
        {
            file.sync_all()?;
        }
        if self.current.is_none() {
            let number = self.written.len();
            if number == PIECES_MAX {
                return Err(io::Error::other(
                    "more than 1000 pieces: choose larger ones",
                ));
            }
            let path = match self.limit {
                None => self.whole.clone(),
                Some(_) => piece_path(&self.whole, number),
            };
            let mut part = path.as_os_str().to_owned();
            part.push(".part");
            let part = PathBuf::from(part);
            // What an interrupted attempt left is of no use.
            let _ = fs::remove_file(&part);
            let file = create_file(&part)?;
            self.written.push((part, path));
            self.current = Some((file, 0));
        }
        self.current
            .as_mut()
            .ok_or_else(|| io::Error::other("no piece is open"))
    }

    /// Flushes everything and gives it its names, the first piece last: without
    /// it there is no bundle.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some((file, _)) = self.current.take() {
            file.sync_all()?;
        }
        for (part, path) in std::mem::take(&mut self.written).iter().rev() {
            fs::rename(part, path)?;
        }
        let folder = self.whole.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = self.limit;
        let (file, length) = self.piece()?;
        let room = limit.map_or(u64::MAX, |limit| limit - *length);
        let room = room.min(bytes.len() as u64) as usize;
        let n = file.write(&bytes[..room])?;
        *length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PieceWriter {
    /// What was not finished is nobody's.
    fn drop(&mut self) {
        for (part, _) in &self.written {
            let _ = fs::remove_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(whole: &Path, limit: Option<u64>, bytes: &[u8]) {
        let mut writer = PieceWriter::new(whole, limit);
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_cut_reads_as_one(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            limit in 1u64..500,
            from in 0u64..400,
            length in 0u64..400,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let whole = dir.path().join("b.tar");
            write(&whole, Some(limit), &bytes);
            let pieces = Pieces::open(&whole).unwrap();
            prop_assert_eq!(pieces.length(), bytes.len() as u64);
            let mut read = Vec::new();
            pieces.section(from, from + length).read_to_end(&mut read).unwrap();
            let clamp = |n: u64| (n as usize).min(bytes.len());
            prop_assert_eq!(&read[..], &bytes[clamp(from)..clamp(from + length)]);
            let count = fs::read_dir(dir.path()).unwrap().count();
            prop_assert_eq!(count as u64, (bytes.len() as u64).div_ceil(limit));
        }
    }

    #[test]
    fn a_short_or_missing_piece_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("b.tar");
        write(&whole, Some(10), &[1; 35]);
        let second = dir.path().join("b.tar.001");
        fs::write(&second, [1; 9]).unwrap();
        let error = Pieces::open(&whole).err().unwrap().to_string();
        assert!(
            error.contains("b.tar.001") && error.contains("9 bytes"),
            "{error}"
        );
        fs::write(&second, [1; 10]).unwrap();
        fs::remove_file(dir.path().join("b.tar.003")).unwrap();
        let pieces = Pieces::open(&whole).unwrap();
        assert!(
            pieces.missing().contains("b.tar.003"),
            "{}",
            pieces.missing()
        );
    }

    #[test]
    fn an_unfinished_bundle_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PieceWriter::new(&dir.path().join("b.tar"), Some(10));
        writer.write_all(&[1; 25]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
