//! Providers that fail, each in its own way: the next one takes over, the reason is
//! told, and the daemon goes on. The processor plays the provider `cuda` with its fault
//! (`src/runtime/fault_injection.rs`); all else is real.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gptoss::client::ClientError;
use serde_json::Value;
use tempfile::TempDir;
use zbus::Variant;

use crate::harness::{
    Bus, Changes, Daemon, LONG, Setup, all, ask, bare_command, failure, finish, outcome, text,
};
use crate::nano::{greedy, library};

/// What a wait for a hang, and everything else here, is far below.
const SOON: Duration = Duration::from_secs(30);

/// A machine with nano installed, what a daemon keeps, and a fault.
struct Machine {
    folder: TempDir,
    bus: Bus,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine {
            folder: tempfile::tempdir().unwrap(),
            bus: Bus::start(),
        };
        let (code, _, stderr) = outcome(&machine.ctl(["pull", "nano"], "none").output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        machine
    }

    fn surroundings(&self, command: &mut Command, fault: &str) {
        let folder = self.folder.path();
        command
            .env("GPTOSS_STORE", folder.join("store"))
            .env("XDG_STATE_HOME", folder.join("state"))
            .env("ORT_DYLIB_PATH", library())
            .env("GPTOSS_FAULT_INJECTION", format!("cuda:{fault}"));
    }

    /// `gptoss-ctl` where no daemon is.
    fn ctl<const N: usize>(&self, arguments: [&str; N], fault: &str) -> Command {
        let mut command = self.bus.ctl(arguments);
        self.surroundings(&mut command, fault);
        command
    }

    /// A daemon on a bus of its own.
    fn daemon(&self, fault: &str, config: &str) -> Daemon {
        let bus = Bus::start();
        let setup = Setup {
            config,
            ..Setup::default()
        };
        let (mut command, notices) = bare_command(&bus, &setup);
        self.surroundings(&mut command, fault);
        Daemon::run(bus, command, notices)
    }

    /// Reasons of the providers in quarantine.
    fn quarantined(&self) -> Vec<String> {
        let file = self.folder.path().join("state/gptoss/quarantine.json");
        let Ok(text) = std::fs::read(file) else {
            return Vec::new();
        };
        let document: Value = serde_json::from_slice(&text).unwrap();
        let records = document["providers"].as_array().unwrap().iter();
        records
            .map(|record| record["reason"].as_str().unwrap().to_owned())
            .collect()
    }

    fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.folder.path().join("state"));
    }
}

/// The provider at work, and why it is not `cuda`.
async fn provider(daemon: &Daemon) -> (String, String) {
    let client = daemon.client().await;
    let (name, details) = client.manager().execution_provider().await.unwrap();
    let Some(Variant::Dict(rejected)) = details.get("rejected").map(|v| &**v) else {
        panic!("{details:?}");
    };
    let why = rejected.get::<_, String>(&"cuda").unwrap();
    (name, why.unwrap_or_default())
}

async fn assert_answers(daemon: &Daemon) {
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "What is the capital of France?", greedy()).await).await;
    assert_eq!(finish(&events), "stop");
    assert!(text(&events, "final").contains("Paris"), "{events:?}");
}

/// A daemon with this fault answers on the processor and says why; `lasts` says whether
/// the provider is in quarantine afterwards.
async fn assert_passed_over(machine: &Machine, fault: &str, told: &str, lasts: bool) {
    machine.forget();
    let begun = Instant::now();
    let mut daemon = machine.daemon(fault, "");
    assert_answers(&daemon).await;
    let (name, why) = provider(&daemon).await;
    assert_eq!(name, "cpu", "{fault}");
    assert!(why.contains(told), "{fault}: {why}");
    assert!(begun.elapsed() < SOON, "{fault}: {:?}", begun.elapsed());
    assert!(daemon.child.try_wait().unwrap().is_none(), "{fault}");
    let quarantined = machine.quarantined();
    assert_eq!(
        quarantined.len(),
        usize::from(lasts),
        "{fault}: {quarantined:?}"
    );
    let status = daemon.bus.ctl(["status"]).output().unwrap();
    let (_, stdout, _) = outcome(&status);
    assert!(stdout.contains("not on cuda"), "{stdout}");
}

/// Else the other tests would show nothing.
#[tokio::test]
async fn a_provider_without_a_fault_is_used() {
    let machine = Machine::new();
    let daemon = machine.daemon("none", "");
    assert_answers(&daemon).await;
    assert_eq!(provider(&daemon).await, ("cuda".into(), String::new()));
}

#[tokio::test]
async fn what_says_itself_that_it_cannot_is_asked_each_time() {
    let machine = Machine::new();
    let missing = "libcublasLt.so.13: cannot open shared object file";
    assert_passed_over(&machine, "missing-library", missing, false).await;
    assert_passed_over(&machine, "no-device", "no CUDA-capable device", false).await;
}

#[tokio::test]
async fn what_breaks_or_lies_is_quarantined() {
    let machine = Machine::new();
    assert_passed_over(
        &machine,
        "wrong-logits",
        "gave wrong logits: distance",
        true,
    )
    .await;
    assert_passed_over(&machine, "hang", "did not end within 2 s", true).await;
    assert_passed_over(&machine, "crash", "crashed with SIGSEGV", true).await;
}

#[tokio::test]
async fn too_little_memory_for_the_model_is_no_lasting_matter() {
    let machine = Machine::new();
    let told = "it cannot load nano: ";
    assert_passed_over(&machine, "out-of-memory-at-load", told, false).await;
}

#[tokio::test]
async fn a_failure_in_an_answer_ends_that_answer_alone() {
    let machine = Machine::new();
    let mut daemon = machine.daemon("out-of-memory-at-run", "");
    let mut changes = Changes::of(&daemon).await;
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", greedy()).await).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "BackendFailure");
    assert!(message.contains("out of memory"), "{message}");
    // Nobody asks, and the model is loaded on the next provider.
    let reloaded = async {
        while provider(&daemon).await.0 != "cpu" {
            changes.next().await;
        }
    };
    tokio::time::timeout(LONG, reloaded).await.unwrap();
    let (_, why) = provider(&daemon).await;
    assert!(why.contains("failed while it computed"), "{why}");
    assert!(why.contains("out of memory"), "{why}");
    assert_answers(&daemon).await;
    assert!(daemon.child.try_wait().unwrap().is_none());
    assert!(machine.quarantined().is_empty());
}

#[tokio::test]
async fn a_provider_asked_for_by_name_is_not_replaced() {
    let machine = Machine::new();
    let named = "[runtime]\nprovider = \"cuda\"";
    let daemon = machine.daemon("crash", named);
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", greedy()).await).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "ModelNotReady");
    assert!(message.contains("self-test-failed"), "{message}");
    assert!(message.contains("crashed with SIGSEGV"), "{message}");
    let daemon = machine.daemon("out-of-memory-at-run", named);
    machine.forget();
    let client = daemon.client().await;
    for _ in 0..2 {
        let events = all(&mut ask(&client, "x", greedy()).await).await;
        assert!(failure(&events).1.contains("out of memory"));
    }
    assert_eq!(provider(&daemon).await.0, "cuda");
}

/// What one daemon learnt the next one knows, until somebody has it tried again.
#[tokio::test]
async fn quarantine_outlives_the_daemon_and_ends_by_a_retry() {
    let machine = Machine::new();
    let before = machine.daemon("crash", "");
    assert_answers(&before).await;
    drop(before);
    assert_eq!(machine.quarantined().len(), 1);

    // The fault is gone, and nobody has tried.
    let daemon = machine.daemon("none", "");
    assert_answers(&daemon).await;
    let (name, why) = provider(&daemon).await;
    assert_eq!(name, "cpu");
    assert!(why.contains("quarantined since 2"), "{why}");
    assert!(
        why.contains("crashed with SIGSEGV") && why.contains("--retry"),
        "{why}"
    );
    let selftest = machine.ctl(["selftest"], "none").output().unwrap();
    let (code, stdout, _) = outcome(&selftest);
    assert_eq!(code, 0);
    assert!(stdout.contains("quarantined since 2"), "{stdout}");
    let doctor = machine.ctl(["doctor", "--json"], "none").output().unwrap();
    let told: Value = serde_json::from_str(&outcome(&doctor).1).unwrap();
    let findings = told["findings"].as_array().unwrap().iter();
    let quarantined = |f: &&Value| f["found"].as_str().unwrap().contains("quarantine since 2");
    let found: Vec<_> = findings.filter(quarantined).collect();
    assert_eq!(found.len(), 1, "{told}");
    assert_eq!(found[0]["verdict"], "note");

    // A retry that finds it broken changes nothing.
    let retry = machine
        .ctl(["selftest", "--retry"], "abort")
        .output()
        .unwrap();
    let (code, stdout, _) = outcome(&retry);
    assert_eq!(code, 0, "the processor works");
    assert!(
        stdout.contains("its last words: terminate called"),
        "{stdout}"
    );
    assert_eq!(machine.quarantined().len(), 1);
    let retry = machine.ctl(["selftest", "--retry", "--json"], "none");
    let (code, stdout, stderr) = outcome(&{ retry }.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["providers"][0]["provider"], "cuda");
    assert_eq!(told["providers"][0]["passed"], true, "{told}");
    assert!(
        told["providers"][0]["distance"].as_f64().unwrap() < 0.3,
        "{told}"
    );
    assert!(machine.quarantined().is_empty());

    // The same daemon takes it at the next load.
    let (code, _, stderr) = outcome(&daemon.bus.ctl(["unload"]).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_answers(&daemon).await;
    assert_eq!(provider(&daemon).await.0, "cuda");
}

/// A model that is loaded is in the daemon itself, and may take it along: once.
#[tokio::test]
async fn a_daemon_that_a_load_ends_does_not_try_it_again() {
    let machine = Machine::new();
    let mut daemon = machine.daemon("crash-at-load", "");
    let client = daemon.client().await;
    let mut answer = ask(&client, "x", greedy()).await;
    let end = loop {
        match answer.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(ClientError::Died)), "{end:?}");
    assert!(!daemon.child.wait().unwrap().success());
    let daemon = machine.daemon("crash-at-load", "");
    assert_answers(&daemon).await;
    let (name, why) = provider(&daemon).await;
    assert_eq!(name, "cpu");
    assert!(why.contains("ended while it loaded nano"), "{why}");
    assert_eq!(machine.quarantined().len(), 1);
}

/// Nor may one that never ends: the next provider takes over in the same daemon, and it
/// is not tried again.
#[tokio::test]
async fn a_load_that_hangs_is_left_behind() {
    let machine = Machine::new();
    let told = "cuda did not load nano within 2 s";
    assert_passed_over(&machine, "hang-at-load", told, true).await;
    let daemon = machine.daemon("hang-at-load", "");
    assert_answers(&daemon).await;
    let (_, why) = provider(&daemon).await;
    assert!(
        why.contains("quarantined since 2") && why.contains(told),
        "{why}"
    );

    // Asked for by name, and with nowhere to keep what it learns.
    machine.forget();
    std::fs::write(machine.folder.path().join("state"), "no folder").unwrap();
    let mut daemon = machine.daemon("hang-at-load", "[runtime]\nprovider = \"cuda\"");
    let client = daemon.client().await;
    let first = all(&mut ask(&client, "x", greedy()).await).await;
    assert!(failure(&first).1.contains(told), "{first:?}");
    let begun = Instant::now();
    let second = all(&mut ask(&client, "x", greedy()).await).await;
    assert!(failure(&second).1.contains(told), "{second:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "it is not tried again"
    );
    assert!(daemon.child.try_wait().unwrap().is_none());
}

/// Faults that a daemon meets as it meets a crash.
#[tokio::test]
async fn the_self_test_tells_each_fault() {
    let machine = Machine::new();
    for (fault, told, lasts) in [
        ("no-numbers", "distance inf", true),
        ("exit", "exit code 3", true),
        ("killed", "memory", false),
        ("no-device", "no CUDA-capable device", false),
    ] {
        machine.forget();
        let selftest = machine.ctl(["selftest", "--json"], fault).output().unwrap();
        let (code, stdout, stderr) = outcome(&selftest);
        assert_eq!(code, 0, "{fault}: {stderr}");
        let outcome: Value = serde_json::from_str(&stdout).unwrap();
        let cuda = &outcome["providers"][0];
        assert_eq!(cuda["passed"], false, "{fault}");
        let reason = cuda["reason"].as_str().unwrap();
        assert!(reason.contains(told), "{fault}: {reason}");
        assert_eq!(machine.quarantined().len(), usize::from(lasts), "{fault}");
    }
}

/// One file for whoever is to find a fault, and nothing in it of whose it is.
#[tokio::test]
async fn a_report_has_what_is_needed_and_no_more() {
    let machine = Machine::new();
    let home = machine.folder.path();
    let file = home.join("report.json");
    let report = |arguments: &[&str]| {
        let mut command = machine.ctl(["selftest", "--report"], "crash");
        command
            .args(arguments)
            .env("HOME", home)
            .env("USER", "somebody")
            .env("GPTOSS_STORE", home.join("store"));
        outcome(&command.output().unwrap())
    };
    let (code, stdout, stderr) = report(&[file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("does not work: the process"), "{stdout}");
    assert!(stderr.contains("report.json"), "{stderr}");
    let text = std::fs::read_to_string(&file).unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["models"][0]["name"], "nano");
    assert_eq!(told["onnxruntime"]["sha256"].as_str().unwrap().len(), 64);
    assert!(told["system"]["kernel"].as_str().unwrap().contains(' '));
    assert_ne!(told["processor"]["kernels"], "");
    assert!(
        told["providers"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("SIGSEGV")
    );
    assert_eq!(told["providers"][1]["passed"], true);
    let quarantine = &told["quarantine"];
    assert_eq!(quarantine["file"], "~/state/gptoss/quarantine.json");
    assert_eq!(quarantine["records"][0]["counts"], true);
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    for private in [home.to_str().unwrap(), "somebody", &host] {
        assert!(!text.contains(private), "{private}: {text}");
    }

    // To standard output, and nothing else there.
    let (_, stdout, _) = report(&["-"]);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["schema"], 1);
    // It cannot be written: that is told.
    let (code, _, stderr) = report(&[Path::new("/nowhere/report").to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot write"), "{stderr}");
}
