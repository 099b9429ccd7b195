//! Checkpoints whose experts are floats: quantized by the export, exact where they came
//! from MXFP4, as near as MXFP4 allows where not.

use std::fs;
use std::path::{Path, PathBuf};

use gptoss_onnx::checkpoint::{Checkpoint, ExpertFormat, float_layers};
use gptoss_onnx::export::{ExportError, ExportReport, Target, export, read_model, weight_bytes};
use gptoss_onnx::nano::{Golden, golden};
use gptoss_onnx::proto::{ModelProto, TensorProto};
use half::bf16;
use prost::Message;
use tempfile::TempDir;

use crate::host::{Feed, Host, Mode};
use crate::judge::Judge;
use crate::oracle::Oracle;
use crate::synthetic::{Random, Shape, config, make};
use crate::transformers::{self, Tensor, Tensors};

fn published(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match name {
        "nano" => root.join("nano"),
        other => root.join("../tests/parity").join(other),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The checkpoint as a fine-tune that changed nothing, or this.
fn fine_tune(name: &str, shards: usize, change: impl FnOnce(&mut Tensors)) -> TempDir {
    let dir = folder();
    transformers::save(&published(name), dir.path(), shards, change);
    dir
}

fn export_in(dir: &Path, target: Target) -> ExportReport {
    let checkpoint = Checkpoint::open(dir).expect("sound");
    let out = dir.join(target.name());
    export(&checkpoint, target, &out, &mut |_, _| ()).expect("an export")
}

/// Where a tensor of the exported graph lies, and its bytes.
fn stored(dir: &Path, target: Target, name: &str) -> (String, Vec<u8>) {
    let out = dir.join(target.name());
    let file = read_model(&out).expect("a sound export");
    let model = ModelProto::decode(file.bytes.as_slice()).expect("a model");
    let tensors = model.graph.expect("a graph").initializer;
    let of_name = |t: &&TensorProto| t.name.as_deref() == Some(name);
    let tensor = tensors.iter().find(of_name).expect(name);
    let value = |key: &str| {
        let mut entries = tensor.external_data.iter();
        let entry = entries.find(|e| e.key.as_deref() == Some(key)).expect(key);
        entry.value.clone().expect(key)
    };
    let number = |key: &str| value(key).parse::<usize>().expect("a number");
    let location = value("location");
    let bytes = fs::read(file.external_root.join(&location)).expect("a file of weights");
    let at = number("offset");
    let part = bytes[at..at + number("length")].to_vec();
    (location, part)
}

/// Names of the experts' matrices.
fn matrices(layers: usize) -> impl Iterator<Item = String> {
    (0..layers).flat_map(|layer| {
        ["gate_up_proj", "down_proj"].map(|part| format!("model.layers.{layer}.mlp.experts.{part}"))
    })
}

/// A block as numbers, and whether its largest code is 4 or 6.
fn values(block: &[u8], scale: u8) -> ([f64; 32], bool) {
    const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let code = |i: usize| block[i / 2] >> (4 * (i % 2)) & 15;
    let value = |i: usize| {
        let magnitude = MAGNITUDES[usize::from(code(i) & 7)];
        let sign = if code(i) & 8 == 0 { 1.0 } else { -1.0 };
        sign * magnitude * 2f64.powi(i32::from(scale) - 127)
    };
    let canonical = (0..32).any(|i| code(i) & 7 >= 6);
    (std::array::from_fn(value), canonical)
}

/// Weights that came from MXFP4 are in it again as they were; returns how many of all
/// blocks have other bytes for the same values.
fn come_back(name: &str, shards: usize) -> (usize, usize) {
    let original = transformers::read(&published(name));
    let dir = fine_tune(name, shards, |_| ());
    let report = export_in(dir.path(), Target::Cpu);
    let experts = report.experts.expect("experts were quantized");
    assert_eq!((experts.from.as_str(), experts.to), ("BF16", "MXFP4"));
    assert_eq!(experts.relative_rms_error, 0.0, "{name}");
    let names: Vec<&str> = report.files.iter().map(|f| f.0.as_str()).collect();
    assert_eq!(names, ["dense.bin", "experts.bin", "model.onnx"]);
    let (mut all, mut other) = (0, 0);
    for matrix in matrices(experts.layers) {
        let [blocks, scales] = ["blocks", "scales"].map(|part| {
            let name = format!("{matrix}_{part}");
            let (location, bytes) = stored(dir.path(), Target::Cpu, &name);
            assert_eq!(location, "cpu/experts.bin");
            assert_eq!(bytes.len(), original[&name].bytes.len());
            (original[&name].bytes.clone(), bytes)
        });
        let before = blocks.0.chunks_exact(16).zip(&scales.0);
        let after = blocks.1.chunks_exact(16).zip(&scales.1);
        for ((block, scale), (new_block, new_scale)) in before.zip(after) {
            let (was, canonical) = values(block, *scale);
            let (is, _) = values(new_block, *new_scale);
            assert_eq!(was.map(f64::to_bits), is.map(f64::to_bits), "{matrix}");
            let same = block == new_block && scale == new_scale;
            assert!(
                same || !canonical,
                "{matrix}: {block:?} {scale} {new_scale}"
            );
            all += 1;
            other += usize::from(!same);
        }
    }
    (all, other)
}

#[test]
fn weights_from_mxfp4_come_back() {
    assert_eq!(come_back("nano", 2).1, 0, "to the byte");
    // Blocks of zeros have any scale there.
    let (all, other) = come_back("grid64", 1);
    assert!(other <= 323 && all == 9216, "{other} of {all}");
    // Random codes, some blocks of which need a smaller exponent than they have.
    let (all, other) = come_back("rand96", 3);
    assert!(other <= 86 && all == 13824, "{other} of {all}");
}

/// The same model computes the same, whichever way its experts came.
#[test]
fn logits_are_those_of_the_original() {
    for name in ["nano", "grid64", "rand96"] {
        let dir = fine_tune(name, 2, |_| ());
        let ids: Vec<u32> = (0..150).map(|i| i * 7 % 500).collect();
        let positions = [0, 77, 149];
        for mode in [Mode::Shipped, Mode::Exact] {
            let mut hosts = [published(name), dir.path().to_owned()]
                .map(|dir| Host::export(&dir, Target::Cpu, mode, 160));
            for feed in [Feed::Whole, Feed::Chunks(1)] {
                let [original, ours] = &mut hosts;
                let expected = original.logits(&ids, &positions, feed);
                let rows = ours.logits(&ids, &positions, feed);
                assert_eq!(rows, expected, "{name}, {mode:?}, {feed:?}");
            }
        }
    }
}

#[test]
fn the_portable_target_takes_floats() {
    let dir = fine_tune("nano", 1, |_| ());
    let report = export_in(dir.path(), Target::Portable);
    let experts = report.experts.expect("experts were quantized");
    assert_eq!((experts.from.as_str(), experts.to), ("BF16", "int4"));
    let error = experts.relative_rms_error;
    assert!((0.01..0.08).contains(&error), "{error}");
    let golden = golden();
    let window = golden.ids.len();
    let mut host = Host::export(dir.path(), Target::Portable, Mode::Shipped, window);
    let rows = host.logits(&golden.ids, &golden.positions, Feed::Whole);
    let distance = golden.distance(rows.iter().map(Vec::as_slice));
    assert!(distance <= Golden::tolerance("cuda"), "{distance}");
}

/// The checkpoint as published, exported for `target`.
fn original(name: &str, target: Target) -> TempDir {
    let dir = folder();
    let checkpoint = Checkpoint::open(&published(name)).expect("sound");
    let out = dir.path().join(target.name());
    export(&checkpoint, target, &out, &mut |_, _| ()).expect("an export");
    dir
}

/// What target `cuda` holds of a matrix `[E, N, K]`, whose rows it has as columns.
fn columns(dir: &Path, matrix: &str, [experts, rows, inputs]: [usize; 3]) -> Vec<f64> {
    const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (_, codes) = stored(dir, Target::Cuda, &format!("{matrix}.weight_fp4"));
    let (_, scales) = stored(dir, Target::Cuda, &format!("{matrix}_scales"));
    assert_eq!(codes.len(), experts * rows * inputs / 2);
    assert_eq!(scales.len(), experts * rows * inputs / 32);
    let mut values = Vec::with_capacity(experts * rows * inputs);
    for at in 0..experts * rows {
        let (expert, row) = (at / rows, at % rows);
        for input in 0..inputs {
            let byte = codes[(expert * inputs + input) * rows / 2 + row / 2];
            let code = byte >> (row % 2 * 4) & 15;
            let scale = scales[(expert * rows + row) * inputs / 32 + input / 32];
            let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
            let magnitude = MAGNITUDES[usize::from(code & 7)];
            values.push(sign * magnitude * 2f64.powi(i32::from(scale) - 127));
        }
    }
    values
}

#[test]
fn the_targets_for_cuda_take_floats() {
    let dir = fine_tune("nano", 1, |_| ());
    let report = export_in(dir.path(), Target::Cuda);
    let experts = report.experts.expect("experts were quantized");
    assert_eq!((experts.to, experts.relative_rms_error), ("MXFP4", 0.0));
    let report = export_in(dir.path(), Target::CudaInt4);
    let experts = report.experts.expect("experts were quantized");
    let error = experts.relative_rms_error;
    assert!(
        experts.to == "int4" && (0.01..0.1).contains(&error),
        "{error}"
    );
    let before = [Target::Cuda, Target::CudaInt4].map(|target| original("nano", target));
    let checkpoint = Checkpoint::open(&published("nano")).expect("sound");
    let config = checkpoint.config();
    for matrix in matrices(config.layers) {
        let shape = match matrix.ends_with("down_proj") {
            true => [config.experts, config.hidden_size, config.intermediate_size],
            false => [
                config.experts,
                2 * config.intermediate_size,
                config.hidden_size,
            ],
        };
        // Where they were: the codes, as numbers; what int4 makes of these.
        let found = columns(dir.path(), &matrix, shape);
        assert_eq!(found, columns(before[0].path(), &matrix, shape), "{matrix}");
        let blocks = checkpoint
            .tensor(&format!("{matrix}_blocks"))
            .expect("blocks")
            .bytes;
        let scales = checkpoint
            .tensor(&format!("{matrix}_scales"))
            .expect("scales")
            .bytes;
        let each = blocks.chunks_exact(16).zip(scales);
        let published: Vec<f64> = each
            .flat_map(|(block, scale)| values(block, *scale).0)
            .collect();
        assert_eq!(found, published, "{matrix}");
        for part in [".weight_q4", ".scale"] {
            let name = format!("{matrix}{part}");
            let (_, now) = stored(dir.path(), Target::CudaInt4, &name);
            let (_, then) = stored(before[1].path(), Target::CudaInt4, &name);
            assert_eq!(now, then, "{name}");
        }
    }
}

#[test]
fn layers_may_differ() {
    let dir = fine_tune("grid64", 2, |tensors| {
        let original = transformers::read(&published("grid64"));
        tensors.retain(|name, _| !name.starts_with("model.layers.0.mlp.experts"));
        let first = |name: &String| name.starts_with("model.layers.0.mlp.experts");
        tensors.extend(original.into_iter().filter(|(name, _)| first(name)));
    });
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    assert_eq!(
        checkpoint.experts(),
        [ExpertFormat::Mxfp4, ExpertFormat::Float]
    );
    let floats = float_layers(dir.path(), checkpoint.config()).expect("sound");
    assert_eq!(floats, 1);
    assert_eq!(
        export_in(dir.path(), Target::Cpu)
            .experts
            .expect("one")
            .layers,
        1
    );
    let blocks = "model.layers.0.mlp.experts.down_proj_blocks";
    let (location, _) = stored(dir.path(), Target::Cpu, blocks);
    assert!(location.ends_with(".safetensors"), "in place: {location}");
    let ids: Vec<u32> = (0..40).collect();
    let [expected, rows] = [published("grid64"), dir.path().to_owned()].map(|dir| {
        let mut host = Host::export(&dir, Target::Cpu, Mode::Shipped, 64);
        host.logits(&ids, &[5, 39], Feed::Whole)
    });
    assert_eq!(rows, expected);
}

/// Every float type, for every tensor: bfloat16 fits into all of them here.
#[test]
fn other_float_types_give_the_same_model() {
    let dir = fine_tune("nano", 1, |_| ());
    let expected = export_in(dir.path(), Target::Cpu);
    let golden = golden();
    let logits = |dir: &Path| {
        let mut host = Host::export(dir, Target::Cpu, Mode::Shipped, golden.ids.len());
        host.logits(&golden.ids, &golden.positions, Feed::Whole)
    };
    let rows = logits(dir.path());
    let wide = fine_tune("nano", 1, |tensors| transformers::convert(tensors, "F32"));
    let report = export_in(wide.path(), Target::Cpu);
    assert_eq!(report.files[1], expected.files[1], "experts.bin");
    assert_eq!(report.experts.expect("quantized").from, "F32");
    assert_eq!(logits(wide.path()), rows);
    let bias = "model.layers.0.mlp.experts.down_proj_bias";
    let original = &transformers::read(&published("nano"))[bias].bytes;
    let (location, bytes) = stored(wide.path(), Target::Cpu, bias);
    assert_eq!((location.as_str(), &bytes), ("cpu/dense.bin", original));

    // float16 has no room for the smallest weights.
    let half = fine_tune("nano", 1, |tensors| transformers::convert(tensors, "F16"));
    let report = export_in(half.path(), Target::Cpu);
    assert_eq!(report.experts.expect("quantized").from, "F16");
    let near = logits(half.path());
    assert!(golden.distance(near.iter().map(Vec::as_slice)) <= Golden::tolerance("cpu"));
}

/// A fine-tune that MXFP4 cannot hold: random experts, everything else lossless.
fn off_the_grid(dir: &Path, seed: u64) -> Shape {
    let shape = Shape {
        hidden: 96,
        intermediate: 160,
        experts: 6,
        seed,
        ..Shape::default()
    };
    let grid = folder();
    make(&shape, grid.path());
    let mut random = Random::new(seed);
    transformers::save(grid.path(), dir, 1, |tensors| {
        let experts = |name: &str| name.ends_with("_proj") && name.contains("experts");
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| experts(name)) {
            let level = 2.0 / (tensor.shape[1] as f64).sqrt();
            let normal = || (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0;
            let mut normal = normal;
            let count = tensor.bytes.len() / 2;
            let values = (0..count).map(|_| bf16::from_f64(level * normal()));
            tensor.bytes = values.flat_map(bf16::to_le_bytes).collect();
        }
    });
    shape
}

/// The checkpoint in the published layout that holds what an export made of a fine-tune.
fn as_published(tune: &Path, shape: &Shape, dir: &Path) {
    let mut tensors = transformers::read(tune);
    for matrix in matrices(shape.layers) {
        let float = tensors.remove(&matrix).expect("experts");
        let [experts, inputs, outputs] = float.shape[..] else {
            panic!("{:?}", float.shape)
        };
        let shapes = [
            vec![experts, outputs, inputs / 32, 16],
            vec![experts, outputs, inputs / 32],
        ];
        for (part, shape) in ["blocks", "scales"].into_iter().zip(shapes) {
            let name = format!("{matrix}_{part}");
            let (_, bytes) = stored(tune, Target::Cpu, &name);
            let dtype = "U8".into();
            tensors.insert(
                name,
                Tensor {
                    dtype,
                    shape,
                    bytes,
                },
            );
        }
    }
    transformers::write(&tensors, 1, dir);
    fs::write(dir.join("config.json"), config(shape).to_string()).expect("config.json");
}

#[test]
fn experts_off_the_grid_are_as_near_as_it_allows() {
    let (tune, quantized) = (folder(), folder());
    let shape = off_the_grid(tune.path(), 5);
    let report = export_in(tune.path(), Target::Cpu);
    let error = report.experts.expect("quantized").relative_rms_error;
    assert!((0.10..0.12).contains(&error), "{error}");
    as_published(tune.path(), &shape, quantized.path());

    // The graph over these weights means what the architecture does.
    let ids: Vec<u32> = (0..100).map(|i| i * 13 % 300).collect();
    let positions = [0, 20, 60, 99];
    let oracle = Oracle::open(quantized.path());
    let expected = oracle.logits(&ids, &positions);
    assert!(oracle.narrowest_choice() > 2e-5, "choose another seed");
    let mut host = Host::export(tune.path(), Target::Cpu, Mode::Exact, 128);
    let mut judge = Judge::default();
    let rows = host.logits(&ids, &positions, Feed::Whole);
    for (reference, row) in expected.iter().zip(&rows) {
        judge.row(reference, row);
    }
    judge.figures().assert_exact("off the grid");

    // And they are the fine-tune's own, but for that error.
    let unquantized = Oracle::open(tune.path()).logits(&ids, &positions);
    let mut judge = Judge::default();
    for (reference, row) in unquantized.iter().zip(&rows) {
        judge.row(reference, row);
    }
    let figures = judge.figures();
    assert!(
        figures.median_kl < 0.2 && figures.max_difference > 5e-3,
        "{figures:?}"
    );
}

#[test]
fn the_same_fine_tune_gives_the_same_bytes() {
    let (first, second) = (folder(), folder());
    for dir in [&first, &second] {
        off_the_grid(dir.path(), 9);
    }
    for target in Target::ALL {
        let report = export_in(first.path(), target);
        assert_eq!(report, export_in(second.path(), target));
        let checkpoint = Checkpoint::open(first.path()).expect("sound");
        let written: u64 = report.files.iter().map(|f| f.1).sum();
        let told = weight_bytes(&checkpoint, target);
        assert!(
            told <= written && written < told + told / 4,
            "{told} {written}"
        );
    }
}

fn refusal(change: impl FnOnce(&mut Tensors)) -> String {
    let dir = fine_tune("grid64", 1, change);
    match Checkpoint::open(dir.path()) {
        Ok(_) => panic!("the checkpoint was accepted"),
        Err(error) => error.to_string(),
    }
}

const DOWN: &str = "model.layers.1.mlp.experts.down_proj";

#[test]
fn broken_fine_tunes_are_refused() {
    // The published orientation, where transformers' is the transpose.
    let text = refusal(|tensors| {
        let name = "model.layers.1.mlp.experts.gate_up_proj";
        tensors.get_mut(name).expect("experts").shape.swap(1, 2);
    });
    assert!(
        text.contains("[8, 192, 64]") && text.contains("[8, 64, 192]"),
        "{text}"
    );
    let text = refusal(|tensors| drop(tensors.remove(DOWN)));
    assert!(text.contains(DOWN) && text.contains("missing"), "{text}");
    let text = refusal(|tensors| drop(tensors.remove(&format!("{DOWN}_bias"))));
    assert!(text.contains("down_proj_bias is missing"), "{text}");
    let text = refusal(|tensors| {
        let original = transformers::read(&published("grid64"));
        let blocks = format!("{DOWN}_blocks");
        tensors.insert(blocks.clone(), original[&blocks].clone());
    });
    assert!(text.contains("layer 1") && text.contains("both"), "{text}");
    let text = refusal(|tensors| {
        let split = tensors.remove(DOWN).expect("experts");
        tensors.insert(
            "model.layers.1.mlp.experts.down_projs.0.weight".into(),
            split,
        );
    });
    assert!(
        text.contains("layer 1") && text.contains("down_projs.0.weight"),
        "{text}"
    );
    let text = refusal(|tensors| {
        let tensor = tensors.get_mut(DOWN).expect("experts");
        tensor.dtype = "F8_E4M3".into();
        tensor.bytes.truncate(tensor.bytes.len() / 2);
    });
    assert!(
        text.contains("F8_E4M3") && text.contains("BF16, F16 or F32"),
        "{text}"
    );
}

#[test]
fn infinities_and_nan_are_named() {
    for (value, target) in [
        (bf16::NAN, Target::Cpu),
        (bf16::NEG_INFINITY, Target::Portable),
    ] {
        let dir = fine_tune("grid64", 1, |tensors| {
            let bytes = &mut tensors.get_mut(DOWN).expect("experts").bytes;
            bytes[2 * 9000..2 * 9001].copy_from_slice(&value.to_le_bytes());
        });
        let checkpoint = Checkpoint::open(dir.path()).expect("values are looked at later");
        let out = dir.path().join(target.name());
        let error = export(&checkpoint, target, &out, &mut |_, _| ()).expect_err("not finite");
        assert!(
            matches!(&error, ExportError::NonFinite { index: 9000, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(DOWN), "{error}");
    }
    // Finite in float32, not in bfloat16, which the biases of experts are rounded to.
    let name = format!("{DOWN}_bias");
    let dir = fine_tune("grid64", 1, |tensors| {
        transformers::convert(tensors, "F32");
        let bytes = &mut tensors.get_mut(&name).expect("biases").bytes;
        bytes[12..16].copy_from_slice(&f32::MAX.to_le_bytes());
    });
    let checkpoint = Checkpoint::open(dir.path()).expect("values are looked at later");
    let error = export(
        &checkpoint,
        Target::Cpu,
        &dir.path().join("cpu"),
        &mut |_, _| (),
    );
    let text = error.expect_err("too large").to_string();
    assert!(text.contains(&name) && text.contains("element 3"), "{text}");
}

#[test]
fn a_full_disk_is_named() {
    let dir = fine_tune("grid64", 1, |_| ());
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    let out = folder();
    let path = out.path().join("experts.bin");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let error = export(&checkpoint, Target::Cpu, out.path(), &mut |_, _| ()).expect_err("full");
    let text = error.to_string();
    assert!(
        text.contains("experts.bin") && text.contains("No space left"),
        "{text}"
    );
}

/// What an export will write is known from the small files, or from the header of the
/// only shard, or from config.json alone.
#[test]
fn floats_are_foreseen() {
    let count = |dir: &Path| {
        let checkpoint = Checkpoint::open(dir).expect("sound");
        float_layers(dir, checkpoint.config()).expect("sound")
    };
    assert_eq!(count(&published("nano")), 0);
    let sharded = fine_tune("grid64", 2, |_| ());
    let single = fine_tune("grid64", 1, |_| ());
    assert_eq!((count(sharded.path()), count(single.path())), (2, 2));
    let checkpoint = Checkpoint::open(single.path()).expect("sound");
    fs::remove_file(single.path().join("model.safetensors")).expect("the shard");
    let foreseen = float_layers(single.path(), checkpoint.config()).expect("sound");
    assert_eq!(foreseen, 2);
}
