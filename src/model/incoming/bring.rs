//! A file from another place on this machine: a bundle, a folder, a cache.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{Begun, CopyError, Partial, Progress, Wanted, begin, left_there};
use crate::model::{FileEntry, StoreError};
use crate::platform;

/// A file's bytes from one of them on.
pub enum Original<'a> {
    /// The whole file, whose blocks are shared where the file system can: writing to
    /// either side later gives that side blocks of its own.
    File(File),
    /// What is wanted and no more, or too little.
    Bytes(Box<dyn Read + Send + 'a>),
}

/// Why a file was not brought in.
#[derive(Debug)]
pub enum BringError<E> {
    /// The original is not to be had.
    Open(E),
    /// It cannot be read.
    Read(io::Error),
    /// Its bytes are not those wanted: why, in words.
    Wrong(String),
    /// They cannot be written.
    Store(StoreError),
}

impl<E> From<StoreError> for BringError<E> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Brings a file into `dir` and proves it there. What an earlier attempt left is
/// proven and gone on with; what is wrong is not kept.
///
/// `open` gives the original, of which the bytes before the given one are there.
///
/// # Errors
/// See [`BringError`]. What was brought before an error of reading stays.
pub fn bring<'a, E>(
    dir: &Path,
    wanted: &Wanted,
    open: &dyn Fn(u64) -> Result<Original<'a>, E>,
    progress: &dyn Progress,
) -> Result<FileEntry, BringError<E>> {
    let there = left_there(dir, wanted);
    if there > 0 {
        progress.checking(&wanted.path, there);
    }
    let mut part = match begin(dir, wanted)? {
        Begun::Proven(entry) => {
            progress.position(&wanted.path, wanted.size);
            return Ok(entry);
        }
        Begun::Part(part) => part,
    };
    if part.length() > 0 {
        progress.resumed(&wanted.path, part.length());
        match fill(&mut part, wanted, open, progress) {
            // What was there before may have suffered since.
            Err(BringError::Wrong(why)) => {
                progress.retrying(&wanted.path, &format!("{why}; copying it again"));
                progress.position(&wanted.path, 0);
                part.restart()?;
            }
            result => return result,
        }
    }
    let result = fill(&mut part, wanted, open, progress);
    if let Err(BringError::Wrong(_)) = &result {
        part.delete()?;
    }
    result
}

fn fill<'a, E>(
    part: &mut Partial,
    wanted: &Wanted,
    open: &dyn Fn(u64) -> Result<Original<'a>, E>,
    progress: &dyn Progress,
) -> Result<FileEntry, BringError<E>> {
    let mut tell = |length| progress.position(&wanted.path, length);
    let from = part.length();
    let original = open(from).map_err(BringError::Open)?;
    // What is on this machine is copied in one piece.
    part.remove_windows()?;
    let filled = match original {
        Original::Bytes(bytes) => part.fill(bytes, &mut tell),
        Original::File(mut file) => {
            if part.share(&file, &mut tell)? {
                Ok(())
            } else {
                platform::reads_in_order(&file);
                file.seek(SeekFrom::Start(from)).map_err(BringError::Read)?;
                part.fill(file, &mut tell)
            }
        }
    };
    filled.map_err(|error| match error {
        CopyError::Read(e) => BringError::Read(e),
        CopyError::Write(e) => BringError::Store(e),
    })?;
    if part.missing() > 0 {
        let missing = part.missing();
        return Err(BringError::Wrong(format!("{missing} bytes are missing")));
    }
    let entry = part.check().map_err(BringError::Wrong)?;
    part.complete()?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;

    use super::*;
    use crate::model::incoming::Expected;

    struct Silent;

    impl Progress for Silent {
        fn position(&self, _: &str, _: u64) {}
        fn checking(&self, _: &str, _: u64) {}
        fn resumed(&self, _: &str, _: u64) {}
        fn proven(&self, _: &str) {}
        fn retrying(&self, _: &str, _: &str) {}
    }

    fn wanted() -> Wanted {
        Wanted {
            path: "f".into(),
            size: 6,
            expected: Expected::Sha256(
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into(),
            ),
        }
    }

    fn from_file(dir: &Path, original: &Path) -> Result<FileEntry, BringError<io::Error>> {
        let open = |_| File::open(original).map(Original::File);
        bring(dir, &wanted(), &open, &Silent)
    }

    #[test]
    fn whatever_was_there_before_the_right_bytes_arrive() {
        for left in ["", "hel", "hello\n", "hallo", "far too much of it"] {
            let dir = tempfile::tempdir().unwrap();
            let original = dir.path().join("original");
            fs::write(&original, "hello\n").unwrap();
            fs::write(dir.path().join("f.part"), left).unwrap();
            from_file(dir.path(), &original).unwrap();
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
            assert!(!dir.path().join("f.part").exists());
            // What is written to the original afterwards stays there.
            fs::write(&original, "HELLO\n").unwrap();
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello\n");
        }
    }

    #[test]
    fn wrong_bytes_are_not_kept() {
        for bytes in ["hellO\n", "hello", ""] {
            let dir = tempfile::tempdir().unwrap();
            let original = dir.path().join("original");
            fs::write(&original, bytes).unwrap();
            let error = from_file(dir.path(), &original).unwrap_err();
            assert!(matches!(error, BringError::Wrong(_)), "{error:?}");
            let open = |from: u64| {
                let rest = bytes.as_bytes().get(from as usize..).unwrap_or_default();
                Ok::<_, Infallible>(Original::Bytes(Box::new(rest)))
            };
            fs::write(dir.path().join("f.part"), "he").unwrap();
            let error = bring(dir.path(), &wanted(), &open, &Silent).unwrap_err();
            assert!(matches!(error, BringError::Wrong(_)), "{error:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_was_brought_stays_when_the_original_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f.part"), "he").unwrap();
        fs::write(dir.path().join(".f.4.part"), "o").unwrap();
        let error = from_file(dir.path(), Path::new("/absent")).unwrap_err();
        assert!(matches!(error, BringError::Open(_)), "{error:?}");
        assert_eq!(fs::read(dir.path().join("f.part")).unwrap(), b"he");
        assert_eq!(fs::read(dir.path().join(".f.4.part")).unwrap(), b"o");
        let original = dir.path().join("original");
        fs::write(&original, "hello\n").unwrap();
        from_file(dir.path(), &original).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
