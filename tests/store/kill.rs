//! SIGKILL at any moment: afterwards the store holds the old state or the new
//! one, and the next run completes.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Random, SHARDS, TINY, World};
use crate::mirror::Effect;

#[test]
fn killed_while_a_file_comes_in() {
    let mut random = Random(3);
    for _ in 0..8 {
        let world = World::new();
        let shard = SHARDS[random.below(3) as usize];
        let stop = random.below(world.files[shard].len() as u64);
        world.mirror.fault(shard, 1, Effect::Stall(stop));
        let mut pull = world.spawn_pull(&["--stall-timeout", "600"]);
        world.mirror.wait_for_stall();
        pull.kill().unwrap();
        pull.wait().unwrap();
        world.assert_nothing_installed();
        let part = world.part_len(shard);
        let proven = world.proven();
        world.mirror.take_served();
        world.pull(&[]).ok();
        world.assert_installed();
        let again = world.mirror.take_served();
        let resumed = again.iter().find(|s| s.file == shard).map(|s| s.start);
        assert_eq!(
            resumed,
            Some(part.unwrap_or(0)),
            "it goes on where the part ends"
        );
        for name in proven {
            assert!(!again.iter().any(|s| s.file == name), "{name} was proven");
        }
    }
}

/// How long a whole run of `args` takes here and now.
fn duration(world: &World, args: &[&str]) -> Duration {
    let started = Instant::now();
    world.ctl(args).ok();
    started.elapsed()
}

#[test]
fn killed_at_any_moment_of_a_pull() {
    let world = World::new();
    let args = world.pull_args(&["--target", "cpu,portable"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let whole = duration(&world, &args);
    let expected = world.installed();
    world.ctl(&["rm", TINY]).ok();
    let (mut random, mut early) = (Random(5), 0);
    for _ in 0..12 {
        let after = whole.mul_f64(random.below(1000) as f64 / 1000.0);
        let mut pull = world.spawn_quiet(&args);
        // Not for anything to be ready: the moment itself is what is drawn.
        std::thread::sleep(after);
        pull.kill().unwrap();
        pull.wait().unwrap();
        let installed = world.installed();
        if installed.is_empty() {
            early += 1;
        } else {
            assert!(
                installed.keys().eq(expected.keys()),
                "{:?}",
                installed.keys()
            );
            world.ctl(&["verify", TINY]).ok();
        }
        if random.below(2) == 0 {
            world.ctl(&args).ok();
            world.assert_installed();
            world.ctl(&["rm", TINY]).ok();
        }
    }
    assert!(early > 0, "no kill came before the end");
    world.ctl(&args).ok();
    world.assert_installed();
}

#[test]
fn killed_at_any_moment_of_a_replacing_export() {
    let world = World::new();
    world.pull(&["--target", "cpu,portable"]).ok();
    let args = ["export", TINY, "--target", "cpu,portable", "--force"];
    let whole = duration(&world, &args);
    let expected = world.installed();
    let mut random = Random(9);
    for _ in 0..12 {
        let after = whole.mul_f64(random.below(1000) as f64 / 1000.0);
        let mut export = world.spawn_quiet(&args);
        std::thread::sleep(after);
        export.kill().unwrap();
        export.wait().unwrap();
        let installed = world.installed();
        assert!(
            installed.keys().eq(expected.keys()),
            "{:?}",
            installed.keys()
        );
        world.ctl(&["verify", TINY]).ok();
    }
    world.ctl(&args).ok();
    world.assert_installed();
}

#[test]
fn killed_at_any_moment_of_a_removal() {
    let world = World::new();
    world.pull(&[]).ok();
    let kept = world.path("kept");
    for i in 0..8 {
        let mut removal = world.spawn_quiet(&["rm", TINY]);
        std::thread::sleep(Duration::from_millis(i * 3));
        removal.kill().unwrap();
        removal.wait().unwrap();
        if world.installed().is_empty() {
            break;
        }
        world.ctl(&["verify", TINY]).ok();
    }
    if !world.installed().is_empty() {
        world.ctl(&["rm", TINY]).ok();
    }
    world.assert_nothing_installed();
    world.pull(&[]).ok();
    world.assert_installed();
    assert!(fs::metadata(kept).is_err());
}
