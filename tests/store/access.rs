//! Stores that may not be read or written, or are not there: who and what is in the
//! way, and what to do, is said.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::harness::{FAILED, NOT_FOUND, Outcome, TINY, World};
use crate::space::in_namespace;

/// A user who owns nothing.
const NOBODY: u32 = 65534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The command as a user who does not own the store: another one where we are root,
/// else ourselves, whom the store's mode keeps out. None where the other one cannot
/// reach the program.
fn as_stranger(world: &World, args: &[&str]) -> Option<Outcome> {
    let mut command = world.command(args);
    if rustix::process::geteuid().is_root() {
        set_mode(&world.path(""), 0o755);
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("not run: another user cannot reach the program");
            None
        }
        output => Some(output.unwrap().into()),
    }
}

#[test]
fn a_store_of_somebody_else_is_explained() {
    let world = World::new();
    world.pull(&[]).ok();
    let root = rustix::process::geteuid().is_root();
    for folder in ["models", ".staging"] {
        set_mode(&world.store().join(folder), 0o555);
    }
    let Some(refused) = as_stranger(&world, &["rm", TINY]) else {
        return;
    };
    let place = world.store().join(".staging");
    let place = place.to_str().unwrap();
    let words = match root {
        true => [place, "belongs to root (0)", "run this as root"],
        false => [place, "mode 0555", "chmod u+rwX"],
    };
    refused.fails(FAILED, &words);
    // Reading goes on.
    as_stranger(&world, &["verify", TINY]).unwrap().ok();
    as_stranger(&world, &["list"]).unwrap().ok();
    let doctor = as_stranger(&world, &["doctor", "--json"]).unwrap().json();
    let findings = doctor["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| {
        f["check"] == "store" && f["found"].as_str().unwrap().starts_with("not writable")
    });
    assert_eq!(finding.unwrap()["verdict"], "note", "{doctor}");
    for folder in ["models", ".staging"] {
        set_mode(&world.store().join(folder), 0o755);
    }
    world.ctl(&["rm", TINY]).ok();
}

#[test]
fn a_store_that_cannot_be_read_is_explained() {
    let world = World::new();
    world.pull(&[]).ok();
    set_mode(&world.store().join("models"), 0o000);
    let Some(doctor) = as_stranger(&world, &["doctor", "--json"]) else {
        return;
    };
    let doctor = doctor.json();
    let findings = doctor["findings"].as_array().unwrap();
    let wrong = findings
        .iter()
        .find(|f| f["check"] == "store" && f["verdict"] == "wrong");
    let wrong = wrong.unwrap_or_else(|| panic!("{doctor}"));
    let advice = wrong["advice"].as_str().unwrap();
    assert!(advice.contains("mode 0000"), "{advice}");
    // A machine's store of that kind is not passed over in silence.
    let mut command = world.command(&["show", TINY]);
    command
        .env("GPTOSS_STORE", world.path("own"))
        .env("GPTOSS_SYSTEM_STORE", world.store());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Outcome::from(command.output().unwrap()).fails(NOT_FOUND, &["cannot be read", "mode 0000"]);
    set_mode(&world.store().join("models"), 0o755);
}

/// A line of a script that runs `gptoss-ctl` on a store.
fn script(store: &str, args: &[String]) -> String {
    let quoted: Vec<_> = args.iter().map(|a| format!("'{a}'")).collect();
    format!(
        "LC_ALL=C GPTOSS_STORE='{store}' HOME=/nonexistent {} {}",
        env!("CARGO_BIN_EXE_gptoss-ctl"),
        quoted.join(" ")
    )
}

#[test]
fn a_disk_that_is_not_mounted_is_named() {
    let world = World::new();
    let (fstab, disk) = (world.path("fstab"), world.path("disk"));
    fs::create_dir(&disk).unwrap();
    let place = disk.to_str().unwrap();
    fs::write(&fstab, format!("UUID=cafe {place} ext4 noauto 0 0\n")).unwrap();
    let store = format!("{place}/gptoss");
    let commands = [vec!["list".to_owned()], world.pull_args(&[])];
    for args in commands {
        let command = script(&store, &args);
        let unmounted = format!("mount --bind '{}' /etc/fstab; {command}", fstab.display());
        let mounted = format!(
            "mount --bind '{}' /etc/fstab; mount -t tmpfs none '{place}'; {command}",
            fstab.display()
        );
        let Some(outcome) = in_namespace(&unmounted) else {
            eprintln!("not run: no mount namespaces for this user");
            return;
        };
        if outcome.stderr.contains("mount:") {
            eprintln!("not run: there is no /etc/fstab");
            return;
        }
        outcome.fails(
            NOT_FOUND,
            &["UUID=cafe at", "not mounted", &format!("`mount {place}`")],
        );
        in_namespace(&mounted).unwrap().ok();
    }
    assert!(!Path::new(&store).exists());
    // A folder that is used as it is.
    fs::write(disk.join("something"), "").unwrap();
    let used = format!(
        "mount --bind '{}' /etc/fstab; {}",
        fstab.display(),
        script(&store, &["list".to_owned()])
    );
    in_namespace(&used).unwrap().ok();
    // A link to a disk that is gone.
    std::os::unix::fs::symlink("/nowhere/gptoss", world.store()).unwrap();
    for args in [&["list"][..], &["pull", "nano"]] {
        world
            .ctl(args)
            .fails(NOT_FOUND, &["is a link to /nowhere/gptoss", "mount"]);
    }
}

#[test]
fn a_read_only_disk_is_named() {
    let world = World::new();
    let store = world.store();
    fs::create_dir(&store).unwrap();
    let store = store.to_str().unwrap();
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let prepare = format!(
        "mount -t tmpfs none '{store}'; {}; mount -o remount,ro '{store}'",
        script(store, &world.pull_args(&[]))
    );
    let removal = script(store, &words(&["rm", TINY]));
    let Some(outcome) = in_namespace(&format!("{prepare}; {removal}")) else {
        eprintln!("not run: no mount namespaces for this user");
        return;
    };
    outcome.fails(
        FAILED,
        &[store, "(tmpfs) is mounted read-only", "remount,rw"],
    );
    for args in [&["verify", TINY][..], &["list"]] {
        let reading = script(store, &words(args));
        in_namespace(&format!("{prepare}; {reading}")).unwrap().ok();
    }
}
