//! Brings mapped weights into memory before the first token needs them.
//!
//! ONNX Runtime maps each expert tensor from the checkpoint's own file, and what was
//! quantized, experts of a fine-tune among it, from the export's. A page
//! that is touched for the first time in the middle of a token costs a fault,
//! and a read from the disk where the page cache is cold; reading them ahead,
//! in order and from several threads, costs a fraction of that.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gptoss_onnx::export::EXPERTS_FILE;
use rustix::mm::{Advice, madvise};

/// What was brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefaultReport {
    /// Bytes mapped from the model's files.
    pub mapped: u64,
    /// Bytes of them that are now in memory and in this process's page tables.
    pub populated: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Bytes one thread asks for at a time; small enough to share the work evenly,
/// large enough that a disk sees long reads.
const SLICE: usize = 32 << 20;

/// One mapping: address and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    start: usize,
    length: usize,
}

/// Which weights are brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// All but experts, which are streamed.
    Dense,
}

/// Populates every mapping of a weights file in `folder` or in a folder of an
/// export in it, as far as it belongs to `part`, from `threads` threads, as far as `budget`
/// bytes go (the rest is left to be read on
/// demand).
pub fn mapped_weights(folder: &Path, part: Part, threads: usize, budget: u64) -> PrefaultReport {
    let started = Instant::now();
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return read_ahead(&folder, part, budget, started);
    };
    let regions = weight_regions(&maps, &folder, part);
    let mapped = regions.iter().map(|region| region.length as u64).sum();
    let slices = slices(&regions, budget);
    let populated = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, slices.len().max(1)) {
            scope.spawn(|| {
                while let Some(slice) = slices.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if populate(*slice) {
                        populated.fetch_add(slice.length as u64, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    PrefaultReport {
        mapped,
        populated: populated.into_inner(),
        duration: started.elapsed(),
    }
}

/// Asks for the files themselves, where the system does not tell what is mapped where.
/// How much of them came is then unknown, and counts as nothing.
fn read_ahead(folder: &Path, part: Part, budget: u64, started: Instant) -> PrefaultReport {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let inside = entries(folder).flat_map(|export| entries(&export.path()));
    let files = entries(folder).chain(inside).map(|entry| entry.path());
    let (mut mapped, mut left) = (0, budget);
    for path in files.filter(|path| is_weights(path, folder, part)) {
        let Ok(file) = std::fs::File::open(&path) else {
            continue;
        };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        mapped += length;
        if crate::platform::reads_soon(&file, length.min(left)) {
            left -= length.min(left);
        }
    }
    PrefaultReport {
        mapped,
        populated: 0,
        duration: started.elapsed(),
    }
}

/// Whether it is one of `FOLDER/*.safetensors` and `FOLDER/*/*.bin`; of the latter one
/// that holds no experts, and of the former none, if these are not wanted.
fn is_weights(file: &Path, folder: &Path, part: Part) -> bool {
    let parent = match file.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") if part == Part::All => file.parent(),
        Some("bin") if part == Part::All || file.file_name() != Some(EXPERTS_FILE.as_ref()) => {
            file.parent().and_then(Path::parent)
        }
        _ => None,
    };
    parent == Some(folder)
}

/// The readable mappings of weights' files.
fn weight_regions(maps: &str, folder: &Path, part: Part) -> Vec<Region> {
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(6, ' ');
            let (start, end) = fields.next()?.split_once('-')?;
            let readable = fields.next()?.starts_with('r');
            let ours = is_weights(Path::new(fields.nth(3)?.trim_start()), folder, part);
            let start = usize::from_str_radix(start, 16).ok()?;
            let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
            (readable && ours).then_some(Region { start, length })
        })
        .collect()
}

fn slices(regions: &[Region], budget: u64) -> Vec<Region> {
    let mut left = usize::try_from(budget).unwrap_or(usize::MAX);
    let mut slices = Vec::new();
    for region in regions {
        let mut offset = 0;
        while offset < region.length && left > 0 {
            let length = SLICE.min(region.length - offset).min(left);
            slices.push(Region {
                start: region.start + offset,
                length,
            });
            offset += length;
            left -= length;
        }
    }
    slices
}

fn populate(region: Region) -> bool {
    let address = region.start as *mut std::ffi::c_void;
    // SAFETY: this advice only maps pages for reading, it changes no content
    // and no protection. An address that is no longer mapped gives an error.
    let populate = unsafe { madvise(address, region.length, crate::platform::POPULATE) };
    // Kernels before 5.14 do not know it; they can at least read ahead.
    // SAFETY: as above; this one does not even touch the page tables.
    populate.is_ok() || unsafe { madvise(address, region.length, Advice::WillNeed) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_weights_count() {
        let maps = "\
7f0000000000-7f0000002000 rw-p 00001000 fe:01 12 /store/m/model-0 1.safetensors
7f0000002000-7f0000003000 r--p 00000000 fe:01 12 /store/m/model-2.safetensors
7f0000003000-7f0000004000 ---p 00000000 fe:01 12 /store/m/model-3.safetensors
7f0000004000-7f0000005000 r--p 00000000 fe:01 12 /store/m/cpu/model-4.safetensors
7f0000004000-7f0000005000 r--p 00000000 fe:01 12 /store/m/other.bin
7f0000008000-7f0000009000 r--p 00000000 fe:01 12 /store/m/cpu/dense.bin
7f0000009000-7f000000d000 r--p 00000000 fe:01 12 /store/m/cpu/experts.bin
7f0000005000-7f0000006000 r--p 00000000 fe:01 12 /store/m/tokenizer.json
7f0000006000-7f0000007000 rw-p 00000000 00:00 0 [heap]
7f0000007000-7f0000008000 rw-p 00000000 00:00 0 
";
        let found = |part| weight_regions(maps, Path::new("/store/m"), part);
        let expected = [
            (0x7f0000000000, 0x2000),
            (0x7f0000002000, 0x1000),
            (0x7f0000008000, 0x1000),
            (0x7f0000009000, 0x4000),
        ]
        .map(|(start, length)| Region { start, length });
        assert_eq!(found(Part::All), expected);
        assert_eq!(found(Part::Dense), expected[2..3]);
    }

    #[test]
    fn files_are_asked_for_where_mappings_are_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, length| {
            std::fs::write(folder.path().join(name), vec![0; length]).unwrap();
        };
        std::fs::create_dir(folder.path().join("cpu")).unwrap();
        write("a.safetensors", 5000);
        write("cpu/dense.bin", 300);
        write("other.bin", 1);
        let report = read_ahead(folder.path(), Part::All, 4096, Instant::now());
        assert_eq!((report.mapped, report.populated), (5300, 0));
    }

    #[test]
    fn slices_cover_the_regions_up_to_the_budget() {
        let region = |start, length| Region { start, length };
        let regions = [region(0, SLICE + 10), region(1 << 40, 5)];
        assert_eq!(
            slices(&regions, u64::MAX),
            [region(0, SLICE), region(SLICE, 10), region(1 << 40, 5)]
        );
        assert_eq!(
            slices(&regions, SLICE as u64 + 12),
            [region(0, SLICE), region(SLICE, 10), region(1 << 40, 2)]
        );
        assert_eq!(slices(&regions, 0), []);
    }

    #[test]
    fn a_mapped_shard_is_populated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, vec![1u8; 3 << 20]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: the file is this test's own and nobody changes it.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let report = mapped_weights(folder.path(), Part::All, 2, u64::MAX);
        assert_eq!((report.mapped, report.populated), (3 << 20, 3 << 20));
        assert_eq!(map[(3 << 20) - 1], 1);
    }
}
