//! The log, and who controls it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use gptoss::client::Options;

use crate::harness::{Bus, Daemon, LONG, NAME, Setup, all, ask, command, outcome};

#[zbus::proxy(
    interface = "org.freedesktop.LogControl1",
    default_service = "org.gptoss.Daemon1",
    default_path = "/org/freedesktop/LogControl1"
)]
trait LogControl {
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_level(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn set_log_level(&self, level: &str) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_target(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn set_log_target(&self, target: &str) -> zbus::Result<()>;
    #[zbus(property)]
    fn syslog_identifier(&self) -> zbus::Result<String>;
}

/// A daemon whose log is read afterwards.
fn logged() -> (Daemon, std::path::PathBuf) {
    let bus = Bus::start();
    let (mut gptossd, notices) = command(&bus, &Setup::default());
    let path = bus.folder.path().join("log");
    gptossd.env_remove("GPTOSS_LOG");
    gptossd.stderr(File::create(&path).unwrap());
    let child = gptossd.spawn().unwrap();
    let daemon = Daemon {
        bus,
        child,
        notices,
    };
    daemon.wait_for_notice("READY=1");
    (daemon, path)
}

async fn wait_for_line(log: &std::path::Path, part: &str) -> String {
    let found = async {
        loop {
            let text = std::fs::read_to_string(log).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(LONG, found).await;
    found.unwrap_or_else(|_| panic!("no {part:?} in the log"))
}

#[tokio::test]
async fn the_level_is_changed_and_prompts_are_never_said() {
    let (daemon, log) = logged();
    let connection = daemon.bus.connect().await;
    let control = LogControlProxy::new(&connection).await.unwrap();
    assert_eq!(control.log_level().await.unwrap(), "info");
    assert_eq!(control.log_target().await.unwrap(), "console");
    assert_eq!(control.syslog_identifier().await.unwrap(), "gptossd");
    control.set_log_level("debug").await.unwrap();
    assert_eq!(control.log_level().await.unwrap(), "debug");

    let client = daemon.client().await;
    let options = Options::default().set("stop", vec!["xyzzy-stop"]);
    let answered = all(&mut ask(&client, "xyzzy-prompt", options).await).await;
    assert!(!answered.is_empty());
    let ended = wait_for_line(&log, "total_ms").await;
    for part in ["ended=\"stop\"", "uid=", "prompt_tokens=", "total_ms="] {
        assert!(ended.contains(part), "{part} in {ended}");
    }
    let options = Options::default().set("tools", "xyzzy");
    assert!(client.generate(&[], &options).await.is_err());
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("xyzzy"), "{text}");

    control.set_log_level("err").await.unwrap();
    control.set_log_target("null").await.unwrap();
    assert_eq!(control.log_target().await.unwrap(), "null");
    for wrong in [
        control.set_log_level("loud").await,
        control.set_log_target("printer").await,
    ] {
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains("is none of"), "{error}");
    }
}

#[tokio::test]
async fn others_may_look_and_not_touch() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("not root: cannot become another user");
        return;
    }
    let (daemon, _log) = logged();
    let call = |method: &str, value: &[&str]| {
        let mut call = Command::new("dbus-send");
        call.arg(format!("--bus={}", daemon.bus.address))
            .args(["--print-reply", &format!("--dest={NAME}")])
            .arg("/org/freedesktop/LogControl1")
            .arg(format!("org.freedesktop.DBus.Properties.{method}"))
            .args(["string:org.freedesktop.LogControl1", "string:LogLevel"])
            .args(value)
            .current_dir("/")
            .uid(65534)
            .gid(65534);
        outcome(&call.output().unwrap())
    };
    let (code, stdout, stderr) = call("Get", &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\"info\""), "{stdout}");
    let (code, _, stderr) = call("Set", &["variant:string:debug"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("AccessDenied"), "{stderr}");
    let (_, stdout, _) = call("Get", &[]);
    assert!(stdout.contains("\"info\""), "{stdout}");
}
