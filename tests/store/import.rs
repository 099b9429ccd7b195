//! `import` of good folders and of bad ones.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::{NOT_FOUND, Outcome, SHARDS, USAGE, VERIFICATION, World, tree};

type Files = BTreeMap<String, Vec<u8>>;

const INDEX: &str = "model.safetensors.index.json";

/// Imports the changed checkpoint and demands that it is refused.
#[track_caller]
fn refused(code: i32, words: &[&str], change: impl FnOnce(&mut Files)) {
    let world = World::new();
    let dir = world.checkpoint_dir("changed", change);
    let outcome = world.ctl(&["import", dir.to_str().unwrap()]);
    outcome.fails(code, words);
    assert!(
        tree(&world.store()).is_empty(),
        "a refused import leaves nothing"
    );
}

/// Replaces text in a text file.
fn edit(files: &mut Files, name: &str, from: &str, to: &str) {
    let text = String::from_utf8(files[name].clone()).unwrap();
    assert!(text.contains(from), "{name} has no {from}");
    files.insert(name.into(), text.replace(from, to).into());
}

/// Where a tensor's bytes are: shard and range.
fn locate(files: &Files, tensor: &str) -> (String, std::ops::Range<usize>) {
    let index: serde_json::Value = serde_json::from_slice(&files[INDEX]).unwrap();
    let shard = index["weight_map"][tensor].as_str().unwrap().to_owned();
    let bytes = &files[&shard];
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let offset = |i: usize| header[tensor]["data_offsets"][i].as_u64().unwrap() as usize;
    (shard, 8 + length + offset(0)..8 + length + offset(1))
}

fn import(world: &World, dir: &std::path::Path, more: &[&str]) -> Outcome {
    let mut args = vec!["import", dir.to_str().unwrap()];
    args.extend(more);
    world.ctl(&args)
}

#[test]
fn a_folder_is_installed_under_its_name() {
    let world = World::new();
    let dir = world.checkpoint_dir("My tune", |files| {
        files.insert("README.md".into(), b"not part of it".to_vec());
    });
    let before = tree(&dir);
    let outcome = import(&world, &dir, &["--json"]).ok().json();
    assert_eq!(outcome["name"], "My-tune");
    assert!(outcome["revision"].as_str().unwrap().starts_with("sha256-"));
    assert_eq!(tree(&dir), before, "the source is untouched");
    world.ctl(&["verify", "My-tune"]).ok();
    let names: Vec<_> = world.installed().into_keys().collect();
    assert!(!names.iter().any(|p| p.ends_with("README.md")));
    let again = import(&world, &dir, &["--json"]).ok().json();
    assert_eq!(again["status"], "already-installed");
    import(&world, &dir, &["--name", "other", "--target", "portable"]).ok();
    assert_eq!(
        world.ctl(&["list", "--json"]).ok().json()["models"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_folder_of_links_is_copied() {
    let world = World::new();
    let blobs = world.checkpoint_dir("blobs", |_| ());
    let dir = world.path("snapshot");
    fs::create_dir(&dir).unwrap();
    for name in world.files.keys() {
        std::os::unix::fs::symlink(blobs.join(name), dir.join(name)).unwrap();
    }
    import(&world, &dir, &[]).ok();
    fs::remove_dir_all(&blobs).unwrap();
    world.ctl(&["verify", "snapshot"]).ok();
}

#[test]
fn folders_that_are_none() {
    let world = World::new();
    import(&world, &world.path("absent"), &[]).fails(NOT_FOUND, &["cannot read", "absent"]);
    fs::create_dir(world.path("empty")).unwrap();
    import(&world, &world.path("empty"), &[]).fails(NOT_FOUND, &["config.json"]);
    let dir = world.checkpoint_dir("good", |_| ());
    for name in ["../x", "a/b", ".x", ""] {
        import(&world, &dir, &["--name", name]).fails(USAGE, &["model name", "refused"]);
    }
    assert!(!world.store().exists());
}

#[test]
fn a_published_name_is_not_given_to_other_bytes() {
    let world = World::new();
    for name in ["20b", "120b", "nano"] {
        let dir = world.checkpoint_dir(name, |_| ());
        import(&world, &dir, &[]).fails(VERIFICATION, &[name, "not its bytes", "--name"]);
        import(&world, &dir, &["--name", name]).fails(VERIFICATION, &["published model"]);
    }
    world.assert_nothing_installed();
}

#[test]
fn a_truncated_shard() {
    refused(VERIFICATION, &[SHARDS[0]], |files| {
        let shard = files.get_mut(SHARDS[0]).unwrap();
        shard.truncate(shard.len() - 1);
    });
    refused(VERIFICATION, &[SHARDS[1]], |files| {
        files.get_mut(SHARDS[1]).unwrap().truncate(5);
    });
    refused(VERIFICATION, &[SHARDS[1]], |files| {
        files.get_mut(SHARDS[1]).unwrap().clear();
    });
}

#[test]
fn a_corrupted_header() {
    refused(VERIFICATION, &[SHARDS[0]], |files| {
        files.get_mut(SHARDS[0]).unwrap()[20] = 0;
    });
    refused(VERIFICATION, &[SHARDS[0]], |files| {
        files.get_mut(SHARDS[0]).unwrap()[..8].fill(0xff);
    });
}

#[test]
fn swapped_shards() {
    refused(VERIFICATION, &["model"], |files| {
        let (a, b) = (files[SHARDS[0]].clone(), files[SHARDS[1]].clone());
        files.insert(SHARDS[0].into(), b);
        files.insert(SHARDS[1].into(), a);
    });
}

#[test]
fn a_missing_shard() {
    refused(VERIFICATION, &[SHARDS[2]], |files| {
        files.remove(SHARDS[2]);
    });
}

#[test]
fn an_index_that_leaves_the_folder() {
    for name in ["../x", "/etc/passwd", "cpu/x", "..", ""] {
        refused(VERIFICATION, &["shard"], |files| {
            edit(files, INDEX, SHARDS[0], name)
        });
    }
}

#[test]
fn a_broken_index() {
    refused(VERIFICATION, &["index.json"], |files| {
        files.insert(INDEX.into(), b"{".to_vec());
    });
}

#[test]
fn a_missing_tensor() {
    let tensor = "model.layers.1.self_attn.sinks";
    refused(VERIFICATION, &[tensor], |files| {
        let (shard, _) = locate(files, tensor);
        let bytes = files.get_mut(&shard).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        // Another name of the same length leaves everything else in place.
        let renamed = text.replace("1.self_attn.sinks", "1.self_attn.sinkz");
        assert_ne!(text, renamed);
        bytes[8..8 + length].copy_from_slice(renamed.as_bytes());
    });
}

#[test]
fn a_scale_that_is_not_a_number() {
    let tensor = "model.layers.0.mlp.experts.down_proj_scales";
    refused(VERIFICATION, &[tensor], |files| {
        let (shard, range) = locate(files, tensor);
        files.get_mut(&shard).unwrap()[range.start + 7] = 0xff;
    });
}

#[test]
fn another_architecture() {
    refused(VERIFICATION, &["config.json"], |files| {
        edit(files, "config.json", "gpt_oss", "llama");
        edit(
            files,
            "config.json",
            "GptOssForCausalLM",
            "LlamaForCausalLM",
        );
    });
    refused(VERIFICATION, &["config.json"], |files| {
        files.insert("config.json".into(), b"[]".to_vec());
    });
}

#[test]
fn another_shape() {
    refused(VERIFICATION, &["config.json asks for"], |files| {
        edit(
            files,
            "config.json",
            "\"vocab_size\": 1024",
            "\"vocab_size\": 1000",
        );
    });
}

#[test]
fn a_pulled_checkpoint_of_another_architecture_is_refused_before_its_shards() {
    let world = World::with({
        let mut files = crate::harness::checkpoint();
        edit(&mut files, "config.json", "gpt_oss", "llama");
        let large = files.get_mut(SHARDS[0]).unwrap();
        large.resize((64 << 20) + 1, 0);
        files
    });
    world.pull(&[]).fails(VERIFICATION, &["config.json"]);
    world.assert_nothing_installed();
    let served = world.mirror.take_served();
    assert!(
        !served.iter().any(|s| s.file == SHARDS[0]),
        "the large shard was fetched"
    );
}
