//! A mirror, or a network, that misbehaves.

use std::fs;
use std::ops::Range;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{FAILED, NOT_FOUND, Random, SHARDS, VERIFICATION, World};
use crate::mirror::{Effect, Served};

/// Bytes of a file the mirror sent in all.
pub fn sent(served: &[Served], file: &str) -> u64 {
    served
        .iter()
        .filter(|s| s.file == file)
        .map(|s| s.bytes)
        .sum()
}

/// Nothing was sent twice.
#[track_caller]
pub fn assert_sent_once(world: &World, served: &[Served]) {
    for (name, bytes) in &world.files {
        assert_eq!(sent(served, name), bytes.len() as u64, "{name}");
    }
}

/// Cuts connections of each file, one after another, behind so many bytes; nothing is
/// sent twice.
pub fn cuts_cost_nothing(cases: u32, after: Range<u64>, arguments: &[&'static str]) {
    let cuts = prop::collection::vec((0..3usize, after), 1..40);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&cuts, |cuts| {
            let world = World::new();
            for (shard, after) in cuts {
                world.mirror.fault(SHARDS[shard], 1, Effect::Cut(after));
            }
            world.pull(arguments).ok();
            world.assert_installed();
            assert_sent_once(&world, &world.mirror.take_served());
            Ok(())
        })
        .unwrap();
}

#[test]
fn cuts_at_any_byte_cost_nothing() {
    cuts_cost_nothing(10, 0..120_000, &["--retries", "1000"]);
}

#[test]
fn another_process_goes_on_where_a_cut_ended_one() {
    let world = World::new();
    let size = world.files[SHARDS[0]].len() as u64;
    // Around both ends and each boundary of a block or a page, then anywhere.
    let mut offsets = vec![0, 1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537];
    let mut random = Random(7);
    let mut position = 0;
    let mut cuts = 0;
    while position < size - 1 {
        let next = match offsets.is_empty() {
            false => offsets.remove(0),
            true if size - position < 30_000 => size - 1,
            true => position + random.below(30_000),
        };
        let after = next.saturating_sub(position).min(size - 1 - position);
        world.mirror.fault(SHARDS[0], 1, Effect::Cut(after));
        world
            .pull(&["--retries", "0"])
            .fails(FAILED, &[SHARDS[0], "run the same command again"]);
        world.assert_nothing_installed();
        position += after;
        cuts += 1;
        if position > 0 {
            assert_eq!(world.part_len(SHARDS[0]), Some(position));
        }
    }
    assert!(cuts > 15);
    let (proven, mut served) = (world.proven(), world.mirror.take_served());
    world.pull(&[]).ok();
    world.assert_installed();
    let last = world.mirror.take_served();
    for name in proven {
        assert_eq!(
            sent(&last, &name),
            0,
            "{name} was proven and is not fetched again"
        );
    }
    served.extend(last);
    assert_eq!(sent(&served, SHARDS[0]), size, "no byte was sent twice");
}

#[test]
fn cut_redirected_transfers_go_on_as_well() {
    let world = World::new();
    world.mirror.redirect();
    for after in [1, 70_000, 90_000] {
        world.mirror.fault(SHARDS[0], 1, Effect::Cut(after));
    }
    world.pull(&[]).ok();
    world.assert_installed();
    assert_sent_once(&world, &world.mirror.take_served());
}

#[test]
fn a_wrong_byte_anywhere_is_fetched_again_and_not_installed() {
    let size = World::new().files[SHARDS[1]].len() as u64;
    let mut random = Random(11);
    for at in [0, size - 1, random.below(size), random.below(size)] {
        let world = World::new();
        world.mirror.fault(SHARDS[1], 1, Effect::Corrupt(at));
        let outcome = world.pull(&[]).ok();
        assert!(
            outcome.stderr.contains("fetching it again from the start"),
            "byte {at}"
        );
        world.assert_installed();
    }
}

#[test]
fn bytes_that_stay_wrong_are_never_installed() {
    let world = World::new();
    world.mirror.fault(SHARDS[1], 2, Effect::Corrupt(1234));
    world.pull(&["--jobs", "1"]).fails(
        VERIFICATION,
        &[SHARDS[1], "SHA-256", "nothing was installed"],
    );
    world.assert_nothing_installed();
    assert!(!world.staging_dir().join(SHARDS[1]).exists());
    assert_eq!(world.part_len(SHARDS[1]), None, "the wrong file is deleted");
    let proven = world.proven();
    world.mirror.take_served();
    world.pull(&[]).ok();
    world.assert_installed();
    let after = world.mirror.take_served();
    for name in proven {
        assert_eq!(
            sent(&after, &name),
            0,
            "{name} was proven and is not fetched again"
        );
    }
}

#[test]
fn a_wrong_byte_after_a_cut_is_found() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Cut(100_000));
    world.mirror.fault(SHARDS[0], 1, Effect::Corrupt(200_000));
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn a_part_that_went_bad_on_the_disk_is_replaced() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Cut(50_000));
    world.pull(&["--retries", "0"]).fails(FAILED, &[]);
    let part = world.staging_dir().join(format!("{}.part", SHARDS[0]));
    let mut bytes = fs::read(&part).unwrap();
    bytes[5000] ^= 1;
    fs::write(&part, bytes).unwrap();
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn wrong_lengths_are_refused() {
    for effect in [
        Effect::Shorter(1000),
        Effect::Longer(1),
        Effect::Endless(5_000_000),
    ] {
        let world = World::new();
        world.mirror.fault(SHARDS[0], 2, effect.clone());
        let size = world.files[SHARDS[0]].len().to_string();
        world
            .pull(&[])
            .fails(VERIFICATION, &[SHARDS[0], &size, "nothing was installed"]);
        world.assert_nothing_installed();
        assert_eq!(world.part_len(SHARDS[0]), None, "{effect:?}");
        world.pull(&[]).ok();
        world.assert_installed();
    }
}

#[test]
fn a_file_that_became_shorter_than_its_part_is_refused() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Cut(100_000));
    world.mirror.fault(SHARDS[0], 3, Effect::Shorter(50_000));
    world.pull(&[]).fails(VERIFICATION, &[SHARDS[0]]);
    world.assert_nothing_installed();
}

#[test]
fn a_server_that_ignores_ranges_starts_over() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Cut(100_000));
    world.mirror.fault(SHARDS[0], 1, Effect::IgnoreRange);
    let outcome = world.pull(&[]).ok();
    assert!(
        outcome.stderr.contains("cannot resume"),
        "{}",
        outcome.stderr
    );
    world.assert_installed();
}

#[test]
fn a_server_that_answers_another_range_is_found_out() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Cut(100_000));
    world.mirror.fault(SHARDS[0], 1, Effect::ShiftRange);
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn passing_server_errors_are_sat_out() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Status(500));
    world.mirror.fault("config.json", 1, Effect::Status(503));
    world.mirror.fault("tokenizer.json", 1, Effect::Status(429));
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn lasting_server_errors_end_the_pull() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 99, Effect::Status(503));
    world.pull(&["--retries", "1"]).fails(
        FAILED,
        &[SHARDS[0], "503", "gave up after 2 attempts", "kept"],
    );
    world.assert_nothing_installed();
    world.mirror.heal();
    world.mirror.take_served();
    world.pull(&[]).ok();
    world.assert_installed();
    let again = world.mirror.take_served();
    assert_eq!(sent(&again, "config.json"), 0, "it was proven before");
}

#[test]
fn a_missing_file_and_a_refused_one_are_told_apart() {
    let world = World::new();
    world.mirror.fault("config.json", 1, Effect::Status(404));
    world
        .pull(&["--jobs", "1"])
        .fails(NOT_FOUND, &["config.json", "--endpoint"]);
    world.mirror.heal();
    for status in [401, 403] {
        world.mirror.fault("config.json", 1, Effect::Status(status));
        world.pull(&["--jobs", "1"]).fails(FAILED, &["HF_TOKEN"]);
        world.mirror.heal();
    }
    world.mirror.fault("config.json", 1, Effect::Status(418));
    world.pull(&["--jobs", "1"]).fails(FAILED, &["418"]);
    world.assert_nothing_installed();
}

#[test]
fn silent_and_crawling_connections_are_cut() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 1, Effect::Stall(100_000));
    world.mirror.fault(SHARDS[1], 1, Effect::Trickle(100_000));
    let outcome = world.pull(&["--stall-timeout", "1"]).ok();
    let stalls = outcome.stderr.matches("stalled for 1 s").count();
    assert_eq!(stalls, 2, "{}", outcome.stderr);
    world.assert_installed();
}

#[test]
fn a_part_longer_than_the_file_is_not_trusted() {
    let world = World::new();
    fs::create_dir_all(world.staging_dir()).unwrap();
    let part = world.staging_dir().join("config.json.part");
    fs::write(part, vec![b'x'; 100_000]).unwrap();
    // A folder of a target that an interrupted export left.
    fs::create_dir_all(world.staging_dir().join("cpu/deeper")).unwrap();
    fs::write(world.staging_dir().join("cpu/stray"), "x").unwrap();
    world.pull(&[]).ok();
    world.assert_installed();
    assert!(!world.model_dir().join("cpu/stray").exists());
}

#[test]
fn links_in_the_staging_folder_are_not_followed() {
    let world = World::new();
    let victim = world.path("victim");
    fs::write(&victim, "kept").unwrap();
    fs::create_dir_all(world.staging_dir()).unwrap();
    let link = |name: &str| {
        std::os::unix::fs::symlink(&victim, world.staging_dir().join(name)).unwrap();
    };
    link("config.json.part");
    let outcome = world.pull(&[]);
    assert_eq!(outcome.code, Some(FAILED), "{outcome:?}");
    assert_eq!(fs::read(&victim).unwrap(), b"kept");
    world.assert_nothing_installed();
}
