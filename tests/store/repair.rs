//! `verify --repair`: it brings back what is broken and nothing else, and every file
//! is the old one or the right one at every moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::time::Instant;

use gptoss::model::InUse;
use serde_json::{Value, json};

use crate::bundle::create;
use crate::harness::{
    FAILED, NO_SPACE, NOT_FOUND, Outcome, Random, SHARDS, TINY, USAGE, VERIFICATION, World,
    limited, tree,
};
use crate::mirror::Effect;

const REPAIR: [&str; 3] = ["verify", "--repair", TINY];

/// A world with the small checkpoint installed, and its files but for the manifest,
/// which tells times.
fn world() -> (World, BTreeMap<PathBuf, Vec<u8>>) {
    let world = World::new();
    world.pull(&[]).ok();
    world.mirror.take_served();
    let sound = files(&world);
    (world, sound)
}

fn files(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = world.installed();
    // A kill may leave the manifest that was being written, which is nobody's.
    files.retain(|path, _| !path.ends_with("manifest.json") && !path.ends_with("manifest.new"));
    files
}

/// Changes an installed file's bytes.
fn damage(world: &World, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = world.model_dir().join(file);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn flip(at: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at] ^= 1
}

fn repair(world: &World, more: &[&str]) -> Outcome {
    world.ctl(&[&REPAIR, more].concat())
}

/// How a file was repaired and how many of its bytes were brought.
fn mended<'a>(verdict: &'a Value, path: &str) -> (&'a str, u64) {
    let files = verdict["repair"]["files"].as_array().unwrap();
    let file = files.iter().find(|f| f["path"] == path);
    let file = file.unwrap_or_else(|| panic!("{path} was not repaired: {verdict}"));
    (
        file["how"].as_str().unwrap(),
        file["fetched"].as_u64().unwrap(),
    )
}

/// The model is what it was, and nothing is left over.
#[track_caller]
fn assert_whole(world: &World, sound: &BTreeMap<PathBuf, Vec<u8>>) {
    assert!(files(world) == *sound, "not repaired");
    world.assert_installed();
}

#[test]
fn only_what_is_broken_is_brought() {
    let (world, sound) = world();
    let size = |file: &str| world.files[file].len() as u64;
    damage(&world, SHARDS[0], |bytes| bytes.truncate(200_000));
    damage(&world, SHARDS[1], flip(100_000));
    damage(&world, SHARDS[2], |bytes| bytes.extend(b"more"));
    damage(&world, "cpu/dense.bin", flip(77));
    fs::remove_file(world.model_dir().join("tokenizer.json")).unwrap();
    fs::remove_file(world.model_dir().join("config.json")).unwrap();
    fs::create_dir(world.model_dir().join("config.json")).unwrap();
    let verdict = repair(&world, &["--json"]).ok().json();
    assert_eq!(verdict["sound"], true);
    assert_whole(&world, &sound);

    let fetched = [SHARDS[0], SHARDS[1], "tokenizer.json", "config.json"];
    let expected = [
        size(SHARDS[0]) - 200_000,
        size(SHARDS[1]),
        size("tokenizer.json"),
        size("config.json"),
    ];
    for (file, bytes) in fetched.into_iter().zip(expected) {
        assert_eq!(mended(&verdict, file), ("fetched", bytes), "{file}");
    }
    assert_eq!(mended(&verdict, SHARDS[2]), ("kept", 0));
    assert_eq!(mended(&verdict, "cpu/dense.bin"), ("exported", 0));
    let total: u64 = expected.iter().sum();
    assert_eq!(verdict["repair"]["fetched"], total);
    // The mirror says the same.
    let served = world.mirror.take_served();
    assert_eq!(served.iter().map(|s| s.bytes).sum::<u64>(), total);
    for again in served {
        let start = if again.file == SHARDS[0] { 200_000 } else { 0 };
        assert!(fetched.contains(&&*again.file), "{}", again.file);
        assert_eq!(again.start, start, "{}", again.file);
    }
    // There is nothing to do any more.
    let verdict = repair(&world, &["--json"]).ok().json();
    assert!(verdict["repair"].is_null());
    assert!(world.mirror.take_served().is_empty());
}

#[test]
fn a_beginning_that_is_wrong_is_not_kept() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], |bytes| {
        bytes.truncate(200_000);
        bytes[50] ^= 1;
    });
    let told = repair(&world, &[]).ok();
    assert!(told.stderr.contains("from the start"), "{}", told.stderr);
    assert_whole(&world, &sound);
}

#[test]
fn blocks_that_were_never_written_are_fetched_alone() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], |bytes| bytes[150_001..].fill(0));
    let verdict = repair(&world, &["--json"]).ok().json();
    let (how, fetched) = mended(&verdict, SHARDS[0]);
    let missing = world.files[SHARDS[0]].len() as u64 - 150_001;
    // A zero more or less may have been there.
    assert_eq!(how, "fetched");
    assert!((missing..missing + 64).contains(&fetched), "{fetched}");
    assert_whole(&world, &sound);
}

#[test]
fn a_source_that_lies_replaces_nothing() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], flip(9));
    damage(&world, SHARDS[1], |bytes| bytes.truncate(1000));
    let before = files(&world);
    for effect in [
        Effect::Corrupt(5000),
        Effect::Shorter(100),
        Effect::Longer(3),
    ] {
        for file in [SHARDS[0], SHARDS[1]] {
            world.mirror.fault(file, 9, effect.clone());
        }
        let outcome = repair(&world, &["--json"]);
        let verdict = outcome.json();
        outcome.fails(VERIFICATION, &["safetensors"]);
        assert_eq!(verdict["sound"], false);
        assert!(files(&world) == before, "{effect:?}");
        world.mirror.heal();
    }
    repair(&world, &[]).ok();
    assert_whole(&world, &sound);
}

#[test]
fn exports_come_from_the_checkpoint_itself() {
    let world = World::new();
    world.pull(&["--target", "cpu,portable"]).ok();
    let sound = files(&world);
    let requests = world.mirror.requests();
    fs::remove_dir_all(world.model_dir().join("cpu")).unwrap();
    damage(&world, "portable/model.onnx", |bytes| bytes.truncate(10));
    let verdict = repair(&world, &["--json", "--offline"]).ok().json();
    for file in ["cpu/model.onnx", "cpu/dense.bin", "portable/model.onnx"] {
        assert_eq!(mended(&verdict, file), ("exported", 0));
    }
    assert_eq!(verdict["repair"]["from"], Value::Null);
    assert_eq!(world.mirror.requests(), requests);
    assert_whole(&world, &sound);
}

#[test]
fn another_export_than_the_recorded_one_is_not_taken() {
    let (world, _) = world();
    // As a version that exports something else would have recorded it.
    let manifest = world.model_dir().join("manifest.json");
    let mut recorded: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    recorded["targets"]["cpu"][0]["sha256"] = json!("0".repeat(64));
    fs::write(&manifest, recorded.to_string()).unwrap();
    let before = world.installed();
    repair(&world, &[]).fails(
        VERIFICATION,
        &["is not the one that was recorded", "--force"],
    );
    assert!(world.installed() == before);
    assert!(tree(&world.staging_dir()).is_empty());
    world
        .ctl(&["export", TINY, "--target", "cpu", "--force"])
        .ok();
    world.assert_installed();
}

#[test]
fn a_machine_without_a_network_names_a_folder_or_a_bundle() {
    let (world, sound) = world();
    let bundle = world.path("b.tar");
    create(&world, &bundle, &[]).ok();
    let folder = world.checkpoint_dir("copy", |_| ());
    let other = world.checkpoint_dir("other", |files| {
        files.get_mut(SHARDS[1]).unwrap()[60_000] ^= 1;
    });
    let requests = world.mirror.requests();
    let spoil = || {
        damage(&world, SHARDS[0], |bytes| bytes.truncate(250_000));
        damage(&world, SHARDS[1], flip(7));
    };
    spoil();
    repair(&world, &["--offline"]).fails(FAILED, &["--offline", "--from", &world.mirror.url()]);
    let mut command = world.command(&REPAIR);
    let by_environment = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    Outcome::from(by_environment).fails(FAILED, &["--offline"]);
    for from in [&bundle, &folder] {
        let from = from.to_str().unwrap();
        let args = ["--offline", "--json", "--from", from];
        let verdict = repair(&world, &args).ok().json();
        assert_eq!(verdict["repair"]["from"], from);
        let rest = world.files[SHARDS[0]].len() as u64 - 250_000;
        assert_eq!(mended(&verdict, SHARDS[0]), ("fetched", rest));
        assert_whole(&world, &sound);
        spoil();
    }
    // One that has the one and not the other.
    let outcome = repair(&world, &["--from", other.to_str().unwrap(), "--json"]);
    let verdict = outcome.json();
    outcome.fails(VERIFICATION, &[SHARDS[1], "nothing was replaced by it"]);
    mended(&verdict, SHARDS[0]);
    assert_eq!(verdict["repair"]["files"].as_array().unwrap().len(), 1);
    let nowhere = world.path("nowhere");
    repair(&world, &["--from", nowhere.to_str().unwrap()])
        .fails(NOT_FOUND, &["neither a checkpoint's folder nor a bundle"]);
    assert_eq!(world.mirror.requests(), requests);
    assert_eq!(
        world.ctl(&["verify", TINY, "--from", "x"]).code,
        Some(USAGE)
    );
}

#[test]
fn an_imported_model_is_repaired_from_where_it_was() {
    let world = World::new();
    let folder = world.checkpoint_dir("mine", |_| ());
    world.ctl(&["import", folder.to_str().unwrap()]).ok();
    let shown = world.ctl(&["show", "mine", "--json"]).ok().json();
    let config = PathBuf::from(shown["dir"].as_str().unwrap()).join("config.json");
    let args = ["verify", "--repair", "mine"];
    fs::write(&config, "{}").unwrap();
    world.ctl(&args).ok();
    assert_eq!(fs::read(&config).unwrap(), world.files["config.json"]);
    // The folder is gone.
    fs::write(&config, "{}").unwrap();
    fs::rename(&folder, world.path("elsewhere")).unwrap();
    world
        .ctl(&args)
        .fails(NOT_FOUND, &["is not there", "--from"]);
    let endpoint = ["--endpoint", &world.mirror.url()];
    world
        .ctl(&[&args[..], &endpoint].concat())
        .fails(USAGE, &["did not come from a hub", "--from"]);
    let elsewhere = world.path("elsewhere");
    world
        .ctl(&[&args[..], &["--from", elsewhere.to_str().unwrap()]].concat())
        .ok();
    world.ctl(&["verify", "mine"]).ok();
}

#[test]
fn the_embedded_model_needs_nothing() {
    let world = World::new();
    world.ctl(&["pull", "nano"]).ok();
    let sound = files(&world);
    for (path, bytes) in &sound {
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let told = world.ctl(&["verify", "--repair", "nano", "--offline"]).ok();
    assert!(told.stdout.contains("this program"), "{}", told.stdout);
    assert!(files(&world) == sound);
}

#[test]
fn who_has_a_file_open_keeps_it() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], flip(1234));
    let held = InUse::hold(&world.model_dir()).unwrap();
    let mut open = File::open(world.model_dir().join(SHARDS[0])).unwrap();
    let mut before = Vec::new();
    open.read_to_end(&mut before).unwrap();
    let told = repair(&world, &[]).ok();
    assert!(told.stderr.contains("gptoss-ctl unload"), "{}", told.stderr);
    let mut after = Vec::new();
    open.rewind().unwrap();
    open.read_to_end(&mut after).unwrap();
    assert!(after == before, "an open file changed");
    drop(held);
    assert_whole(&world, &sound);
    damage(&world, SHARDS[0], flip(1234));
    let told = repair(&world, &[]).ok();
    assert!(!told.stderr.contains("unload"), "{}", told.stderr);
}

#[test]
fn two_do_not_repair_at_once() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], flip(1));
    world.mirror.fault(SHARDS[0], 1, Effect::Stall(70_000));
    let mut first = world.spawn_quiet(&REPAIR);
    world.mirror.wait_for_stall();
    repair(&world, &[]).fails(FAILED, &["another gptoss-ctl is working on"]);
    world
        .ctl(&["rm", TINY])
        .fails(FAILED, &["another gptoss-ctl is working on"]);
    first.kill().unwrap();
    first.wait().unwrap();
    // It goes on where that one was.
    let part = world.part_len(SHARDS[0]).unwrap_or(0);
    world.mirror.take_served();
    repair(&world, &[]).ok();
    assert_eq!(world.mirror.take_served()[0].start, part);
    assert_whole(&world, &sound);
}

/// Damages some files, differently each time.
fn spoil(world: &World, random: &mut Random) {
    for file in [SHARDS[0], SHARDS[1], "config.json", "cpu/dense.bin"] {
        let draw = random.below(4);
        damage(world, file, |bytes| {
            let at = random.below(bytes.len() as u64) as usize;
            match draw {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1,
                2 => bytes.extend(&[7; 100]),
                _ => {}
            }
        });
    }
}

/// Each file is one of those.
#[track_caller]
fn assert_old_or_new(world: &World, states: &[&BTreeMap<PathBuf, Vec<u8>>]) {
    for (path, bytes) in files(world) {
        let known = states.iter().any(|s| s.get(&path) == Some(&bytes));
        assert!(known, "{} is neither old nor right", path.display());
    }
}

#[test]
fn killed_at_any_moment_of_a_repair() {
    kill_repairs(World::new(), 16);
}

/// Spoils a model, kills its repair twice at some moment, lets it end; until there
/// were that many kills.
pub fn kill_repairs(world: World, kills: u64) {
    world.pull(&[]).ok();
    let sound = files(&world);
    let mut random = Random(31);
    spoil(&world, &mut random);
    let started = Instant::now();
    repair(&world, &[]).ok();
    let whole = started.elapsed();
    for _ in 0..kills / 2 {
        spoil(&world, &mut random);
        let broken = files(&world);
        for _ in 0..2 {
            let mut child = world.spawn_quiet(&REPAIR);
            // Not for anything to be ready: the moment itself is what is drawn.
            std::thread::sleep(whole.mul_f64(random.below(1000) as f64 / 1000.0));
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(files(&world).len(), sound.len());
            assert_old_or_new(&world, &[&broken, &sound]);
        }
        repair(&world, &[]).ok();
        assert_whole(&world, &sound);
    }
}

#[test]
fn what_a_killed_repair_was_removing_goes_with_the_next() {
    let (world, sound) = world();
    let removed = world.store().join(".staging/.trash-1-0");
    fs::create_dir_all(&removed).unwrap();
    fs::write(removed.join("manifest.json"), "{}").unwrap();
    repair(&world, &[]).ok();
    assert!(!removed.exists());
    assert_whole(&world, &sound);
}

#[test]
fn full_while_repairing() {
    let (world, sound) = world();
    damage(&world, SHARDS[0], |bytes| bytes.truncate(230_000));
    damage(&world, SHARDS[1], flip(3));
    damage(&world, "cpu/dense.bin", flip(3));
    let broken = files(&world);
    let args = REPAIR.map(str::to_owned);
    for kib in [0, 1, 100, 190] {
        limited(&world, kib, &args).fails(NO_SPACE, &["free some space"]);
        assert_old_or_new(&world, &[&broken, &sound]);
    }
    repair(&world, &[]).ok();
    assert_whole(&world, &sound);
}
