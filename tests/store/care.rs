//! What `gc` removes and what nobody may remove.

use std::fs;
use std::process::{Child, Stdio};

use gptoss::model::InUse;

use crate::harness::{FAILED, SHARDS, TINY, World, tree};
use crate::mirror::{COMMIT, Effect};

#[test]
fn a_model_that_runs_is_not_removed() {
    let world = World::new();
    world.pull(&[]).ok();
    let before = world.installed();
    let held = InUse::hold(&world.model_dir()).unwrap();
    world
        .ctl(&["rm", TINY])
        .fails(FAILED, &["in use", "gptoss-ctl unload"]);
    assert_eq!(world.installed(), before);
    // Reading it goes on.
    world.ctl(&["verify", TINY]).ok();
    drop(held);
    world.ctl(&["rm", TINY]).ok();
    world.assert_nothing_installed();
}

/// The first pull of a world, which has brought some bytes and waits for more.
fn stalled_pull(world: &World) -> Child {
    world.mirror.fault(SHARDS[0], 1, Effect::Stall(70_000));
    let pull = world.spawn_pull(&["--stall-timeout", "600"]);
    world.mirror.wait_for_stall();
    pull
}

#[test]
fn gc_removes_what_interrupted_work_left_and_nothing_else() {
    let world = World::new();
    assert_eq!(world.ctl(&["gc"]).ok().stdout, "nothing to remove\n");
    let mut pull = stalled_pull(&world);
    // What somebody is at work on is no garbage.
    assert_eq!(world.ctl(&["gc"]).ok().stdout, "nothing to remove\n");
    pull.kill().unwrap();
    pull.wait().unwrap();
    let told = world.ctl(&["gc", "--dry-run", "--json"]).ok().json();
    assert_eq!(told["rows"][0]["reason"], "interrupted");
    assert_eq!(told["rows"][0]["model"], format!("{TINY}@{COMMIT}"));
    assert!(told["rows"][0]["size"].as_u64().unwrap() > 0);
    assert_eq!(told["freed"], 0);
    assert!(
        !tree(&world.staging_dir()).is_empty(),
        "a dry run removes nothing"
    );
    let told = world.ctl(&["gc"]).ok().stdout;
    assert!(
        told.contains("removed tiny@") && told.contains("interrupted"),
        "{told}"
    );
    assert!(tree(&world.store().join(".staging")).is_empty());
    world.pull(&[]).ok();
    world.ctl(&["gc", "--superseded"]).ok();
    world.assert_installed();
}

#[test]
fn superseded_revisions_go_when_asked_for() {
    let world = World::new();
    let old = world.checkpoint_dir("old", |_| ());
    world
        .ctl(&["import", old.to_str().unwrap(), "--name", "m"])
        .ok();
    let new = world.checkpoint_dir("new", |files| {
        files.insert("LICENSE".into(), b"another".to_vec());
    });
    // Revisions are told apart by the second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    world
        .ctl(&["import", new.to_str().unwrap(), "--name", "m"])
        .ok();
    assert_eq!(world.ctl(&["gc"]).ok().stdout, "nothing to remove\n");
    let told = world.ctl(&["gc", "--superseded", "--json"]).ok().json();
    assert_eq!(told["rows"].as_array().unwrap().len(), 1, "{told}");
    let left = fs::read_dir(world.store().join("models/m"))
        .unwrap()
        .count();
    assert_eq!(left, 1);
    let kept = world.ctl(&["show", "m", "--json"]).ok().json();
    let licence =
        kept["files"].as_array().unwrap().iter().any(|f| {
            f["path"] == "LICENSE" && f["sha256"] == gptoss::model::sha256_bytes(b"another")
        });
    assert!(licence, "the newer one stays: {kept}");
}

/// `gptoss-ctl list | true`: no panic, and the shell's code for a reader that left.
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let world = World::new();
    world.pull(&[]).ok();
    for args in [
        &["list"][..],
        &["show", TINY, "--json"],
        &["man"],
        &["completions", "zsh"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command(args);
        command.stdout(writer).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}
