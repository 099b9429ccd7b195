//! `hf:OWNER/NAME[@REVISION]`: the files and digests come from the hub.

use crate::harness::{FAILED, NOT_FOUND, Outcome, SHARDS, VERIFICATION, World};
use crate::mirror::{COMMIT, Effect};

fn pull(world: &World, reference: &str, more: &[&str]) -> Outcome {
    let url = world.mirror.url();
    let mut args = vec!["pull", reference, "--endpoint", &url];
    args.extend(more);
    world.ctl(&args)
}

#[test]
fn a_repository_is_resolved_to_a_commit() {
    let world = World::new();
    world
        .mirror
        .set_file("README.md", b"not part of it".to_vec());
    pull(&world, "hf:test/tiny", &[]).ok();
    let shown = world.ctl(&["show", "test--tiny", "--json"]).ok().json();
    assert_eq!(shown["revision"], COMMIT);
    assert_eq!(shown["license"], "Apache-2.0");
    assert!(shown["catalog"].is_null(), "no catalog pinned it");
    let files = shown["files"].as_array().unwrap();
    assert_eq!(files.len(), world.files.len());
    for file in files {
        let bytes = &world.files[file["path"].as_str().unwrap()];
        assert_eq!(file["sha256"], crate::mirror::sha256(bytes));
    }
    world.ctl(&["verify", "test--tiny"]).ok();
}

#[test]
fn a_revision_and_a_name_may_be_given() {
    let world = World::new();
    world.mirror.redirect();
    let reference = format!("hf:test/tiny@{COMMIT}");
    pull(&world, &reference, &["--name", "mine"]).ok();
    world.ctl(&["verify", "mine"]).ok();
    let again = pull(&world, &reference, &["--name", "mine"]).ok();
    assert!(again.stdout.contains("installed already"));
}

#[test]
fn small_files_are_proven_by_their_git_object_id() {
    let world = World::new();
    world.mirror.fault("config.json", 2, Effect::Corrupt(7));
    pull(&world, "hf:test/tiny", &[]).fails(VERIFICATION, &["config.json", "git object id"]);
    world.assert_nothing_installed();
}

#[test]
fn large_files_are_proven_by_the_hubs_sha256() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 2, Effect::Corrupt(7));
    pull(&world, "hf:test/tiny", &[]).fails(VERIFICATION, &[SHARDS[0], "SHA-256"]);
    world.assert_nothing_installed();
}

#[test]
fn what_the_hub_does_not_have() {
    let world = World::new();
    pull(&world, "hf:test/other", &[]).fails(NOT_FOUND, &["test/other", "HF_TOKEN"]);
    pull(&world, "hf:test/tiny@v2", &[]).fails(NOT_FOUND, &["test/tiny@v2"]);
    pull(&world, "hf:test/tiny", &["--offline"]).fails(FAILED, &["--offline", "hub"]);
    assert!(!world.store().exists());
}

#[test]
fn a_repository_without_a_checkpoint() {
    let mut files = crate::harness::checkpoint();
    files.remove("config.json");
    let world = World::new();
    let empty = crate::mirror::Mirror::start(files);
    let url = empty.url();
    world
        .ctl(&["pull", "hf:test/tiny", "--endpoint", &url])
        .fails(FAILED, &["no config.json"]);
}
