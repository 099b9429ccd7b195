//! `gptoss-ctl runtime install`: what an index, a wheel or a folder may be, and what
//! must not come of it. The builds here are small ones of the tests' own; the program
//! pins gigabytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use gptoss::fetch::{FetchError, Index, Settings};
use gptoss::model::incoming::Progress;
use gptoss::model::{Store, StoreError};
use gptoss::runtime::cuda;
use gptoss::runtime::wheels::Build;
use gptoss::wheel::{self, Origin};
use serde_json::json;
use tokio::runtime::Runtime;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::harness::{Random, World, tree};
use crate::mirror::{COMMIT, Effect, REPO, sha256};

/// Wheels of the builds here, each of its project.
const WHEELS: [&str; 2] = ["nvidia_a-13.0-py3-none-any.whl", "ort-1.0-cp311-any.whl"];
const PROJECTS: [&str; 2] = ["nvidia-a", "ort"];

type Zip = ZipWriter<Cursor<Vec<u8>>>;

/// Bytes that do not shrink to nothing.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length).map(|_| random.below(256) as u8).collect()
}

/// A member: its name in the wheel, its name where it is installed, its bytes.
type Row = (&'static str, &'static str, Vec<u8>);

fn rows() -> [Vec<Row>; 2] {
    [
        vec![
            (
                "nvidia/cu13/lib/libcudart.so.13",
                "libcudart.so.13",
                noise(1, 70_000),
            ),
            (
                "nvidia/cu13/lib/libcublas.so.13",
                "libcublas.so.13",
                noise(2, 300_000),
            ),
            (
                "a-13.0.dist-info/License.txt",
                "a-LICENSE.txt",
                b"theirs".to_vec(),
            ),
        ],
        vec![
            (
                "ort/capi/libonnxruntime.so.1",
                "libonnxruntime.so.1",
                noise(3, 200_000),
            ),
            ("ort/LICENSE", "ort-LICENSE", b"MIT".to_vec()),
        ],
    ]
}

/// A wheel with these members, and others that nobody wants.
fn zipped(rows: &[Row]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (inside, _, bytes) in rows {
        zip.start_file(*inside, deflated).unwrap();
        zip.write_all(bytes).unwrap();
    }
    for name in ["RECORD", "../../evil", "/evil", "nvidia/cu13/include/a.h"] {
        zip.start_file(name, deflated).unwrap();
        zip.write_all(b"of no use").unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The table of a build: of these wheels with these members.
fn table(kind: &str, wheels: &[Vec<u8>], rows: &[Vec<Row>]) -> String {
    let mut table = format!("build {kind} linux-test 1.0\n");
    for (at, wheel) in wheels.iter().enumerate() {
        let (digest, size) = (sha256(wheel), wheel.len());
        let (file, project) = (WHEELS[at], PROJECTS[at]);
        table += &format!("wheel {digest} {size} {file} {project} 1.0 MIT\n");
        for (inside, name, bytes) in &rows[at] {
            let (digest, size) = (sha256(bytes), bytes.len());
            table += &format!("member {digest} {size} {name} {inside}\n");
        }
    }
    table
}

fn build_of(table: &str) -> Build {
    Build::read(table).unwrap().remove(0)
}

struct Silent;

impl Progress for Silent {
    fn position(&self, _: &str, _: u64) {}
    fn checking(&self, _: &str, _: u64) {}
    fn resumed(&self, _: &str, _: u64) {}
    fn proven(&self, _: &str) {}
    fn retrying(&self, _: &str, _: &str) {}
}

/// A world whose mirror is an index with the wheels, and the build that pins them.
struct Site {
    world: World,
    table: String,
    rows: [Vec<Row>; 2],
}

impl Site {
    fn new(kind: &str) -> Self {
        let rows = rows();
        let wheels = rows.each_ref().map(|rows| zipped(rows));
        Self::with(kind, wheels, rows)
    }

    fn with(kind: &str, wheels: [Vec<u8>; 2], rows: [Vec<Row>; 2]) -> Self {
        let table = table(kind, &wheels, &rows);
        let names = WHEELS.map(str::to_owned).into_iter();
        let world = World::with(names.zip(wheels).collect());
        let site = Self { world, table, rows };
        // One URL is as PyPI has them, the other relative to the page's.
        site.page(
            0,
            WHEELS[0],
            &format!("{}{}", site.world.mirror.url(), file(WHEELS[0])),
        );
        site.page(1, WHEELS[1], &format!("../..{}", file(WHEELS[1])));
        site
    }

    /// The index's page of a project: what it says of digests is of no importance.
    fn page(&self, project: usize, name: &str, url: &str) {
        let digest = "0".repeat(64);
        let listed = |name: &str, url: &str| json!({"filename": name, "url": url, "hashes": {"sha256": digest}, "yanked": false});
        let files = [listed("other-1.0.whl", "other"), listed(name, url)];
        let page = json!({"meta": {"api-version": "1.1"}, "name": "x", "files": files});
        let place = format!("simple/{}", PROJECTS[project]);
        self.world.mirror.set_file(&place, page.to_string().into());
    }

    fn build(&self) -> Build {
        build_of(&self.table)
    }

    fn store(&self) -> Store {
        Store::open(&self.world.store()).unwrap()
    }

    fn install(&self) -> Result<bool, FetchError> {
        from_index(&self.build(), &self.store(), &self.world.mirror.url())
    }

    /// Another process that installs the same.
    fn spawn(&self) -> Child {
        self.child(Command::new(std::env::current_exe().unwrap()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn child(&self, mut command: Command) -> Command {
        command
            .args([
                "wheels::another_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("TEST_TABLE", &self.table)
            .env("TEST_STORE", self.world.store())
            .env("TEST_INDEX", self.world.mirror.url())
            .stderr(Stdio::null());
        command
    }

    /// The build is installed, whole, and nothing else is left.
    #[track_caller]
    fn assert_installed(&self) {
        let build = self.build();
        let folder = build.folder(&self.world.store());
        let found: BTreeMap<PathBuf, Vec<u8>> = tree(&folder);
        let rows = self.rows.iter().flatten();
        let wanted: BTreeMap<_, _> = rows
            .map(|(_, name, bytes)| (folder.join(name), bytes.clone()))
            .collect();
        assert!(found == wanted, "{:?}", found.keys());
        for path in found.keys() {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{}", path.display());
        }
        assert!(wheel::is_there(&build, &self.store()));
        self.assert_nothing_staged();
        assert!(!self.world.path("evil").exists());
    }

    #[track_caller]
    fn assert_nothing_installed(&self) {
        let runtime = tree(&self.world.store().join("runtime"));
        assert!(runtime.is_empty(), "{:?}", runtime.keys());
    }

    #[track_caller]
    fn assert_nothing_staged(&self) {
        let staged = tree(&self.world.store().join(".staging"));
        assert!(staged.is_empty(), "{:?}", staged.keys());
    }
}

/// Where the mirror has a file.
fn file(name: &str) -> String {
    format!("/{REPO}/resolve/{COMMIT}/{name}")
}

fn from_index(build: &Build, store: &Store, url: &str) -> Result<bool, FetchError> {
    let settings = Settings {
        retries: 1,
        ..Settings::default()
    };
    let origin = Origin::Index {
        index: &Index::new(url)?,
        settings: &settings,
        runtime: &Runtime::new().unwrap(),
    };
    wheel::install(build, store, origin, Arc::new(Silent))
}

/// Not a test: what others start to kill it, or to give it a full disk.
#[test]
#[ignore = "started by other tests"]
fn another_process() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let table = variable("TEST_TABLE");
    if table.is_empty() {
        return;
    }
    let store = Store::open(Path::new(&variable("TEST_STORE"))).unwrap();
    let installed = from_index(&build_of(&table), &store, &variable("TEST_INDEX"));
    match installed {
        Ok(_) => println!("installed"),
        Err(error) => println!("failed: {error}"),
    }
}

#[test]
fn a_build_comes_from_an_index_once() {
    for kind in ["cuda", "cpu"] {
        let site = Site::new(kind);
        assert!(site.install().unwrap());
        site.assert_installed();
        let before = site.world.mirror.requests();
        assert!(!site.install().unwrap(), "it is there");
        assert_eq!(site.world.mirror.requests(), before);
        // What a disk does to it is found, and put right.
        let library = site
            .build()
            .folder(&site.world.store())
            .join("libcublas.so.13");
        let mut bytes = fs::read(&library).unwrap();
        bytes[1000] ^= 1;
        fs::write(&library, bytes).unwrap();
        assert!(!wheel::is_there(&site.build(), &site.store()));
        assert!(site.install().unwrap());
        site.assert_installed();
        assert!(wheel::remove(&site.build(), &site.store()).unwrap());
        site.assert_nothing_installed();
        site.assert_nothing_staged();
        assert!(!site.world.store().join("runtime").exists());
        assert!(!wheel::remove(&site.build(), &site.store()).unwrap());
    }
}

#[test]
fn a_folder_with_the_wheels_will_do() {
    let site = Site::new("cuda");
    let folder = site.world.path("wheels");
    fs::create_dir(&folder).unwrap();
    let install = |origin| wheel::install(&site.build(), &site.store(), origin, Arc::new(Silent));
    // All that is missing is told at once.
    let error = install(Origin::Folder(&folder)).unwrap_err();
    assert!(matches!(&error, FetchError::NotInFolder { path, .. } if *path == WHEELS.join(", ")));
    let error = install(Origin::Staged).unwrap_err();
    assert!(matches!(&error, FetchError::Offline { missing } if *missing == WHEELS));
    site.assert_nothing_staged();
    for name in WHEELS {
        fs::write(folder.join(name), &site.world.files[name]).unwrap();
    }
    // A wheel that was altered, and one that was cut.
    let bytes = &site.world.files[WHEELS[1]];
    let mut altered = bytes.clone();
    altered[100] ^= 1;
    for (bytes, why) in [(&altered[..], "SHA-256"), (&bytes[..1000], "1000 bytes")] {
        fs::write(folder.join(WHEELS[1]), bytes).unwrap();
        let error = install(Origin::Folder(&folder)).unwrap_err();
        assert!(matches!(error, FetchError::WrongCopy { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        site.assert_nothing_installed();
    }
    fs::write(folder.join(WHEELS[1]), bytes).unwrap();
    assert!(install(Origin::Folder(&folder)).unwrap());
    site.assert_installed();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "they stay");
    assert_eq!(site.world.mirror.requests(), 0);
}

/// A wheel with one member that is not what the table says, though the wheel is.
#[test]
fn hostile_wheels_bring_nothing() {
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let (inside, name, bytes) = rows()[1][0].clone();
    let one = |write: &dyn Fn(&mut Zip)| {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        write(&mut zip);
        zip.finish().unwrap().into_inner()
    };
    let with = |content: &[u8]| {
        one(&|zip| {
            zip.start_file(inside, deflated).unwrap();
            zip.write_all(content).unwrap();
        })
    };
    // Thirty megabytes of zeros that say they are as few as are wanted.
    let bomb = with(&vec![0; 30_000_007]);
    let lying = replaced(
        &bomb,
        &30_000_007u32.to_le_bytes(),
        &(bytes.len() as u32).to_le_bytes(),
    );
    let sound = with(&bytes);
    let mut other = bytes.clone();
    other[7] ^= 1;
    let damaged = {
        let mut damaged = sound.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0xff);
        damaged
    };
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("bomb", bomb, "30000007 bytes"),
        ("lying bomb", lying, ""),
        ("other bytes", with(&other), "SHA-256"),
        ("shorter", with(&bytes[1..]), "must have"),
        ("damaged", damaged, ""),
        ("cut", sound[..sound.len() - 30].to_vec(), WHEELS[1]),
        ("no archive", noise(9, 5000), WHEELS[1]),
        (
            "link",
            one(&|zip| zip.add_symlink(inside, "/etc/passwd", deflated).unwrap()),
            "regular",
        ),
        (
            "folder",
            one(&|zip| zip.add_directory(inside, deflated).unwrap()),
            "not there",
        ),
        (
            "other name",
            one(&|zip| zip.start_file("x", deflated).unwrap()),
            "not there",
        ),
    ];
    for (case, wheel, why) in cases {
        let mut rows = rows();
        rows[1] = vec![(inside, name, bytes.clone())];
        let wheels = [zipped(&rows[0]), wheel];
        let site = Site::with("cuda", wheels, rows);
        let error = site.install().unwrap_err();
        assert!(
            matches!(error, FetchError::WrongCopy { .. }),
            "{case}: {error}"
        );
        assert!(error.to_string().contains(why), "{case}: {error}");
        site.assert_nothing_installed();
        assert!(!site.world.path("evil").exists(), "{case}");
        // What was right is kept, what was wrong is not.
        let staged = tree(&site.world.store().join(".staging"));
        assert!(
            staged.keys().any(|path| path.ends_with("libcudart.so.13")),
            "{case}"
        );
        assert!(!staged.keys().any(|path| path.ends_with(name)), "{case}");
    }
}

/// Every place of some bytes has others.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut places = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
            places += 1;
        }
    }
    assert_eq!(places, 2, "in the local header and in the directory");
    bytes
}

#[test]
fn an_index_that_lies_or_lacks_the_file_brings_nothing() {
    let site = Site::new("cuda");
    let told = |expected: fn(&FetchError) -> bool, words: &[&str]| {
        let error = site.install().unwrap_err();
        assert!(expected(&error), "{error:?}");
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        site.assert_nothing_installed();
    };
    let bad_answer: fn(&FetchError) -> bool = |e| matches!(e, FetchError::BadAnswer { .. });
    let not_found: fn(&FetchError) -> bool = |e| matches!(e, FetchError::NotFound { .. });
    let mirror = &site.world.mirror;

    site.page(1, "ort-2.0-cp311-any.whl", "../newer.whl");
    told(not_found, &[WHEELS[1], "--index", "--from"]);
    mirror.set_file(
        "simple/ort",
        "<!DOCTYPE html><a href=\"x.whl\">x</a>".into(),
    );
    told(bad_answer, &["PEP 691", "--from"]);
    for url in [
        "ftp://127.0.0.1/x.whl",
        "file:///etc/passwd",
        "http://[",
        "data:,x",
    ] {
        site.page(1, WHEELS[1], url);
        told(bad_answer, &[WHEELS[1]]);
    }
    site.page(1, WHEELS[1], "/nowhere.whl");
    told(not_found, &[WHEELS[1]]);
    site.page(1, WHEELS[1], &file(WHEELS[0]));
    told(
        |e| matches!(e, FetchError::WrongBytes { .. }),
        &["must have"],
    );
    // The right size, and other bytes; twice, since a line may have done it once.
    site.page(1, WHEELS[1], &file(WHEELS[1]));
    mirror.fault(WHEELS[1], 2, Effect::Corrupt(99));
    told(|e| matches!(e, FetchError::WrongBytes { .. }), &["SHA-256"]);
    mirror.fault(WHEELS[1], 1, Effect::Corrupt(99));
    assert!(site.install().unwrap());
    site.assert_installed();
}

#[test]
fn a_project_that_is_not_there_is_named() {
    let site = Site::new("cuda");
    let nowhere = format!("{}/other/simple/", site.world.mirror.url());
    let error = from_index(&site.build(), &site.store(), &nowhere).unwrap_err();
    assert!(matches!(error, FetchError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains(PROJECTS[0]), "{error}");
    site.assert_nothing_staged();
}

#[test]
fn killed_while_a_wheel_comes_in() {
    let mut random = Random(11);
    for at in [0, 1, 0, 1] {
        let site = Site::new("cuda");
        let name = WHEELS[at];
        let stop = random.below(site.world.files[name].len() as u64);
        site.world.mirror.fault(name, 1, Effect::Stall(stop));
        let mut child = site.spawn();
        site.world.mirror.wait_for_stall();
        child.kill().unwrap();
        child.wait().unwrap();
        site.assert_nothing_installed();
        let part = site.world.store().join(".staging/onnxruntime-cuda@1.0");
        let part = part.join(format!("{name}.part")).metadata();
        let there = part.map_or(0, |metadata| metadata.len());
        site.world.mirror.take_served();
        assert!(site.install().unwrap());
        site.assert_installed();
        let again = site.world.mirror.take_served();
        let resumed = again.iter().find(|s| s.file == name).unwrap();
        assert_eq!(resumed.start, there, "it goes on where the part ends");
        let first = again.iter().any(|s| s.file == WHEELS[0]);
        assert_eq!(first, at == 0, "what was taken out is not fetched again");
    }
}

#[test]
fn killed_at_any_moment() {
    let site = Site::new("cuda");
    let started = std::time::Instant::now();
    site.spawn().wait().unwrap();
    let whole = started.elapsed();
    site.assert_installed();
    wheel::remove(&site.build(), &site.store()).unwrap();
    let (mut random, mut early) = (Random(13), 0);
    for _ in 0..12 {
        let mut child = site.spawn();
        // Not for anything to be ready: the moment itself is what is drawn.
        std::thread::sleep(whole.mul_f64(random.below(1000) as f64 / 1000.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let folder = site.build().folder(&site.world.store());
        match folder.exists() {
            true => cuda::verify(&folder, &site.build()).unwrap(),
            false => early += 1,
        }
        if random.below(2) == 0 {
            site.install().unwrap();
            site.assert_installed();
            wheel::remove(&site.build(), &site.store()).unwrap();
        }
    }
    assert!(early > 0, "no kill came before the end");
    site.install().unwrap();
    site.assert_installed();
}

#[test]
fn a_full_disk_is_told_and_gone_on_from() {
    let site = Site::new("cuda");
    for kib in [0, 8, 100, 290] {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
        command
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap());
        let output = site.child(command).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(
            told.contains("failed: cannot ") && told.contains("free some space"),
            "{told}"
        );
        site.assert_nothing_installed();
    }
    assert!(site.install().unwrap());
    site.assert_installed();
    // More than any disk has: told before the first byte.
    let huge = site
        .table
        .replacen(" 300000 ", &format!(" {} ", 1u64 << 60), 1);
    let world = World::with(BTreeMap::new());
    let store = Store::open(&world.store()).unwrap();
    let error = from_index(&build_of(&huge), &store, &world.mirror.url()).unwrap_err();
    assert!(
        matches!(error, FetchError::Store(StoreError::NoSpace { .. })),
        "{error}"
    );
    assert_eq!(world.mirror.requests(), 0);
    assert!(tree(&world.store()).is_empty());
}

/// The machine's store belongs to the user who fetches models, and root installs there.
#[test]
fn what_somebody_else_staged_is_not_gone_on_with() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: this user gives nothing away");
        return;
    }
    let site = Site::new("cuda");
    let staged = site.world.store().join(".staging/onnxruntime-cuda@1.0");
    fs::create_dir_all(&staged).unwrap();
    let (_, name, bytes) = &site.rows[0][0];
    fs::write(staged.join(name), bytes).unwrap();
    for path in [&staged, &staged.join(name)] {
        std::os::unix::fs::chown(path, Some(4711), None).unwrap();
    }
    assert!(site.install().unwrap());
    cuda::verify(&site.build().folder(&site.world.store()), &site.build()).unwrap();
    site.assert_installed();
}

/// What is there when two want the same.
#[test]
fn one_at_a_time() {
    let site = Site::new("cuda");
    site.world.mirror.fault(WHEELS[0], 1, Effect::Stall(10));
    let mut child = site.spawn();
    site.world.mirror.wait_for_stall();
    let error = site.install().unwrap_err();
    assert!(
        matches!(error, FetchError::Store(StoreError::Busy { .. })),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
