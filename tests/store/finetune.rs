//! Fine-tunes whose experts are floats: what the store says of them, proves, carries and
//! refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::Value;

use crate::harness::{NO_SPACE, VERIFICATION, World, limited, tree};
use crate::transformers::{self, Tensors};

const EXPERTS: &str = "cpu/experts.bin";
const DOWN: &str = "model.layers.1.mlp.experts.down_proj";

/// The small checkpoint as a fine-tune that changed nothing, or this.
fn fine_tune(world: &World, change: impl FnOnce(&mut Tensors)) -> PathBuf {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/grid64");
    let dir = world.path("tune");
    transformers::save(&published, &dir, 2, change);
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // Short rotary tables make an export of milliseconds.
    config["max_position_embeddings"] = 4096.into();
    fs::write(path, config.to_string()).unwrap();
    dir
}

/// Experts of deviation 0.1, which MXFP4 cannot hold.
fn retrained(tensors: &mut Tensors) {
    let tensor = tensors.get_mut(DOWN).unwrap();
    let values = (0..tensor.bytes.len() / 2).map(|i| bf16::from_f64((i as f64).sin() * 0.15));
    tensor.bytes = values.flat_map(bf16::to_le_bytes).collect();
}

fn import(world: &World, dir: &Path, target: &str) -> Value {
    let args = [
        "import",
        dir.to_str().unwrap(),
        "--target",
        target,
        "--json",
    ];
    world.ctl(&args).ok().json()
}

/// Sizes and digests of a target's files, by path.
fn target(manifest: &Value, target: &str) -> BTreeMap<String, (u64, String)> {
    let files = manifest["targets"][target].as_array().unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let entry = |f: &Value| {
        (
            text(&f["path"]),
            (f["size"].as_u64().unwrap(), text(&f["sha256"])),
        )
    };
    files.iter().map(entry).collect()
}

#[test]
fn it_is_installed_and_says_what_was_done_to_it() {
    let world = World::new();
    let dir = fine_tune(&world, retrained);
    let told = world.ctl(&["import", dir.to_str().unwrap()]).ok();
    let line = "the experts of cpu: quantized by the export from BF16 to MXFP4, 2 layers, relative";
    assert!(told.stderr.contains(line), "{}", told.stderr);
    let shown = world.ctl(&["show", "tune", "--json"]).ok().json();
    assert!(target(&shown, "cpu").contains_key(EXPERTS));
    let quantized = &shown["exports"]["cpu"]["quantized"];
    assert_eq!(
        (&quantized["from"], &quantized["to"]),
        (&"BF16".into(), &"MXFP4".into())
    );
    assert_eq!(quantized["layers"], 2);
    // One matrix of four has an error at all.
    let error = quantized["relative_rms_error"].as_f64().unwrap();
    assert!((0.001..0.12).contains(&error), "{error}");
    let people = world.ctl(&["show", "tune"]).ok().stdout;
    let line = format!(
        "experts    for cpu: quantized by the export from BF16 to MXFP4, 2 layers, \
         relative RMS error {error:.4}"
    );
    assert!(people.contains(&line), "{people}");

    world.ctl(&["verify", "tune"]).ok();
    let path = Path::new(shown["dir"].as_str().unwrap()).join(EXPERTS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let damaged = world.ctl(&["verify", "tune"]);
    assert!(
        damaged.stdout.contains(&format!("{EXPERTS}: wrong bytes")),
        "{damaged:?}"
    );
    damaged.fails(VERIFICATION, &["damaged"]);
}

#[test]
fn what_lost_nothing_says_so() {
    let world = World::new();
    let dir = fine_tune(&world, |_| ());
    import(&world, &dir, "cpu");
    let people = world.ctl(&["show", "tune"]).ok().stdout;
    let line =
        "experts    for cpu: quantized by the export from BF16 to MXFP4, 2 layers, without loss";
    assert!(people.contains(line), "{people}");
    // Of the published one nothing is said but this.
    world.pull(&[]).ok();
    let people = world.ctl(&["show", "tiny"]).ok().stdout;
    assert!(
        people.contains("experts    for cpu: the checkpoint's own bytes, MXFP4"),
        "{people}"
    );
    let shown = world.ctl(&["show", "tiny", "--json"]).ok().json();
    assert_eq!(shown["exports"]["cpu"]["quantized"], Value::Null);
}

#[test]
fn targets_come_and_go() {
    let world = World::new();
    let dir = fine_tune(&world, retrained);
    let first = import(&world, &dir, "portable");
    assert_eq!(first["exports"]["portable"]["quantized"]["to"], "int4");
    assert_eq!(first["exports"]["cpu"]["quantized"], Value::Null);
    let both = world
        .ctl(&["export", "tune", "--target", "cpu", "--json"])
        .ok()
        .json();
    assert_eq!(both["exports"]["cpu"]["quantized"]["to"], "MXFP4");
    assert_eq!(
        both["exports"]["portable"]["quantized"],
        first["exports"]["portable"]["quantized"]
    );
    let again = [
        "export",
        "tune",
        "--target",
        "cpu,portable",
        "--force",
        "--json",
    ];
    let again = world.ctl(&again).ok().json();
    assert_eq!(again["targets"], both["targets"], "the same bytes");
    for target in ["cpu", "portable"] {
        let quantized = |shown: &Value| shown["exports"][target]["quantized"].clone();
        assert_eq!(quantized(&again), quantized(&both));
    }
    world.ctl(&["verify", "tune"]).ok();
    world.ctl(&["gc"]).ok();
    world.ctl(&["verify", "tune"]).ok();
    world.ctl(&["rm", "tune"]).ok();
    world.assert_nothing_installed();
}

/// A bundle carries the fine-tune itself; the machine it comes to quantizes it again.
#[test]
fn a_bundle_gives_the_same_experts() {
    let world = World::new();
    let dir = fine_tune(&world, retrained);
    let here = import(&world, &dir, "cpu");
    let bundle = world.path("tune.tar");
    let bundle = bundle.to_str().unwrap();
    world.ctl(&["bundle", "create", "tune", "-o", bundle]).ok();
    let store = world.path("elsewhere");
    let store = store.to_str().unwrap();
    let there = ["--store", store, "bundle", "import", bundle, "--json"];
    let there = world.ctl(&there).ok().json();
    assert_eq!(target(&there, "cpu"), target(&here, "cpu"));
    let quantized = |shown: &Value| shown["exports"]["cpu"]["quantized"].clone();
    assert_eq!(quantized(&there), quantized(&here));
    world.ctl(&["--store", store, "verify", "tune"]).ok();
}

#[test]
fn it_is_pulled_like_any_other() {
    let origin = World::new();
    let dir = fine_tune(&origin, |_| ());
    let files = tree(&dir).into_iter().map(|(path, bytes)| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, bytes)
    });
    let world = World::with(files.collect());
    world.pull(&["--json"]).ok();
    world.assert_installed();
    assert!(world.model_dir().join(EXPERTS).is_file());
}

#[test]
fn a_plan_counts_the_experts_it_will_write() {
    let world = World::new();
    let published = world.checkpoint_dir("published", |_| ());
    let tune = fine_tune(&world, |_| ());
    let [before, after] = [published, tune].map(|dir| {
        let plan = world.ctl(&["plan", dir.to_str().unwrap(), "--json"]).ok();
        plan.json()["disk"]["exports"]["cpu"].as_u64().unwrap()
    });
    // Two layers of eight experts, 32 weights in 17 bytes.
    let experts = 2 * 8 * 3 * 64 * 96 / 32 * 17;
    assert!(
        (experts..2 * experts).contains(&(after - before)),
        "{before} {after}"
    );
}

#[test]
fn a_full_disk_leaves_nothing_half() {
    let world = World::new();
    let dir = fine_tune(&world, |_| ());
    import(&world, &dir, "portable");
    let before = world.installed();
    let args = ["export", "tune", "--target", "cpu"].map(str::to_owned);
    // Between the size of a part of experts.bin and that of what comes before.
    for kib in [0, 4, 100] {
        limited(&world, kib, &args).fails(NO_SPACE, &["the export failed", "cannot write"]);
        assert_eq!(world.installed(), before);
    }
    world.ctl(&["export", "tune", "--target", "cpu"]).ok();
    world.ctl(&["verify", "tune"]).ok();
}

/// Refused with these words, and nothing is left.
#[track_caller]
fn refused(words: &[&str], change: impl FnOnce(&mut Tensors)) {
    let world = World::new();
    let dir = fine_tune(&world, change);
    let outcome = world.ctl(&["import", dir.to_str().unwrap()]);
    outcome.fails(VERIFICATION, words);
    assert!(
        tree(&world.store()).is_empty(),
        "a refused import leaves nothing"
    );
}

#[test]
fn broken_ones_are_refused() {
    refused(
        &[DOWN, "[8, 96, 64]", "[8, 64, 96]", "config.json asks for"],
        |tensors| {
            tensors.get_mut(DOWN).unwrap().shape = vec![8, 64, 96];
        },
    );
    refused(&[DOWN, "missing"], |tensors| drop(tensors.remove(DOWN)));
    refused(&["layer 1", "no experts"], |tensors| {
        drop(tensors.remove(DOWN));
        drop(tensors.remove("model.layers.1.mlp.experts.gate_up_proj"));
    });
    refused(&["layer 1", "both as MXFP4 and as floats"], |tensors| {
        let bias = tensors[&format!("{DOWN}_bias")].clone();
        tensors.insert(format!("{DOWN}_scales"), bias);
    });
    refused(
        &[
            "layer 1",
            "no layout this program reads",
            "down_proj.0.weight",
        ],
        |tensors| {
            let weight = tensors.remove(DOWN).unwrap();
            tensors.insert(format!("{DOWN}.0.weight"), weight);
        },
    );
    refused(&[DOWN, "not finite at element 77"], |tensors| {
        let bytes = &mut tensors.get_mut(DOWN).unwrap().bytes;
        bytes[2 * 77..2 * 78].copy_from_slice(&bf16::NAN.to_le_bytes());
    });
}
