//! The clients in `packaging/examples`, run as they are. Those whose
//! interpreter is not installed say so and are left out.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gptoss::client::Options;

use crate::harness::{Bus, Daemon, all, ask, outcome, text};

const SCRIPT: &str = r#"
[[answers]]
when = "weather"
text = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>"
[[answers]]
when = "degrees"
text = "<|channel|>final<|message|>It is mild in Paris."
"#;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/examples")
        .join(name)
}

/// Whether a program, or what it needs, is there.
fn installed(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    if !there {
        eprintln!("{program} {arguments:?} does not work here: left out");
    }
    there
}

pub fn python() -> bool {
    installed("/usr/bin/python3", &["-c", "import dbus"])
}

pub async fn run(mut command: Command, address: &str) -> (i32, String, String) {
    command
        .env("DBUS_SESSION_BUS_ADDRESS", address)
        .stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output().unwrap());
    outcome(&done.await.unwrap())
}

#[tokio::test]
async fn a_shell_asks_what_has_no_stream() {
    if !installed("busctl", &["--version"]) || !installed("gdbus", &["help"]) {
        return;
    }
    let daemon = Daemon::start(SCRIPT);
    let (code, stdout, stderr) = run(Command::new(example("shell")), &daemon.bus.address).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("(sa{sv}) \"idle\" 0"), "{stdout}");
    let counted = stdout.lines().find_map(|line| line.strip_prefix("u "));
    let counted = counted.unwrap();
    assert!(stdout.contains(&format!("(uint32 {counted},)")), "{stdout}");
}

#[tokio::test]
async fn python_calls_a_tool() {
    if !python() {
        return;
    }
    let daemon = Daemon::start(SCRIPT);
    let mut command = Command::new(example("tools.py"));
    command.arg("What is the weather in Paris?");
    let (code, stdout, stderr) = run(command, &daemon.bus.address).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("[weather {\"city\": \"Paris\"}]"),
        "{stdout}"
    );
    assert!(stdout.ends_with("It is mild in Paris.\n"), "{stdout}");
}

#[tokio::test]
async fn gjs_asks() {
    if !installed("gjs", &["--version"]) {
        return;
    }
    let daemon = Daemon::start(SCRIPT);
    let mut command = Command::new(example("ask.js"));
    command.args(["Hello", "there"]);
    let (code, stdout, stderr) = run(command, &daemon.bus.address).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "You said: Hello there\n");
}

#[tokio::test]
async fn rust_asks_for_a_form() {
    // `cargo test` builds examples, `cargo test --test bus` does not.
    let binary = Path::new(env!("CARGO_BIN_EXE_gptossd"));
    let ask = binary.with_file_name("examples").join("ask");
    if !ask.exists() {
        eprintln!("{} is not built: left out", ask.display());
        return;
    }
    let daemon = Daemon::start("[[answers]]\ntext = '<|channel|>final<|message|>Sure!'");
    let mut command = Command::new(ask);
    command.args(["Is", "it", "so?"]);
    let (code, stdout, stderr) = run(command, &daemon.bus.address).await;
    assert_eq!(code, 0, "{stderr}");
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(answer["sure"].is_boolean(), "{answer}");
}

/// A filter as Flatpak sets it up.
struct Proxy {
    process: Child,
    address: String,
}

impl Proxy {
    fn start(bus: &Bus, talk: &str) -> Proxy {
        let socket = bus.folder.path().join("proxy");
        let process = Command::new("xdg-dbus-proxy")
            .arg(&bus.address)
            .arg(&socket)
            .args(["--filter", talk])
            .spawn()
            .unwrap();
        while !socket.exists() {
            std::thread::yield_now();
        }
        Proxy {
            process,
            address: format!("unix:path={}", socket.display()),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_sandbox_reaches_the_daemon_and_no_more() {
    if !python() || !installed("xdg-dbus-proxy", &["--version"]) {
        return;
    }
    let daemon = Daemon::start(SCRIPT);
    let proxy = Proxy::start(&daemon.bus, "--talk=org.gptoss.Daemon1");
    let mut command = Command::new(example("tools.py"));
    command.arg("What is the weather in Paris?");
    let (code, stdout, stderr) = run(command, &proxy.address).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.ends_with("It is mild in Paris.\n"), "{stdout}");

    // The administrator's name is not part of what was granted.
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"));
    command.args(["unload", "--bus", "session"]);
    let (code, _, stderr) = run(command, &proxy.address).await;
    assert_ne!(code, 0, "{stderr}");
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: x");
}
