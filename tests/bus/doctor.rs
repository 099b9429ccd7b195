//! `gptoss-ctl doctor` on a machine with a daemon, and on one without.

use serde_json::Value;

use crate::harness::{Bus, Daemon, outcome};

fn findings(bus: &Bus) -> (i32, Vec<(String, String, String)>) {
    let store = bus.folder.path().join("store");
    let mut command = bus.ctl(["doctor", "--json"]);
    command
        .env("GPTOSS_STORE", store)
        .env("HOME", bus.folder.path());
    let (code, stdout, stderr) = outcome(&command.output().unwrap());
    assert!(!stderr.contains("panicked"), "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    let text = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
    let findings = told["findings"].as_array().unwrap().iter();
    let findings = findings
        .map(|f| {
            let advised = !text(f, "advice").is_empty();
            assert!(f["verdict"] == "good" || advised, "{f}: what is one to do?");
            (text(f, "check"), text(f, "verdict"), text(f, "found"))
        })
        .collect();
    (code, findings)
}

fn verdict<'a>(findings: &'a [(String, String, String)], check: &str) -> &'a str {
    let found = findings.iter().find(|(name, ..)| name == check);
    &found
        .unwrap_or_else(|| panic!("no {check} in {findings:?}"))
        .1
}

#[tokio::test]
async fn a_daemon_that_answers_is_good() {
    let daemon = Daemon::start("");
    let (code, findings) = findings(&daemon.bus);
    assert_eq!(code, 0, "{findings:?}");
    for check in [
        "bus", "daemon", "network", "runtime", "provider", "settings", "gpu",
    ] {
        assert_eq!(verdict(&findings, check), "good", "{findings:?}");
    }
    // An empty store is no fault, and worth a word.
    assert_eq!(verdict(&findings, "store"), "note");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_fails() {
    let bus = Bus::start();
    let (code, findings) = findings(&bus);
    assert_eq!(code, 1);
    assert_eq!(verdict(&findings, "bus"), "good");
    assert_eq!(verdict(&findings, "daemon"), "wrong");

    let broken = bus.folder.path().join("store/models/m/r");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("manifest.json"), "{").unwrap();
    let (_, findings) = self::findings(&bus);
    let store: Vec<_> = findings.iter().filter(|f| f.0 == "store").collect();
    assert!(
        store
            .iter()
            .any(|f| f.1 == "wrong" && f.2.contains("manifest")),
        "{store:?}"
    );
}

#[tokio::test]
async fn without_a_library_it_says_where_it_looked() {
    let daemon = Daemon::start("");
    let mut command = daemon.bus.ctl(["doctor"]);
    command.env("ORT_DYLIB_PATH", "/nonexistent/library.so");
    let (code, stdout, stderr) = outcome(&command.output().unwrap());
    assert_eq!(code, 1, "{stdout}");
    let line = stdout.lines().find(|l| l.contains("runtime")).unwrap();
    assert!(
        line.starts_with("WRONG") && line.contains("/nonexistent/library.so"),
        "{line}"
    );
    assert!(stderr.contains("wrong"), "{stderr}");
}
