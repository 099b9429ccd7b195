//! Bundles and signatures in the hands of other people's programs: skopeo, a
//! registry, minisign.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::{assert_imported, bundled, create, import, key_pair, replace_blob};
use crate::harness::{Outcome, TINY, World, tree};
use crate::mirror::COMMIT;

/// Whether the programs are there. CI installs them.
pub fn have(programs: &[&str]) -> bool {
    let there = |program: &&str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status();
        found.is_ok_and(|s| s.success())
    };
    let missing: Vec<_> = programs.iter().filter(|p| !there(p)).collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI must have {missing:?}");
        eprintln!("not run: {missing:?} not installed");
    }
    missing.is_empty()
}

/// Debian's registry on the loopback interface, its files in a folder of the test's.
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, "", "")
    }

    /// With more lines of settings, and more under `http`.
    pub fn with(dir: &Path, settings: &str, http: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\n{settings}http:\n  addr: 127.0.0.1:{port}\n{http}",
                storage.display()
            ),
        )
        .unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn image(&self, tag: &str) -> String {
        format!("docker://{}/site/models:{tag}", self.host())
    }

    /// Pushes every manifest of a layout.
    pub fn push(&self, folder: &Path, more: &[&str]) {
        for tag in tags(folder) {
            let from = format!("oci:{}:{tag}", text(folder));
            skopeo(&from, &self.image(&tag), more);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn skopeo(from: &str, to: &str, more: &[&str]) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--preserve-digests"])
        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(more)
        .args([from, to])
        .output()
        .unwrap();
    Outcome::from(output).ok();
}

/// Names of the manifests in a folder's index.
fn tags(folder: &Path) -> Vec<String> {
    let index: Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let name = |m: &Value| {
        let name = &m["annotations"]["org.opencontainers.image.ref.name"];
        name.as_str().unwrap().to_owned()
    };
    index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_registry_and_back_byte_for_byte() {
    if !have(&["skopeo", "docker-registry"]) {
        return;
    }
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, public) = key_pair(&world, "site");
    let folder = world.path("folder");
    create(&world, &folder, &["--sign", text(&secret)]).ok();
    let registry = Registry::start(&world.path(""));
    let back = world.path("back");
    let tags = tags(&folder);
    assert_eq!(tags[0], TINY);
    assert!(tags[1].starts_with("sha256-") && tags[1].ends_with(".minisig"));
    registry.push(&folder, &[]);
    for tag in &tags {
        let to = format!("oci:{}:{tag}", text(&back));
        skopeo(&registry.image(tag), &to, &[]);
    }
    assert!(tree(&back.join("blobs")).len() >= world.files.len());
    let inside = |root: &Path| {
        let blobs = root.join("blobs");
        let relative = |(p, b): (PathBuf, _)| (p.strip_prefix(&blobs).unwrap().to_owned(), b);
        tree(&blobs).into_iter().map(relative).collect::<Vec<_>>()
    };
    assert!(inside(&folder) == inside(&back), "other blobs came back");
    let told = import(&world, &back, &["--key", text(&public), "--json"])
        .ok()
        .json();
    assert_eq!(told["revision"], COMMIT);
    assert_eq!(told["signature"]["over"], told_manifest(&world, &folder));
    assert_imported(&world, TINY);
}

fn told_manifest(world: &World, bundle: &Path) -> Value {
    let proven = world
        .ctl(&["bundle", "verify", text(bundle), "--json"])
        .ok();
    proven.json()["manifest"].clone()
}

#[test]
fn skopeo_reads_our_tar_file_and_we_read_its_own() {
    if !have(&["skopeo"]) {
        return;
    }
    let (world, path) = bundled("b.tar", &[]);
    let theirs = world.path("theirs.tar");
    skopeo(
        &format!("oci-archive:{}:{TINY}", text(&path)),
        &format!("oci-archive:{}:{TINY}", text(&theirs)),
        &[],
    );
    assert_eq!(told_manifest(&world, &path), told_manifest(&world, &theirs));
    import(&world, &theirs, &[]).ok();
    assert_imported(&world, TINY);
}

/// A key pair made by minisign itself, without a password.
fn minisign_pair(world: &World) -> (PathBuf, PathBuf) {
    let (secret, public) = (world.path("theirs.key"), world.path("theirs.pub"));
    let made = Command::new("minisign")
        .args(["-G", "-W", "-f", "-s", text(&secret), "-p", text(&public)])
        .output()
        .unwrap();
    Outcome::from(made).ok();
    (secret, public)
}

fn minisign(args: &[&str]) -> Outcome {
    let output = Command::new("minisign").args(args).output().unwrap();
    output.into()
}

/// The signature's text among a folder's blobs.
fn signature_blob(folder: &Path) -> PathBuf {
    let blobs = tree(&folder.join("blobs"));
    let signature = |(_, bytes): &(_, Vec<u8>)| bytes.starts_with(b"untrusted comment");
    blobs.into_iter().find(signature).unwrap().0
}

#[test]
fn minisign_verifies_ours_and_we_verify_its() {
    if !have(&["minisign"]) {
        return;
    }
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, public) = minisign_pair(&world);
    let folder = world.path("folder");
    create(&world, &folder, &["--sign", text(&secret)]).ok();
    let manifest = told_manifest(&world, &folder);
    let digest = manifest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest = folder.join("blobs/sha256").join(digest);
    let ours = signature_blob(&folder);
    let verify = [
        "-Vm",
        text(&manifest),
        "-x",
        text(&ours),
        "-p",
        text(&public),
    ];
    let told = minisign(&verify).ok().stdout;
    assert!(told.contains(&format!("model:{TINY}@{COMMIT}")), "{told}");
    let wrong = ["-Vm", text(&ours), "-x", text(&ours), "-p", text(&public)];
    assert_ne!(minisign(&wrong).code, Some(0), "the program can say no");

    let theirs = world.path("theirs.minisig");
    let sign = [
        "-Sm",
        text(&manifest),
        "-s",
        text(&secret),
        "-x",
        text(&theirs),
        "-t",
        "by hand",
    ];
    minisign(&sign).ok();
    replace_blob(&folder, &ours, &fs::read(&theirs).unwrap());
    let told = import(&world, &folder, &["--key", text(&public), "--json"])
        .ok()
        .json();
    assert_eq!(told["signature"]["comment"], "by hand");
    assert_imported(&world, TINY);
}
