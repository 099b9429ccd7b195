//! ONNX Runtime in a bundle: a library that a daemon loads is code, and only the
//! bytes that the programs pin are taken.

use std::fs;
use std::path::{Path, PathBuf};

use gptoss::runtime::library::FILE_NAME;
use gptoss::runtime::pinned::{PinnedRuntime, this_platform};

use crate::bundle::{assert_imported, assert_nothing_imported, import, other_store, replace_blob};
use crate::harness::{NOT_FOUND, Outcome, TINY, USAGE, VERIFICATION, World, tree};

/// The folder with the pinned library.
pub fn runtime_dir() -> PathBuf {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/runtime");
    let dir = named.map_or(built, |path| path.parent().unwrap().to_owned());
    let library = dir.join(FILE_NAME);
    assert!(library.is_file(), "{} is missing", library.display());
    dir
}

fn create(world: &World, path: &Path, more: &[&str]) -> Outcome {
    let mut args = vec!["bundle", "create", TINY, "-o", path.to_str().unwrap()];
    args.extend(more);
    world.ctl(&args)
}

/// A world with the small checkpoint, and a folder's bundle of it with a runtime.
fn bundled() -> (World, PathBuf) {
    let world = World::new();
    world.pull(&[]).ok();
    let path = world.path("bundle");
    let dir = runtime_dir();
    let more = ["--with-runtime", "--runtime-dir", dir.to_str().unwrap()];
    create(&world, &path, &more).ok();
    (world, path)
}

/// `gptoss-ctl runtime` on the store that a bundle was brought into.
fn runtime(world: &World) -> Outcome {
    let other = other_store(world);
    world.ctl(&["runtime", "--json", "--store", other.to_str().unwrap()])
}

#[test]
fn one_medium_sets_up_a_machine() {
    let (world, path) = bundled();
    let proven = world.ctl(&["bundle", "verify", path.to_str().unwrap(), "--json"]);
    let proven = proven.ok().json();
    assert_eq!(proven["runtimes"][0], this_platform());
    assert_eq!(proven["files"].as_array().unwrap().len(), world.files.len());

    let told = import(&world, &path, &[]).ok();
    assert!(told.stderr.contains("ONNX Runtime"), "{told:?}");
    assert_imported(&world, TINY);
    let folder = other_store(&world).join("runtime");
    for file in PinnedRuntime::here().unwrap().files() {
        let there = fs::read(folder.join(&file.path)).unwrap();
        assert!(there == fs::read(runtime_dir().join(&file.path)).unwrap());
    }
    if Path::new("/usr/lib/gptoss").exists() {
        eprintln!("not looked at further: an installed package's library comes first");
        return;
    }
    let library = folder.join(FILE_NAME);
    let used = runtime(&world).ok().json();
    assert_eq!(used["library"], library.to_str().unwrap());
    assert_eq!(used["provider"], "cpu");

    // A user who has none takes the machine's.
    let machine = other_store(&world);
    let mut asked = world.command(&["runtime", "--json"]);
    asked.env("GPTOSS_SYSTEM_STORE", &machine);
    let used = Outcome::from(asked.output().unwrap()).ok().json();
    assert_eq!(used["library"], library.to_str().unwrap());

    // Whoever may write to the store cannot make anybody load other code.
    let mut bytes = fs::read(&library).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&library, &bytes).unwrap();
    runtime(&world).fails(VERIFICATION, &["not the ONNX Runtime", "pins", "SHA-256"]);
    import(&world, &path, &[]).ok();
    runtime(&world).ok();
}

#[test]
fn a_library_that_is_not_at_hand_is_named() {
    let world = World::new();
    world.pull(&[]).ok();
    let path = world.path("bundle");
    let other = PinnedRuntime::all()
        .into_iter()
        .find(|r| r.platform != this_platform())
        .unwrap();
    let asked = format!("--with-runtime={}", other.platform);
    let empty = world.path("empty");
    let dir = empty.to_str().unwrap();
    let absent = create(&world, &path, &[&asked, "--runtime-dir", dir]);
    absent.fails(NOT_FOUND, &[&other.platform, "packaging/runtime/fetch"]);
    let unknown = create(&world, &path, &["--with-runtime=plan9-mips"]);
    assert_eq!(unknown.code, Some(USAGE), "{unknown:?}");
    assert!(unknown.stderr.contains("linux-x86_64"), "{unknown:?}");
    assert!(!path.exists());
}

#[test]
fn another_library_is_never_put_in() {
    let world = World::new();
    world.pull(&[]).ok();
    let (path, dir) = (world.path("bundle"), world.path("lib"));
    fs::create_dir(&dir).unwrap();
    for file in PinnedRuntime::here().unwrap().files() {
        // Of its name and size, and empty.
        let empty = fs::File::create(dir.join(&file.path)).unwrap();
        empty.set_len(file.size).unwrap();
    }
    let more = ["--with-runtime", "--runtime-dir", dir.to_str().unwrap()];
    create(&world, &path, &more).fails(VERIFICATION, &["pins", "No bundle was written"]);
    assert!(!path.exists());
}

#[test]
fn another_library_is_never_taken_out() {
    let (world, path) = bundled();
    let licence = fs::read(runtime_dir().join("onnxruntime-LICENSE")).unwrap();
    let blobs = tree(&path.join("blobs"));
    let (blob, _) = blobs.iter().find(|(_, bytes)| **bytes == licence).unwrap();
    // Every digest in the bundle fits; it is not the one that the program knows.
    replace_blob(&path, blob, b"Do what you like.");
    let verify = world.ctl(&["bundle", "verify", path.to_str().unwrap()]);
    verify.fails(VERIFICATION, &["ONNX Runtime", "pins", "--no-runtime"]);
    import(&world, &path, &[]).fails(VERIFICATION, &["pins", "--no-runtime"]);
    assert_nothing_imported(&world);
    assert!(!other_store(&world).join("runtime").exists());
    import(&world, &path, &["--no-runtime"]).ok();
    assert_imported(&world, TINY);
    assert!(!other_store(&world).join("runtime").exists());
}

#[test]
fn a_damaged_library_is_noticed() {
    let (world, path) = bundled();
    let library = PinnedRuntime::here().unwrap().library;
    let blob = path.join("blobs/sha256").join(&library.sha256);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[4711] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let verify = world.ctl(&["bundle", "verify", path.to_str().unwrap()]);
    verify.fails(VERIFICATION, &[FILE_NAME, "damaged"]);
    import(&world, &path, &[]).fails(VERIFICATION, &[FILE_NAME, "damaged"]);
    assert_nothing_imported(&world);
    let folder = other_store(&world).join("runtime");
    assert!(!folder.join(FILE_NAME).exists());
}
