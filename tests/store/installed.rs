//! `list`, `show`, `verify`, `rm` and `export`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{NOT_FOUND, SHARDS, TINY, USAGE, VERIFICATION, World};
use crate::mirror::{COMMIT, REPO};

#[test]
fn an_empty_store() {
    let world = World::new();
    assert!(
        world
            .ctl(&["list"])
            .ok()
            .stdout
            .contains("gptoss-ctl pull 20b")
    );
    let listed = world.ctl(&["list", "--json"]).ok().json();
    assert_eq!(listed["models"].as_array().unwrap().len(), 0);
    for command in ["show", "verify", "rm"] {
        world
            .ctl(&[command, "20b"])
            .fails(NOT_FOUND, &["20b is not installed", "gptoss-ctl pull 20b"]);
    }
    world
        .ctl(&["export", "20b", "--target", "cpu"])
        .fails(NOT_FOUND, &["20b is not installed"]);
    assert!(!world.store().exists(), "looking creates nothing");
}

#[test]
fn hostile_names() {
    let world = World::new();
    world.pull(&[]).ok();
    let before = world.installed();
    for name in [
        "../tiny",
        "..",
        "/",
        "a/../tiny",
        "tiny/..",
        "",
        "tiny@../x",
    ] {
        for command in ["show", "verify", "rm"] {
            let code = world.ctl(&[command, "--", name]).code;
            assert!(
                matches!(code, Some(USAGE | NOT_FOUND)),
                "{command} {name}: {code:?}"
            );
        }
    }
    assert_eq!(world.installed(), before);
}

#[test]
fn a_listed_and_shown_model() {
    let world = World::new();
    world.pull(&[]).ok();
    let listed = world.ctl(&["list"]).ok().stdout;
    assert!(listed.contains(TINY) && listed.contains(&COMMIT[..12]) && listed.contains("cpu"));
    let row = &world.ctl(&["list", "--json"]).ok().json()["models"][0];
    assert_eq!(row["dir"], world.model_dir().to_str().unwrap());
    let shown = world.ctl(&["show", &format!("{TINY}@0123")]).ok().stdout;
    for word in [
        "Apache-2.0",
        "not a published model",
        SHARDS[0],
        "cpu/dense.bin",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[test]
fn verify_names_every_wrong_file() {
    let world = World::new();
    world.pull(&[]).ok();
    let dir = world.model_dir();
    let flip = |name: &str, at: usize| {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        bytes[at] ^= 1;
        fs::write(dir.join(name), bytes).unwrap();
    };
    flip(SHARDS[0], 200_000);
    let outcome = world
        .ctl(&["verify", TINY])
        .fails(VERIFICATION, &["1 of 11 files", "verify --repair tiny@"]);
    assert_eq!(outcome.stdout.lines().count(), 1);
    assert!(
        outcome
            .stdout
            .starts_with(&format!("{}: wrong bytes", SHARDS[0]))
    );
    flip("cpu/dense.bin", 77);
    fs::remove_file(dir.join("tokenizer.json")).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    let outcome = world
        .ctl(&["verify", TINY, "--json"])
        .fails(VERIFICATION, &["4 of 11"]);
    let verdict = outcome.json();
    assert_eq!(verdict["sound"], false);
    let state = |path: &str| {
        let files = verdict["files"].as_array().unwrap();
        files.iter().find(|f| f["path"] == path).unwrap()["state"].clone()
    };
    assert_eq!(state(SHARDS[0]), "wrong-digest");
    assert_eq!(state("cpu/dense.bin"), "wrong-digest");
    assert_eq!(state("tokenizer.json"), "missing");
    assert_eq!(state("config.json"), "wrong-size");
    assert_eq!(state(SHARDS[1]), "proven");
}

#[test]
fn each_file_says_which_published_one_it_is() {
    let world = World::new();
    world.pull(&[]).ok();
    // The catalog that pinned it is asked by itself.
    let verdict = world.ctl(&["verify", TINY, "--json"]).ok().json();
    let catalog = world.path("catalog.toml");
    let asked = json!(["built-in", catalog.to_str().unwrap()]);
    assert_eq!(verdict["catalogs"], asked);
    assert_eq!(verdict["published"], format!("{REPO}@{COMMIT}"));
    for file in verdict["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let published = json!({
            "catalog": catalog.to_str().unwrap(), "repo": REPO, "revision": COMMIT, "path": path,
        });
        let expected = match path.starts_with("cpu/") {
            true => Value::Null,
            false => published,
        };
        assert_eq!(file["published"], expected, "{path}");
    }
    let told = world.ctl(&["verify", TINY, "--files"]).ok().stdout;
    let line = format!("{0}: {REPO}@{COMMIT}: {0}\n", SHARDS[0]);
    assert!(told.contains(&line), "{told}");
    assert!(told.contains("cpu/dense.bin: exported"), "{told}");
    // Bytes that are a published file's, but another's.
    fs::copy(
        world.model_dir().join("tokenizer_config.json"),
        world.model_dir().join("special_tokens_map.json"),
    )
    .unwrap();
    let mut config = world.files["config.json"].clone();
    config[0] ^= 1;
    fs::write(world.model_dir().join("config.json"), config).unwrap();
    let told = world.ctl(&["verify", TINY]);
    assert!(told.stdout.contains("4136 bytes, must be"), "{told:?}");
    assert!(told.stdout.contains("matches no published"), "{told:?}");
    for file in ["config.json", "special_tokens_map.json"] {
        fs::write(world.model_dir().join(file), &world.files[file]).unwrap();
    }
    // Without that catalog only what anybody's models share is known.
    fs::rename(&catalog, world.path("moved.toml")).unwrap();
    let told = world.ctl(&["verify", TINY]).ok();
    assert!(told.stderr.contains("cannot be asked"), "{told:?}");
    assert!(
        told.stdout
            .contains("1 of its 9 files match a published digest"),
        "{told:?}"
    );
    let moved = world.path("moved.toml");
    let args = ["verify", TINY, "--catalog", moved.to_str().unwrap()];
    let told = world.ctl(&args).ok().stdout;
    assert!(
        told.contains("all 9 files are the published bytes"),
        "{told}"
    );
    assert!(told.contains("by the catalog"), "{told}");
}

#[test]
fn verify_records_when_it_can() {
    let world = World::new();
    world.pull(&[]).ok();
    let manifest = world.model_dir().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let shown = world.ctl(&["show", TINY, "--json"]).ok().json();
    let then = shown["verified_at"].as_str().unwrap();
    fs::write(&manifest, text.replace(then, "2001-01-01T00:00:00Z")).unwrap();
    world.ctl(&["verify", TINY]).ok();
    let shown = world.ctl(&["show", TINY, "--json"]).ok().json();
    assert_ne!(shown["verified_at"], "2001-01-01T00:00:00Z");
}

#[test]
fn verify_does_not_need_to_write() {
    let world = World::new();
    world.pull(&[]).ok();
    fs::remove_dir_all(world.store().join(".staging")).unwrap();
    // A file in the place of the folder: nothing can be locked or written there.
    fs::write(world.store().join(".staging"), "").unwrap();
    world.ctl(&["verify", TINY]).ok();
}

#[test]
fn a_manifest_that_lies_about_paths_is_refused() {
    let world = World::new();
    world.pull(&[]).ok();
    let manifest = world.model_dir().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let victim = world.path("victim");
    fs::write(&victim, "kept").unwrap();
    fs::write(
        &manifest,
        text.replace("\"config.json\"", "\"../../../../victim\""),
    )
    .unwrap();
    world
        .ctl(&["verify", TINY])
        .fails(VERIFICATION, &["not a usable manifest", "file name"]);
    let listed = world.ctl(&["list", "--json"]).ok().json();
    assert_eq!(listed["unusable"].as_array().unwrap().len(), 1);
    world.ctl(&["rm", TINY]).ok();
    assert_eq!(fs::read(victim).unwrap(), b"kept");
    world.assert_nothing_installed();
}

#[test]
fn removal() {
    let world = World::new();
    world.pull(&[]).ok();
    let removed = world.ctl(&["rm", TINY, "--json"]).ok().json();
    assert_eq!(removed["removed"][0], format!("{TINY}@{COMMIT}"));
    world.assert_nothing_installed();
    world
        .ctl(&["rm", TINY])
        .fails(NOT_FOUND, &["not installed"]);
}

#[test]
fn several_revisions_are_removed_by_name_only_on_request() {
    let world = World::new();
    let one = world.checkpoint_dir("one", |_| ());
    let two = world.checkpoint_dir("two", |files| {
        files.insert("LICENSE".into(), b"another".to_vec());
    });
    for dir in [&one, &two] {
        world
            .ctl(&["import", dir.to_str().unwrap(), "--name", "tune"])
            .ok();
    }
    world
        .ctl(&["rm", "tune"])
        .fails(USAGE, &["tune@sha256-", " or ", "--all"]);
    world.ctl(&["rm", "tune", "--all"]).ok();
    world.assert_nothing_installed();
}

#[test]
fn an_interrupted_pull_can_be_listed_and_removed() {
    let world = World::new();
    world
        .mirror
        .fault(SHARDS[0], 1, crate::mirror::Effect::Cut(5000));
    world.pull(&["--retries", "0"]).fails(1, &[]);
    let listed = world.ctl(&["list", "--json"]).ok().json();
    assert_eq!(listed["staged"][0], format!("{TINY}@{COMMIT}"));
    world.ctl(&["rm", TINY]).ok();
    assert!(!world.staging_dir().exists());
}

#[test]
fn exports_are_reproducible_and_replaced_as_a_whole() {
    let world = World::new();
    world.pull(&["--target", "cpu,portable"]).ok();
    let before = world.installed();
    world.ctl(&["export", TINY, "--target", "cpu"]).ok();
    assert_eq!(world.installed(), before, "nothing to do");
    world
        .ctl(&["export", TINY, "--target", "cpu,portable", "--force"])
        .ok();
    let after = world.installed();
    for (path, bytes) in &before {
        assert!(after.get(path) == Some(bytes), "{} differs", path.display());
    }
    world.assert_installed();
}

#[test]
fn a_damaged_target_is_exported_again() {
    let world = World::new();
    world.pull(&[]).ok();
    fs::write(world.model_dir().join("cpu/dense.bin"), "damaged").unwrap();
    world
        .ctl(&["verify", TINY])
        .fails(VERIFICATION, &["1 of 11"]);
    world
        .ctl(&["export", TINY, "--target", "cpu", "--force"])
        .ok();
    world.assert_installed();
}
