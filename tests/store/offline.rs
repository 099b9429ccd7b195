//! `--offline`: every command under strace asks the kernel for local sockets alone.

use std::fs;
use std::process::Command;

use crate::harness::{Outcome, TINY, World};
use crate::local::{CACHE, fill_cache};

/// Runs a command under strace; the lines of its network calls.
fn traced(world: &World, args: &[&str]) -> Option<(Outcome, Vec<String>)> {
    let trace = world.path("trace");
    let plain = world.command(args);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-e", "trace=network", "-o"])
        .arg(&trace)
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    for name in ["ORT_DYLIB_PATH", "DBUS_SESSION_BUS_ADDRESS"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let outcome = command
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?
        .into();
    let text = fs::read_to_string(&trace).ok()?;
    let calls = text.lines().filter(|l| l.contains('(')).map(str::to_owned);
    Some((outcome, calls.collect()))
}

#[test]
fn only_local_sockets_are_asked_for() {
    let world = World::new();
    world.pull(&[]).ok();
    let catalog = world.path("catalog.toml");
    let catalog = catalog.to_str().unwrap();
    let url = world.mirror.url();
    let bundle = world.path("b.tar");
    let bundle = bundle.to_str().unwrap();
    let checkpoint = world.checkpoint_dir("mine", |_| ());
    let other = world.path("other");
    let other = other.to_str().unwrap();
    let folder = format!("file://{}", checkpoint.display());
    fill_cache(&world, CACHE, |_| true);
    let [from_folder, from_cache] = ["from-folder", "from-cache"].map(|name| world.path(name));
    let prompts = world.path("prompts.json");
    fs::write(&prompts, r#"[{"ids": [1, 2, 3]}]"#).unwrap();
    let (prompts, logits) = (prompts.to_str().unwrap(), world.path("logits.npz"));
    let commands: &[&[&str]] = &[
        &["pull", "nano"],
        &["pull", "20b"],
        &["pull", "hf:test/tiny", "--endpoint", &url],
        &["pull", TINY, "--endpoint", &url, "--catalog", catalog],
        &[
            "pull",
            TINY,
            "--endpoint",
            &url,
            "--catalog",
            catalog,
            "--store",
            other,
            "--no-cache",
        ],
        &[
            "pull",
            TINY,
            "--catalog",
            catalog,
            "--endpoint",
            &folder,
            "--store",
            from_folder.to_str().unwrap(),
        ],
        &[
            "pull",
            TINY,
            "--catalog",
            catalog,
            "--store",
            from_cache.to_str().unwrap(),
        ],
        &["pull", "oci://127.0.0.1:5000/site/models:tiny"],
        &["pull", "oci://registry.invalid/site/models:tiny"],
        &["import", checkpoint.to_str().unwrap()],
        &["bundle", "create", TINY, "-o", bundle],
        &["bundle", "verify", bundle],
        &["bundle", "import", bundle, "--store", other],
        &["list"],
        &["show", TINY],
        &["verify", TINY],
        &["export", TINY, "--target", "cpu", "--force"],
        &["gc", "--superseded"],
        &["runtime"],
        &["runtime", "install"],
        &["runtime", "install", "--cuda", "--accept-nvidia-license"],
        &["runtime", "remove"],
        &[
            "eval",
            TINY,
            "--tokens",
            prompts,
            "--logits",
            logits.to_str().unwrap(),
        ],
        &[
            "bench",
            TINY,
            "-p",
            "4",
            "-n",
            "2",
            "-r",
            "1",
            "--context",
            "128",
        ],
        &["run", TINY, "hello"],
        &["run", TINY, "hello", "--bus", "session"],
        &["chat", TINY],
        &["status"],
        &["load", TINY],
        &["unload"],
        &["completions", "bash"],
        &["man"],
        &["rm", TINY],
    ];
    world.mirror.take_served();
    let before = world.mirror.requests();
    for args in commands {
        let mut all = vec!["--offline"];
        all.extend(*args);
        let Some((outcome, calls)) = traced(&world, &all) else {
            assert!(std::env::var_os("CI").is_none(), "CI must have strace");
            eprintln!("not run: strace is not installed");
            return;
        };
        assert!(outcome.code.is_some(), "{args:?}: {outcome:?}");
        assert!(
            !outcome.stderr.contains("panicked"),
            "{args:?}: {outcome:?}"
        );
        for call in calls {
            let sockets = ["socket(", "socketpair("];
            let opens = sockets.iter().any(|name| call.contains(name));
            let local = call.contains("AF_UNIX");
            assert!(!opens || local, "{args:?}: {call}");
            assert!(
                !call.contains("AF_INET") && !call.contains("AF_NETLINK"),
                "{args:?}: {call}"
            );
        }
    }
    assert_eq!(world.mirror.requests(), before);
    for store in [from_folder, from_cache] {
        let model = store.join("models").join(TINY);
        assert!(model.is_dir(), "{} is not there", model.display());
    }
}

/// The same watch sees the connections of a pull that may have them.
#[test]
fn the_watch_sees_connections() {
    let world = World::new();
    let args = world.pull_args(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((outcome, calls)) = traced(&world, &args) else {
        eprintln!("not run: strace is not installed");
        return;
    };
    outcome.ok();
    assert!(
        calls.iter().any(|call| call.contains("AF_INET")),
        "{calls:?}"
    );
}
