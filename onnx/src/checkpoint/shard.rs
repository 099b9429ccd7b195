//! One safetensors file: its bytes, mapped or static, and its header.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Metadata, SafeTensorError, SafeTensors};

use super::CheckpointError;

/// Bytes of a shard.
pub(super) enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    /// Gives the memory of a mapped part back; its next reader reads the file again.
    pub(super) fn release(&self, part: Range<usize>) {
        let Bytes::Mapped(map) = self else {
            return;
        };
        if part.end <= map.len() {
            // SAFETY: nobody can have written to this map, which is read-only and of a
            // file, so nothing is lost: a page that is touched again is read again.
            // Advice that is not taken changes nothing.
            let _ = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, part.start, part.len())
            };
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// A file of tensors, its header validated: tensors lie one after the other,
/// without hole or overlap, and end where the file ends.
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) bytes: Bytes,
    /// Where the tensors' data begins in the file.
    pub(super) data_start: usize,
    pub(super) metadata: Metadata,
}

impl Shard {
    /// Maps `dir/name`, which must be a plain file of `dir`.
    pub(super) fn map(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        check_name(name)?;
        let path = dir.join(name);
        let read = |source| CheckpointError::Read {
            path: path.clone(),
            source,
        };
        let real = path.canonicalize().map_err(read)?;
        let real_dir = dir.canonicalize().map_err(read)?;
        if real.parent() != Some(real_dir.as_path()) {
            return Err(CheckpointError::ShardPath {
                name: name.to_owned(),
                reason: "is a link to a file outside the checkpoint's folder",
            });
        }
        let file = File::open(&real).map_err(read)?;
        if !file.metadata().map_err(read)?.is_file() {
            return Err(CheckpointError::ShardPath {
                name: name.to_owned(),
                reason: "is not a regular file",
            });
        }
        // SAFETY: the map is read-only and private to us. Like every reader
        // of a mapped file we rely on nobody truncating it meanwhile; the
        // store installs files by rename and never writes into them.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Self::new(name, Bytes::Mapped(map))
    }

    /// Reads the header of `bytes`.
    pub(super) fn new(name: &str, bytes: Bytes) -> Result<Self, CheckpointError> {
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| CheckpointError::Shard {
                shard: name.to_owned(),
                reason: describe(&error, &bytes),
            })?;
        Ok(Self {
            name: name.to_owned(),
            bytes,
            data_start: header + size_of::<u64>(),
            metadata,
        })
    }
}

/// Refuses names that are not plain file names.
pub(super) fn check_name(name: &str) -> Result<(), CheckpointError> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\', '\0'])
        && name.ends_with(".safetensors");
    if plain {
        Ok(())
    } else {
        Err(CheckpointError::ShardPath {
            name: name.to_owned(),
            reason: "is not a plain *.safetensors file name",
        })
    }
}

fn describe(error: &SafeTensorError, bytes: &[u8]) -> String {
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!("truncated inside the header, {} bytes", bytes.len())
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "its {} bytes are not what its header promises: truncated?",
                bytes.len()
            )
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let header = br#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"U8","shape":[4],"data_offsets":[12,16]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        file.extend_from_slice(&[0; 16]);
        file
    }

    fn open(bytes: Vec<u8>) -> Result<Shard, CheckpointError> {
        Shard::new("x.safetensors", Bytes::Static(bytes.leak()))
    }

    fn reason(bytes: Vec<u8>) -> String {
        open(bytes)
            .err()
            .map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn reads_a_header() {
        let shard = open(sample()).expect("a sound file");
        assert_eq!(shard.metadata.tensors().len(), 2);
        assert_eq!(shard.bytes.len() - shard.data_start, 16);
    }

    #[test]
    fn truncation_is_reported_wherever_it_cuts() {
        let whole = sample();
        for keep in 0..whole.len() {
            let text = reason(whole[..keep].to_vec());
            assert!(text.contains("truncated"), "{keep}: {text}");
        }
    }

    #[test]
    fn overlapping_and_out_of_range_offsets_are_refused() {
        let text = String::from_utf8(sample()[8..].to_vec()).expect("ascii header");
        for (from, to) in [
            ("[12,16]", "[10,14]"),
            ("[12,16]", "[99,16]"),
            ("[2,3]", "[2,9]"),
        ] {
            let header = text.replace(from, to);
            let header = header.trim_end_matches('\0');
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(header.as_bytes());
            file.extend_from_slice(&[0; 16]);
            assert!(reason(file).contains("damaged"), "{from} -> {to}");
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for bad in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/b.safetensors",
            "..",
            "",
            "x.bin",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("model-00000-of-00002.safetensors").is_ok());
    }

    proptest! {
        #[test]
        fn mutated_headers_never_panic(
            edits in prop::collection::vec((0usize..200, any::<u8>()), 1..8),
            cut in 0usize..200,
        ) {
            let mut file = sample();
            let len = file.len();
            for (at, value) in edits {
                file[at % len] = value;
            }
            file.truncate(len - cut % 3);
            if let Ok(shard) = open(file) {
                for info in shard.metadata.tensors().values() {
                    prop_assert!(info.data_offsets.1 <= 16);
                }
            }
        }
    }
}
