//! gpt-oss-120b's 24 files, shard by shard. Names, layers and experts are the published
//! ones; the content is so narrow that all of it is 9 MB.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gptoss::model::Catalog;
use serde_json::Value;

use crate::harness::{NO_SPACE, Outcome, TINY, World, checkpoint, tree};
use crate::mirror::{Effect, Served};
use crate::space::in_namespace;
use crate::synthetic::{Shape, make};

type Files = BTreeMap<String, Vec<u8>>;

/// The files of the catalog's 120b, with another content.
fn files() -> Files {
    static MADE: LazyLock<Files> = LazyLock::new(make_files);
    MADE.clone()
}

fn make_files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape {
        hidden: 32,
        intermediate: 32,
        layers: 36,
        heads: 2,
        kv_heads: 1,
        experts: 128,
        top: 4,
        shards: 15,
        positions: 256,
        ..Shape::default()
    };
    make(&shape, dir.path());
    let mut files = checkpoint();
    files.retain(|name, _| name.ends_with(".json") && !name.contains("safetensors"));
    for (path, bytes) in tree(dir.path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        files.insert(name.to_owned(), bytes);
    }
    for name in ["LICENSE", "USAGE_POLICY", "chat_template.jinja"] {
        files.insert(name.to_owned(), name.repeat(20).into_bytes());
    }
    let catalog = Catalog::builtin();
    let published = &catalog.get("120b").unwrap().files;
    let published: Vec<&String> = published.iter().map(|f| &f.path).collect();
    assert_eq!(published.len(), 24);
    assert!(files.keys().eq(published), "{:?}", files.keys());
    files
}

/// In the order in which they are fetched.
fn shards(world: &World) -> Vec<String> {
    let names = world.files.keys();
    let shards = names.filter(|name| name.ends_with(".safetensors"));
    shards.cloned().collect()
}

/// Names of the files that come before a file.
fn before<'a>(world: &'a World, file: &str) -> Vec<&'a str> {
    let names = world.files.keys().map(String::as_str);
    names.take_while(|name| *name != file).collect()
}

fn size(world: &World, file: &str) -> u64 {
    world.files[file].len() as u64
}

/// Bytes of a file's part where there is one, of all parts by their file's name.
fn parts(world: &World) -> BTreeMap<String, u64> {
    let staged = tree(&world.staging_dir()).into_iter();
    let part = |(path, bytes): (PathBuf, Vec<u8>)| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let file = name.strip_suffix(".part")?;
        Some((file.to_owned(), bytes.len() as u64))
    };
    staged.filter_map(part).collect()
}

/// What is on the disk of a pull that has these files and is at work on those.
#[track_caller]
fn assert_on_disk(world: &World, whole: &[&str], at_work: &[String]) {
    let mut proven = world.proven();
    proven.sort();
    assert_eq!(proven, whole);
    let parts = parts(world);
    let strange = parts.keys().find(|file| !at_work.contains(file));
    assert_eq!(strange, None, "at work are {at_work:?}");
    let whole: u64 = whole.iter().map(|file| size(world, file)).sum();
    let halves: u64 = at_work.iter().map(|file| size(world, file) / 2).sum();
    let staged = tree(&world.staging_dir()).into_values();
    let staged: u64 = staged.map(|bytes| bytes.len() as u64).sum();
    assert!(
        (whole..=whole + halves).contains(&staged),
        "{staged} bytes, {whole} of them of whole files"
    );
}

#[test]
fn each_shard_is_waited_for_and_gone_on_with() {
    let world = World::with(files());
    let options = [
        "--jobs",
        "1",
        "--connections",
        "1",
        "--stall-timeout",
        "600",
    ];
    let mut left: Option<(String, u64)> = None;
    for shard in shards(&world) {
        let half = size(&world, &shard) / 2;
        world.mirror.fault(&shard, 1, Effect::Stall(half));
        let mut pull = world.spawn_pull(&options);
        world.mirror.wait_for_stall();
        assert_on_disk(
            &world,
            &before(&world, &shard),
            std::slice::from_ref(&shard),
        );
        pull.kill().unwrap();
        pull.wait().unwrap();
        world.mirror.settle();
        world.assert_nothing_installed();
        let served = world.mirror.take_served();
        went_on(&world, &served, left.as_ref(), &shard);
        let kept = world.part_len(&shard).unwrap_or(0);
        left = Some((shard, kept));
    }
    let told = world.pull(&options).ok().stderr;
    let total: usize = world.files.values().map(Vec::len).sum();
    let total = gptoss::model::human_size(total as u64);
    for words in [
        format!(": 24 files, {total}, from "),
        "(24 of 24 files)".into(),
    ] {
        assert!(told.contains(&words), "no {words} in {told}");
    }
    let lines = told.lines().filter(|line| line.contains(" proven ("));
    let counts = lines.map(|line| line.split_once('(').unwrap().1);
    let expected = (1..=24).map(|n| format!("{n} of 24 files)"));
    assert!(expected.eq(counts.map(str::to_owned)), "{told}");
    world.assert_installed();
    lists_all(&world, &world.ctl(&["show", TINY, "--json"]).ok().json());
}

/// A pull asked for the rest of the part that was left, and then for what comes next.
#[track_caller]
fn went_on(world: &World, served: &[Served], left: Option<&(String, u64)>, shard: &str) {
    let asked = served.iter().map(|s| (s.file.as_str(), s.start));
    let asked: Vec<(&str, u64)> = asked.collect();
    let expected: Vec<(&str, u64)> = match left {
        Some((file, kept)) => vec![(file, *kept), (shard, 0)],
        None => {
            let files = before(world, shard).into_iter().chain([shard]);
            files.map(|file| (file, 0)).collect()
        }
    };
    assert_eq!(asked, expected);
}

/// The manifest has every file with its size and digest, and the export.
fn lists_all(world: &World, shown: &Value) {
    let listed = shown["files"].as_array().unwrap();
    assert_eq!(listed.len(), 24);
    for (entry, (path, bytes)) in listed.iter().zip(&world.files) {
        assert_eq!(entry["path"], *path);
        assert_eq!(entry["size"], bytes.len());
        assert_eq!(entry["sha256"], crate::mirror::sha256(bytes));
    }
    let exported = shown["targets"]["cpu"].as_array().unwrap();
    assert_eq!(exported.len(), 2, "{shown}");
    let inputs = shown["exports"]["cpu"]["inputs"].as_array().unwrap();
    assert_eq!(inputs.len(), 1 + 15, "config.json and every shard: {shown}");
}

#[test]
fn there_are_as_many_parts_as_files_at_once() {
    let world = World::with(files());
    for shard in shards(&world) {
        let half = size(&world, &shard) / 2;
        world.mirror.fault(&shard, 1, Effect::Stall(half));
    }
    let mut pull = world.spawn_pull(&["--jobs", "4", "--stall-timeout", "600"]);
    world.mirror.wait_for_stalls(4);
    let shards = shards(&world);
    assert_on_disk(&world, &before(&world, &shards[0]), &shards[..4]);
    pull.kill().unwrap();
    pull.wait().unwrap();
    world.mirror.settle();
    world.assert_nothing_installed();
    world.mirror.heal();
    world.pull(&[]).ok();
    world.assert_installed();
}

/// `pull 120b` by the built-in catalog, with so many bytes free.
fn pull_published(world: &World, store: &Path, free: u64) -> Option<Outcome> {
    in_namespace(&format!(
        "mount -t tmpfs -o size={free} none '{store}'
         LC_ALL=C GPTOSS_STORE='{store}' HOME=/nonexistent '{program}' pull 120b --endpoint '{url}'",
        store = store.display(),
        program = env!("CARGO_BIN_EXE_gptoss-ctl"),
        url = world.mirror.url(),
    ))
}

#[test]
fn a_disk_without_room_for_all_of_it_is_refused_before_the_first_byte() {
    let world = World::new();
    let store = world.store();
    fs::create_dir_all(&store).unwrap();
    // The published files, and what the export has to write: see plan.rs.
    let needed = 65_276_850_729 + 2_370_748_160;
    let Some(outcome) = pull_published(&world, &store, needed - 1_000_000_000) else {
        eprintln!("not run: no mount namespaces for this user");
        return;
    };
    outcome.fails(
        NO_SPACE,
        &[
            "has 66.65 GB free",
            "the download and the export needs 67.65 GB",
            "--store",
        ],
    );
    assert_eq!(world.mirror.requests(), 0);
    // A hundredth more than that is room enough: now the mirror is asked, which does
    // not have this model.
    let outcome = pull_published(&world, &store, needed + needed / 100).unwrap();
    assert_ne!(outcome.code, Some(0));
    assert_ne!(outcome.code, Some(NO_SPACE), "{outcome:?}");
    assert!(outcome.stderr.contains(": 24 files, 65.28 GB, from "));
    assert!(world.mirror.requests() > 0, "{outcome:?}");
}
