//! A file on its way into a staging folder, whatever brings it: the hub, a
//! registry, a bundle, a folder. Command line only.
//!
//! It is written as `NAME.part` while its digest is computed, and gets its own
//! name only when size and digest are right: whatever is there under its own name
//! was proven once, and what is there as a part can be gone on with. Where several
//! connections bring it, those ahead write windows beside the part (`window.rs`).

mod bring;
mod checksum;
mod copy;
mod partial;
mod window;

pub use bring::{BringError, Original, bring};
pub use checksum::{Checksum, prove};
pub use copy::{CopyError, copy_hashed};
pub use partial::{Begun, Partial, Span, begin, left_there, part_name, remaining};

use super::FileEntry;

/// What a file's bytes must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// SHA-256, lower-case hexadecimal.
    Sha256(String),
    /// Git's object id: SHA-1 over `blob SIZE\0` and the bytes. The hub gives
    /// this one for small files; the SHA-256 is recorded after it was checked.
    GitBlob(String),
}

/// A file to bring in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, a plain path component.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub expected: Expected,
}

impl From<&FileEntry> for Wanted {
    fn from(entry: &FileEntry) -> Self {
        Self {
            path: entry.path.clone(),
            size: entry.size,
            expected: Expected::Sha256(entry.sha256.clone()),
        }
    }
}

/// What happens while files are brought in or copied. Called from several threads.
pub trait Progress: Send + Sync {
    /// `bytes` of a file are there now, of its whole size.
    fn position(&self, path: &str, bytes: u64);
    /// `bytes` from an earlier attempt are read to be proven, which may take long.
    fn checking(&self, path: &str, bytes: u64);
    /// A part from an earlier attempt of `bytes` is gone on with.
    fn resumed(&self, path: &str, bytes: u64);
    /// A file is complete and proven.
    fn proven(&self, path: &str);
    /// Something went wrong and is tried again.
    fn retrying(&self, path: &str, why: &str);
}
