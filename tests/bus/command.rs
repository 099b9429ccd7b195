//! `gptoss-ctl run` and `gptoss-ctl status`.

use std::io::{Read, Write};
use std::process::Stdio;

use gptoss::client::Options;
use rustix::process::Signal;

use crate::harness::{Bus, Daemon, all, ask, outcome, send, text};

#[tokio::test]
async fn run_prints_the_answer() {
    let daemon = Daemon::start("");
    let output = daemon
        .bus
        .ctl(["run", "simulated", "héllo"])
        .output()
        .unwrap();
    assert_eq!(
        outcome(&output),
        (0, "You said: héllo\n".into(), String::new())
    );
    let shown = ["run", "simulated", "x", "--show-reasoning"];
    let (code, stdout, stderr) = outcome(&daemon.bus.ctl(shown).output().unwrap());
    assert_eq!((code, stdout.as_str()), (0, "You said: x\n"));
    assert!(stderr.contains("They said: x"), "{stderr}");
}

#[tokio::test]
async fn what_is_said_before_an_answer_stands_by_itself() {
    let daemon = Daemon::start(
        "[[answers]]\ntext = '<|channel|>commentary<|message|>I will look.<|end|>\
         <|start|>assistant<|channel|>final<|message|>It is there.'",
    );
    let output = daemon.bus.ctl(["run", "simulated", "x"]).output().unwrap();
    assert_eq!(outcome(&output).1, "I will look.\n\nIt is there.\n");
}

#[tokio::test]
async fn run_reads_standard_input() {
    let daemon = Daemon::start("");
    let pipe = |arguments: &[&str], input: &str| {
        let mut command = daemon.bus.ctl(["run", "simulated"]);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        outcome(&child.wait_with_output().unwrap())
    };
    assert_eq!(pipe(&["-"], "from a pipe").1, "You said: from a pipe\n");
    assert_eq!(pipe(&[], "alone").1, "You said: alone\n");
    assert_eq!(
        pipe(&["review this"], "a diff\n").1,
        "You said: review this\n\na diff\n"
    );
    assert_eq!(pipe(&["-"], "").0, 2, "an empty prompt is bad usage");
}

#[tokio::test]
async fn run_takes_files() {
    let daemon = Daemon::start("");
    let file = |name: &str, text: &str| {
        let path = daemon.bus.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, two) = (file("one", "1\n"), file("two", "2"));
    let run = |arguments: &[&str]| {
        let mut command = daemon.bus.ctl(["run", "simulated"]);
        outcome(&command.args(arguments).output().unwrap())
    };
    let (code, stdout, _) = run(&["add", "--file", &one, "--file", &two]);
    assert_eq!(code, 0);
    let files = format!("{one}:\n```\n1\n```\n\n{two}:\n```\n2\n```\n");
    assert_eq!(stdout, format!("You said: add\n\n{files}"));
    assert_eq!(
        run(&["--file", &one]).1,
        format!("You said: {one}:\n```\n1\n```\n")
    );
    assert_eq!(run(&["x", "--file", "/nowhere"]).0, 3);
}

#[tokio::test]
async fn run_prints_events_as_json() {
    let daemon = Daemon::start("");
    let output = daemon.bus.ctl(["run", "simulated", "x", "--json"]).output();
    let (code, stdout, _) = outcome(&output.unwrap());
    assert_eq!(code, 0);
    let events: Vec<serde_json::Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["finish-reason"], "stop");
    assert!(events.iter().any(|e| e["type"] == "usage"));
}

#[tokio::test]
async fn failures_have_their_codes_and_words() {
    let daemon = Daemon::start("context-window = 400");
    let run = |arguments: &[&str]| {
        let mut command = daemon.bus.ctl(["run"]);
        outcome(&command.args(arguments).output().unwrap())
    };
    let (code, _, stderr) = run(&["21b", "x"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("21b"), "{stderr}");
    let (code, _, stderr) = run(&["simulated", &"x".repeat(500)]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("tokens") && stderr.contains("400"),
        "{stderr}"
    );
    let (code, _, _) = run(&["simulated", "x", "--effort", "huge"]);
    assert_eq!(code, 2);
    let (code, stdout, stderr) = run(&["simulated", "x", "--max-tokens", "30"]);
    assert_eq!(code, 0, "{stdout}");
    assert!(stderr.contains("cut"), "{stderr}");
}

#[tokio::test]
async fn an_absent_daemon_is_code_6_with_advice() {
    let bus = Bus::start();
    for command in [["run", "20b", "x"], ["status", "--bus", "session"]] {
        let (code, _, stderr) = outcome(&bus.ctl(command).output().unwrap());
        assert_eq!(code, 6, "{stderr}");
        assert!(stderr.contains("gptossd --bus session"), "{stderr}");
    }
    let mut nowhere = bus.ctl(["status"]);
    nowhere.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    let (code, _, stderr) = outcome(&nowhere.output().unwrap());
    assert_eq!(code, 6, "{stderr}");
}

const ENDLESS: &str = r#"
    [[answers]]
    when = "endless"
    text = "<|channel|>final<|message|>a"
    repeat = 1000000
    token-delay-ms = 1
"#;

#[tokio::test]
async fn interrupting_cancels() {
    let daemon = Daemon::start(ENDLESS);
    let mut command = daemon.bus.ctl(["run", "simulated", "endless"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: x");
}

#[tokio::test]
async fn who_has_read_enough_closes_the_pipe() {
    let daemon = Daemon::start(ENDLESS);
    let mut command = daemon.bus.ctl(["run", "simulated", "endless"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let (code, _, stderr) = outcome(&child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn a_daemon_that_dies_is_code_6() {
    let daemon = Daemon::start(ENDLESS);
    let mut command = daemon.bus.ctl(["run", "simulated", "endless"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    daemon.signal(Signal::KILL);
    let (code, _, stderr) = outcome(&child.wait_with_output().unwrap());
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("died"), "{stderr}");
}

#[tokio::test]
async fn bench_asks_the_daemon() {
    let script = r#"
        context-window = 20000
        [[answers]]
        text = "<|channel|>final<|message|>0123456789"
        repeat = 1000
        token-delay-ms = 2
    "#;
    let daemon = Daemon::start(script);
    let bench = |json: bool| {
        let mut command = daemon.bus.ctl(["bench", "simulated", "--over-dbus"]);
        command.args(["-p", "20", "-n", "100", "-r", "2"]);
        command.args(json.then_some("--json"));
        let (code, stdout, stderr) = outcome(&command.output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    let runs: serde_json::Value = serde_json::from_str(&bench(true)).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 2);
    for run in runs.as_array().unwrap() {
        let number = |key: &str| run[key].as_f64().unwrap();
        assert_eq!(number("n_gen"), 100.0);
        // The script's delays are the engine's, whatever the machine does.
        assert!(number("engine_ns") >= 99.0 * 2e6, "{run}");
        assert!(number("whole_ns") >= number("engine_ns"), "{run}");
        assert!(number("first_token_ns") < number("whole_ns"), "{run}");
        assert!(number("overhead_ns_per_token") > 0.0, "{run}");
        assert!(number("client_cpu_ns") > 0.0, "{run}");
        assert!(number("bus_cpu_ns") > 0.0, "{run}");
    }
    let table = bench(false);
    assert!(table.contains("Overhead, at most:"), "{table}");
}

#[tokio::test]
async fn status_tells_people_and_programs() {
    let daemon = Daemon::start("");
    let (code, stdout, _) = outcome(&daemon.bus.ctl(["status"]).output().unwrap());
    assert_eq!(code, 0);
    assert!(stdout.contains("state: idle"), "{stdout}");
    assert!(stdout.contains("installed: simulated"), "{stdout}");
    let mut french = daemon.bus.ctl(["status"]);
    french.env("LC_ALL", "fr_FR.UTF-8");
    let (code, stdout, _) = outcome(&french.output().unwrap());
    assert_eq!(code, 0);
    assert!(stdout.contains("état\u{a0}: idle"), "{stdout}");
    assert!(stdout.contains("installés\u{a0}: simulated"), "{stdout}");
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    let output = daemon.bus.ctl(["status", "--json"]).output().unwrap();
    let (code, stdout, _) = outcome(&output);
    assert_eq!(code, 0);
    let status: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status["availability"]["state"], "ready");
    assert_eq!(status["execution-provider"]["name"], "simulated");
    assert_eq!(status["loaded-model"], "simulated");
    assert_eq!(status["models"][0]["name"], "simulated");
}
