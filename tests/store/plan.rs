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

#[test]
fn a_published_model_is_planned_before_it_is_there() {
    let world = World::new();
    let words = ["20b", "--context", "8192,32768", "--parallel", "1"];
    let told = plan(&world, &words);
    assert_eq!(told["installed"], false);
    assert_eq!(told["disk"]["download"], 13_789_256_009u64);
    let export = told["disk"]["exports"]["cpu"].as_u64().unwrap();
    assert!(
        (1_900_000_000..2_100_000_000).contains(&export),
        "{export} bytes"
    );
    assert_eq!(told["disk"]["needed"], 13_789_256_009 + export);
    // Measured on a checkpoint of that shape: 12.51 GB at a context of 8192.
    let [(8192, short), (32_768, long)] = needed(&told)[..] else {
        panic!("{told}");
    };
    assert!((12_000_000_000..13_100_000_000).contains(&short), "{short}");
    // Twelve layers see everything: 2 sides x 8 heads x 64 elements x 2 bytes.
    assert_eq!(long - short, (32_768 - 8192) * 12 * 2048);
    let told = plan(&world, &["120b", "--context", "8192"]);
    let [(8192, large)] = needed(&told)[..] else {
        panic!("{told}");
    };
    assert!((62_000_000_000..66_000_000_000).contains(&large), "{large}");
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
