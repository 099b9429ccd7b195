//! `gptoss-ctl runtime install` and `remove` as a person has them, and which library of
//! a store is loaded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gptoss::runtime::library::FILE_NAME;
use gptoss::runtime::pinned::PinnedRuntime;
use gptoss::runtime::wheels::{Build, Kind};
use gptoss::runtime::{self, Library, ProviderChoice, RuntimeError};

use crate::harness::{FAILED, NOT_FOUND, USAGE, VERIFICATION, World, tree};
use crate::mirror::{COMMIT, REPO, sha256};
use crate::runtime::runtime_dir;

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A world that needs no checkpoint.
fn world() -> World {
    World::with(Default::default())
}

#[test]
fn nothing_is_fetched_before_nvidias_licences_are_accepted() {
    let Some(build) = Build::here(Kind::Cuda) else {
        world()
            .ctl(&["runtime", "install", "--cuda"])
            .fails(NOT_FOUND, &["pinned", "linux-x86_64"]);
        return;
    };
    let world = world();
    let url = world.mirror.url();
    let install = ["runtime", "install", "--cuda", "--index", &url];
    let refused = world.ctl(&install);
    for text in [
        "NVIDIA's, proprietary",
        "docs.nvidia.com",
        "nvidia-cublas",
        "MIT licence: onnxruntime-gpu",
    ] {
        assert!(refused.stderr.contains(text), "{text}: {refused:?}");
    }
    refused.fails(USAGE, &["--accept-nvidia-license"]);
    assert_eq!(world.mirror.requests(), 0);

    let accepted = world.ctl(&[&install[..], &["--accept-nvidia-license"]].concat());
    accepted.fails(NOT_FOUND, &[&url, &build.wheels[0].project, "--from"]);
    let offline = [
        "--offline",
        "runtime",
        "install",
        "--cuda",
        "--accept-nvidia-license",
    ];
    world
        .ctl(&offline)
        .fails(FAILED, &[&build.wheels[0].file.path]);
    let empty = world.path("");
    let from = [&offline[1..], &["--from", empty.to_str().unwrap()]].concat();
    let told = world.ctl(&from).fails(NOT_FOUND, &[]);
    for wheel in &build.wheels {
        assert!(told.stderr.contains(&wheel.file.path), "{told:?}");
    }
    assert!(tree(&world.store()).is_empty());
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let world = world();
    for args in [
        &["runtime", "install", "--index", "pypi.org"][..],
        &["runtime", "install", "--index", "file:///srv"],
        &["runtime", "install", "--accept-nvidia-license"],
        &[
            "runtime", "install", "--from", "/srv", "--index", "http://h",
        ],
        &["runtime", "--provider", "cpu", "install"],
    ] {
        assert_eq!(world.ctl(args).code, Some(USAGE), "{args:?}");
    }
    for kind in [&[][..], &["--cuda"]] {
        let remove = [&["runtime", "remove"][..], kind].concat();
        world.ctl(&remove).fails(NOT_FOUND, &["no ONNX Runtime"]);
    }
    assert!(!world.store().exists());
}

#[test]
fn what_an_index_has_under_the_wheels_name_must_be_the_wheel() {
    let world = world();
    let Some(build) = Build::here(Kind::Cpu) else {
        return;
    };
    let wheel = &build.wheels[0];
    let zeros = vec![0; wheel.file.size as usize];
    world.mirror.set_file(&wheel.file.path, zeros);
    let url = format!(
        "{}/{REPO}/resolve/{COMMIT}/{}",
        world.mirror.url(),
        wheel.file.path
    );
    let page = serde_json::json!({"files": [{"filename": wheel.file.path, "url": url}]});
    world
        .mirror
        .set_file("simple/onnxruntime", page.to_string().into());
    let index = format!("{}/simple", world.mirror.url());
    let install = ["--json", "runtime", "install", "--index", &index];
    world.ctl(&install).fails(
        VERIFICATION,
        &[&wheel.file.path, "SHA-256", &wheel.file.sha256],
    );
    assert!(tree(&world.store()).is_empty());
}

/// Where the program looks for the build for CUDA.
fn cuda_folder(world: &World) -> Option<PathBuf> {
    let folder = Build::here(Kind::Cuda)?.folder(&world.store());
    fs::create_dir_all(&folder).unwrap();
    set(&folder, 0o755);
    fs::write(folder.join(FILE_NAME), "code").unwrap();
    set(&folder.join(FILE_NAME), 0o644);
    Some(folder)
}

#[test]
fn a_folder_that_others_can_change_is_refused_and_not_passed_over() {
    let world = world();
    let Some(folder) = cuda_folder(&world) else {
        return;
    };
    let shown = folder.to_str().unwrap();
    // It comes before every installation, and nothing else is taken in its stead.
    world
        .ctl(&["runtime"])
        .fails(VERIFICATION, &[shown, "pins"]);
    set(&folder, 0o777);
    world
        .ctl(&["runtime"])
        .fails(VERIFICATION, &[shown, "mode 0777", "root"]);
    let doctor = world.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("mode 0777"), "{doctor:?}");
    world.ctl(&["runtime", "remove", "--cuda"]).ok();
    assert!(!folder.exists());
}

#[test]
fn what_another_version_left_is_found_and_removed() {
    let world = world();
    let other = world.store().join("runtime/cuda-0.9");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("libcudart.so.12"), [0; 1234]).unwrap();
    let doctor = world.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("cuda-0.9"), "{doctor:?}");
    world.ctl(&["gc"]).ok();
    let told = world.ctl(&["gc", "--superseded", "--dry-run"]).ok();
    assert!(told.stdout.contains("runtime/cuda-0.9"), "{told:?}");
    assert!(other.exists());
    let freed = world.ctl(&["gc", "--superseded", "--json"]).ok().json();
    assert_eq!(freed["freed"], 1234);
    assert!(!other.exists());
}

/// The library as a build for CUDA has it: in a folder, opened through its handle.
#[test]
fn a_folder_that_is_whole_is_loaded_whatever_becomes_of_its_name() {
    let Some(pinned) = PinnedRuntime::here() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cuda-1.0");
    fs::create_dir(&folder).unwrap();
    set(&folder, 0o755);
    let digest = "0".repeat(64);
    let mut table = format!("build cuda linux-test 1.0\nwheel {digest} 1 a.whl a 1.0 MIT\n");
    // What does not load is told by a provider, if it needs it.
    let no_library = b"no library".to_vec();
    let ours = fs::read(runtime_dir().join(&pinned.library.path)).unwrap();
    for (name, bytes) in [("libcudart.so.13", no_library), (FILE_NAME, ours)] {
        fs::write(folder.join(name), &bytes).unwrap();
        set(&folder.join(name), 0o644);
        table += &format!("member {} {} {name} x\n", sha256(&bytes), bytes.len());
    }
    let library = |table: &str| Library::Cuda {
        path: folder.join(FILE_NAME),
        build: Box::new(Build::read(table).unwrap().remove(0)),
    };
    let other = table.replacen(&sha256(b"no library"), &digest, 1);
    let error = runtime::initialise(&library(&other)).unwrap_err();
    assert!(matches!(error, RuntimeError::NotPinned { .. }), "{error}");
    set(&folder, 0o770);
    let error = runtime::initialise(&library(&table)).unwrap_err();
    assert!(matches!(error, RuntimeError::Untrusted { .. }), "{error}");
    set(&folder, 0o700);
    runtime::initialise(&library(&table)).unwrap();
    fs::rename(&folder, dir.path().join("elsewhere")).unwrap();
    assert_eq!(
        runtime::library::loaded().unwrap().path,
        folder.join(FILE_NAME)
    );
    runtime::choose(ProviderChoice::Cpu, &runtime::Quarantine::default(), &[]).unwrap();
}
