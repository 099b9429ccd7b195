//! CUDA's libraries as the system has them, for a build of ONNX Runtime that comes
//! without.
//!
//! Which file a name stands for, the system's loader looks up in its cache,
//! `/etc/ld.so.cache`. The paths stand in it as text:
//!
//! ```text
//! glibc-ld.so.cache1.1 … \0 libz.so.1 \0 /usr/lib/x86_64-linux-gnu/libz.so.1 \0 …
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::library::stamp;

const CACHE: &str = "/etc/ld.so.cache";

/// Most that is read of it, in bytes: those of large systems have a tenth.
const LONGEST: u64 = 8 << 20;

/// What the CUDA provider of ONNX Runtime 1.31 is linked to of CUDA 13, and which package
/// has it. cuFFT it opens for Fourier transforms alone, which no graph of ours has.
pub const CUDA: [(&str, &str); 4] = [
    ("libcudart.so.13", "cuda-cudart-13-0"),
    ("libcublas.so.13", "libcublas-13-0"),
    ("libcublasLt.so.13", "libcublas-13-0"),
    ("libcurand.so.10", "libcurand-13-0"),
];

/// What it opens when it begins to compute, and which package has it.
pub const CUDNN: (&str, &str) = ("libcudnn.so.9", "libcudnn9-cuda-13");

/// Which files these are, each by its place, size and time of change; empty where the
/// loader's cache has none.
pub(super) fn identity() -> Vec<String> {
    let mut cache = Vec::new();
    let read = File::open(CACHE).and_then(|file| file.take(LONGEST).read_to_end(&mut cache));
    if read.is_err() {
        return Vec::new();
    }
    files(&cache)
        .iter()
        .filter_map(|path| stamp(path))
        .collect()
}

/// The paths in a cache whose names are those of the libraries.
fn files(cache: &[u8]) -> Vec<PathBuf> {
    let texts = cache.split(|byte| *byte == 0);
    let paths = texts.filter(|text| text.first() == Some(&b'/'));
    let paths = paths.map(|path| Path::new(OsStr::from_bytes(path)));
    let wanted = |path: &&Path| {
        let mut names = CUDA.iter().chain([&CUDNN]);
        names.any(|(name, _)| path.file_name() == Some(OsStr::new(name)))
    };
    paths.filter(wanted).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_cache_says_where_they_are() {
        let cache = b"glibc-ld.so.cache1.1\x02\0\0\0libz.so.1\0/lib/libz.so.1\0libcudnn.so.9\0\
                      /usr/lib/libcudnn.so.9\0/usr/lib/libcudnn.so.9.1\0\
                      /usr/local/cuda/lib64/libcublas.so.13\0/usr/lib/libcublas";
        let found = files(cache);
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "/usr/lib/libcudnn.so.9",
                "/usr/local/cuda/lib64/libcublas.so.13"
            ]
        );
        assert!(files(b"").is_empty());
    }
}
