//! Where derived weights go: a hashed file, or memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Where each initializer's bytes ended up, by its name.
pub(super) type Places = BTreeMap<String, Place>;

/// A file of derived weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// [`super::weights_name`].
    Weights,
    /// [`super::EXPERTS_FILE`].
    Experts,
}

/// Where an initializer's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of this export.
    Written {
        file: File,
        offset: u64,
        length: u64,
    },
    /// In a shard of the checkpoint, used in place.
    InShard {
        shard: String,
        offset: u64,
        length: u64,
    },
}

/// A growing sequence of bytes.
pub(super) trait Sink {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes so far.
    fn position(&self) -> u64;
}

/// Appends zeros up to a multiple of `alignment`.
pub(super) fn align(sink: &mut dyn Sink, alignment: u64) -> io::Result<()> {
    let gap = sink.position().next_multiple_of(alignment) - sink.position();
    // At most a page.
    sink.write(&vec![0; gap as usize])
}

/// A file, hashed as it is written.
pub(super) struct FileSink {
    file: BufWriter<fs::File>,
    hash: Sha256,
    position: u64,
}

impl FileSink {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, fs::File::create(path)?),
            hash: Sha256::new(),
            position: 0,
        })
    }

    /// Size and SHA-256 of the file, once it is on disk.
    pub(super) fn finish(self) -> io::Result<(u64, String)> {
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()?;
        let digest = self.hash.finalize();
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((self.position, hex))
    }
}

impl Sink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// Memory.
#[derive(Default)]
pub(super) struct MemorySink(Vec<u8>);

impl MemorySink {
    pub(super) fn bytes(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let length = usize::try_from(length).ok()?;
        self.0.get(start..start.checked_add(length)?)
    }
}

impl Sink for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.0.len() as u64
    }
}
