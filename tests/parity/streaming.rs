//! Experts on the disk: the same logits, bit for bit, whatever fits in memory.

use gptoss::engine::backend::{Solo, Wanted};
use gptoss::runtime::{ExpertMemory, Options, OrtBackend, RuntimeError};
use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{self, Target};
use gptoss_onnx::nano;

use super::harness;

/// Bytes that each expert of `grid64` takes in memory: four tensors, with what direct
/// reads add to each.
const SLOT: u64 = 12_288 + 3 * 8192;

fn streamed(memory: ExpertMemory, exact: bool) -> Options {
    Options {
        stream_experts: Some(memory),
        ..harness::whole(Target::Cpu, exact)
    }
}

/// Logits of every position: of a prompt at once, then token by token.
fn all_logits(backend: &mut Solo<OrtBackend>, vocabulary: u32) -> Vec<u32> {
    let prompt: Vec<u32> = (0..150).map(|i| i * 37 % vocabulary).collect();
    let positions: Vec<usize> = (0..prompt.len()).collect();
    let logits = backend.forward(&prompt, Wanted::At(&positions)).unwrap();
    let mut all: Vec<f32> = logits.values.to_vec();
    for token in 0..12 {
        let logits = backend.forward(&[token * 71 % vocabulary], Wanted::Last);
        all.extend_from_slice(logits.unwrap().values);
    }
    all.into_iter().map(f32::to_bits).collect()
}

#[test]
fn logits_are_the_same_to_the_bit() {
    for exact in [false, true] {
        let mut whole = harness::load("grid64", harness::whole(Target::Cpu, exact));
        let expected = all_logits(&mut whole, 1024);
        // Two experts of eight a layer, fewer than a token goes to; some; all.
        for slots in [2, 5, 16] {
            let options = streamed(ExpertMemory::Bytes(slots * SLOT), exact);
            let mut backend = harness::load("grid64", options);
            let report = backend.backend().load_report().streamed.unwrap();
            assert_eq!(report.experts, 16);
            assert_eq!((report.slots as u64, report.memory), (slots, slots * SLOT));
            assert!(all_logits(&mut backend, 1024) == expected, "{slots} slots");
            let stream = backend.backend().stream().unwrap();
            let counts = stream.counts();
            assert!(counts.wanted >= 13 * 2 * 4);
            if slots == 16 {
                assert_eq!(counts.hits, counts.wanted, "all were read ahead");
            } else {
                assert!(counts.hits < counts.wanted && counts.bytes > 0);
            }
            backend.rewind(0);
            assert!(all_logits(&mut backend, 1024) == expected, "once more");
        }
    }
}

/// The embedded model, written out as if it had been pulled.
#[test]
fn nano_says_the_same_from_the_disk() {
    harness::start();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in nano::files() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let out = folder.path().join("cpu");
    export::export(&checkpoint, Target::Cpu, &out, &mut |_, _| {}).unwrap();
    let load = |options| Solo::new(OrtBackend::load(folder.path(), options).unwrap()).unwrap();
    let expected = all_logits(&mut load(harness::whole(Target::Cpu, false)), 1280);
    let memory = ExpertMemory::Bytes(3 * 65_536);
    let mut backend = load(streamed(memory, false));
    assert!(backend.backend().load_report().streamed.unwrap().slots < 8);
    assert!(all_logits(&mut backend, 1280) == expected);
}

#[test]
fn what_cannot_be_streamed_is_said() {
    harness::start();
    let model = export::in_memory(&nano::checkpoint().unwrap(), Target::Cpu).unwrap();
    let options = streamed(ExpertMemory::Free, false);
    let error = OrtBackend::from_model(&model, None, &options)
        .err()
        .unwrap();
    assert!(error.to_string().contains("cannot be streamed"), "{error}");
    let portable = Options {
        target: Target::Portable,
        ..streamed(ExpertMemory::Free, false)
    };
    let folder = harness::revision("grid64", Target::Portable);
    let error = OrtBackend::load(&folder, portable).err().unwrap();
    assert!(matches!(error, RuntimeError::Model(_)), "{error}");
    let folder = harness::revision("grid64", Target::Cpu);
    let huge = streamed(ExpertMemory::Bytes(u64::MAX), false);
    OrtBackend::load(&folder, huge).unwrap();
    let tiny = streamed(ExpertMemory::Bytes(SLOT / 2), false);
    let error = OrtBackend::load(&folder, tiny).err().unwrap();
    assert!(error.to_string().contains("too little"), "{error}");
}

/// A checkpoint that is cut short under the running model.
#[test]
fn a_file_that_shrinks_is_an_error_of_the_run() {
    harness::start();
    let source = harness::revision("grid64", Target::Cpu);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("cpu")).unwrap();
    let copy = |below: &str| {
        for entry in std::fs::read_dir(source.join(below)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                let to = folder.path().join(below).join(from.file_name().unwrap());
                std::fs::copy(&from, to).unwrap();
            }
        }
    };
    copy("");
    copy("cpu");
    let options = Options {
        prefault: false,
        ..streamed(ExpertMemory::Bytes(2 * SLOT), false)
    };
    let backend = OrtBackend::load(folder.path(), options).unwrap();
    let mut backend = Solo::new(backend).unwrap();
    backend.forward(&[1, 2, 3], Wanted::Last).unwrap();
    // The layer's biases, which are mapped, lie before its gate and up projection.
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    let file = std::fs::File::options().write(true).open(shard).unwrap();
    file.set_len(40_960).unwrap();
    let tokens: Vec<u32> = (0..200).collect();
    let outcome = backend.forward(&tokens, Wanted::Last).map(|_| ());
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("model-00001-of-00002.safetensors"),
        "{error}"
    );
    assert_eq!(backend.length(), 3);
}
