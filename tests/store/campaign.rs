//! Faults by the hundred on a checkpoint of 50 MB: `make test-faults`.
//!
//! After each fault the store holds the old state or the new one, never a mixture,
//! and the next run completes without bringing again what was already proven.
//! `GPTOSS_ROUNDS` changes the number of each kind, 200 by default.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::bundle::{create, import, other_store};
use crate::harness::{
    FAILED, NO_SPACE, Random, SHARDS, TINY, There, VERIFICATION, World, checkpoint, limited, tree,
};
use crate::mirror::Effect;
use crate::repair::kill_repairs;

type Files = BTreeMap<String, Vec<u8>>;

fn rounds() -> u64 {
    let set = std::env::var("GPTOSS_ROUNDS").ok();
    set.map_or(200, |n| n.parse().expect("GPTOSS_ROUNDS is a number"))
}

/// The small checkpoint with a vocabulary that makes it 50 MB.
fn large_checkpoint() -> Files {
    const VOCABULARY: usize = 190_000;
    let mut files = checkpoint();
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    let hidden = config["hidden_size"].as_u64().unwrap() as usize;
    config["vocab_size"] = json!(VOCABULARY);
    files.insert("config.json".into(), config.to_string().into());
    let mut random = Random(1);
    // bf16 between one half and two, of either sign.
    let draw = |_| {
        [
            (random.below(256)) as u8,
            (0x3f | (random.below(2) << 7)) as u8,
        ]
    };
    let wide: Vec<u8> = (0..VOCABULARY * hidden).flat_map(draw).collect();
    for shard in SHARDS {
        let bytes = widen(&files[shard], &wide, [VOCABULARY, hidden]);
        files.insert(shard.into(), bytes);
    }
    let total: usize = SHARDS.iter().map(|s| files[*s].len()).sum();
    assert!((45_000_000..60_000_000).contains(&total), "{total}");
    files
}

/// A shard with the two matrices of the vocabulary replaced.
fn widen(shard: &[u8], wide: &[u8], shape: [usize; 2]) -> Vec<u8> {
    let length = u64::from_le_bytes(shard[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&shard[8..8 + length]).unwrap();
    let (mut fresh, mut data) = (Map::new(), Vec::new());
    for (name, mut entry) in header {
        if name == "__metadata__" {
            fresh.insert(name, entry);
            continue;
        }
        let offset = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let bytes = match name.as_str() {
            "lm_head.weight" | "model.embed_tokens.weight" => {
                entry["shape"] = json!(shape);
                wide
            }
            _ => &shard[offset(0)..offset(1)],
        };
        let start = data.len();
        data.extend_from_slice(bytes);
        entry["data_offsets"] = json!([start, data.len()]);
        fresh.insert(name, entry);
    }
    let header = Value::Object(fresh).to_string();
    let padding = " ".repeat(header.len().next_multiple_of(8) - header.len());
    let header = header + &padding;
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &data,
    ]
    .concat()
}

/// What an attempt must bring to count as one that leads somewhere.
const STRIDE: u64 = 64 << 10;
/// Several connections for each shard.
const WIDE: [&str; 4] = ["--connections", "8", "--range-size", "1M"];

fn world() -> World {
    World::with(large_checkpoint())
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_connections_cut_at_random_bytes() {
    let world = world();
    let mut random = Random(11);
    let mut cuts = 0;
    while cuts < rounds() {
        let shard = SHARDS[random.below(3) as usize];
        // Over one connection or several, one after the other.
        let (args, size) = match random.below(2) {
            0 => (&["--connections", "1"][..], world.files[shard].len() as u64),
            _ => (&WIDE[..], 1_000_000),
        };
        // Once somewhere; and then at once, so that the attempt is given up.
        let place = random.below(size);
        world.mirror.fault(shard, 1, Effect::Cut(place));
        world.mirror.fault(shard, 9, Effect::Cut(0));
        let there = There::of(&world);
        let outcome = world.pull(&[args, &["--retries", "0"]].concat());
        world.mirror.heal();
        there.was_not_fetched_again(&world.mirror.take_served());
        if outcome.code == Some(0) {
            // Less than that was missing.
            world.assert_installed();
            world.ctl(&["rm", TINY]).ok();
            continue;
        }
        outcome.fails(FAILED, &["run the same command again"]);
        world.assert_nothing_installed();
        cuts += 1;
    }
    world.pull(&[]).ok();
    world.assert_installed();
    println!("{cuts} cuts");
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_bundles_cut_at_random_bytes() {
    let world = world();
    world.pull(&[]).ok();
    let path = world.path("b.tar");
    create(&world, &path, &[]).ok();
    let whole = fs::metadata(&path).unwrap().len();
    let cut = world.path("cut.tar");
    fs::copy(&path, &cut).unwrap();
    let mut random = Random(13);
    let mut places: Vec<u64> = (0..rounds()).map(|_| random.below(whole - 1024)).collect();
    // One copy serves all: each cut is nearer to its beginning.
    places.sort_unstable_by(|a, b| b.cmp(a));
    for place in places {
        let file = fs::OpenOptions::new().write(true).open(&cut).unwrap();
        file.set_len(place).unwrap();
        import(&world, &cut, &[]).fails(VERIFICATION, &["ends too early"]);
        assert!(tree(&other_store(&world)).is_empty());
    }
    import(&world, &path, &[]).ok();
    println!("{} cuts", rounds());
}

/// The files of a tree but for the manifest, which tells times.
fn steady(dir: &Path) -> Files {
    let name = |p: &PathBuf| p.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
    // A kill may leave the manifest that was being written, which is nobody's.
    let kept = tree(dir)
        .into_iter()
        .filter(|(p, _)| !p.ends_with("manifest.json") && !p.ends_with("manifest.new"));
    kept.map(|(p, bytes)| (name(&p), bytes)).collect()
}

/// A command that is killed, and what must hold afterwards.
struct Victim<'a> {
    name: &'static str,
    args: Vec<String>,
    /// The store it works on.
    store: PathBuf,
    /// What its folder may hold afterwards.
    states: Vec<&'a Files>,
}

impl Victim<'_> {
    fn command(&self, world: &World) -> std::process::Command {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut command = world.command(&args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Kills it once, and judges what is left.
    fn kill(&self, world: &World, after: Duration) {
        let mut child = self.command(world).spawn().unwrap();
        // Not for anything to be ready: the moment itself is what is drawn.
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        let now = steady(&self.store.join("models"));
        let known = self.states.iter().any(|state| **state == now);
        assert!(known, "{} left a mixture: {:?}", self.name, now.keys());
    }
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_killed_at_random_moments() {
    let world = world();
    let nothing = Files::new();
    let pull: Vec<String> = world.pull_args(&[]);
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    world.pull(&[]).ok();
    let pulled = steady(&world.store().join("models"));
    let path = world.path("b.tar");
    create(&world, &path, &[]).ok();
    let other = other_store(&world);
    let bring = [
        "bundle",
        "import",
        &text(path),
        "--store",
        &text(other.clone()),
    ]
    .map(str::to_owned);
    world.ctl(&bring.each_ref().map(String::as_str)).ok();
    let imported = steady(&other.join("models"));
    let victims = [
        Victim {
            name: "pull",
            args: pull,
            store: world.store(),
            states: vec![&nothing, &pulled],
        },
        Victim {
            name: "pull over several connections",
            args: world.pull_args(&WIDE),
            store: world.store(),
            states: vec![&nothing, &pulled],
        },
        Victim {
            name: "import",
            args: bring.to_vec(),
            store: other.clone(),
            states: vec![&nothing, &imported],
        },
        Victim {
            name: "export",
            args: ["export", TINY, "--target", "cpu", "--force"]
                .map(str::to_owned)
                .to_vec(),
            store: world.store(),
            states: vec![&pulled],
        },
        Victim {
            name: "verify",
            args: ["verify", TINY].map(str::to_owned).to_vec(),
            store: world.store(),
            states: vec![&pulled],
        },
    ];
    let mut random = Random(17);
    for victim in &victims {
        let empties = victim.states.len() > 1;
        let name = fs::read_dir(victim.store.join("models"))
            .unwrap()
            .next()
            .unwrap();
        let model = name.unwrap().file_name().into_string().unwrap();
        let remove = ["rm", &model, "--store", victim.store.to_str().unwrap()];
        if empties {
            world.ctl(&remove).ok();
        }
        let started = Instant::now();
        assert!(victim.command(&world).status().unwrap().success());
        let whole = started.elapsed();
        let mut kills = 0;
        while kills < rounds() {
            if empties {
                world.ctl(&remove).ok();
            }
            // Several kills of one attempt after another, then its end.
            for _ in 0..1 + random.below(4) {
                let after = whole.mul_f64(random.below(1000) as f64 / 1000.0);
                victim.kill(&world, after);
                kills += 1;
            }
            world.mirror.settle();
            let there = There::of(&world);
            world.mirror.take_served();
            assert!(victim.command(&world).status().unwrap().success());
            there.was_not_fetched_again(&world.mirror.take_served());
            let now = steady(&victim.store.join("models"));
            assert!(
                Some(&&now) == victim.states.last(),
                "{} did not end",
                victim.name
            );
        }
        world
            .ctl(&["verify", &model, "--store", victim.store.to_str().unwrap()])
            .ok();
        println!("{}: killed {kills} times", victim.name);
    }
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_repairs_killed_at_random_moments() {
    kill_repairs(world(), rounds());
    println!("repair: killed {} times", rounds());
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_sources_that_lie() {
    let world = world();
    let mut random = Random(19);
    for round in 0..rounds() {
        let slow = round % 4 == 3;
        // The end of a file comes through however slowly it is sent.
        let (shard, end) = match slow {
            true => (SHARDS[0], 2),
            false => (SHARDS[random.below(3) as usize], 1),
        };
        let size = world.files[shard].len() as u64;
        let at = random.below(size / end);
        let effect = match round % 4 {
            0 => Effect::Corrupt(at),
            1 => Effect::Shorter(at),
            2 => Effect::Longer(1 + at),
            _ => Effect::Trickle(at),
        };
        world.mirror.fault(shard, 999, effect);
        let started = Instant::now();
        let patience = ["--retries", "1", "--stall-timeout", "1"];
        let connections: &[&str] = if round / 4 % 2 == 0 { &[] } else { &WIDE };
        let outcome = world.pull(&[&patience, connections].concat());
        // Each attempt that brings a stride or more counts, and ends with a stall.
        let stalls = match slow && at >= STRIDE {
            true => 2 * size / at,
            false => 0,
        };
        let took = started.elapsed();
        let limit = Duration::from_secs(60 + stalls);
        assert!(took < limit, "round {round}, from {at}: {took:?}");
        world.mirror.heal();
        match (outcome.code, slow) {
            // Slow bytes are bytes, if enough of them come.
            (Some(0), true) => {}
            (_, true) => drop(outcome.fails(FAILED, &[shard])),
            (_, false) => drop(outcome.fails(VERIFICATION, &[shard])),
        }
        let there = There::of(&world);
        world.mirror.take_served();
        world.pull(&[]).ok();
        there.was_not_fetched_again(&world.mirror.take_served());
        world.assert_installed();
        world.ctl(&["rm", TINY]).ok();
    }
    println!("{} lies", rounds());
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_full_disks() {
    let world = world();
    world.pull(&[]).ok();
    let path = world.path("b.tar");
    create(&world, &path, &[]).ok();
    let before = world.installed();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let other = text(&other_store(&world));
    let import_args = ["bundle", "import", &text(&path), "--store", &other].map(str::to_owned);
    let export_args = ["export", TINY, "--target", "cpu", "--force"].map(str::to_owned);
    let create_args = ["bundle", "create", TINY, "-o", &text(&world.path("c.tar"))];
    let create_args = create_args.map(str::to_owned);
    let mut pull_args = world.pull_args(&[]);
    pull_args.extend(["--store".to_owned(), text(&world.path("third"))]);
    let mut wide_args = world.pull_args(&WIDE);
    wide_args.extend(["--store".to_owned(), text(&world.path("fourth"))]);
    for point in 0..20u64 {
        // Up to the largest file that each of them writes.
        let kib = |largest: u64| (largest * point / 20) >> 10;
        limited(&world, kib(20_000_000), &import_args).fails(NO_SPACE, &["free some space"]);
        limited(&world, kib(20_000_000), &pull_args).fails(NO_SPACE, &["free some space"]);
        limited(&world, kib(20_000_000), &wide_args).fails(NO_SPACE, &["free some space"]);
        limited(&world, kib(20_000_000), &export_args).fails(NO_SPACE, &["export failed"]);
        limited(&world, kib(45_000_000), &create_args).fails(NO_SPACE, &["free some space"]);
        assert!(world.installed() == before);
        for store in ["other", "third", "fourth"] {
            assert!(tree(&world.path(store).join("models")).is_empty());
        }
        assert!(!world.path("c.tar").exists());
    }
    for args in [
        &import_args[..],
        &pull_args,
        &wide_args,
        &export_args,
        &create_args,
    ] {
        world
            .ctl(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .ok();
    }
    world.ctl(&["verify", TINY]).ok();
}

#[test]
#[ignore = "a campaign: make test-faults"]
fn campaign_two_processes_at_once() {
    let world = world();
    let mut random = Random(23);
    let pull = world.pull_args(&WIDE);
    let pull: Vec<&str> = pull.iter().map(String::as_str).collect();
    world.pull(&[]).ok();
    let repair = ["verify", "--repair", TINY];
    let commands: [&[&str]; 5] = [
        &pull,
        &["export", TINY, "--target", "cpu", "--force"],
        &["verify", TINY],
        &repair,
        &["rm", TINY],
    ];
    for _ in 0..rounds() / 4 {
        if random.below(2) == 0 {
            let shard = world.model_dir().join(SHARDS[random.below(3) as usize]);
            fs::write(shard, "damaged").unwrap();
        }
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                let chosen = commands[random.below(5) as usize];
                std::thread::sleep(Duration::from_millis(random.below(40)));
                world.spawn_quiet(chosen)
            })
            .collect();
        for child in &mut children {
            // Done, refused while the other works, nothing there to work on, or damaged.
            let code = child.wait().unwrap().code();
            assert!(matches!(code, Some(0 | 1 | 3 | 4)), "{code:?}");
        }
        let code = world.ctl(&repair).code;
        assert!(matches!(code, Some(0 | 3)), "{code:?}");
        world.pull(&[]).ok();
        world.assert_installed();
    }
}
