//! A fine-tune whose experts are floats, through the real backend: its own file of
//! experts is mapped, brought in and counted as the shards of a published model are.

use std::path::{Path, PathBuf};

use gptoss::engine::backend::Solo;
use gptoss::runtime::OrtBackend;
use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{self, Target};

use super::{harness, reference, transformers};

fn fine_tune(folder: &Path) -> PathBuf {
    let revision = folder.join("tune");
    transformers::save(&reference::folder().join("grid64"), &revision, 1, |_| ());
    let checkpoint = Checkpoint::open(&revision).unwrap();
    let out = revision.join("cpu");
    export::export(&checkpoint, Target::Cpu, &out, &mut |_, _| {}).unwrap();
    revision
}

#[test]
fn its_experts_are_mapped_and_mean_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let revision = fine_tune(folder.path());
    let options = || harness::whole(Target::Cpu, false);
    let mut original = harness::load("grid64", options());
    let backend = OrtBackend::load(&revision, options()).unwrap();

    let experts = revision.canonicalize().unwrap().join("cpu/experts.bin");
    let size = experts.metadata().unwrap().len();
    let mapped = mapped_bytes(&experts);
    assert!(mapped >= size, "{mapped} of {size} bytes are mapped");
    let report = backend.load_report().prefault.unwrap();
    assert_eq!(report.populated, report.mapped);
    assert!(report.mapped >= mapped, "{report:?}");

    let mut tuned = Solo::new(backend).unwrap();
    for case in reference::cases("grid64").iter().take(3) {
        let all =
            |backend: &mut _| harness::logits(backend, &case.ids, &case.positions, case.ids.len());
        assert_eq!(all(&mut tuned), all(&mut original));
    }
}

/// Bytes of a file that this process maps.
fn mapped_bytes(file: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_file = maps.lines().filter(|l| l.ends_with(file.to_str().unwrap()));
    let length = |line: &str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        number(end) - number(start)
    };
    of_file.map(length).sum()
}
