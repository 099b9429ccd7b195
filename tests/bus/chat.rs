//! `gptoss-ctl chat` at a terminal.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Bus, Daemon, Setup, command, outcome};
use crate::terminal::Terminal;

const SCRIPT: &str = r#"
    [[answers]]
    when = "endless"
    text = "<|channel|>final<|message|>la "
    repeat = 1000000
    token-delay-ms = 1
    [[answers]]
    when = "style"
    text = "<|channel|>final<|message|>A **bold** word.\n\n- item\n"
    [[answers]]
    when = "attack"
    text = "<|channel|>final<|message|>a\u001b]0;owned\u0007b\u001b[2Jc\u009b31md"
    [[answers]]
    when = "tool"
    text = "<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{}<|call|>"
"#;

/// `gptoss-ctl chat` with a home of its own.
fn chat(bus: &Bus, arguments: &[&str]) -> Command {
    let mut command = bus.ctl(["chat"]);
    command
        .args(arguments)
        .env("HOME", home(bus))
        .env_remove("XDG_STATE_HOME")
        .current_dir(home(bus));
    command
}

fn home(bus: &Bus) -> std::path::PathBuf {
    let home = bus.folder.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    home
}

fn begin(daemon: &Daemon, arguments: &[&str]) -> Terminal {
    Terminal::start(&chat(&daemon.bus, arguments))
}

/// Says something that is echoed.
fn say(terminal: &mut Terminal, text: &str) -> String {
    terminal.enter(text);
    terminal.wait_for(&format!("You said: {text}"))
}

/// The numbers of `/usage`: tokens of the context, and of the last prompt.
fn usage(terminal: &mut Terminal) -> (usize, usize) {
    terminal.enter("/usage");
    terminal.wait_for("/usage\n");
    let used = terminal.wait_for(" of 8192 tokens of context");
    terminal.wait_for("its prompt: ");
    let prompt = terminal.wait_for(" tokens");
    let number = |text: &str| text.trim().parse().unwrap();
    (number(&used), number(&prompt))
}

fn leave(mut terminal: Terminal) {
    terminal.wait_for("> ");
    terminal.keys("\x04");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_conversation() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &["simulated"]);
    terminal.wait_for("simulated, 8192 tokens of context");
    let before = say(&mut terminal, "one");
    assert!(before.contains("thought for"), "{before}");
    assert!(!before.contains("They said"), "folded: {before}");
    say(&mut terminal, "two");
    let (two_turns, _) = usage(&mut terminal);

    terminal.enter("endless");
    terminal.wait_for("la la la");
    terminal.keys("\x03");
    terminal.wait_for("[cancelled");
    say(&mut terminal, "after");
    assert!(usage(&mut terminal).0 > two_turns + "endless".len() + "after".len() * 2);

    terminal.wait_for("> ");
    terminal.keys("\x03");
    terminal.wait_for("Ctrl-D or /quit leaves");
    terminal.enter("/efort high");
    terminal.wait_for("did you mean /effort?");
    leave(terminal);
    assert_eq!(
        written(&home(&daemon.bus)),
        Vec::<String>::new(),
        "no history"
    );
}

#[test]
fn a_conversation_in_french() {
    let daemon = Daemon::start(SCRIPT);
    let mut command = chat(&daemon.bus, &["simulated"]);
    command.env("LC_ALL", "fr_FR.UTF-8");
    let mut terminal = Terminal::start(&command);
    terminal.wait_for("simulated, contexte de 8192 jetons");
    terminal.enter("/help");
    terminal.wait_for("commencer une autre conversation");
    terminal.enter("un");
    terminal.wait_for("réflexion de 0,");
    terminal.wait_for("You said: un");
    terminal.enter("/usage");
    terminal.wait_for("jetons sur les 8192 du contexte");
    terminal.enter("/efort high");
    terminal.wait_for("vouliez-vous dire");
    leave(terminal);
}

/// What is in a folder.
fn written(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn commands_change_what_follows() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &[]);
    say(&mut terminal, "x");
    let (_, medium) = usage(&mut terminal);
    terminal.enter("/effort high");
    terminal.wait_for("effort: high");
    terminal.enter("/new");
    terminal.wait_for("another conversation");
    say(&mut terminal, "x");
    // A token is a byte, and the effort stands in the prompt.
    let (one_turn, high) = usage(&mut terminal);
    assert_eq!(medium - "medium".len(), high - "high".len());

    terminal.enter("/system be kind");
    terminal.wait_for("instructions: be kind");
    let (instructed, _) = usage(&mut terminal);
    assert!(instructed >= one_turn + "be kind".len(), "{instructed}");
    say(&mut terminal, "y");
    let (two_turns, _) = usage(&mut terminal);
    assert!(two_turns > instructed);
    terminal.enter("/undo");
    terminal.wait_for("taken back: y");
    terminal.enter("/retry");
    terminal.wait_for("You said: x");

    terminal.enter("/fork");
    terminal.wait_for("/back leaves it");
    say(&mut terminal, "in the copy");
    terminal.enter("/save talk.json");
    terminal.wait_for("saved in talk.json");
    terminal.enter("/save talk.json");
    terminal.wait_for("there already");
    terminal.enter("/back");
    terminal.wait_for("back where");
    terminal.enter("/save before.md");
    terminal.wait_for("saved in before.md");

    terminal.enter("/model 21b");
    terminal.wait_for("there is no model \"21b\"");
    terminal.enter("/model");
    terminal.wait_for("simulated; installed: simulated");
    say(&mut terminal, "still here");
    terminal.enter("/quit");
    assert_eq!(terminal.end().0, 0);

    let read = |name: &str| std::fs::read_to_string(home(&daemon.bus).join(name)).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&read("talk.json")).unwrap();
    let texts: Vec<_> = saved
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["content"])
        .collect();
    assert_eq!(
        texts,
        [
            "be kind",
            "x",
            "You said: x",
            "in the copy",
            "You said: in the copy"
        ]
    );
    assert!(!read("before.md").contains("in the copy"));
}

#[test]
fn lines_and_files_go_together() {
    let daemon = Daemon::start(SCRIPT);
    std::fs::write(home(&daemon.bus).join("notes.txt"), "remember milk\n").unwrap();
    let mut terminal = begin(&daemon, &[]);
    for lines in ["a\\\rb", "a\x1b\rb", "a\nb", "\x1b[200~a\rb\x1b[201~"] {
        terminal.enter(lines);
        terminal.wait_for("You said: a\nb\n");
    }
    // A backslash that was pasted before a line's end stays.
    terminal.enter("\x1b[200~```\rc\\\rd\x1b[201~\\\re");
    terminal.wait_for("You said: ```");
    terminal.enter("/save said.json");
    terminal.wait_for("saved in said.json");
    let saved = std::fs::read_to_string(home(&daemon.bus).join("said.json")).unwrap();
    assert!(saved.contains(r"```\nc\\\nd\ne"), "{saved}");
    terminal.enter("/file none.txt");
    terminal.wait_for("cannot read none.txt");
    terminal.enter("/file notes.txt");
    terminal.wait_for("notes.txt (14 bytes)");
    terminal.enter("see");
    terminal.wait_for("You said: see");
    terminal.wait_for("notes.txt:\n```\nremember milk\n```");
    say(&mut terminal, "no file");
    leave(terminal);
}

#[test]
fn reasoning_is_dim_folded_or_hidden() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &["--reasoning", "fold"]);
    say(&mut terminal, "x");
    terminal.enter("/show");
    terminal.wait_for("They said: x");
    // A byte is a token.
    terminal.wait_for(&format!(" s, {} tokens", "They said: x".len()));
    leave(terminal);
    let mut terminal = begin(&daemon, &["--reasoning", "dim"]);
    assert!(say(&mut terminal, "x").contains("They said: x"));
    assert!(terminal.raw.windows(4).any(|bytes| bytes == b"\x1b[2m"));
    leave(terminal);
    let mut terminal = begin(&daemon, &["--reasoning", "hide"]);
    let before = say(&mut terminal, "x");
    assert!(
        !before.contains("They said") && !before.contains("thought"),
        "{before}"
    );
    terminal.enter("/show");
    terminal.wait_for("no reasoning");
    leave(terminal);
}

#[test]
fn answers_have_style_and_command_nothing() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &[]);
    terminal.enter("style");
    terminal.wait_for("A bold word.\n\n• item\n");
    assert!(terminal.raw.windows(8).any(|bytes| bytes == b"\x1b[1mbold"));
    terminal.enter("attack");
    terminal.wait_for("a␛]0;owned␇b␛[2Jc\u{fffd}31md");
    let raw = String::from_utf8_lossy(&terminal.raw).into_owned();
    assert!(
        !raw.contains("\x1b]") && !raw.contains("\x1b[2J"),
        "{raw:?}"
    );
    assert!(!raw.contains('\u{9b}'));
    leave(terminal);

    let mut uncoloured = chat(&daemon.bus, &[]);
    uncoloured.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(&uncoloured);
    terminal.enter("style");
    terminal.wait_for("A **bold** word.\n\n- item\n");
    terminal.enter("attack");
    terminal.wait_for("a␛]0;owned␇b␛[2J");
    leave(terminal);
}

#[test]
fn run_commands_no_terminal_either() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = Terminal::start(&daemon.bus.ctl(["run", "simulated", "attack"]));
    terminal.wait_for("a␛]0;owned␇b␛[2Jc\u{fffd}31md");
    assert!(!terminal.raw.contains(&0x1b));
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_daemon_that_died_is_told_again() {
    let mut daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &[]);
    let long = "x".repeat(60);
    say(&mut terminal, &long);
    let (used, _) = usage(&mut terminal);
    terminal.enter("endless");
    terminal.wait_for("la la la");
    daemon.signal(Signal::KILL);
    terminal.wait_for("gptossd died");
    terminal.wait_for("told again with your next message");
    daemon.child.wait().unwrap();

    // Nobody there, and nothing is lost.
    terminal.enter("hello?");
    terminal.wait_for("gptossd does not answer");
    let setup = Setup {
        script: SCRIPT,
        ..Setup::default()
    };
    let (mut command, notices) = command(&daemon.bus, &setup);
    daemon.child = command.stderr(Stdio::null()).spawn().unwrap();
    daemon.notices = notices;
    daemon.wait_for_notice("READY=1");
    terminal.enter("again");
    terminal.wait_for("it was told its 2 messages again");
    terminal.wait_for("You said: again");
    assert!(
        usage(&mut terminal).0 > used,
        "the new session knows what was said"
    );
    // And the next message finds it.
    assert!(!say(&mut terminal, "once more").contains("told"));
    leave(terminal);
}

#[test]
fn an_overflow_and_a_call_leave_the_conversation_usable() {
    let daemon = Daemon::start(&format!("context-window = 700\n{SCRIPT}"));
    let mut terminal = begin(&daemon, &[]);
    terminal.enter(&"y".repeat(600));
    terminal.wait_for("tokens and the context window is 700");
    terminal.wait_for("/new begins another conversation");
    say(&mut terminal, "short");
    terminal.enter("tool");
    terminal.wait_for("the model called rm");
    say(&mut terminal, "then");
    leave(terminal);
}

#[test]
fn history_is_kept_where_asked() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &["--history"]);
    say(&mut terminal, "remember me");
    leave(terminal);
    let folder = home(&daemon.bus).join(".local/state/gptoss");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("chat_history")), 0o600);
    let mut terminal = begin(&daemon, &["--history"]);
    terminal.wait_for("> ");
    terminal.keys("\x1b[A\r");
    terminal.wait_for("You said: remember me");
    leave(terminal);
}

#[test]
fn chat_is_for_a_terminal() {
    let daemon = Daemon::start(SCRIPT);
    for (arguments, advice) in [(&[][..], "gptoss-ctl run"), (&["--json"], "run --json")] {
        let output = chat(&daemon.bus, arguments).stdin(Stdio::null()).output();
        let (code, _, stderr) = outcome(&output.unwrap());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(advice), "{stderr}");
    }
    let bus = Bus::start();
    let (code, text) = Terminal::start(&chat(&bus, &[])).end();
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("gptossd --bus session"), "{text}");
}

#[test]
fn what_ends_it_puts_the_terminal_back() {
    let daemon = Daemon::start(SCRIPT);
    let mut terminal = begin(&daemon, &[]);
    terminal.wait_for("> ");
    assert!(!terminal.echoes(), "the line editor does that");
    assert_eq!(terminal.signal(Signal::TERM), 143);
    assert!(terminal.echoes());
}
