//! What `plan` says of models that are there, and of those that are not.

use serde_json::Value;

use crate::harness::{NOT_FOUND, TINY, World};

/// What is planned, for the machine that the words of `options` describe.
fn plan(world: &World, options: &[&str]) -> Value {
    let words: Vec<&str> = ["--json", "plan"].iter().chain(options).copied().collect();
    world.ctl(&words).ok().json()
}

/// Bytes in all for each context.
fn needed(plan: &Value) -> Vec<(u64, u64)> {
    let rows = plan["memory"]["plans"].as_array().unwrap().iter();
    rows.map(|row| {
        let part = |key: &str| row[key].as_u64().unwrap();
        let sum = part("weights") + part("cache") + part("workspace");
        assert_eq!(part("needed"), sum);
        (part("context"), sum)
    })
    .collect()
}

/// A published model: what its files have, what an export for `cpu` and one for
/// `portable` have to write, and the weights that the former is run with.
struct Published {
    name: &'static str,
    files: u64,
    exports: [(&'static str, u64); 2],
    weights: u64,
    /// Layers that see everything.
    full: u64,
}

/// Reckoned by hand from the published shapes: 201 088 rows of embedding (2880 bytes and
/// 90 scales) and of head (45 scales), in each layer 5120 rows of 2880 and 2880 of 4096
/// for attention, all of that int8; in float32 the router, norms, biases, sinks and
/// 131 072 times 64 cosines and sines; and experts of 3 times 2880 times 2880 weights,
/// 17 bytes for 32 of them in place, 20 in the other format.
const PUBLISHED: [Published; 2] = [
    Published {
        name: "20b",
        files: 13_789_256_009,
        exports: [("cpu", 1_987_420_928), ("portable", 13_957_899_008)],
        weights: 12_153_037_568,
        full: 12,
    },
    Published {
        name: "120b",
        files: 65_276_850_729,
        exports: [("cpu", 2_370_748_160), ("portable", 74_193_616_640)],
        weights: 63_364_448_000,
        full: 18,
    },
];

/// Not less than needed, and at most a hundredth more.
#[track_caller]
fn assert_covers(planned: u64, needed: u64, what: &str) {
    assert!(
        planned >= needed && planned - needed <= needed / 100,
        "{what}: {planned} planned, {needed} needed"
    );
}

#[test]
fn a_published_model_is_planned_before_it_is_there() {
    let world = World::new();
    for model in PUBLISHED {
        let name = model.name;
        let words = [
            name,
            "--context",
            "8192,32768",
            "--parallel",
            "1",
            "--target",
            "cpu,portable",
        ];
        let told = plan(&world, &words);
        assert_eq!(told["installed"], false);
        assert_eq!(told["disk"]["download"], model.files);
        let mut together = model.files;
        for (target, needed) in model.exports {
            let planned = told["disk"]["exports"][target].as_u64().unwrap();
            assert_covers(planned, needed, &format!("{name} for {target}"));
            together += planned;
        }
        assert_eq!(told["disk"]["needed"], together);
        let rows = &told["memory"]["plans"];
        assert_covers(rows[0]["weights"].as_u64().unwrap(), model.weights, name);
        let [(8192, short), (32_768, long)] = needed(&told)[..] else {
            panic!("{told}");
        };
        // 2 sides x 8 heads x 64 elements x 2 bytes.
        assert_eq!(long - short, (32_768 - 8192) * model.full * 2048);
        assert_eq!(rows[0]["fits"], short <= available(&told));
    }
    // Measured on a checkpoint of 20b's shape: 12.51 GB at a context of 8192.
    let words = ["20b", "--context", "8192", "--parallel", "1"];
    let [(8192, small)] = needed(&plan(&world, &words))[..] else {
        panic!("another context");
    };
    assert!((12_510_000_000..13_000_000_000).contains(&small), "{small}");
    let told = world.ctl(&["plan", "120b"]).ok().stdout;
    for words in ["65.28 GB", "2.38 GB at most", "67.65 GB", "63.36 GB"] {
        assert!(told.contains(words), "no {words} in {told}");
    }
}

/// Bytes of memory that are there.
fn available(plan: &Value) -> u64 {
    plan["memory"]["available"].as_u64().unwrap()
}

#[test]
fn the_cache_can_be_smaller_or_for_more_requests() {
    let world = World::new();
    let cache = |options: &[&str]| {
        let words: Vec<&str> = ["20b", "--context", "8192"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        plan(&world, &words)["memory"]["plans"][0]["cache"]
            .as_u64()
            .unwrap()
    };
    let half = cache(&["--kv-cache", "f16", "--parallel", "1"]);
    assert_eq!(
        cache(&["--kv-cache", "int8", "--parallel", "1"]) * 8,
        half * 5
    );
    assert!(cache(&["--kv-cache", "f16", "--parallel", "4"]) > half);
    // Without words it is what the daemon is set to.
    let config = world.path("gptossd.toml");
    std::fs::write(&config, "[runtime]\nkv-cache = \"int8\"\nparallel = 1\n").unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(cache(&["--config", config]) * 8, half * 5);
}

#[test]
fn what_is_installed_is_planned_from_its_export() {
    let world = World::new();
    let before = plan(
        &world,
        &[
            TINY,
            "--catalog",
            world.path("catalog.toml").to_str().unwrap(),
        ],
    );
    assert_eq!(before["installed"], false);
    assert!(
        before["memory"]["plans"].as_array().unwrap().is_empty(),
        "its catalog has no dimensions: {before}"
    );
    world.pull(&[]).ok();
    let after = plan(&world, &[TINY, "--context", "1000000,2000000"]);
    assert_eq!(after["installed"], true);
    assert_eq!(after["disk"]["needed"], 0);
    // The model was made for 4096 positions, and that is told once.
    let [(4096, _)] = needed(&after)[..] else {
        panic!("{after}");
    };
    let portable = plan(&world, &[TINY, "--target", "portable"]);
    assert!(portable["disk"]["needed"].as_u64().unwrap() > 0);
    assert_eq!(portable["memory"]["kv_cache"], "f32");
    let people = world.ctl(&["plan", TINY]).ok().stdout;
    for words in ["installed", "KV cache", "available", "together"] {
        assert!(people.contains(words), "{people}");
    }
}

#[test]
fn a_model_nobody_knows_is_not_planned() {
    let world = World::new();
    world
        .ctl(&["plan", "nobody"])
        .fails(NOT_FOUND, &["no model nobody", "20b"]);
}
