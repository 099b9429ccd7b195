//! What an export writes, and what is refused.

use std::fs;
use std::path::Path;

use gptoss_onnx::checkpoint::{Checkpoint, CheckpointError};
use gptoss_onnx::export::{ExportError, ExportReport, ModelError, Target, export, read_model};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::synthetic::{Shape, make};

const INDEX: &str = "model.safetensors.index.json";

fn checkpoint_of(shape: &Shape) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    make(shape, dir.path());
    dir
}

fn sharded() -> TempDir {
    checkpoint_of(&Shape {
        shards: 3,
        ..Shape::default()
    })
}

fn shard(dir: &Path, i: usize) -> std::path::PathBuf {
    dir.join(format!("model-{i:05}-of-00002.safetensors"))
}

fn refusal(dir: &Path) -> String {
    match Checkpoint::open(dir) {
        Ok(_) => panic!("the checkpoint was accepted"),
        Err(error) => error.to_string(),
    }
}

fn export_to(dir: &Path, target: Target) -> ExportReport {
    let checkpoint = Checkpoint::open(dir).expect("sound");
    let mut last = (0, 0);
    let out = dir.join(target.name());
    let report = export(&checkpoint, target, &out, &mut |done, total| {
        last = (done, total)
    });
    assert!(last.0 > 0 && last.0 == last.1, "progress ends at {last:?}");
    report.expect("an export")
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let (first, second) = (sharded(), sharded());
    for target in Target::ALL {
        let a = export_to(first.path(), target);
        let b = export_to(second.path(), target);
        assert_eq!(a, b);
        // Again over an older export.
        assert_eq!(a, export_to(first.path(), target));
        for (name, size, sha256) in a.files {
            let bytes = fs::read(first.path().join(target.name()).join(name)).expect("a file");
            let digest = Sha256::digest(&bytes);
            let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!((size, sha256), (bytes.len() as u64, hex));
        }
    }
}

#[test]
fn an_export_says_in_which_form_its_weights_are() {
    let dir = sharded();
    let forms = |target| export_to(dir.path(), target).forms;
    let bytes_of = |target, word: &str| -> u64 {
        let fitting = forms(target).into_iter();
        fitting
            .filter(|f| f.name.contains(word))
            .map(|f| f.bytes)
            .sum()
    };
    // The experts, more than all else, are read where they were published.
    let in_place = bytes_of(Target::Cpu, "in place");
    let total: u64 = forms(Target::Cpu).iter().map(|f| f.bytes).sum();
    let dense = dir.path().join("cpu/dense.bin").metadata().expect("a file");
    assert!(in_place > 0 && bytes_of(Target::Cpu, "int8") > 0);
    assert!(total - in_place <= dense.len());
    assert_eq!(bytes_of(Target::Cpu, "int4"), 0);
    assert_eq!(bytes_of(Target::Portable, "in place"), 0);
    assert!(bytes_of(Target::Portable, "int4") > 0);
}

/// Digests of an export, fixed: another machine, or a later change that means
/// no change, must give the same bytes. A deliberate change of the graph or a
/// quantizer changes them; then the new ones are in this test's output.
#[test]
fn digests_are_those_of_this_version() {
    let grid64 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/grid64");
    let checkpoint = Checkpoint::open(&grid64).expect("sound");
    for (target, expected) in [
        (
            Target::Cpu,
            "9cd535f112eeb0b13c15660aab1aa7e9dc5a78fc06d2a6000e1b2b34ef3a3464",
        ),
        (
            Target::Portable,
            "e3cbcb24722afc56c6ef59db7c4edd9854a180a8930b2e0ccb3e5f3a2c42047b",
        ),
        (
            Target::Cuda,
            "fca981b474d1d5c7aefb9e96489cb24e855f2eadc322373cf87f32fee7b0fc46",
        ),
        (
            Target::CudaInt4,
            "97baaa53e041a5ec8559790fdc82c8296aa36b46284cc351ba4cdd32bbbe87ca",
        ),
    ] {
        let out = tempfile::tempdir().expect("a temporary folder");
        let report = export(&checkpoint, target, out.path(), &mut |_, _| ()).expect("an export");
        assert_eq!(report.files[0].2, expected, "{target}");
    }
}

#[test]
fn an_export_that_misses_files_is_refused() {
    let dir = sharded();
    export_to(dir.path(), Target::Cpu);
    let out = dir.path().join("cpu");
    assert!(read_model(&out).is_ok());

    let dense = out.join("dense.bin");
    let size = fs::metadata(&dense).expect("dense.bin").len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&dense)
        .expect("dense.bin");
    file.set_len(size - 1).expect("a shorter file");
    assert!(
        matches!(read_model(&out), Err(ModelError::Truncated { needed, .. }) if needed == size)
    );
    file.set_len(size).expect("a longer file");

    fs::remove_file(shard(dir.path(), 1)).expect("a shard to remove");
    let error = read_model(&out).expect_err("a shard is missing");
    assert!(
        error.to_string().contains("model-00001-of-00002"),
        "{error}"
    );

    fs::write(out.join("model.onnx"), b"no model").expect("a file");
    assert!(matches!(read_model(&out), Err(ModelError::Foreign { .. })));
    fs::write(out.join("model.onnx"), b"").expect("a file");
    assert!(matches!(read_model(&out), Err(ModelError::Foreign { .. })));
}

#[test]
fn an_unwritable_folder_is_named() {
    let dir = sharded();
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    let file = dir.path().join("config.json");
    let error = export(&checkpoint, Target::Cpu, &file, &mut |_, _| ());
    let Err(ExportError::Write { path, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(path, file);
}

#[test]
fn a_full_disk_is_named() {
    let dir = sharded();
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    for (target, name) in [
        (Target::Cpu, "dense.bin"),
        (Target::Portable, "weights.bin"),
        (Target::Cpu, "model.onnx"),
    ] {
        let out = tempfile::tempdir().expect("a temporary folder");
        let path = out.path().join(name);
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let error = export(&checkpoint, target, out.path(), &mut |_, _| ()).expect_err("full");
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains("No space left"),
            "{text}"
        );
    }
}

#[test]
fn damaged_shards_are_refused() {
    let dir = sharded();
    let path = shard(dir.path(), 1);
    let whole = fs::read(&path).expect("a shard");
    for keep in [0, 5, 60, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).expect("a file");
        let text = refusal(dir.path());
        assert!(
            text.contains("model-00001") && text.contains("truncated"),
            "{text}"
        );
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&path, longer).expect("a file");
    assert!(refusal(dir.path()).contains("damaged"));

    fs::remove_file(&path).expect("a shard to remove");
    assert!(refusal(dir.path()).contains("cannot read"));

    fs::write(&path, fs::read(shard(dir.path(), 0)).expect("a shard")).expect("a file");
    assert!(refusal(dir.path()).contains("is missing in model-00001-of-00002"));
}

#[test]
fn an_index_cannot_leave_the_folder() {
    let dir = sharded();
    let path = dir.path().join(INDEX);
    let index = fs::read_to_string(&path).expect("the index");
    let outside = tempfile::tempdir().expect("a temporary folder");
    let stolen = outside.path().join("x.safetensors");
    fs::copy(shard(dir.path(), 0), &stolen).expect("a file outside");
    let absolute = stolen.to_str().expect("a UTF-8 path");
    for bad in ["../x.safetensors", absolute, "a/../x.safetensors", "", "x"] {
        let edited = index.replace("model-00000-of-00002.safetensors", bad);
        fs::write(&path, edited).expect("the index");
        let text = refusal(dir.path());
        assert!(text.contains("plain"), "{bad:?}: {text}");
    }
    fs::write(&path, &index).expect("the index");
    fs::remove_file(shard(dir.path(), 0)).expect("a shard to remove");
    std::os::unix::fs::symlink(&stolen, shard(dir.path(), 0)).expect("a link");
    assert!(refusal(dir.path()).contains("outside"));
}

#[test]
fn tensors_must_be_all_there_and_no_others() {
    let dir = checkpoint_of(&Shape::default());
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).expect("a shard");
    let rename = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
        let header = std::str::from_utf8(&file[8..8 + length]).expect("JSON");
        assert!(header.contains(from), "{from}");
        let mut edited = file[..8].to_vec();
        edited.extend_from_slice(header.replacen(from, to, 1).as_bytes());
        edited.extend_from_slice(&file[8 + length..]);
        fs::write(&path, edited).expect("a file");
        refusal(dir.path())
    };
    let text = rename("self_attn.sinks", "self_attn.sunks");
    assert!(text.contains("self_attn.sinks is missing"), "{text}");
    let text = rename("[300,64]", "[64,300]");
    assert!(
        text.contains("[64, 300]") && text.contains("[300, 64]"),
        "{text}"
    );
    let text = rename("\"dtype\":\"BF16\"", "\"dtype\":\"I16\" ");
    assert!(text.contains("I16") && text.contains("BF16"), "{text}");
    let text = rename("\"dtype\":\"U8\"", "\"dtype\":\"I8\"");
    assert!(text.contains("I8") && text.contains("U8"), "{text}");

    edit_config(dir.path(), |config| config["num_hidden_layers"] = 1.into());
    edit_config(dir.path(), |config| {
        config["layer_types"] = serde_json::json!(["sliding_attention"]);
    });
    fs::write(&path, &file).expect("a file");
    let error = Checkpoint::open(dir.path()).err();
    assert!(
        matches!(error, Some(CheckpointError::UnexpectedTensor { .. })),
        "{error:?}"
    );
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).expect("config")).expect("JSON");
    edit(&mut config);
    fs::write(path, config.to_string()).expect("config");
}

#[test]
fn nan_scales_and_infinite_weights_are_refused() {
    let dir = checkpoint_of(&Shape::default());
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).expect("a shard");
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    let place = |name: &str| checkpoint.tensor(name).expect(name).offset as usize;

    let scales = "model.layers.1.mlp.experts.down_proj_scales";
    let mut edited = file.clone();
    edited[place(scales) + 3] = 255;
    fs::write(dir.path().join("x"), &edited).expect("a file");
    fs::rename(dir.path().join("x"), &path).expect("replaced");
    let text = refusal(dir.path());
    assert!(
        text.contains(scales) && text.contains("element 3"),
        "{text}"
    );

    for name in [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.mlp.router.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.mlp.experts.gate_up_proj_bias",
        "model.norm.weight",
    ] {
        let mut edited = file.clone();
        let at = place(name) + 2 * 5;
        edited[at..at + 2].copy_from_slice(&half::bf16::INFINITY.to_le_bytes());
        fs::write(dir.path().join("x"), &edited).expect("a file");
        fs::rename(dir.path().join("x"), &path).expect("replaced");
        let bad = Checkpoint::open(dir.path()).expect("dense values are checked later");
        let out = dir.path().join("cpu");
        let error = export(&bad, Target::Cpu, &out, &mut |_, _| ()).expect_err("not finite");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("element 5"), "{text}");
    }
}

/// int4 for CUDA is multiplied in float16, which must have a number for each weight.
#[test]
fn codes_beyond_float16_are_refused_where_it_computes() {
    let dir = checkpoint_of(&Shape::default());
    let path = dir.path().join("model.safetensors");
    let mut file = fs::read(&path).expect("a shard");
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    let (name, at) = ("model.layers.1.mlp.experts.down_proj", 3);
    let scales = checkpoint
        .tensor(&format!("{name}_scales"))
        .expect("scales");
    let row = scales.shape.last().copied().expect("dimensions");
    // Any code but zero is 2^16 and more.
    file[scales.offset as usize + at] = 127 + 17;
    fs::write(dir.path().join("x"), &file).expect("a file");
    fs::rename(dir.path().join("x"), &path).expect("replaced");
    let large = Checkpoint::open(dir.path()).expect("sound");
    let exported = |target: Target| {
        let out = dir.path().join(target.name());
        export(&large, target, &out, &mut |_, _| ()).map_err(|error| error.to_string())
    };
    let text = exported(Target::CudaInt4).expect_err("beyond float16");
    let element = at / row * row * 32 + at % row / 2 * 64;
    let told = format!("{name}_blocks is not finite at element {element}:");
    assert!(text.contains(&told), "{text}");
    assert!(exported(Target::Portable).is_ok());
}

#[test]
fn other_configurations_are_refused_with_a_reason() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 15] = [
        (
            |c| c["architectures"][0] = "LlamaForCausalLM".into(),
            "GptOssForCausalLM",
        ),
        (|c| c["model_type"] = "llama".into(), "gpt_oss"),
        (
            |c| c["quantization_config"]["quant_method"] = "awq".into(),
            "mxfp4",
        ),
        (
            |c| c["quantization_config"] = Value::Bool(true),
            "invalid type",
        ),
        (|c| c["rope_scaling"] = Value::Null, "rope_parameters"),
        (|c| c["hidden_size"] = 65.into(), "multiple of 32"),
        (|c| c["hidden_size"] = u64::MAX.into(), "hidden_size"),
        (|c| c["vocab_size"] = (1u64 << 40).into(), "vocab_size"),
        (|c| c["num_hidden_layers"] = (-1).into(), "invalid value"),
        (|c| c["num_key_value_heads"] = 3.into(), "must divide"),
        (|c| c["num_experts_per_tok"] = 5.into(), "exceeds"),
        (
            |c| c["layer_types"][0] = "linear_attention".into(),
            "linear_attention",
        ),
        (|c| c["rope_scaling"]["rope_type"] = "linear".into(), "yarn"),
        (|c| c["rope_scaling"]["factor"] = 0.5.into(), "factor"),
        (|c| c["hidden_act"] = "gelu".into(), "silu"),
    ];
    for (edit, reason) in cases {
        let dir = checkpoint_of(&Shape::default());
        edit_config(dir.path(), edit);
        let text = refusal(dir.path());
        assert!(
            text.contains("config.json") && text.contains(reason),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is wrong with the small files, opening says so or succeeds.
    #[test]
    fn mutated_files_never_panic(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let dir = sharded();
        let name = ["config.json", INDEX, "model-00001-of-00002.safetensors"][which];
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).expect("a file");
        // Of a shard, only the header is worth mutating.
        let reach = bytes.len().min(6000);
        for (at, value) in edits {
            bytes[at.index(reach)] = value;
        }
        fs::write(&path, bytes).expect("a file");
        if let Err(error) = Checkpoint::open(dir.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
