//! Pieces of a file that came before what is in front of them.
//!
//! ```text
//! a.safetensors.part               the first bytes, as many as it holds
//! .a.safetensors.134217728.part    a window: the bytes from 134217728 on, as many as it holds
//! ```
//!
//! A window only grows, at its end: its length says what it holds, at whatever moment
//! the process that wrote it was killed. When the part reaches its first byte, its bytes
//! are appended to the part and it is removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::model::{StoreError, create_file};

/// Windows of one file that are kept. There are as many only if somebody made them.
const MOST: usize = 64;

/// Name of the window that begins at `start`. No file of a checkpoint has it, nor any
/// part: their names do not begin with a dot.
fn name(path: &str, start: u64) -> String {
    format!(".{path}.{start}.part")
}

/// First byte of the window that a name is, if it is one of the file at `path`.
fn start_of(path: &str, name: &str) -> Option<u64> {
    let rest = name.strip_prefix('.')?.strip_prefix(path)?;
    let digits = rest.strip_prefix('.')?.strip_suffix(".part")?;
    let start: u64 = digits.parse().ok()?;
    // One way to write a number: no sign, no zeros before it.
    (start.to_string() == digits).then_some(start)
}

/// The windows in a folder that belong to the file at `path`: first byte and length,
/// which is none for what is no regular file.
fn list(dir: &Path, path: &str) -> io::Result<BTreeMap<u64, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(start) = entry.file_name().to_str().and_then(|n| start_of(path, n)) {
            let metadata = entry.metadata()?;
            let length = if metadata.is_file() {
                metadata.len()
            } else {
                0
            };
            found.insert(start, length);
        }
    }
    Ok(found)
}

/// Bytes of a file of `size` that windows hold behind its first `there`.
pub(super) fn held(dir: &Path, path: &str, size: u64, there: u64) -> u64 {
    let (mut sum, mut end) = (0, there);
    for (start, length) in list(dir, path).unwrap_or_default() {
        let stop = start.saturating_add(length);
        if stop > end && stop <= size {
            sum += stop - end.max(start);
            end = stop;
        }
    }
    sum
}

/// The windows of one file, by their first byte; they do not overlap.
#[derive(Debug)]
pub(super) struct Windows {
    dir: PathBuf,
    path: String,
    windows: BTreeMap<u64, Window>,
}

#[derive(Debug)]
struct Window {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Windows {
    /// Opens what an earlier attempt left of a file of `size`, whose first `there` bytes
    /// are there. What says nothing new, or cannot be of this file, is removed.
    pub(super) fn open(dir: &Path, path: &str, size: u64, there: u64) -> Result<Self, StoreError> {
        let mut windows = BTreeMap::new();
        let mut end = 0;
        for (start, length) in list(dir, path).map_err(StoreError::io("read", dir))? {
            let path = dir.join(name(path, start));
            let stop = start.saturating_add(length);
            let useful = start >= end && stop > there.max(start) && stop <= size;
            if !useful || windows.len() == MOST {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                continue;
            }
            let file = create_file(&path).map_err(StoreError::io("open", &path))?;
            windows.insert(start, Window { path, file, length });
            end = stop;
        }
        Ok(Self {
            dir: dir.to_owned(),
            path: path.to_owned(),
            windows,
        })
    }

    /// What they hold.
    pub(super) fn extents(&self) -> impl Iterator<Item = Range<u64>> {
        let extent = |(start, window): (&u64, &Window)| *start..start + window.length;
        self.windows.iter().map(extent)
    }

    /// Bytes they hold behind the first `there`.
    pub(super) fn held(&self, there: u64) -> u64 {
        let behind = |extent: Range<u64>| extent.end.saturating_sub(extent.start.max(there));
        self.extents().map(behind).sum()
    }

    /// Writes bytes at the end of the window that begins at `start`, which is made if
    /// there is none.
    pub(super) fn append(&mut self, start: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let window = match self.windows.entry(start) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let path = self.dir.join(name(&self.path, start));
                let file = create_file(&path).map_err(StoreError::io("open", &path))?;
                file.set_len(0).map_err(StoreError::io("shorten", &path))?;
                free.insert(Window {
                    path,
                    file,
                    length: 0,
                })
            }
        };
        window
            .file
            .seek(SeekFrom::Start(window.length))
            .and_then(|_| window.file.write_all(bytes))
            .map_err(StoreError::io("write", &window.path))?;
        window.length += bytes.len() as u64;
        Ok(())
    }

    /// The bytes from `at` on, at most `most`, where the first window holds them.
    pub(super) fn read(&mut self, at: u64, most: usize) -> Result<Vec<u8>, StoreError> {
        let Some((start, window)) = self.windows.iter_mut().next() else {
            return Ok(Vec::new());
        };
        let Some(skip) = at.checked_sub(*start) else {
            return Ok(Vec::new());
        };
        let there = usize::try_from(window.length.saturating_sub(skip)).unwrap_or(most);
        let mut bytes = vec![0; there.min(most)];
        window
            .file
            .seek(SeekFrom::Start(skip))
            .and_then(|_| window.file.read_exact(&mut bytes))
            .map_err(StoreError::io("read", &window.path))?;
        Ok(bytes)
    }

    /// Removes the windows that hold nothing behind the first `there` bytes.
    pub(super) fn remove_before(&mut self, there: u64) -> Result<(), StoreError> {
        while let Some(first) = self.windows.first_entry() {
            if first.key() + first.get().length > there {
                break;
            }
            let window = first.remove();
            fs::remove_file(&window.path).map_err(StoreError::io("remove", &window.path))?;
        }
        Ok(())
    }

    /// Removes them all.
    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        self.remove_before(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_and_no_others() {
        for start in [0, 7, 134_217_728, u64::MAX] {
            assert_eq!(start_of("a.b", &name("a.b", start)), Some(start));
        }
        for other in [
            "a.b.7.part",
            ".a.b.part",
            ".a.b..part",
            ".a.b.07.part",
            ".a.b.+7.part",
            ".a.b.-7.part",
            ".a.b.7.8.part",
            ".a.b.7",
            ".a.b.18446744073709551616.part",
            ".a.7.part",
        ] {
            assert_eq!(start_of("a.b", other), None, "{other}");
        }
        // The longest name of a file leaves room.
        assert!(name(&"x".repeat(228), u64::MAX).len() <= 255);
    }

    /// Windows with these first bytes and lengths, opened for a file of 100 bytes of
    /// which `there` are there.
    fn opened(made: &[(u64, usize)], there: u64) -> (tempfile::TempDir, Windows) {
        let dir = tempfile::tempdir().unwrap();
        for (start, length) in made {
            fs::write(dir.path().join(name("f", *start)), vec![7; *length]).unwrap();
        }
        fs::write(dir.path().join(".f.x.part"), "not one of them").unwrap();
        let held = held(dir.path(), "f", 100, there);
        let windows = Windows::open(dir.path(), "f", 100, there).unwrap();
        assert_eq!(windows.held(there), held);
        (dir, windows)
    }

    fn extents(windows: &Windows) -> Vec<(u64, u64)> {
        windows.extents().map(|e| (e.start, e.end)).collect()
    }

    #[test]
    fn what_was_left_is_kept_where_it_says_something() {
        let (dir, windows) = opened(&[(20, 10), (30, 5), (90, 10)], 25);
        assert_eq!(extents(&windows), [(20, 30), (30, 35), (90, 100)]);
        assert_eq!(windows.held(25), 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn what_confuses_is_removed() {
        // Empty; behind the end; before what is there; over another one; absurd.
        let made = [(10, 5), (30, 0), (40, 20), (50, 5), (95, 6), (u64::MAX, 1)];
        let (dir, windows) = opened(&made, 15);
        assert_eq!(extents(&windows), [(40, 60)]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_window_is_read_from_anywhere_and_removed_behind_its_end() {
        let (dir, mut windows) = opened(&[], 0);
        windows.append(10, b"abc").unwrap();
        windows.append(10, b"def").unwrap();
        windows.append(20, b"x").unwrap();
        assert_eq!(windows.read(9, 9).unwrap(), b"");
        assert_eq!(windows.read(10, 4).unwrap(), b"abcd");
        assert_eq!(windows.read(14, 9).unwrap(), b"ef");
        assert_eq!(windows.read(16, 9).unwrap(), b"");
        windows.remove_before(15).unwrap();
        assert_eq!(extents(&windows), [(10, 16), (20, 21)]);
        windows.remove_before(16).unwrap();
        assert_eq!(extents(&windows), [(20, 21)]);
        windows.clear().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(name("f", 10))).unwrap();
        let windows = Windows::open(dir.path(), "f", 100, 0).unwrap();
        assert_eq!(windows.held(0), 0);
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
