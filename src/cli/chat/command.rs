//! What a line means: something to say, or a command.

use std::path::PathBuf;

use super::super::generation::EFFORTS;
use super::super::messages::message;

/// What was entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Nothing,
    Message(String),
    Command(Command),
}

/// A `/` command with what stood behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    New,
    Model(Option<String>),
    Effort(Option<String>),
    /// `None` shows the instructions, an empty text removes them.
    System(Option<String>),
    File(Option<PathBuf>),
    Save(PathBuf),
    Undo,
    Retry,
    Fork,
    Back,
    Show,
    Usage,
    Quit,
}

/// A command as `/help` shows it.
pub(super) struct Entry {
    pub name: &'static str,
    pub argument: &'static str,
    /// What it does, in the language of the person.
    pub help: fn() -> String,
}

const fn entry(name: &'static str, argument: &'static str, help: fn() -> String) -> Entry {
    Entry {
        name,
        argument,
        help,
    }
}

/// All commands, in the order of `/help`.
pub(super) const COMMANDS: &[Entry] = &[
    entry("help", "", || message!("chat-help-help")),
    entry("new", "", || message!("chat-help-new")),
    entry("model", "[NAME]", || message!("chat-help-model")),
    entry("effort", "[low|medium|high]", || {
        message!("chat-help-effort")
    }),
    entry("system", "[TEXT]", || message!("chat-help-system")),
    entry("file", "[PATH]", || message!("chat-help-file")),
    entry("save", "FILE", || message!("chat-help-save")),
    entry("undo", "", || message!("chat-help-undo")),
    entry("retry", "", || message!("chat-help-retry")),
    entry("fork", "", || message!("chat-help-fork")),
    entry("back", "", || message!("chat-help-back")),
    entry("show", "", || message!("chat-help-show")),
    entry("usage", "", || message!("chat-help-usage")),
    entry("quit", "", || message!("chat-help-quit")),
];

/// Reads what was entered.
///
/// # Errors
/// What is wrong with the command, and what to do.
pub(super) fn parse(line: &str) -> Result<Input, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Input::Nothing);
    }
    let Some(rest) = line.strip_prefix('/') else {
        return Ok(Input::Message(line.to_owned()));
    };
    if rest.starts_with('/') {
        return Ok(Input::Message(rest.to_owned()));
    }
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    // A path, or a slash alone.
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Ok(Input::Message(line.to_owned()));
    }
    command(name, argument.trim()).map(Input::Command)
}

fn command(name: &str, argument: &str) -> Result<Command, String> {
    let some = || Some(argument.to_owned()).filter(|text| !text.is_empty());
    let command = match name {
        "model" => return Ok(Command::Model(some())),
        "effort" => return effort(argument),
        "system" if argument == "-" => return Ok(Command::System(Some(String::new()))),
        "system" => return Ok(Command::System(some())),
        "file" => return Ok(Command::File(some().map(|text| path(&text)))),
        "save" if argument.is_empty() => return Err(message!("chat-save-what")),
        "save" => return Ok(Command::Save(path(argument))),
        "help" => Command::Help,
        "new" => Command::New,
        "undo" => Command::Undo,
        "retry" => Command::Retry,
        "fork" => Command::Fork,
        "back" => Command::Back,
        "show" => Command::Show,
        "usage" => Command::Usage,
        "quit" | "exit" => Command::Quit,
        _ => return Err(unknown(name)),
    };
    match argument.is_empty() {
        true => Ok(command),
        false => Err(message!("chat-no-argument", command = name)),
    }
}

fn effort(argument: &str) -> Result<Command, String> {
    match argument {
        "" => Ok(Command::Effort(None)),
        effort if EFFORTS.contains(&effort) => Ok(Command::Effort(Some(effort.to_owned()))),
        other => Err(message!("chat-no-effort", effort = other)),
    }
}

/// A path as one would type it in a shell.
fn path(text: &str) -> PathBuf {
    let (mut plain, mut characters) = (String::new(), text.chars());
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    match (plain.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => plain.into(),
    }
}

fn unknown(name: &str) -> String {
    let near = |entry: &&Entry| {
        entry.name.starts_with(name) || strsim::damerau_levenshtein(entry.name, name) <= 2
    };
    let distance = |entry: &&Entry| strsim::damerau_levenshtein(entry.name, name);
    match COMMANDS.iter().filter(near).min_by_key(distance) {
        Some(entry) => message!("chat-unknown-near", command = name, near = entry.name),
        None => message!("chat-unknown", command = name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        match parse(line) {
            Ok(Input::Command(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_and_messages() {
        assert_eq!(parse(" \n").unwrap(), Input::Nothing);
        for (line, text) in [
            (" hello\nyou ", "hello\nyou"),
            ("//help", "/help"),
            ("/etc/fstab is what?", "/etc/fstab is what?"),
            ("/ is the root", "/ is the root"),
            ("/2 is a half", "/2 is a half"),
        ] {
            assert_eq!(parse(line).unwrap(), Input::Message(text.into()), "{line}");
        }
        assert_eq!(parsed(" /new "), Command::New);
        assert_eq!(parsed("/exit"), Command::Quit);
        assert_eq!(parsed("/model"), Command::Model(None));
        assert_eq!(parsed("/model 120b"), Command::Model(Some("120b".into())));
        assert_eq!(parsed("/effort high"), Command::Effort(Some("high".into())));
        assert_eq!(parsed("/system a\nb"), Command::System(Some("a\nb".into())));
        assert_eq!(parsed("/system"), Command::System(None));
        assert_eq!(parsed("/system -"), Command::System(Some(String::new())));
        assert_eq!(parsed("/save a b.json"), Command::Save("a b.json".into()));
        assert_eq!(
            parsed(r"/file a\ b.txt"),
            Command::File(Some("a b.txt".into()))
        );
        let home = std::env::home_dir().unwrap();
        assert_eq!(parsed("/file ~/a"), Command::File(Some(home.join("a"))));
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |line: &str| parse(line).unwrap_err();
        assert!(error("/effrot").contains("did you mean /effort?"));
        assert!(error("/q").contains("did you mean /quit?"));
        assert!(error("/us").contains("did you mean /usage?"));
        assert!(error("/weather").contains("/help lists them"));
        assert!(error("/effort huge").contains("low, medium or high"));
        assert!(error("/save").contains("file"));
        assert!(error("/new one").contains("takes no argument"));
    }

    #[test]
    fn every_command_of_the_list_is_one() {
        for entry in COMMANDS {
            let argument = if entry.argument.is_empty() {
                ""
            } else {
                "high"
            };
            parsed(&format!("/{} {argument}", entry.name));
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_typed_has_a_meaning(line in "(/|//)?[a-z/ \\\\~é\n-]{0,20}") {
            // And no message is empty.
            if let Ok(Input::Message(text)) = parse(&line) {
                proptest::prop_assert!(!text.trim().is_empty());
            }
        }
    }
}
