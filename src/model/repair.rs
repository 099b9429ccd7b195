//! Single files of an installed model, brought back.
//!
//! ```text
//! models/20b/6cee…/a.safetensors          broken: short, wrong, missing
//! .staging/20b@6cee…/a.safetensors.part   what may be sound of it, then the rest
//! .staging/20b@6cee…/a.safetensors        proven against the manifest
//! models/20b/6cee…/a.safetensors          by one rename: the old file or the right one
//! ```
//!
//! A process that has the old file mapped keeps the old bytes until it lets go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::durable::{create_directory, create_file, fsync_directory, fsync_path};
use super::incoming::{Begun, Wanted, begin, part_name};
use super::staging::discard_folder;
use super::{FileEntry, Installed, Staging, Store, StoreError, is_no_space};

/// A run of zeros at the end of a file that is taken for blocks that were never
/// written, as a power cut or a stick that was pulled out leave them.
const UNWRITTEN: u64 = 64 << 10;

/// A beginning that is worth keeping: bringing less takes no time.
const WORTHWHILE: u64 = 64 << 10;

impl Store {
    /// The staging folder in which files of an installed model are brought back.
    ///
    /// # Errors
    /// [`StoreError::Busy`], also where the model is not what it was when it was
    /// looked at.
    pub fn stage_repair(&self, model: &Installed) -> Result<Staging, StoreError> {
        let staging = self.stage(&model.name, &model.revision)?;
        let now = self.get(&model.name, &model.revision)?;
        // `verify` of another process may have changed the time.
        let same = now.is_some_and(|now| {
            (&now.manifest.files, &now.manifest.targets)
                == (&model.manifest.files, &model.manifest.targets)
        });
        match same {
            true => Ok(staging),
            false => Err(StoreError::Busy {
                model: model.manifest.label(),
            }),
        }
    }
}

impl Staging {
    /// Copies what may be sound of a broken file of an installed model: all of one
    /// that is too short, the beginning of one that is too long, what can be read
    /// of one on a bad disk, and never zeros that end it. Nothing proves that it is
    /// sound until the whole file has the right digest; who goes on behind it must
    /// be ready to begin again.
    ///
    /// Returns how many bytes there are now. What an earlier attempt left is kept
    /// instead.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the copy cannot be written.
    pub fn salvage(&self, model: &Installed, entry: &FileEntry) -> Result<u64, StoreError> {
        let path = self.dir.join(part_name(&entry.path));
        let there = path.symlink_metadata().map_or(0, |m| m.len());
        if there > 0 {
            return Ok(there);
        }
        let Some((broken, keep)) = sound_beginning(&model.dir.join(&entry.path), entry.size) else {
            return Ok(0);
        };
        let mut part = create_file(&path).map_err(StoreError::io("open", &path))?;
        // A file system that shares blocks shares these.
        match io::copy(&mut broken.take(keep), &mut part) {
            Err(error) if is_no_space(&error) => Err(StoreError::io("write", &path)(error)),
            // What cannot be read is not kept.
            _ => part
                .metadata()
                .map(|m| m.len())
                .map_err(StoreError::io("read", &path)),
        }
    }

    /// Whether a file is in the folder, proven, or its part is whole and right.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn complete(&self, entry: &FileEntry) -> Result<bool, StoreError> {
        let length = |name: &str| self.dir.join(name).symlink_metadata().map(|m| m.len());
        let whole = length(&entry.path).is_ok();
        if !whole && !length(&part_name(&entry.path)).is_ok_and(|n| n == entry.size) {
            return Ok(false);
        }
        let mut part = match begin(&self.dir, &Wanted::from(entry))? {
            Begun::Proven(_) => return Ok(true),
            Begun::Part(part) => part,
        };
        if part.missing() > 0 {
            return Ok(false);
        }
        match part.check() {
            Ok(_) => part.complete().map(|()| true),
            Err(_) => part.delete().map(|()| false),
        }
    }

    /// Puts a proven file of the folder in its place in the installed model, in one
    /// step. What was there is gone, whatever it was.
    ///
    /// # Errors
    /// [`StoreError::Io`]. The model is then as it was.
    pub fn put_back(&self, model: &Installed, path: &str) -> Result<(), StoreError> {
        let (from, to) = (self.dir.join(path), model.dir.join(path));
        fsync_path(&from)?;
        let parent = to.parent().unwrap_or(&model.dir);
        if parent.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
            fs::remove_file(parent).map_err(StoreError::io("remove", parent))?;
        }
        create_directory(parent)?;
        if to.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            discard_folder(self.store(), &to)?;
        }
        fs::rename(&from, &to).map_err(StoreError::io("replace", &to))?;
        fsync_directory(parent)?;
        fsync_directory(&model.dir)
    }
}

/// A broken file and how much of its beginning may be sound; none where nothing
/// speaks for any of it.
fn sound_beginning(path: &Path, size: u64) -> Option<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    let length = metadata.len();
    let keep = match length > size {
        true => size,
        // Where the disk does not say, it is all taken for bytes.
        false => match written(&mut file, length) {
            Ok(written) if length - written >= UNWRITTEN => written,
            // Of the right size, and wrong anywhere.
            _ if length == size => return None,
            _ => length,
        },
    };
    file.rewind().ok()?;
    (keep >= WORTHWHILE || keep == size).then_some((file, keep))
}

/// Length of a file without the zeros that end it.
fn written(file: &mut File, length: u64) -> io::Result<u64> {
    let mut block = vec![0; 1 << 20];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let bytes = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The part of `bytes` that is kept where `size` bytes are wanted.
    fn kept(bytes: &[u8], size: u64) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, bytes).unwrap();
        let (mut file, keep) = sound_beginning(&path, size)?;
        assert_eq!(file.stream_position().unwrap(), 0);
        Some(keep)
    }

    #[test]
    fn the_beginning_of_a_short_file_is_kept() {
        assert_eq!(kept(&[7; 70_000], 100_000), Some(70_000));
        for not_worth_it in [&[7; 60_000][..], b"abc", b""] {
            assert_eq!(kept(not_worth_it, 100_000), None);
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(kept(&[7; 300], 200), Some(200));
        // Its end may well be zeros.
        assert_eq!(kept(&[0; 300_000], 200_000), Some(200_000));
    }

    #[test]
    fn wrong_bytes_of_the_right_size_say_nothing() {
        assert_eq!(kept(&[7; 300], 300), None);
        let mut ends_in_zeros = vec![7; 300_000];
        ends_in_zeros[299_000..].fill(0);
        assert_eq!(kept(&ends_in_zeros, 300_000), None);
    }

    #[test]
    fn blocks_that_were_never_written_are_not_kept() {
        for (length, size) in [(3_000_000, 3_000_000), (3_000_000, 4_000_000)] {
            for data in [70_000, 1_048_576, 1_048_577, 2_500_000] {
                let mut bytes = vec![0; length];
                bytes[..data].fill(7);
                assert_eq!(kept(&bytes, size), Some(data as u64), "{data} of {length}");
            }
        }
        for data in [0, 1, 60_000] {
            let mut bytes = vec![0; 300_000];
            bytes[..data].fill(7);
            assert_eq!(kept(&bytes, 300_000), None, "{data}");
        }
    }

    #[test]
    fn links_and_folders_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "abc").unwrap();
        symlink(dir.path().join("f"), dir.path().join("l")).unwrap();
        assert!(sound_beginning(&dir.path().join("l"), 10).is_none());
        assert!(sound_beginning(dir.path(), 10).is_none());
        assert!(sound_beginning(&dir.path().join("none"), 10).is_none());
    }
}
