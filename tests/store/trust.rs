//! Catalogs, who vouches for them, and what is told of where bytes came from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bundle::{key_pair, sign};
use crate::harness::{NOT_FOUND, Outcome, SHARDS, TINY, USAGE, VERIFICATION, World, catalog};
use crate::mirror::{Body, COMMIT};

/// Settings with a catalog of the site's, the test's own catalog under that name, and
/// what the site demands.
fn site(world: &World, demand: &str) -> (String, PathBuf) {
    let catalog = world.path("site.toml");
    fs::copy(world.path("catalog.toml"), &catalog).unwrap();
    let keys = world.path("keys");
    fs::create_dir_all(&keys).unwrap();
    let settings = world.path(&format!("{demand}.toml"));
    let text = format!("[trust]\nmodels = \"{demand}\"\nkeys = {keys:?}\ncatalog = {catalog:?}\n");
    fs::write(&settings, text).unwrap();
    (settings.to_str().unwrap().to_owned(), catalog)
}

/// `pull NAME` from the mirror, without a catalog on the command line.
fn pull(world: &World, name: &str, settings: &str) -> Outcome {
    let url = world.mirror.url();
    world.ctl(&["pull", name, "--endpoint", &url, "--config", settings])
}

fn beside(catalog: &Path) -> PathBuf {
    catalog.with_extension("toml.minisig")
}

fn provenance(world: &World) -> Value {
    world
        .ctl(&["show", TINY, "--provenance", "--json"])
        .ok()
        .json()
}

#[test]
fn a_sites_catalog_is_used_instead_of_the_builtin_one() {
    let world = World::new();
    let (settings, catalog) = site(&world, "any");
    let refused = pull(&world, "20b", &settings).fails(NOT_FOUND, &["no model 20b", TINY, "nano"]);
    assert!(!refused.stderr.contains("120b"), "{refused:?}");
    pull(&world, TINY, &settings).ok();
    world.assert_installed();
    world.ctl(&["pull", "nano", "--config", &settings]).ok();

    let told = provenance(&world);
    let text = fs::read(&catalog).unwrap();
    assert_eq!(told["catalog"]["origin"], catalog.to_str().unwrap());
    assert_eq!(
        told["catalog"]["sha256"],
        gptoss::model::sha256_bytes(&text)
    );
    assert_eq!(told["catalog"]["in_this_program"], false);
    assert!(told["catalog"].get("signature").is_none());
    let pinned = told["files"][0]["pinned_by"].as_str().unwrap();
    assert!(pinned.contains(catalog.to_str().unwrap()), "{pinned}");
}

#[test]
fn a_site_that_demands_signatures_demands_them_of_its_catalog() {
    let world = World::new();
    let (secret, _) = key_pair(&world, "site");
    let (stranger, public) = key_pair(&world, "stranger");
    fs::remove_file(public).unwrap();
    let (settings, catalog) = site(&world, "pinned");
    let text = fs::read(&catalog).unwrap();
    let unsigned = ["only signed catalogs", "site.toml", "minisign"];
    pull(&world, TINY, &settings).fails(VERIFICATION, &unsigned);
    sign(&stranger, &text, &beside(&catalog));
    pull(&world, TINY, &settings).fails(VERIFICATION, &unsigned);
    sign(&secret, b"another catalog", &beside(&catalog));
    pull(&world, TINY, &settings).fails(VERIFICATION, &["not right"]);
    world.assert_nothing_installed();
    assert!(world.mirror.take_served().is_empty());

    sign(&secret, &text, &beside(&catalog));
    pull(&world, TINY, &settings).ok();
    world.assert_installed();
    let told = provenance(&world);
    let signature = &told["catalog"]["signature"];
    assert_eq!(signature["comment"], "by a test");
    let digest = told["catalog"]["sha256"].as_str().unwrap();
    assert_eq!(signature["over"], format!("sha256:{digest}"));
    let people = world.ctl(&["show", TINY, "--provenance"]).ok().stdout;
    let key = signature["key_id"].as_str().unwrap();
    assert!(people.contains(&format!("signed by key {key}")), "{people}");
}

#[test]
fn a_catalog_of_the_command_line_comes_first() {
    let world = World::new();
    let (settings, site) = site(&world, "any");
    let other = fs::read_to_string(&site).unwrap();
    let other = other.replace(COMMIT, &"a".repeat(40));
    fs::write(&site, other).unwrap();
    world.pull(&["--config", &settings]).ok();
    world.assert_installed();
}

/// Not even a signed one gives a published model's name to other bytes.
#[test]
fn a_published_name_stays_with_its_bytes() {
    let world = World::new();
    let (secret, _) = key_pair(&world, "site");
    let (settings, site) = site(&world, "pinned");
    let files: BTreeMap<_, _> = world
        .files
        .iter()
        .map(|(name, bytes)| (name.clone(), Body::new(bytes.clone())))
        .collect();
    for name in ["20b", "nano"] {
        fs::write(&site, catalog(name, &files)).unwrap();
        sign(&secret, &fs::read(&site).unwrap(), &beside(&site));
        pull(&world, name, &settings).fails(USAGE, &[name, "other bytes", "another name"]);
    }
    world.assert_nothing_installed();
}

#[test]
fn where_each_byte_came_from() {
    let world = World::new();
    world.pull(&["--target", "cpu,portable"]).ok();
    let told = provenance(&world);
    assert_eq!(told["revision"], COMMIT);
    assert_eq!(told["signature"], Value::Null);
    let installed = world.ctl(&["show", TINY, "--json"]).ok().json();
    for target in ["cpu", "portable"] {
        let made = &told["targets"][target];
        assert_eq!(made["files"], installed["targets"][target]);
        let export = &made["export"];
        assert_eq!(export["tool_version"], env!("CARGO_PKG_VERSION"));
        let inputs = export["inputs"].as_array().unwrap();
        for input in SHARDS.iter().chain(&["config.json"]) {
            assert!(inputs.iter().any(|i| i == input), "{input}: {inputs:?}");
        }
        let forms: Vec<_> = export["weights"].as_array().unwrap().iter().collect();
        let has = |word: &str| {
            let form = |w: &&Value| w["form"].as_str().unwrap().contains(word);
            forms.iter().any(form)
        };
        assert!(has("int8 of bfloat16"), "{forms:?}");
        assert_eq!(has("in place"), target == "cpu", "{forms:?}");
        assert_eq!(has("int4 of MXFP4"), target == "portable", "{forms:?}");
    }
    // What it says makes the same bytes again does.
    let before = world.installed();
    let again = told["targets"]["cpu"]["again"].as_str().unwrap();
    let args: Vec<_> = again.split(' ').skip(1).collect();
    world.ctl(&args).ok();
    assert_eq!(
        provenance(&world)["targets"]["cpu"]["files"],
        told["targets"]["cpu"]["files"]
    );
    let kept = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        let mut files = files.clone();
        files.retain(|path, _| !path.ends_with("manifest.json"));
        files
    };
    assert!(kept(&before) == kept(&world.installed()));
}

/// A manifest that an older version wrote.
#[test]
fn a_manifest_without_the_later_fields() {
    let world = World::new();
    world.pull(&[]).ok();
    let path = world.model_dir().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for later in ["exports", "catalog_file"] {
        manifest.as_object_mut().unwrap().remove(later).unwrap();
    }
    fs::write(&path, manifest.to_string()).unwrap();
    let told = provenance(&world);
    assert_eq!(told["targets"]["cpu"]["export"], Value::Null);
    assert!(told["catalog"].get("sha256").is_none());
    let people = world.ctl(&["show", TINY, "--provenance"]).ok().stdout;
    assert!(people.contains("did not record how"), "{people}");
    world.ctl(&["verify", TINY]).ok();
}

/// The packager's signature over the built-in catalog lies in the installation that
/// the program is of.
#[test]
fn a_packagers_signature_over_the_builtin_catalog() {
    let world = World::new();
    let (secret, _) = key_pair(&world, "distributor");
    let (settings, site) = site(&world, "any");
    fs::remove_file(site).unwrap();
    let prefix = world.path("prefix");
    let (bin, share) = (prefix.join("bin"), prefix.join("share/gptoss"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&share).unwrap();
    let program = bin.join("gptoss-ctl");
    let built = env!("CARGO_BIN_EXE_gptoss-ctl");
    fs::hard_link(built, &program)
        .or_else(|_| fs::copy(built, &program).map(drop))
        .unwrap();
    let found = || {
        let output = std::process::Command::new(&program)
            .args(["doctor", "--json", "--config", &settings])
            .env_clear()
            .env("HOME", world.path(""))
            .env("GPTOSS_STORE", world.store())
            .env("ORT_DYLIB_PATH", "/nonexistent")
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        let of_catalog = |f: &Value| f["check"] == "catalog";
        findings.into_iter().find(of_catalog).unwrap()
    };
    let plain = found();
    assert_eq!(plain["verdict"], "good");
    let words = plain["found"].as_str().unwrap();
    assert!(words.contains("as authentic as that package"), "{words}");
    let signature = share.join("catalog.toml.minisig");
    let text = include_bytes!("../../src/model/catalog.toml");
    sign(&secret, text, &signature);
    let signed = found();
    let words = signed["found"].as_str().unwrap();
    assert!(words.contains("built-in, signed by key"), "{words}");
    sign(&secret, b"other bytes", &signature);
    assert_eq!(found()["verdict"], "wrong");
}
