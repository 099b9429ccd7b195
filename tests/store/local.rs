//! Files that are on this machine already: a site's folder, the cache of Hugging
//! Face's own tools.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{FAILED, NOT_FOUND, Outcome, SHARDS, TINY, USAGE, VERIFICATION, World};
use crate::mirror::{COMMIT, REPO, sha256};

/// A pull from a folder; the mirror is not named.
fn pull_from(world: &World, folder: &Path, more: &[&str]) -> Outcome {
    let (catalog, url) = (
        world.path("catalog.toml"),
        format!("file://{}", folder.display()),
    );
    let mut args = vec!["pull", TINY, "--endpoint", &url];
    args.extend(["--catalog", catalog.to_str().unwrap()]);
    args.extend(more);
    world.ctl(&args)
}

/// The checkpoint in the cache under `hub`, as huggingface_hub lays it out.
pub fn fill_cache(world: &World, hub: &str, keep: impl Fn(&str) -> bool) -> PathBuf {
    let repository = world.path(hub).join("models--test--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    for (name, bytes) in world.files.iter().filter(|(name, _)| keep(name)) {
        let digest = sha256(bytes);
        fs::write(repository.join("blobs").join(&digest), bytes).unwrap();
        symlink(format!("../../blobs/{digest}"), snapshot.join(name)).unwrap();
    }
    repository
}

/// Where the cache is when nothing says otherwise; HOME is the test's folder.
pub const CACHE: &str = ".cache/huggingface/hub";

#[test]
fn a_folder_stands_in_for_a_server() {
    for layout in ["", "test/tiny", &format!("test/tiny/resolve/{COMMIT}")] {
        for more in [&[][..], &["--offline"][..]] {
            let world = World::new();
            world.checkpoint_dir(&format!("site/{layout}"), |_| ());
            pull_from(&world, &world.path("site"), more).ok();
            world.assert_installed();
            assert_eq!(world.mirror.requests(), 0);
            let shown = world.ctl(&["show", TINY, "--json"]).ok().json();
            let source = format!("file://{}/{REPO}", world.path("site").display());
            assert_eq!(shown["source"], source);
            assert_eq!(shown["revision"], COMMIT);
        }
    }
}

#[test]
fn a_folder_must_have_what_is_pinned() {
    let world = World::new();
    let site = world.checkpoint_dir("site", |files| {
        files.remove(SHARDS[1]);
    });
    pull_from(&world, &site, &[]).fails(NOT_FOUND, &[SHARDS[1], "site"]);
    world.assert_nothing_installed();
    let site = world.checkpoint_dir("site", |files| {
        files.get_mut(SHARDS[1]).unwrap()[9] ^= 1;
    });
    pull_from(&world, &site, &[]).fails(VERIFICATION, &[SHARDS[1], "SHA-256", "site"]);
    world.assert_nothing_installed();
    // What was copied of it is gone on with.
    let site = world.checkpoint_dir("site", |_| ());
    pull_from(&world, &site, &[]).ok();
    world.assert_installed();
    pull_from(&world, Path::new("/absent"), &[]).ok();
    let other = world.path("other");
    let other = ["--store", other.to_str().unwrap()];
    pull_from(&world, Path::new("/absent"), &other).fails(NOT_FOUND, &["/absent", "config.json"]);
}

#[test]
fn a_folder_goes_on_where_a_server_stopped() {
    let world = World::new();
    fs::create_dir_all(world.staging_dir()).unwrap();
    let part = world.staging_dir().join(format!("{}.part", SHARDS[0]));
    fs::write(&part, &world.files[SHARDS[0]][..70_000]).unwrap();
    let site = world.checkpoint_dir("site", |_| ());
    let outcome = pull_from(&world, &site, &[]).ok();
    assert!(outcome.stderr.contains("going on at 70"), "{outcome:?}");
    world.assert_installed();
}

#[test]
fn a_folder_does_not_say_what_a_name_is() {
    let world = World::new();
    let site = world.checkpoint_dir("site", |_| ());
    let url = format!("file://{}", site.display());
    world
        .ctl(&["pull", "hf:test/tiny", "--endpoint", &url])
        .fails(USAGE, &["folder", "gptoss-ctl import"]);
    world
        .ctl(&["pull", &url])
        .fails(USAGE, &["gptoss-ctl import /", "--endpoint file:///"]);
    assert!(!world.store().exists());
}

#[test]
fn the_cache_is_looked_into_first() {
    let places: [(&str, Option<(&str, &str)>); 4] = [
        (CACHE, None),
        ("elsewhere", Some(("HF_HUB_CACHE", "elsewhere"))),
        ("home/hub", Some(("HF_HOME", "home"))),
        ("xdg/huggingface/hub", Some(("XDG_CACHE_HOME", "xdg"))),
    ];
    for (hub, variable) in places {
        let world = World::new();
        fill_cache(&world, hub, |_| true);
        let mut command = world.pull_command(&[]);
        if let Some((name, value)) = variable {
            command.env(name, world.path(value));
        }
        Outcome::from(command.output().unwrap()).ok();
        assert_eq!(world.mirror.requests(), 0, "{hub}");
        world.assert_installed();
        let shown = world.ctl(&["show", TINY, "--json"]).ok().json();
        let source = shown["source"].as_str().unwrap();
        assert!(source.ends_with("9 of 9 files from the cache"), "{source}");
    }
}

#[test]
fn what_is_installed_is_not_the_caches() {
    let world = World::new();
    let repository = fill_cache(&world, CACHE, |_| true);
    world.pull(&[]).ok();
    for (path, bytes) in crate::harness::tree(&repository.join("blobs")) {
        assert_eq!(path.metadata().unwrap().nlink(), 1);
        fs::write(&path, vec![0; bytes.len()]).unwrap();
    }
    world.assert_installed();
}

#[test]
fn the_cache_may_have_a_part_of_it() {
    let world = World::new();
    fill_cache(&world, CACHE, |name| {
        name != SHARDS[0] && name != "config.json"
    });
    world.pull(&[]).ok();
    let served = world.mirror.take_served();
    let mut files: Vec<_> = served.iter().map(|s| s.file.as_str()).collect();
    files.sort_unstable();
    assert_eq!(files, ["config.json", SHARDS[0]]);
    world.assert_installed();
}

#[test]
fn the_cache_is_not_believed() {
    let world = World::new();
    let repository = fill_cache(&world, CACHE, |_| true);
    let snapshot = repository.join("snapshots").join(COMMIT);
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = world.files[name].clone();
        change(&mut bytes);
        // The link leads there.
        fs::write(snapshot.join(name), bytes).unwrap();
    };
    spoil(SHARDS[0], &|bytes| bytes[100] ^= 1);
    spoil(SHARDS[1], &|bytes| bytes.truncate(100));
    // The right bytes, but not the cache's own.
    let outside = world.path("outside");
    fs::write(&outside, &world.files["tokenizer.json"]).unwrap();
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    symlink(&outside, snapshot.join("tokenizer.json")).unwrap();
    let outcome = world.pull(&[]).ok();
    let notes = outcome.stderr.matches("not taken from").count();
    assert_eq!(notes, 3, "{outcome:?}");
    assert_eq!(world.mirror.take_served().len(), 3);
    world.assert_installed();
}

#[test]
fn the_cache_may_be_left_alone() {
    let world = World::new();
    fill_cache(&world, CACHE, |_| true);
    world.pull(&["--no-cache"]).ok();
    assert_eq!(world.mirror.take_served().len(), world.files.len());
    world.assert_installed();
}

#[test]
fn the_cache_needs_no_network() {
    let world = World::new();
    fill_cache(&world, CACHE, |name| name != SHARDS[0]);
    world
        .pull(&["--offline"])
        .fails(FAILED, &["--offline", "1 file is", SHARDS[0]]);
    let other = world.path("other");
    let other = [
        "--offline",
        "--no-cache",
        "--store",
        other.to_str().unwrap(),
    ];
    world.pull(&other).fails(FAILED, &["9 files are"]);
    fill_cache_again(&world);
    world.pull(&["--offline"]).ok();
    assert_eq!(world.mirror.requests(), 0);
    world.assert_installed();
}

fn fill_cache_again(world: &World) {
    fs::remove_dir_all(world.path(CACHE)).unwrap();
    fill_cache(world, CACHE, |_| true);
}

#[test]
fn the_cache_has_what_the_hub_names() {
    let world = World::new();
    fill_cache(&world, CACHE, |_| true);
    let url = world.mirror.url();
    world
        .ctl(&["pull", "hf:test/tiny", "--endpoint", &url])
        .ok();
    assert!(world.mirror.take_served().is_empty(), "only its interface");
    world.ctl(&["verify", "test--tiny"]).ok();
}
