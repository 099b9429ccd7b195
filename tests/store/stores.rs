//! One's own store and the machine's: both are looked into, one is written.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{FAILED, NOT_FOUND, Outcome, TINY, VERIFICATION, World, tree};
use crate::mirror::sha256;

/// A world whose machine has the small checkpoint.
fn world() -> World {
    let world = World::new();
    let system = system(&world);
    world.pull(&["--store", system.to_str().unwrap()]).ok();
    world.mirror.take_served();
    world
}

fn system(world: &World) -> PathBuf {
    world.path("system")
}

fn with_system(world: &World, mut command: Command) -> Outcome {
    command.env("GPTOSS_SYSTEM_STORE", system(world));
    command.output().unwrap().into()
}

fn ctl(world: &World, args: &[&str]) -> Outcome {
    with_system(world, world.command(args))
}

#[test]
fn readers_look_into_both() {
    let world = world();
    let before = tree(&system(&world).join("models"));
    let listed = ctl(&world, &["list", "--json"]).ok().json();
    assert_eq!(listed["store"], world.store().to_str().unwrap());
    assert_eq!(listed["system_store"], system(&world).to_str().unwrap());
    assert_eq!(listed["models"][0]["name"], TINY);
    assert_eq!(
        listed["models"][0]["store"],
        system(&world).to_str().unwrap()
    );
    let shown = ctl(&world, &["show", TINY]).ok().stdout;
    let store = format!("store      {}\n", system(&world).display());
    assert!(shown.contains(&store), "{shown}");
    let verdict = ctl(&world, &["verify", TINY, "--json"]).ok().json();
    assert_eq!(verdict["store"], system(&world).to_str().unwrap());
    let bundle = world.path("b.tar");
    let args = ["bundle", "create", TINY, "-o", bundle.to_str().unwrap()];
    ctl(&world, &args).ok();

    // Both have it: both are listed, and one's own is taken.
    let folder = world.checkpoint_dir("mine", |files| {
        files.insert("LICENSE".into(), b"another".to_vec());
    });
    let args = ["import", folder.to_str().unwrap(), "--name", TINY];
    ctl(&world, &args).ok();
    let listed = ctl(&world, &["list"]).ok().stdout;
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].contains("STORE"), "{listed}");
    assert!(
        lines[1].contains(" own ") && lines[2].contains(" system "),
        "{listed}"
    );
    let shown = ctl(&world, &["show", TINY, "--json"]).ok().json();
    assert_eq!(shown["store"], world.store().to_str().unwrap());
    // The machine's by its revision.
    let shown = ctl(&world, &["show", &format!("{TINY}@0123"), "--json"]);
    assert_eq!(shown.ok().json()["store"], system(&world).to_str().unwrap());
    // Without a second store nothing says so.
    let listed = world.ctl(&["list"]).ok().stdout;
    assert!(!listed.contains("STORE"), "{listed}");
    // Only the time of the proof was written there.
    let mut after = tree(&system(&world).join("models"));
    assert!(before.keys().eq(after.keys()));
    after.retain(|path, bytes| before.get(path) != Some(bytes));
    assert!(after.keys().all(|p| p.ends_with("manifest.json")));
}

#[test]
fn writers_keep_to_their_own() {
    let world = world();
    let before = tree(&system(&world));
    for args in [
        &["rm", TINY][..],
        &["export", TINY, "--target", "cpu", "--force"],
    ] {
        ctl(&world, args).fails(
            NOT_FOUND,
            &[
                "in the machine's",
                "sudo -u gptoss-store gptoss-ctl --store",
            ],
        );
    }
    assert_eq!(ctl(&world, &["gc"]).ok().stdout, "nothing to remove\n");
    assert_eq!(tree(&system(&world)), before);
    let missing = ctl(&world, &["show", "20b"]).fails(NOT_FOUND, &["20b is not installed"]);
    for store in [world.store(), system(&world)] {
        assert!(
            missing.stderr.contains(store.to_str().unwrap()),
            "{missing:?}"
        );
    }
    // Damage there is named, and nothing of one's own hides it.
    fs::write(
        before.keys().find(|p| p.ends_with("config.json")).unwrap(),
        "",
    )
    .unwrap();
    ctl(&world, &["verify", TINY]).fails(VERIFICATION, &["1 of 11 files"]);
}

#[test]
fn what_the_machine_has_is_not_fetched_again() {
    let world = world();
    let pull = |more: &[&str]| with_system(&world, world.pull_command(more));
    let told = pull(&["--json"]).ok().json();
    assert_eq!(told["status"], "in-system-store");
    assert!(
        told["dir"]
            .as_str()
            .unwrap()
            .starts_with(system(&world).to_str().unwrap())
    );
    assert!(world.mirror.take_served().is_empty());
    assert!(tree(&world.store()).is_empty());
    assert!(pull(&[]).ok().stdout.contains("--own-copy"));
    pull(&["--target", "cpu,portable"]).fails(FAILED, &["not exported for portable", "--own-copy"]);
    assert!(world.mirror.take_served().is_empty());
    pull(&["--own-copy"]).ok();
    world.assert_installed();
    // One's own is there now, and is what is meant.
    assert_eq!(pull(&["--json"]).ok().json()["status"], "already-installed");
}

#[test]
fn other_bytes_of_that_revision_are_not_taken_for_it() {
    let world = world();
    let models = tree(&system(&world).join("models"));
    let (manifest, text) = models
        .iter()
        .find(|(path, _)| path.ends_with("manifest.json"))
        .unwrap();
    let text = String::from_utf8(text.clone()).unwrap();
    let digest = sha256(&world.files["config.json"]);
    assert!(text.contains(&digest));
    fs::write(manifest, text.replace(&digest, &"0".repeat(64))).unwrap();
    with_system(&world, world.pull_command(&[])).ok();
    world.assert_installed();
}
