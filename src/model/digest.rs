//! SHA-256 of files, in bounded memory.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::FileEntry;
use crate::platform;

/// Bytes read at a time: large enough for a disk, small enough for the cache.
const BLOCK: usize = 1 << 20;

/// Lower-case hexadecimal text of some bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// SHA-256 of some bytes, in lower-case hexadecimal.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// A revision made from the files themselves, for a checkpoint that has no
/// commit: `sha256-` and the first 40 digits of the SHA-256 over the lines
/// `DIGEST  PATH`, sorted by path, as `sha256sum` prints them.
pub fn content_revision(files: &[FileEntry]) -> String {
    let mut lines: Vec<_> = files.iter().map(|f| (&f.path, &f.sha256)).collect();
    lines.sort();
    let mut hash = Sha256::new();
    for (path, digest) in lines {
        hash.update(format!("{digest}  {path}\n"));
    }
    let digest = to_hex(&hash.finalize());
    format!("sha256-{}", &digest[..40])
}

/// Size and SHA-256 of a regular file; `progress` hears of every block's bytes.
///
/// # Errors
/// The system's, and [`io::ErrorKind::InvalidInput`] for anything that is not a
/// regular file; links are not followed.
pub fn sha256_file(path: &Path, progress: impl FnMut(u64)) -> io::Result<(u64, String)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    platform::reads_in_order(&file);
    sha256_read(&mut file, progress)
}

/// Bytes and SHA-256 of what a reader gives; `progress` hears of every block's bytes.
///
/// # Errors
/// The reader's.
pub fn sha256_read(
    source: &mut impl Read,
    mut progress: impl FnMut(u64),
) -> io::Result<(u64, String)> {
    let (mut hash, mut size, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let n = match source.read(&mut block) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(&block[..n]);
        size += n as u64;
        progress(n as u64);
    }
    Ok((size, to_hex(&hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let (size, digest) = sha256_file(&path, |_| ()).unwrap();
        assert_eq!(size, 3);
        assert_eq!(
            digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_revision_depends_on_names_and_bytes_only() {
        let entry = |path: &str, text: &str| FileEntry {
            path: path.into(),
            size: text.len() as u64,
            sha256: sha256_bytes(text.as_bytes()),
        };
        let (a, b) = (entry("a", "x"), entry("b", "y"));
        let revision = content_revision(&[a.clone(), b.clone()]);
        // printf x >a; printf y >b; sha256sum a b | sha256sum
        assert_eq!(revision, "sha256-8d73e01349b30f78751f37931b0d2ae54f8dbd56");
        assert_eq!(revision, content_revision(&[b.clone(), a.clone()]));
        assert_ne!(revision, content_revision(&[a, entry("b", "z")]));
        crate::model::check_revision(&revision).unwrap();
    }

    #[test]
    fn links_and_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("z")).unwrap();
        assert!(sha256_file(&dir.path().join("z"), |_| ()).is_err());
        assert!(sha256_file(dir.path(), |_| ()).is_err());
    }
}
