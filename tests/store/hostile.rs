//! Bundles made to do harm: each is refused with a reason, writes nothing outside of
//! the store, and takes neither memory nor time beyond limits.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::bundle::{bundled, other_store, replace_blob};
use crate::harness::{NO_SPACE, Outcome, VERIFICATION, World, tree};

/// Kilobytes of address space that a refusal may take.
const ADDRESS_SPACE: u64 = 600_000;

/// Imports a bundle in little memory and demands that it is refused and that
/// nothing is left.
#[track_caller]
fn refused(world: &World, path: &Path, code: i32, words: &[&str]) {
    let before = tree(&world.path("outside"));
    let script = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
    let mut command = Command::new("timeout");
    command
        .args(["20", "sh", "-c", &script, env!("CARGO_BIN_EXE_gptoss-ctl")])
        .args(["bundle", "import", path.to_str().unwrap(), "--store"])
        .arg(other_store(world))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", world.path(""))
        .current_dir(world.path("outside"));
    Outcome::from(command.output().unwrap()).fails(code, words);
    let left = tree(&other_store(world));
    assert!(left.is_empty(), "{:?}", left.keys());
    assert_eq!(tree(&world.path("outside")), before, "written outside");
}

/// A world with a good bundle as a folder, and a place outside of everything.
fn world() -> (World, PathBuf) {
    let (world, folder) = bundled("folder", &[]);
    fs::create_dir(world.path("outside")).unwrap();
    fs::write(world.path("outside/kept"), "kept").unwrap();
    (world, folder)
}

/// The folder in a tar file, with more entries before it.
fn tar_of(world: &World, folder: &Path, first: impl FnOnce(&mut Builder<fs::File>)) -> PathBuf {
    let path = world.path("made.tar");
    let mut builder = Builder::new(fs::File::create(&path).unwrap());
    first(&mut builder);
    builder.append_dir_all("", folder).unwrap();
    builder.into_inner().unwrap().flush().unwrap();
    path
}

fn entry(builder: &mut Builder<fs::File>, kind: EntryType, name: &[u8], link: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(if kind == EntryType::Regular { 4 } else { 0 });
    header.set_mode(0o644);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    let data: &[u8] = if kind == EntryType::Regular {
        b"evil"
    } else {
        b""
    };
    builder.append(&header, data).unwrap();
}

#[test]
fn a_good_one_passes_in_the_same_memory() {
    let (world, folder) = world();
    let path = tar_of(&world, &folder, |_| ());
    let script = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_gptoss-ctl")])
        .args(["bundle", "import", path.to_str().unwrap(), "--store"])
        .arg(other_store(&world))
        .env("HOME", world.path(""));
    Outcome::from(command.output().unwrap()).ok();
}

#[test]
fn names_that_climb() {
    let (world, folder) = world();
    for name in [
        &b"../outside/kept"[..],
        b"blobs/../../outside/kept",
        b"/tmp/evil",
        b"blobs/sha256/../../../evil",
    ] {
        let path = tar_of(&world, &folder, |b| entry(b, EntryType::Regular, name, ""));
        refused(&world, &path, VERIFICATION, &["leaves the bundle"]);
    }
    let path = tar_of(&world, &folder, |b| {
        entry(b, EntryType::Regular, b"blobs/\xff\xfe", "");
    });
    refused(&world, &path, VERIFICATION, &["not UTF-8"]);
}

#[test]
fn links_in_a_tar_file() {
    let (world, folder) = world();
    for (kind, target) in [
        (EntryType::Symlink, "/etc/passwd"),
        (EntryType::Symlink, "../outside"),
        (EntryType::Link, "index.json"),
    ] {
        let path = tar_of(&world, &folder, |b| {
            entry(b, kind, b"blobs/sha256/x", target);
        });
        refused(&world, &path, VERIFICATION, &["link"]);
    }
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let path = tar_of(&world, &folder, |b| entry(b, kind, b"dev", ""));
        refused(&world, &path, VERIFICATION, &["no file"]);
    }
}

/// A blob of the bundle's folder, the largest.
fn largest_blob(folder: &Path) -> PathBuf {
    let blobs = tree(&folder.join("blobs"));
    let largest = blobs.into_iter().max_by_key(|(_, bytes)| bytes.len());
    largest.unwrap().0
}

#[test]
fn links_pipes_and_folders_in_a_folder() {
    let (world, folder) = world();
    let blob = largest_blob(&folder);
    let kept = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    symlink("/dev/zero", &blob).unwrap();
    refused(&world, &folder, VERIFICATION, &["link"]);
    fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &blob,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    refused(&world, &folder, VERIFICATION, &["no regular file"]);
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    refused(&world, &folder, VERIFICATION, &["no regular file"]);
    fs::remove_dir(&blob).unwrap();
    refused(&world, &folder, VERIFICATION, &["is not in it"]);
    fs::write(&blob, &kept[1..]).unwrap();
    refused(&world, &folder, VERIFICATION, &["bytes are there"]);
    fs::write(&blob, &kept).unwrap();
    let index = folder.join("index.json");
    fs::rename(&index, world.path("index")).unwrap();
    symlink(world.path("index"), &index).unwrap();
    refused(&world, &folder, VERIFICATION, &["link"]);
}

#[test]
fn the_same_blob_twice() {
    let (world, folder) = world();
    let blob = largest_blob(&folder);
    let name = blob
        .strip_prefix(&folder)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let path = tar_of(&world, &folder, |b| {
        entry(b, EntryType::Regular, name.as_bytes(), "");
    });
    refused(&world, &path, VERIFICATION, &["twice"]);
}

#[test]
fn a_hundred_thousand_entries() {
    let (world, folder) = world();
    let path = tar_of(&world, &folder, |b| {
        for i in 0..100_000 {
            entry(b, EntryType::Regular, format!("blobs/{i}").as_bytes(), "");
        }
    });
    refused(&world, &path, VERIFICATION, &["more than 4096 entries"]);
    fs::remove_file(path).unwrap();
    edit(&folder, "index.json", |index| {
        let one = index["manifests"][0].clone();
        index["manifests"] = Value::Array(vec![one; 2000]);
    });
    refused(&world, &folder, VERIFICATION, &["more than 256"]);
}

/// Changes a JSON document of the folder; what names it is corrected.
fn edit(folder: &Path, part: &str, change: impl FnOnce(&mut Value)) {
    let holds = |(path, bytes): &(PathBuf, Vec<u8>)| {
        let text = String::from_utf8_lossy(bytes);
        match part {
            "index.json" => path.ends_with("index.json"),
            _ => text.starts_with('{') && text.contains(part),
        }
    };
    let (path, bytes) = tree(folder).into_iter().find(holds).unwrap();
    let mut value: Value = serde_json::from_slice(&bytes).unwrap();
    change(&mut value);
    let text = value.to_string();
    match part {
        "index.json" => fs::write(path, text).unwrap(),
        _ => replace_blob(folder, &path, text.as_bytes()),
    }
}

const LAYERS: &str = "\"layers\"";
const CONFIG: &str = "\"revision\"";
const TITLE: &str = "org.opencontainers.image.title";

/// A change to a document, and a word of the refusal.
type Lie = (&'static str, fn(&mut Value), &'static str);

#[test]
fn documents_that_lie() {
    let lies: &[Lie] = &[
        (
            LAYERS,
            |m| m["layers"][0]["annotations"][TITLE] = json!("../x"),
            "refused",
        ),
        (
            LAYERS,
            |m| m["layers"][0]["annotations"][TITLE] = json!("a/b"),
            "refused",
        ),
        (
            LAYERS,
            |m| m["layers"][0]["annotations"][TITLE] = json!("manifest.json"),
            "refused",
        ),
        (
            LAYERS,
            |m| m["layers"][0]["annotations"] = json!({}),
            "refused",
        ),
        (LAYERS, |m| m["layers"][1] = m["layers"][0].clone(), "twice"),
        (
            LAYERS,
            |m| m["layers"][0]["size"] = json!(1u64 << 60),
            "bytes are there",
        ),
        (LAYERS, |m| m["layers"][0]["size"] = json!(-1), "manifest"),
        (
            LAYERS,
            |m| m["layers"][0]["digest"] = json!("sha256:../../etc/passwd"),
            "not sha256",
        ),
        (
            LAYERS,
            |m| m["layers"][0]["mediaType"] = json!("text/\u{1b}[31m"),
            "unknown type",
        ),
        (LAYERS, |m| m["layers"] = json!([]), "no config.json"),
        (
            LAYERS,
            |m| m["config"]["digest"] = json!(format!("sha256:{}", "0".repeat(64))),
            "not in it",
        ),
        (CONFIG, |c| c["name"] = json!("../x"), "model name"),
        (CONFIG, |c| c["revision"] = json!("a/../b"), "revision"),
        (CONFIG, |c| c["schema"] = json!(2), "upgrade gptoss"),
        (CONFIG, |c| c["name"] = json!("20b"), "published model"),
        (CONFIG, |c| c["name"] = json!("nano"), "published model"),
        (
            "index.json",
            |i| i["manifests"] = json!([]),
            "holds no model",
        ),
        (
            "index.json",
            |i| i["manifests"][0]["size"] = json!(1),
            "are listed",
        ),
        ("index.json", |i| i["manifests"] = json!({}), "index.json"),
        (
            "index.json",
            |i| i["manifests"][0]["digest"] = json!("sha512:00"),
            "not sha256",
        ),
    ];
    let (world, folder) = world();
    for (part, lie, word) in lies {
        let changed = world.path("changed");
        let _ = fs::remove_dir_all(&changed);
        copy_folder(&folder, &changed);
        edit(&changed, part, lie);
        refused(&world, &changed, VERIFICATION, &[word]);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for (path, bytes) in tree(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
}

#[test]
fn documents_that_are_none() {
    let (world, folder) = world();
    let index = folder.join("index.json");
    let kept = fs::read(&index).unwrap();
    let deep = "[".repeat(500_000);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20));
    for (text, word) in [
        (&b""[..], "index.json"),
        (b"{", "index.json"),
        (b"\xff\xfe", "index.json"),
        (deep.as_bytes(), "index.json"),
        (long.as_bytes(), "more than the 1048576"),
    ] {
        fs::write(&index, text).unwrap();
        refused(&world, &folder, VERIFICATION, &[word]);
    }
    fs::write(&index, kept).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap();
    refused(&world, &folder, VERIFICATION, &["layout has version 9"]);
    fs::remove_file(folder.join("oci-layout")).unwrap();
    // It is a checkpoint's folder then, and no good one.
    let path = tar_of(&world, &folder, |_| ());
    refused(&world, &path, VERIFICATION, &["no oci-layout"]);
}

/// A document whose bytes are not those its digest names.
#[test]
fn documents_with_other_bytes() {
    let (world, folder) = world();
    for part in [LAYERS, CONFIG] {
        let (path, bytes) = tree(&folder)
            .into_iter()
            .find(|(p, b)| !p.ends_with("index.json") && String::from_utf8_lossy(b).contains(part))
            .unwrap();
        let mut other = bytes.clone();
        let at = other.iter().rposition(|b| *b == b'"').unwrap() - 1;
        other[at] ^= 1;
        fs::write(&path, &other).unwrap();
        refused(&world, &folder, VERIFICATION, &["digest"]);
        fs::write(&path, &bytes).unwrap();
    }
}

/// A tebibyte of nothing: the numbers are told before anything is copied.
#[test]
fn a_bomb() {
    let (world, folder) = world();
    let blob = largest_blob(&folder);
    let old = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let zeros = "0".repeat(64);
    fs::rename(&blob, blob.with_file_name(&zeros)).unwrap();
    edit(&folder, LAYERS, |manifest| {
        for layer in manifest["layers"].as_array_mut().unwrap() {
            if layer["digest"] == format!("sha256:{old}") {
                layer["digest"] = json!(format!("sha256:{zeros}"));
                layer["size"] = json!(1u64 << 43);
            }
        }
    });
    // A file of holes.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(blob.with_file_name(&zeros))
        .unwrap();
    file.set_len(1 << 43).unwrap();
    let words = ["free and the copy needs 8.80 TB"];
    refused(&world, &folder, NO_SPACE, &words);
}

#[test]
fn files_that_are_no_bundle() {
    let (world, _) = world();
    let path = world.path("x.tar");
    let random: Vec<u8> = (0..100_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(&path, &random).unwrap();
    refused(&world, &path, VERIFICATION, &["neither a tar file"]);
    fs::write(&path, "").unwrap();
    refused(&world, &path, VERIFICATION, &["ends too early"]);
    fs::write(&path, [&[0x1f, 0x8b, 8, 0][..], &[0; 2000]].concat()).unwrap();
    refused(&world, &path, VERIFICATION, &["compressed"]);
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    refused(&world, &path, VERIFICATION, &["link"]);
}
