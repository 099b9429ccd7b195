//! Full disks. `RLIMIT_FSIZE` stands in for one: the write fails in the same
//! place. Where this user may mount a tmpfs of few inodes, that one as well.

use std::fs;
use std::process::Command;

use crate::harness::{NO_SPACE, Outcome, SHARDS, TINY, World, limited, tree};

#[test]
fn full_while_fetching() {
    let world = World::new();
    let args = world.pull_args(&["--jobs", "1"]);
    for kib in [0, 1, 4, 100, 200] {
        limited(&world, kib, &args).fails(NO_SPACE, &["cannot write", "free some space"]);
        world.assert_nothing_installed();
    }
    world.mirror.take_served();
    world.pull(&[]).ok();
    world.assert_installed();
    let again = world.mirror.take_served();
    let shard = again.iter().find(|s| s.file == SHARDS[0]).unwrap();
    assert_eq!(shard.start, 200 << 10, "what fitted is kept");
    assert!(!again.iter().any(|s| s.file == "config.json"));
}

#[test]
fn full_while_importing() {
    let world = World::new();
    let dir = world.checkpoint_dir("tuned", |_| ());
    let args = ["import", dir.to_str().unwrap()].map(str::to_owned);
    limited(&world, 100, &args).fails(NO_SPACE, &["free some space"]);
    world.assert_nothing_installed();
    assert!(
        tree(&world.store()).is_empty(),
        "a failed import leaves nothing"
    );
}

#[test]
fn full_while_exporting() {
    let world = World::new();
    world.pull(&[]).ok();
    let before = world.installed();
    let args = ["export", TINY, "--target", "cpu,portable", "--force"].map(str::to_owned);
    for kib in [0, 8, 64, 128] {
        limited(&world, kib, &args).fails(NO_SPACE, &["the export failed", "cannot write"]);
        assert_eq!(world.installed(), before);
        assert!(tree(&world.store().join(".staging")).is_empty());
    }
    world
        .ctl(&["export", TINY, "--target", "cpu,portable", "--force"])
        .ok();
    world.assert_installed();
}

/// Runs a script as root of a mount namespace of its own; none where this user
/// may not.
pub fn in_namespace(script: &str) -> Option<Outcome> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script]);
        command.output().ok().map(Outcome::from)
    };
    unshare("mount -t tmpfs none /mnt").filter(|o| o.code == Some(0))?;
    unshare(script)
}

#[test]
fn a_real_full_file_system() {
    let world = World::new();
    let store = world.store();
    fs::create_dir_all(&store).unwrap();
    let command = |args: &[String]| {
        let quoted: Vec<_> = args.iter().map(|a| format!("'{a}'")).collect();
        format!(
            "LC_ALL=C GPTOSS_STORE='{}' HOME=/nonexistent {} {}",
            store.display(),
            env!("CARGO_BIN_EXE_gptoss-ctl"),
            quoted.join(" ")
        )
    };
    let pull = command(&world.pull_args(&["--jobs", "1"]));
    let verify = command(&["verify".to_owned(), TINY.to_owned()]);
    // Few inodes: creating a file fails, at another place for each number, until
    // there are enough.
    const ENOUGH: i32 = 42;
    let mut points = 0;
    for inodes in 4.. {
        let script = format!(
            "mount -t tmpfs -o size=50m,nr_inodes={inodes} none '{0}'
             code=0; {pull} || code=$?
             if test $code = 0; then exit {ENOUGH}; fi
             test $code = 5; test -z \"$(find '{0}'/models -type f)\"
             mount -o remount,nr_inodes=1000 '{0}'; {pull}; {verify}",
            store.display()
        );
        let Some(outcome) = in_namespace(&script) else {
            eprintln!("not run: no mount namespaces for this user");
            return;
        };
        if outcome.code == Some(ENOUGH) {
            break;
        }
        outcome.ok();
        points += 1;
    }
    assert!(points > 10, "{points}");
    // Too small for the model: told before anything is fetched.
    world.mirror.take_served();
    let script = format!(
        "mount -t tmpfs -o size=300k none '{}'; {pull}",
        store.display()
    );
    if let Some(outcome) = in_namespace(&script) {
        outcome.fails(NO_SPACE, &["free and the download needs", "kB"]);
        assert!(world.mirror.take_served().is_empty());
    }
}
