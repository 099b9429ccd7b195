//! Files that come over several connections, each of which brings ranges.

use std::time::{Duration, Instant};

use crate::faults::{assert_sent_once, cuts_cost_nothing, sent};
use crate::harness::{NO_SPACE, Random, SHARDS, There, VERIFICATION, World, limited, tree};
use crate::mirror::Effect;

/// Bytes that a connection brings at once in most of these tests.
const RANGE: u64 = 20_000;

/// Several connections for one file after another.
const WIDE: [&str; 6] = ["--jobs", "1", "--connections", "5", "--range-size", "20k"];

fn wide(more: &[&'static str]) -> Vec<&'static str> {
    WIDE.iter().chain(more).copied().collect()
}

/// First bytes of the ranges of a file.
fn starts(world: &World, file: &str) -> impl Iterator<Item = u64> + use<> {
    (0..world.files[file].len() as u64).step_by(RANGE as usize)
}

/// Waits for what another process does.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A world whose pull was killed when the largest shard's part had 25 000 bytes and four
/// windows ahead of it 5000 each.
fn killed() -> World {
    let world = World::new();
    for start in starts(&world, SHARDS[0]).skip(1) {
        let stall = Effect::Stall(5000);
        world.mirror.fault_at(SHARDS[0], start, 1, stall);
    }
    let mut pull = world.spawn_pull(&wide(&["--stall-timeout", "600"]));
    world.mirror.wait_for_stalls(5);
    let held = |start| start..if start == 0 { 25_000 } else { start + 5000 };
    let expected = [0, 40_000, 60_000, 80_000, 100_000].map(held);
    until("all are written", || world.extents(SHARDS[0]) == expected);
    pull.kill().unwrap();
    pull.wait().unwrap();
    world.mirror.settle();
    world.mirror.heal();
    world.assert_nothing_installed();
    world
}

#[test]
fn each_byte_comes_once() {
    for connections in ["1", "2", "5", "32"] {
        let world = World::new();
        let args = ["--connections", connections, "--range-size", "20k"];
        world.pull(&args).ok();
        world.assert_installed();
        let served = world.mirror.take_served();
        assert_sent_once(&world, &served);
        for shard in SHARDS {
            let answers = served.iter().filter(|s| s.file == shard).count();
            let ranges = starts(&world, shard).count();
            let expected = if connections == "1" { 1 } else { ranges };
            assert_eq!(answers, expected, "{shard}, {connections} connections");
        }
    }
}

#[test]
fn small_files_have_one_connection() {
    let world = World::new();
    // The largest has not two ranges of that size.
    let size = world.files[SHARDS[0]].len() / 2 + 1;
    world.pull(&["--range-size", &size.to_string()]).ok();
    world.assert_installed();
    assert_eq!(world.mirror.take_served().len(), world.files.len());
    world.ctl(&["rm", "tiny"]).ok();
    let size = (size - 1).to_string();
    world.pull(&["--range-size", &size]).ok();
    assert_eq!(world.mirror.take_served().len(), world.files.len() + 1);
}

#[test]
fn there_are_as_many_connections_as_allowed() {
    let world = killed();
    let served = world.mirror.take_served();
    let of_it = served.iter().filter(|s| s.file == SHARDS[0]);
    assert_eq!(of_it.count(), 1 + 5);
    // They are garbage like any other, and counted.
    let told = world.ctl(&["gc", "--dry-run", "--json"]).ok().json();
    let staged = tree(&world.staging_dir()).into_values();
    let size: usize = staged.map(|bytes| bytes.len()).sum();
    assert_eq!(told["rows"][0]["size"], size);
    world.ctl(&["gc"]).ok();
    assert!(tree(&world.store().join(".staging")).is_empty());
}

#[test]
fn whatever_the_next_run_is_told_it_goes_on_with_all_of_them() {
    let settings: [&[&str]; 5] = [
        &WIDE,
        &["--connections", "1"],
        &[],
        &["--range-size", "17k"],
        &["--range-size", "50k", "--connections", "2"],
    ];
    for args in settings {
        let world = killed();
        let there = There::of(&world);
        assert_eq!(there.bytes(SHARDS[0]), 45_000);
        world.mirror.take_served();
        let told = world.pull(args).ok();
        assert!(told.stderr.contains("going on at 45 kB"), "{}", told.stderr);
        world.assert_installed();
        let served = world.mirror.take_served();
        there.was_not_fetched_again(&served);
        let missing = world.files[SHARDS[0]].len() as u64 - 45_000;
        assert_eq!(sent(&served, SHARDS[0]), missing, "{args:?}");
    }
    // A folder gives it in one piece, and leaves nothing behind either.
    let world = killed();
    let folder = world.checkpoint_dir("copy", |_| ());
    let catalog = world.path("catalog.toml");
    let endpoint = format!("file://{}", folder.display());
    let args = ["pull", "tiny", "--endpoint", &endpoint, "--catalog"];
    world
        .ctl(&[&args[..], &[catalog.to_str().unwrap()]].concat())
        .ok();
    world.assert_installed();
}

#[test]
fn what_confuses_is_not_trusted() {
    let world = killed();
    let window = |start: u64| {
        let name = format!(".{}.{start}.part", SHARDS[0]);
        world.staging_dir().join(name)
    };
    // Over another one, behind the end, before what is there, and a link.
    for (start, length) in [(62_000, 9000), (262_000, 9000), (3, 9000), (150_000, 0)] {
        std::fs::write(window(start), vec![b'x'; length]).unwrap();
    }
    let victim = world.path("victim");
    std::fs::write(&victim, vec![b'x'; 5000]).unwrap();
    std::os::unix::fs::symlink(&victim, window(200_000)).unwrap();
    let there = There::of(&world);
    assert!(there.bytes(SHARDS[0]) > 45_000);
    world.mirror.take_served();
    world.pull(&WIDE).ok();
    world.assert_installed();
    let missing = world.files[SHARDS[0]].len() as u64 - 45_000;
    assert_eq!(sent(&world.mirror.take_served(), SHARDS[0]), missing);
    assert_eq!(std::fs::read(victim).unwrap(), vec![b'x'; 5000]);
}

#[test]
fn a_window_that_went_bad_on_the_disk_is_replaced() {
    let world = killed();
    let name = format!(".{}.60000.part", SHARDS[0]);
    std::fs::write(world.staging_dir().join(name), vec![b'x'; 5000]).unwrap();
    let told = world.pull(&WIDE).ok();
    assert!(told.stderr.contains("from the start"), "{}", told.stderr);
    world.assert_installed();
}

#[test]
fn cuts_at_any_byte_cost_nothing() {
    let args = ["--range-size", "20k", "--retries", "1000"];
    cuts_cost_nothing(6, 1..RANGE, &args);
}

#[test]
fn killed_while_several_come_in() {
    let mut random = Random(37);
    for _ in 0..6 {
        let world = World::new();
        for shard in SHARDS {
            for start in starts(&world, shard).skip(1) {
                let stop = random.below(3 * RANGE);
                if stop < RANGE {
                    let stall = Effect::Stall(stop);
                    world.mirror.fault_at(shard, start, 1, stall);
                }
            }
        }
        let args = ["--range-size", "20k", "--stall-timeout", "600"];
        let mut pull = world.spawn_pull(&args);
        world.mirror.wait_for_stalls(1 + random.below(4) as usize);
        pull.kill().unwrap();
        pull.wait().unwrap();
        world.mirror.settle();
        world.mirror.heal();
        world.assert_nothing_installed();
        let there = There::of(&world);
        world.mirror.take_served();
        world.pull(&["--range-size", "20k"]).ok();
        world.assert_installed();
        let served = world.mirror.take_served();
        there.was_not_fetched_again(&served);
        for shard in SHARDS {
            let size = world.files[shard].len() as u64;
            let missing = size - there.bytes(shard);
            let sent = sent(&served, shard);
            assert!([0, missing].contains(&sent), "{sent} of {missing}: {shard}");
        }
    }
}

#[test]
fn a_server_without_ranges_sends_it_over_one_connection() {
    let world = World::new();
    for shard in SHARDS {
        world.mirror.fault(shard, 99, Effect::IgnoreRange);
    }
    let told = world.pull(&["--range-size", "20k"]).ok();
    let words = told.stderr.matches("gives no ranges").count();
    assert_eq!(words, 3, "{}", told.stderr);
    world.assert_installed();
    let served = world.mirror.take_served();
    assert_sent_once(&world, &served);
    assert_eq!(served.len(), world.files.len(), "each was asked for once");
    // What an earlier attempt has from ranges does not get into its way.
    let world = killed();
    world.mirror.fault(SHARDS[0], 99, Effect::IgnoreRange);
    let told = world.pull(&WIDE).ok();
    assert!(told.stderr.contains("cannot resume"), "{}", told.stderr);
    world.assert_installed();
}

#[test]
fn further_connections_that_are_refused_leave_it_to_one() {
    for effect in [
        Effect::IgnoreRange,
        Effect::ShiftRange,
        Effect::SilentRange,
        Effect::Status(403),
        Effect::Status(404),
        Effect::Status(400),
    ] {
        let world = World::new();
        world.mirror.fault_at(SHARDS[0], 40_000, 1, effect.clone());
        let told = world.pull(&WIDE).ok();
        let words = ["over one connection", SHARDS[0]];
        let is_told = |line: &&str| words.iter().all(|word| line.contains(word));
        let lines = told.stderr.lines().filter(is_told).count();
        assert_eq!(lines, 1, "{effect:?}: {}", told.stderr);
        assert!(!told.stderr.contains("from the start"), "{}", told.stderr);
        world.assert_installed();
    }
}

#[test]
fn a_server_that_lets_few_in_is_asked_again_later() {
    let world = World::new();
    for start in starts(&world, SHARDS[0]).skip(2).step_by(2) {
        let effect = Effect::Status(if start % 80_000 == 0 { 429 } else { 503 });
        world.mirror.fault_at(SHARDS[0], start, 1, effect);
    }
    // Nobody gives up while another brings something.
    world.pull(&wide(&["--retries", "1"])).ok();
    world.assert_installed();
    assert_sent_once(&world, &world.mirror.take_served());
}

#[test]
fn a_silent_one_among_several_is_cut() {
    let world = World::new();
    let stall = Effect::Stall(5000);
    world.mirror.fault_at(SHARDS[0], 40_000, 1, stall);
    let told = world.pull(&wide(&["--stall-timeout", "1"])).ok();
    let stalls = told.stderr.matches("stalled for 1 s").count();
    assert_eq!(stalls, 1, "{}", told.stderr);
    world.assert_installed();
    assert_sent_once(&world, &world.mirror.take_served());
}

#[test]
fn wrong_bytes_in_one_range_are_fetched_again_with_the_rest() {
    let size = World::new().files[SHARDS[0]].len() as u64;
    for effect in [
        Effect::Corrupt(70_000),
        Effect::WrongRange,
        Effect::Longer(1),
        Effect::Shorter(size - 1),
    ] {
        let world = World::new();
        world.mirror.fault_at(SHARDS[0], 60_000, 1, effect.clone());
        let told = world.pull(&WIDE).ok();
        let again = told.stderr.matches("fetching it again from the start");
        assert_eq!(again.count(), 1, "{effect:?}: {}", told.stderr);
        world.assert_installed();
    }
}

#[test]
fn a_server_whose_ranges_all_lie_is_asked_for_the_whole() {
    let world = World::new();
    for shard in SHARDS {
        world.mirror.fault(shard, 99, Effect::WrongRange);
    }
    world.pull(&WIDE).ok();
    world.assert_installed();
}

#[test]
fn bytes_that_stay_wrong_leave_no_windows() {
    let world = World::new();
    world.mirror.fault(SHARDS[0], 99, Effect::Corrupt(70_000));
    let told = world.pull(&WIDE);
    told.fails(VERIFICATION, &[SHARDS[0], "SHA-256"]);
    world.assert_nothing_installed();
    assert!(world.extents(SHARDS[0]).is_empty());
    world.mirror.heal();
    world.pull(&WIDE).ok();
    world.assert_installed();
}

#[test]
fn full_while_several_come_in() {
    for kib in [0, 7, 19, 100, 200] {
        let world = World::new();
        // The small ones fit.
        let args = world.pull_args(&WIDE);
        limited(&world, kib, &args).fails(NO_SPACE, &["cannot write", "free some space"]);
        world.mirror.settle();
        world.assert_nothing_installed();
        let there = There::of(&world);
        world.mirror.take_served();
        world.pull(&WIDE).ok();
        world.assert_installed();
        let served = world.mirror.take_served();
        there.was_not_fetched_again(&served);
        let missing = world.files[SHARDS[0]].len() as u64 - there.bytes(SHARDS[0]);
        assert_eq!(sent(&served, SHARDS[0]), missing, "{kib} KiB");
    }
}

#[test]
fn the_bound_on_speed_is_for_all_of_them() {
    let world = World::new();
    let total: usize = world.files.values().map(Vec::len).sum();
    let started = Instant::now();
    world.pull(&wide(&["--limit-rate", "400k"])).ok();
    // A quarter of a second is free.
    let least = Duration::from_secs_f64(total as f64 / 400e3 - 0.25);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    world.assert_installed();
}
