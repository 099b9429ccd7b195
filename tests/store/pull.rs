//! `pull` where everything works, and where it must not begin.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{FAILED, NOT_FOUND, TINY, USAGE, VERIFICATION, World};
use crate::mirror::{COMMIT, Effect};

#[test]
fn it_installs_what_the_catalog_pins() {
    let world = World::new();
    let outcome = world.pull(&[]).ok();
    assert!(
        outcome
            .stdout
            .contains(&format!("installed {TINY}@{COMMIT}"))
    );
    world.assert_installed();
    let shown = world.ctl(&["show", TINY, "--json"]).ok().json();
    assert_eq!(shown["schema"], 1);
    assert_eq!(shown["license"], "Apache-2.0");
    assert_eq!(shown["source"], format!("{}/test/tiny", world.mirror.url()));
    assert_eq!(shown["files"].as_array().unwrap().len(), world.files.len());
    let exported = shown["targets"]["cpu"].as_array().unwrap();
    let paths: Vec<_> = exported
        .iter()
        .map(|f| f["path"].as_str().unwrap())
        .collect();
    assert!(
        paths.contains(&"cpu/model.onnx") && paths.contains(&"cpu/dense.bin"),
        "{paths:?}"
    );
    for path in world.installed().keys() {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
}

#[test]
fn a_second_pull_says_so_and_fetches_nothing() {
    let world = World::new();
    world.pull(&[]).ok();
    let (before, asked) = (world.installed(), world.mirror.requests());
    let outcome = world.pull(&[]).ok();
    assert!(outcome.stdout.contains("installed already"), "{outcome:?}");
    assert_eq!(world.mirror.requests(), asked);
    assert_eq!(world.installed(), before);
}

#[test]
fn a_further_target_is_exported_without_fetching() {
    let world = World::new();
    world.pull(&[]).ok();
    let asked = world.mirror.requests();
    world.pull(&["--target", "cpu,portable"]).ok();
    assert_eq!(world.mirror.requests(), asked);
    assert!(world.model_dir().join("portable/model.onnx").exists());
    world.assert_installed();
}

#[test]
fn the_endpoint_may_come_from_the_environment() {
    let world = World::new();
    let catalog = world.path("catalog.toml");
    let mut command = world.command(&["pull", TINY, "--catalog", catalog.to_str().unwrap()]);
    command.env("HF_ENDPOINT", format!("{}/", world.mirror.url()));
    crate::harness::Outcome::from(command.output().unwrap()).ok();
    world.assert_installed();
}

#[test]
fn a_redirect_to_another_host_loses_the_token() {
    let world = World::new();
    world.mirror.redirect();
    let mut command = world.pull_command(&[]);
    command.env("HF_TOKEN", "hf_secret");
    crate::harness::Outcome::from(command.output().unwrap()).ok();
    world.assert_installed();
    let served = world.mirror.take_served();
    assert!(served.iter().any(|s| s.cdn), "nothing was redirected");
    for answer in served {
        let expected = (!answer.cdn).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(answer.token, expected, "{}", answer.file);
    }
}

#[test]
fn without_a_terminal_there_are_lines_and_no_control_codes() {
    let world = World::new();
    let outcome = world.pull(&[]).ok();
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains('\r'));
    assert!(
        outcome.stderr.contains("config.json: 1 kB proven"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn json_is_the_only_thing_on_standard_output() {
    let world = World::new();
    let pulled = world.pull(&["--json"]).ok().json();
    assert_eq!(pulled["status"], "installed");
    assert_eq!(pulled["name"], TINY);
    assert_eq!(
        world.pull(&["--json"]).ok().json()["status"],
        "already-installed"
    );
}

#[test]
fn offline_uses_what_is_there_and_asks_nobody() {
    let world = World::new();
    world
        .pull(&["--offline"])
        .fails(FAILED, &["--offline", "9 files", "config.json"]);
    assert_eq!(world.mirror.requests(), 0);
    // Everything is fetched, but the machine stops before the export.
    std::fs::create_dir_all(world.staging_dir()).unwrap();
    for (name, bytes) in &world.files {
        std::fs::write(world.staging_dir().join(name), bytes).unwrap();
    }
    world.pull(&["--offline"]).ok();
    assert_eq!(world.mirror.requests(), 0);
    world.assert_installed();
}

#[test]
fn staged_files_are_proven_again_before_they_are_installed() {
    let world = World::new();
    std::fs::create_dir_all(world.staging_dir()).unwrap();
    for (name, bytes) in &world.files {
        let mut bytes = bytes.clone();
        if name == "tokenizer.json" {
            bytes[100] ^= 1;
        }
        std::fs::write(world.staging_dir().join(name), bytes).unwrap();
    }
    world.pull(&[]).ok();
    let served = world.mirror.take_served();
    assert_eq!(served.len(), 1, "{served:?}");
    assert_eq!(served[0].file, "tokenizer.json");
    world.assert_installed();
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let world = World::new();
    world.mirror.fault(
        "model-00000-of-00002.safetensors",
        1,
        Effect::Stall(100_000),
    );
    let mut first = world.spawn_pull(&["--stall-timeout", "600"]);
    world.mirror.wait_for_stall();
    world
        .pull(&[])
        .fails(FAILED, &["another gptoss-ctl is working on tiny"]);
    first.kill().unwrap();
    first.wait().unwrap();
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn many_at_once_end_in_one_sound_model() {
    let world = World::new();
    let pulls: Vec<_> = (0..4).map(|_| world.spawn_pull(&[])).collect();
    let mut installed = 0;
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => installed += 1,
            Some(FAILED) => {
                let message = String::from_utf8(output.stderr).unwrap();
                assert!(message.contains("another gptoss-ctl"), "{message}");
            }
            code => panic!("{code:?}"),
        }
    }
    assert!(installed >= 1);
    world.assert_installed();
}

#[test]
fn what_is_not_there_is_named() {
    let world = World::new();
    world
        .ctl(&["pull", "70b"])
        .fails(NOT_FOUND, &["no model 70b", "120b", "20b", "nano"]);
    let catalog = world.path("catalog.toml");
    let catalog = catalog.to_str().unwrap();
    world
        .ctl(&["pull", "other", "--catalog", catalog])
        .fails(NOT_FOUND, &["no model other", "tiny"]);
    world
        .ctl(&["pull", TINY, "--catalog", "/no/such/file"])
        .fails(NOT_FOUND, &["cannot read the catalog /no/such/file"]);
    world
        .ctl(&["pull", "tiny@ffff", "--catalog", catalog])
        .fails(USAGE, &["pins tiny to revision", COMMIT]);
    assert!(!world.store().exists(), "nothing was created");
    assert_eq!(world.mirror.requests(), 0);
}

#[test]
fn hostile_names_are_refused() {
    let world = World::new();
    for name in [
        "../x", "/etc", "a/b", ".", "..", "a\nb", "", "hf:../x", "hf:a", "hf:a/b/c",
    ] {
        world
            .ctl(&["pull", "--", name])
            .fails(USAGE, &["gptoss-ctl"]);
    }
    world
        .ctl(&["pull", "hf:a/b", "--name", "../x"])
        .fails(USAGE, &["model name", "refused"]);
    world
        .ctl(&["pull", "hf:a/b", "--name", "20b"])
        .fails(USAGE, &["published model"]);
    assert!(!world.store().exists());
}

#[test]
fn hostile_catalogs_are_refused() {
    let world = World::new();
    let good = std::fs::read_to_string(world.path("catalog.toml")).unwrap();
    for (from, to) in [
        ("config.json", "../config.json"),
        ("tokenizer.json", "/etc/passwd"),
        (COMMIT, "../../x"),
        ("test/tiny", "../tiny"),
        ("[models.tiny]", "[models.\"../tiny\"]"),
        ("models.tiny", "models.tiny.x"),
    ] {
        std::fs::write(world.path("catalog.toml"), good.replace(from, to)).unwrap();
        world
            .pull(&[])
            .fails(FAILED, &["catalog", "cannot be used"]);
    }
    assert!(!world.store().exists());
    assert_eq!(world.mirror.requests(), 0);
}

#[test]
fn the_catalogs_digest_decides() {
    let world = World::new();
    let name = "generation_config.json";
    let mut other = world.files[name].clone();
    other[3] ^= 1;
    world.mirror.set_file(name, other);
    world
        .pull(&[])
        .fails(VERIFICATION, &[name, "SHA-256", "nothing was installed"]);
    world.assert_nothing_installed();
    let times = world
        .mirror
        .take_served()
        .iter()
        .filter(|s| s.file == name)
        .count();
    assert_eq!(times, 2, "once more from the start, then no more");
}

#[test]
fn unusable_endpoints() {
    let world = World::new();
    let args = world.pull_args(&[]);
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args[3] = "mirror.example";
    world
        .ctl(&args)
        .fails(USAGE, &["mirror.example", "--endpoint"]);
    // A port nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    args[3] = &url;
    args.extend(["--retries", "0"]);
    world
        .ctl(&args)
        .fails(FAILED, &["gave up after 1 attempts", "refused"]);
    world.assert_nothing_installed();
    assert!(
        !world.staging_dir().exists(),
        "what brought nothing leaves nothing"
    );
}

#[test]
fn nano_is_inside_the_program() {
    let world = World::new();
    let url = world.mirror.url();
    let pulled = world
        .ctl(&["pull", "nano", "--endpoint", &url, "--json"])
        .ok()
        .json();
    assert_eq!(pulled["status"], "installed");
    assert_eq!(pulled["targets"]["cpu"].as_array().unwrap().len(), 2);
    let verified = world.ctl(&["verify", "nano"]).ok();
    assert!(
        verified.stdout.contains("embedded in this program"),
        "{verified:?}"
    );
    assert_eq!(
        world.ctl(&["pull", "nano", "--json"]).ok().json()["status"],
        "already-installed"
    );
    assert_eq!(world.mirror.requests(), 0);
    // A nano with a byte of its own is not the embedded one, whatever its manifest says.
    let dir = std::path::PathBuf::from(pulled["dir"].as_str().unwrap());
    let mut bytes = std::fs::read(dir.join("tokenizer.json")).unwrap();
    bytes[9] ^= 1;
    std::fs::write(dir.join("tokenizer.json"), bytes).unwrap();
    world
        .ctl(&["verify", "nano"])
        .fails(VERIFICATION, &["1 of 10 files"]);
    world.ctl(&["rm", "nano"]).ok();
    world.assert_nothing_installed();
}

#[test]
fn an_unknown_target_is_a_usage_error() {
    let world = World::new();
    let outcome = world.pull(&["--target", "tpu"]);
    assert_eq!(outcome.code, Some(USAGE), "{outcome:?}");
    assert!(outcome.stderr.contains("tpu") && outcome.stderr.contains("portable"));
}

#[test]
fn an_interrupted_pull_says_how_to_go_on() {
    let world = World::new();
    world.mirror.fault("tokenizer.json", 1, Effect::Stall(1000));
    let pull = world.spawn_pull(&["--stall-timeout", "600"]);
    world.mirror.wait_for_stall();
    let pid = rustix::process::Pid::from_child(&pull);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = pull.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("run the same command again"), "{message}");
    world.assert_nothing_installed();
    world.pull(&[]).ok();
    world.assert_installed();
}

#[test]
fn a_catalog_cannot_give_a_published_name_to_other_bytes() {
    let world = World::new();
    let text = std::fs::read_to_string(world.path("catalog.toml")).unwrap();
    let renamed = world.path("renamed.toml");
    std::fs::write(&renamed, text.replace("[models.tiny]", "[models.20b]")).unwrap();
    let outcome = world.ctl(&[
        "pull",
        "20b",
        "--endpoint",
        &world.mirror.url(),
        "--catalog",
        renamed.to_str().unwrap(),
    ]);
    outcome.fails(USAGE, &["renamed.toml", "20b", "another name"]);
    world.assert_nothing_installed();
    assert_eq!(world.mirror.requests(), 0);
}
