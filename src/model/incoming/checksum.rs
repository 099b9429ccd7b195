//! Digests of bytes as they arrive.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Expected, Wanted};
use crate::model::{FileEntry, to_hex};

/// The digests of a file's bytes so far.
#[derive(Debug)]
pub struct Checksum {
    sha256: Sha256,
    git: Option<Sha1>,
}

impl Checksum {
    /// Of no bytes yet.
    pub fn new(wanted: &Wanted) -> Self {
        let git = matches!(wanted.expected, Expected::GitBlob(_)).then(|| {
            let mut hash = <Sha1 as sha1::Digest>::new();
            sha1::Digest::update(&mut hash, format!("blob {}\0", wanted.size));
            hash
        });
        Self {
            sha256: Sha256::new(),
            git,
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            sha1::Digest::update(git, bytes);
        }
    }

    /// Reads `limit` bytes of a file; how many there were.
    ///
    /// # Errors
    /// The system's.
    pub fn update_from(&mut self, file: &mut File, limit: u64) -> io::Result<u64> {
        let (mut done, mut block) = (0, vec![0; 1 << 20]);
        while done < limit {
            let room = block
                .len()
                .min((limit - done).try_into().unwrap_or(usize::MAX));
            match file.read(&mut block[..room]) {
                Ok(0) => break,
                Ok(n) => {
                    self.update(&block[..n]);
                    done += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// The SHA-256, if the bytes are those wanted.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn finish(self, wanted: &Wanted) -> Result<String, String> {
        let sha256 = to_hex(&self.sha256.finalize());
        let (kind, expected, found) = match (&wanted.expected, self.git) {
            (Expected::GitBlob(id), Some(git)) => {
                ("git object id", id, to_hex(&sha1::Digest::finalize(git)))
            }
            (Expected::Sha256(digest) | Expected::GitBlob(digest), _) => {
                ("SHA-256", digest, sha256.clone())
            }
        };
        if *expected == found {
            return Ok(sha256);
        }
        Err(format!("its {kind} is {found} and must be {expected}"))
    }
}

/// Proves a file that is there; none when it is missing or wrong. No pipe is waited for.
///
/// # Errors
/// The system's.
pub fn prove(path: &Path, wanted: &Wanted) -> io::Result<Option<FileEntry>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    let mut file = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != wanted.size {
        return Ok(None);
    }
    let mut checksum = Checksum::new(wanted);
    checksum.update_from(&mut file, wanted.size)?;
    let entry = |sha256| FileEntry {
        path: wanted.path.clone(),
        size: wanted.size,
        sha256,
    };
    Ok(checksum.finish(wanted).ok().map(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(expected: Expected) -> Wanted {
        Wanted {
            path: "f".into(),
            size: 6,
            expected,
        }
    }

    #[test]
    fn the_git_object_id_of_a_blob() {
        // `printf 'hello\n' | git hash-object --stdin`
        let right = wanted(Expected::GitBlob(
            "ce013625030ba8dba906f756967f9e9ca394464a".into(),
        ));
        let mut checksum = Checksum::new(&right);
        checksum.update(b"hel");
        checksum.update(b"lo\n");
        let sha256 = checksum.finish(&right).unwrap();
        assert!(sha256.starts_with("5891b5b522d5df08"));
        let mut checksum = Checksum::new(&right);
        checksum.update(b"hellO\n");
        assert!(
            checksum
                .finish(&right)
                .unwrap_err()
                .contains("git object id")
        );
    }

    #[test]
    fn only_the_right_file_is_proven() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let right = wanted(Expected::Sha256(
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into(),
        ));
        assert_eq!(prove(&path, &right).unwrap(), None);
        std::fs::write(&path, "hello\n").unwrap();
        assert!(prove(&path, &right).unwrap().is_some());
        std::fs::write(&path, "hellO\n").unwrap();
        assert_eq!(prove(&path, &right).unwrap(), None);
        std::fs::write(&path, "hello\n\n").unwrap();
        assert_eq!(prove(&path, &right).unwrap(), None);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let empty = Wanted {
            size: 0,
            ..wanted(Expected::Sha256(String::new()))
        };
        assert_eq!(prove(&path, &empty).unwrap(), None);
    }
}
