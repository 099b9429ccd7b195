//! Bundles: written from one store, carried, brought into another.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minisign::KeyPair;

use crate::harness::{
    NO_SPACE, NOT_FOUND, Outcome, Random, SHARDS, TINY, USAGE, VERIFICATION, World, limited, tree,
};
use crate::mirror::COMMIT;

/// A world with the small checkpoint installed, and a bundle of it.
pub fn bundled(output: &str, more: &[&str]) -> (World, PathBuf) {
    let world = World::new();
    world.pull(&[]).ok();
    let path = world.path(output);
    create(&world, &path, more).ok();
    (world, path)
}

pub fn create(world: &World, path: &Path, more: &[&str]) -> Outcome {
    let mut args = vec!["bundle", "create", TINY, "-o", path.to_str().unwrap()];
    args.extend(more);
    world.ctl(&args)
}

/// `bundle import` into the other store.
pub fn import(world: &World, path: &Path, more: &[&str]) -> Outcome {
    let other = other_store(world);
    let mut args = vec!["bundle", "import", path.to_str().unwrap()];
    args.extend(["--store", other.to_str().unwrap()]);
    args.extend(more);
    world.ctl(&args)
}

pub fn other_store(world: &World) -> PathBuf {
    world.path("other")
}

/// The other store has the checkpoint, whole and proven, and nothing else.
#[track_caller]
pub fn assert_imported(world: &World, name: &str) {
    let other = other_store(world);
    let models = other.join("models").join(name);
    let revisions: Vec<_> = fs::read_dir(&models).unwrap().flatten().collect();
    assert_eq!(revisions.len(), 1);
    for (file, bytes) in &world.files {
        let there = fs::read(revisions[0].path().join(file)).unwrap();
        assert!(there == *bytes, "{file} has other bytes");
    }
    world
        .ctl(&["verify", name, "--store", other.to_str().unwrap()])
        .ok();
    assert!(tree(&other.join(".staging")).is_empty());
}

#[track_caller]
pub fn assert_nothing_imported(world: &World) {
    let models = tree(&other_store(world).join("models"));
    assert!(models.is_empty(), "{:?}", models.keys());
}

/// A key pair as minisign's programs keep them, without a password.
pub fn key_pair(world: &World, name: &str) -> (PathBuf, PathBuf) {
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    let secret = world.path(&format!("{name}.key"));
    let public = world.path("keys").join(format!("{name}.pub"));
    fs::create_dir_all(world.path("keys")).unwrap();
    fs::write(&secret, sk.to_box(None).unwrap().into_string()).unwrap();
    fs::write(&public, pk.to_box().unwrap().into_string()).unwrap();
    (secret, public)
}

/// Puts a key's signature over some bytes into a file.
pub fn sign(secret: &Path, bytes: &[u8], file: &Path) {
    let key = fs::read_to_string(secret).unwrap();
    let key = minisign::SecretKeyBox::from_string(&key).unwrap();
    let key = key.into_unencrypted_secret_key().unwrap();
    let signature = minisign::sign(None, &key, bytes, Some("by a test"), None).unwrap();
    fs::write(file, signature.into_string()).unwrap();
}

/// Settings that demand something of a model; the keys are in the folder `keys`.
pub fn policy(world: &World, demand: &str) -> String {
    let path = world.path(&format!("{demand}.toml"));
    let keys = world.path("keys");
    fs::create_dir_all(&keys).unwrap();
    let text = format!("[trust]\nmodels = \"{demand}\"\nkeys = {keys:?}\n");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_form_brings_the_same_bytes() {
    for (output, more) in [
        ("b.tar", &[][..]),
        ("folder", &[][..]),
        ("p.tar", &["--split", "100000"][..]),
    ] {
        let (world, path) = bundled(output, more);
        let before = world.installed();
        let proven = world
            .ctl(&["bundle", "verify", path.to_str().unwrap(), "--json"])
            .ok()
            .json();
        assert_eq!(proven["name"], TINY);
        assert_eq!(proven["revision"], COMMIT);
        assert_eq!(proven["signature"], serde_json::Value::Null);
        assert_eq!(proven["files"].as_array().unwrap().len(), world.files.len());
        let told = import(&world, &path, &["--json"]).ok().json();
        assert_eq!(told["status"], "installed");
        assert!(told["source"].as_str().unwrap().contains(output), "{told}");
        assert_imported(&world, TINY);
        let again = import(&world, &path, &["--json"]).ok().json();
        assert_eq!(again["status"], "already-installed");
        assert_eq!(world.installed(), before, "the source is untouched");
    }
}

#[test]
fn import_takes_a_bundle_as_well_as_a_folder() {
    let (world, path) = bundled("b.tar", &[]);
    let told = world
        .ctl(&["import", path.to_str().unwrap(), "--name", "carried"])
        .ok();
    // Before the large files are copied, like `pull`.
    let forecast = told.stderr.lines().position(|l| l.contains("of memory"));
    let exporting = told.stderr.lines().position(|l| l.contains("exporting"));
    assert!(
        forecast.is_some() && forecast < exporting,
        "{}",
        told.stderr
    );
    world.ctl(&["verify", "carried"]).ok();
}

#[test]
fn the_same_model_makes_the_same_bundle() {
    let (world, path) = bundled("b.tar", &[]);
    let again = world.path("again.tar");
    create(&world, &again, &[]).ok();
    assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap());
}

/// What any tar program sees, and that pieces are the same file cut.
#[test]
fn it_is_an_ordinary_tar_file_and_an_oci_layout() {
    let (world, path) = bundled("b.tar", &[]);
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    let unpacked = world.path("unpacked");
    archive.unpack(&unpacked).unwrap();
    let folder = world.path("folder");
    create(&world, &folder, &[]).ok();
    let names = |root: &Path| {
        let relative = |(path, bytes): (PathBuf, Vec<u8>)| {
            (path.strip_prefix(root).unwrap().to_owned(), bytes)
        };
        tree(root)
            .into_iter()
            .map(relative)
            .collect::<BTreeMap<_, _>>()
    };
    assert!(names(&unpacked) == names(&folder));
    import(&world, &unpacked, &[]).ok();

    let cut = world.path("cut.tar");
    create(&world, &cut, &["--split", "100000"]).ok();
    let mut joined = Vec::new();
    for number in 0.. {
        let Ok(piece) = fs::read(world.path(&format!("cut.tar.{number:03}"))) else {
            assert!(number > 1, "there are several pieces");
            break;
        };
        assert!(piece.len() <= 100_000);
        joined.extend(piece);
    }
    assert!(joined == fs::read(&path).unwrap());
    import(&world, &world.path("cut.tar.000"), &[]).ok();
}

#[test]
fn what_is_in_the_way_is_not_overwritten() {
    let (world, path) = bundled("b.tar", &[]);
    let before = fs::read(&path).unwrap();
    create(&world, &path, &[]).fails(USAGE, &["b.tar", "exists already"]);
    create(&world, &path, &["--split", "2M"]).fails(USAGE, &["exists already"]);
    assert!(fs::read(&path).unwrap() == before);
    let folder = world.path("full");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mine"), "kept").unwrap();
    create(&world, &folder, &[]).fails(USAGE, &["exists already"]);
    assert_eq!(fs::read(folder.join("mine")).unwrap(), b"kept");
    create(&world, &world.path("x"), &["--split", "2M"]).fails(USAGE, &["--split", ".tar"]);
    world
        .ctl(&["bundle", "create", "absent", "-o", "x.tar"])
        .fails(NOT_FOUND, &["absent"]);
    import(&world, &world.path("absent.tar"), &[]).fails(NOT_FOUND, &["no bundle"]);
}

#[test]
fn a_damaged_model_does_not_become_a_bundle() {
    let world = World::new();
    world.pull(&[]).ok();
    let shard = world.model_dir().join(SHARDS[0]);
    let mut bytes = fs::read(&shard).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    for output in ["b.tar", "folder"] {
        let path = world.path(output);
        create(&world, &path, &[]).fails(VERIFICATION, &[SHARDS[0], "damaged", "verify"]);
        bytes.truncate(99);
    }
    fs::write(&shard, &bytes).unwrap();
    create(&world, &world.path("b.tar"), &[]).fails(VERIFICATION, &[SHARDS[0], "99 bytes"]);
    for entry in fs::read_dir(world.path("")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            !name.contains("tar") && !name.contains("folder"),
            "{name} is left"
        );
    }
}

/// Flips a byte of a file of a bundle, by where the file's bytes are in it.
fn flip(path: &Path, bytes: &[u8], offset: usize) {
    let whole = fs::read(path).unwrap();
    let at = whole.windows(64).position(|w| w == &bytes[..64]).unwrap() + offset;
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[whole[at] ^ 1]).unwrap();
}

#[test]
fn a_damaged_bundle_installs_nothing_and_a_good_copy_goes_on() {
    let (world, path) = bundled("b.tar", &[]);
    let bad = world.path("bad.tar");
    fs::copy(&path, &bad).unwrap();
    flip(&bad, &world.files[SHARDS[0]], 150_000);
    let bad_text = bad.to_str().unwrap();
    world
        .ctl(&["bundle", "verify", bad_text])
        .fails(VERIFICATION, &[SHARDS[0], "damaged"]);
    import(&world, &bad, &[]).fails(VERIFICATION, &[SHARDS[0], "damaged", "copy the bundle"]);
    assert_nothing_imported(&world);

    // What was proven is not copied again.
    let staged = tree(&other_store(&world).join(".staging"));
    let inode = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().ino()
    };
    let proven: BTreeMap<_, _> = staged
        .keys()
        .filter(|p| p.extension().is_none_or(|e| e != "part"))
        .map(|p| (p.file_name().unwrap().to_owned(), inode(p)))
        .collect();
    assert!(proven.len() >= 3, "{proven:?}");
    import(&world, &path, &[]).ok();
    assert_imported(&world, TINY);
    let installed = tree(&other_store(&world).join("models"));
    for (name, number) in proven {
        let now = installed
            .keys()
            .find(|p| p.file_name() == Some(&name))
            .unwrap();
        assert_eq!(inode(now), number, "{name:?} was copied again");
    }
}

#[test]
fn a_cut_bundle_says_so() {
    let (world, path) = bundled("b.tar", &[]);
    let whole = fs::read(&path).unwrap();
    let cut = world.path("cut.tar");
    let mut random = Random(7);
    for _ in 0..24 {
        let at = random.below(whole.len() as u64 - 1024) as usize;
        fs::write(&cut, &whole[..at]).unwrap();
        import(&world, &cut, &[]).fails(VERIFICATION, &["ends too early", "cut short"]);
        assert_nothing_imported(&world);
    }
    create(&world, &world.path("p.tar"), &["--split", "100000"]).ok();
    fs::remove_file(world.path("p.tar.001")).unwrap();
    import(&world, &world.path("p.tar"), &[]).fails(VERIFICATION, &["p.tar.001", "missing"]);
    assert_nothing_imported(&world);
}

#[test]
fn killed_at_any_moment_of_an_import() {
    let (world, path) = bundled("b.tar", &[]);
    let other = other_store(&world);
    let other_text = other.to_str().unwrap().to_owned();
    let args = [
        "bundle",
        "import",
        path.to_str().unwrap(),
        "--store",
        &other_text,
    ];
    for i in 0..16 {
        let mut child = world.spawn_quiet(&args);
        std::thread::sleep(Duration::from_millis(i * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        if !tree(&other.join("models")).is_empty() {
            break;
        }
    }
    import(&world, &path, &[]).ok();
    assert_imported(&world, TINY);
}

#[test]
fn full_while_creating_and_importing() {
    let (world, path) = bundled("b.tar", &[]);
    let next = world.path("next.tar");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for kib in [0, 4, 100, 500] {
        let args = ["bundle", "create", TINY, "-o", &text(&next)].map(str::to_owned);
        limited(&world, kib, &args).fails(NO_SPACE, &["cannot write", "free some space"]);
        assert!(!next.exists() && !world.path("next.tar.part").exists());
    }
    let other = text(&other_store(&world));
    for kib in [0, 1, 100, 200] {
        let args = ["bundle", "import", &text(&path), "--store", &other].map(str::to_owned);
        limited(&world, kib, &args).fails(NO_SPACE, &["free some space"]);
        assert_nothing_imported(&world);
    }
    import(&world, &path, &[]).ok();
    assert_imported(&world, TINY);
}

#[test]
fn two_imports_at_once() {
    let (world, path) = bundled("b.tar", &[]);
    let other = other_store(&world);
    let args = [
        "bundle",
        "import",
        path.to_str().unwrap(),
        "--store",
        other.to_str().unwrap(),
    ];
    let mut first = world.spawn_quiet(&args);
    let mut second = world.spawn_quiet(&args);
    let codes = [first.wait().unwrap().code(), second.wait().unwrap().code()];
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(codes.iter().all(|c| matches!(c, Some(0 | 1))), "{codes:?}");
    assert_imported(&world, TINY);
}

#[test]
fn a_signature_is_told_and_kept() {
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, public) = key_pair(&world, "site");
    let path = world.path("b.tar");
    let told = create(
        &world,
        &path,
        &["--sign", secret.to_str().unwrap(), "--json"],
    );
    let key = told.ok().json()["signed_by"].as_str().unwrap().to_owned();
    let path_text = path.to_str().unwrap();
    let stranger = world.ctl(&["bundle", "verify", path_text]).ok().stdout;
    assert!(
        stranger.contains(&key) && stranger.contains("not trusted"),
        "{stranger}"
    );
    let public = public.to_str().unwrap();
    let known = world.ctl(&["bundle", "verify", path_text, "--key", public, "--json"]);
    let known = known.ok().json();
    assert_eq!(known["signature"]["key_id"], key.as_str());

    // Without a trusted signature a revision is made from the bytes.
    let plain = import(&world, &path, &["--name", "plain", "--json"])
        .ok()
        .json();
    assert!(plain["revision"].as_str().unwrap().starts_with("sha256-"));
    let signed = import(&world, &path, &["--key", public, "--json"])
        .ok()
        .json();
    assert_eq!(signed["revision"], COMMIT);
    assert_eq!(signed["signature"]["key_id"], key.as_str());
    let other = other_store(&world);
    let shown = world
        .ctl(&["show", TINY, "--store", other.to_str().unwrap()])
        .ok();
    assert!(shown.stdout.contains(&key), "{}", shown.stdout);
}

#[test]
fn a_signature_that_does_not_fit_is_refused() {
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, public) = key_pair(&world, "site");
    let public = public.to_str().unwrap();
    let folder = world.path("folder");
    create(&world, &folder, &["--sign", secret.to_str().unwrap()]).ok();
    // Another model's signature in the place of its own: only the blobs' names and
    // the index are made to fit.
    let blobs = folder.join("blobs/sha256");
    let signature = tree(&blobs)
        .into_iter()
        .find(|(_, bytes)| bytes.starts_with(b"untrusted comment"))
        .unwrap();
    let lines = String::from_utf8(signature.1).unwrap();
    let broken = lines.replacen("signed:2", "signed:3", 1);
    assert_ne!(lines, broken);
    replace_blob(&folder, &signature.0, broken.as_bytes());
    import(&world, &folder, &["--key", public]).fails(VERIFICATION, &["signature", "not right"]);
    assert_nothing_imported(&world);
}

/// Puts other bytes in a blob's place and corrects every digest and size above it.
pub fn replace_blob(folder: &Path, blob: &Path, bytes: &[u8]) {
    let old = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let old_size = fs::metadata(blob).unwrap().len();
    let new = gptoss::model::sha256_bytes(bytes);
    fs::remove_file(blob).unwrap();
    fs::write(blob.with_file_name(&new), bytes).unwrap();
    if old == new {
        return;
    }
    let from = format!("\"digest\":\"sha256:{old}\",\"size\":{old_size}");
    let to = format!("\"digest\":\"sha256:{new}\",\"size\":{}", bytes.len());
    for (path, text) in tree(folder) {
        let Ok(text) = String::from_utf8(text) else {
            continue;
        };
        if !text.contains(&from) {
            continue;
        }
        let text = text.replace(&from, &to);
        match path.file_name().unwrap().to_str().unwrap() {
            "index.json" => fs::write(&path, text).unwrap(),
            _ => replace_blob(folder, &path, text.as_bytes()),
        }
    }
}

#[test]
fn a_site_that_demands_signatures_gets_them() {
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, _) = key_pair(&world, "site");
    let (stranger, stranger_public) = key_pair(&world, "stranger");
    fs::remove_file(stranger_public).unwrap();
    let plain = world.path("plain.tar");
    create(&world, &plain, &[]).ok();
    let signed = world.path("signed.tar");
    create(&world, &signed, &["--sign", secret.to_str().unwrap()]).ok();
    let strange = world.path("strange.tar");
    create(&world, &strange, &["--sign", stranger.to_str().unwrap()]).ok();
    let checkpoint = world.checkpoint_dir("mine", |_| ());
    let other = other_store(&world);
    let other = other.to_str().unwrap();
    for demand in ["signed", "pinned"] {
        let settings = policy(&world, demand);
        let with = ["--config", settings.as_str()];
        for path in [&plain, &strange] {
            import(&world, path, &with).fails(VERIFICATION, &["this site", demand, "keys"]);
        }
        let mut args = vec!["import", checkpoint.to_str().unwrap(), "--store", other];
        args.extend(with);
        world.ctl(&args).fails(VERIFICATION, &["this site", demand]);
        let more = ["--config", &settings, "--store", other];
        world
            .pull(&more)
            .fails(VERIFICATION, &["this site", demand]);
        assert_nothing_imported(&world);
        assert!(tree(&other_store(&world)).is_empty());
    }
    // Nothing of a refused model is asked of the network.
    world.mirror.take_served();
    let settings = policy(&world, "signed");
    world
        .pull(&["--config", &settings, "--store", other])
        .fails(VERIFICATION, &[]);
    assert!(world.mirror.take_served().is_empty());
    import(&world, &signed, &["--config", &settings]).ok();
    assert_imported(&world, TINY);
    world.ctl(&["pull", "nano", "--config", &settings]).ok();
}

#[test]
fn a_signed_catalog_pins() {
    let world = World::new();
    let (secret, _) = key_pair(&world, "site");
    let settings = policy(&world, "pinned");
    world
        .pull(&["--config", &settings])
        .fails(VERIFICATION, &["this site"]);
    let catalog = world.path("catalog.toml");
    let bytes = fs::read(&catalog).unwrap();
    sign(&secret, &bytes, &world.path("catalog.toml.minisig"));
    fs::write(&catalog, [&bytes[..], b"\n"].concat()).unwrap();
    world
        .pull(&["--config", &settings])
        .fails(VERIFICATION, &["not right"]);
    fs::write(&catalog, &bytes).unwrap();
    world.pull(&["--config", &settings]).ok();
    world.assert_installed();
}

/// One pass over the medium: every byte of the bundle is read once.
#[test]
fn a_bundle_is_read_once() {
    let (world, path) = bundled("b.tar", &[]);
    let other = other_store(&world);
    let trace = world.path("trace");
    let mut command = std::process::Command::new("strace");
    command
        .args([
            "-f",
            "-y",
            "-e",
            "trace=read,pread64,sendfile,copy_file_range",
            "-o",
        ])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .args(["bundle", "import", path.to_str().unwrap(), "--store"])
        .arg(&other)
        .env("HOME", world.path(""));
    let Ok(output) = command.output() else {
        eprintln!("not run: strace is not installed");
        return;
    };
    Outcome::from(output).ok();
    let mut text = String::new();
    fs::File::open(&trace)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let read: u64 = text
        .lines()
        .filter(|line| line.contains("/b.tar>"))
        .filter_map(|line| line.rsplit(" = ").next()?.trim().parse::<u64>().ok())
        .sum();
    let files: u64 = world.files.values().map(|b| b.len() as u64).sum();
    // Headers and documents come on top.
    assert!(
        read >= files && read < files + (64 << 10),
        "{read} of {files}"
    );
}
