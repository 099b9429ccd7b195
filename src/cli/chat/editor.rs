//! Where one types: several lines, history, completion.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{
    Behavior, Cmd, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event,
    EventContext, EventHandler, Helper, KeyCode, KeyEvent, Modifiers, RepeatCount,
};

use super::super::error::reason;
use super::super::generation::EFFORTS;
use super::super::messages::message;
use super::super::{CliError, ExitStatus};
use super::command::COMMANDS;
use super::view::notice;

/// What stands before the input, without and with its colour.
const PROMPT: (&str, &str) = ("> ", "\x1b[1;32m> \x1b[0m");

/// What was entered.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// The line editor.
pub(super) struct LineEditor {
    /// `None` while it reads.
    editor: Option<Editor<Completions, DefaultHistory>>,
    /// Where the history is kept, if it is.
    file: Option<PathBuf>,
    /// Where backslashes went on in the next line.
    continued: Arc<Mutex<Vec<usize>>>,
}

impl LineEditor {
    /// An editor whose history lives in memory, or in this file.
    pub(super) fn new(file: Option<PathBuf>) -> Result<Self, CliError> {
        let config = Config::builder()
            .max_history_size(1000)
            .map_err(failed)?
            .completion_type(CompletionType::List)
            // Standard output may be a pipe for the answers.
            .behavior(Behavior::PreferTerm)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Completions(FilenameCompleter::new())));
        for newline in [
            KeyEvent(KeyCode::Enter, Modifiers::ALT),
            KeyEvent::ctrl('J'),
        ] {
            editor.bind_sequence(newline, EventHandler::Simple(Cmd::Newline));
        }
        let enter = KeyEvent(KeyCode::Enter, Modifiers::NONE);
        let backslash = Backslash::default();
        let continued = Arc::clone(&backslash.0);
        editor.bind_sequence(enter, EventHandler::Conditional(Box::new(backslash)));
        if let Some(file) = &file {
            match editor.load_history(file) {
                Err(ReadlineError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
                loaded => loaded.map_err(failed)?,
            }
        }
        Ok(Self {
            editor: Some(editor),
            file,
            continued,
        })
    }

    /// Reads what is entered next, and remembers it.
    pub(super) async fn read(&mut self) -> Result<Line, CliError> {
        let Some(mut editor) = self.editor.take() else {
            return Ok(Line::End);
        };
        let (file, continued) = (self.file.clone(), Arc::clone(&self.continued));
        // On a thread of its own: the connection to the bus goes on.
        let task = tokio::task::spawn_blocking(move || {
            let line = editor.readline(&PROMPT);
            let at = continued.lock().map(|mut at| std::mem::take(&mut *at));
            let line = line.map(|text| without(text, &at.unwrap_or_default()));
            let kept = match &line {
                Ok(text) => remember(&mut editor, text, file.as_deref()),
                Err(_) => Ok(()),
            };
            (editor, kept, line)
        });
        let (editor, kept, line) = task
            .await
            .map_err(|e| CliError::new(ExitStatus::Failed, e.to_string()))?;
        self.editor = Some(editor);
        if let Err(error) = kept {
            notice(&message!("chat-history-ends", why = words(&error)));
            self.file = None;
        }
        match line {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(failed(error)),
        }
    }
}

fn remember(
    editor: &mut Editor<Completions, DefaultHistory>,
    text: &str,
    file: Option<&Path>,
) -> Result<(), ReadlineError> {
    if text.trim().is_empty() {
        return Ok(());
    }
    editor.add_history_entry(text)?;
    match file {
        Some(file) => editor.append_history(file),
        None => Ok(()),
    }
}

fn failed(error: ReadlineError) -> CliError {
    let message = message!("chat-no-terminal", why = words(&error));
    CliError::new(ExitStatus::Failed, message)
}

/// Why the line editor failed.
fn words(error: &ReadlineError) -> String {
    match error {
        ReadlineError::Io(error) => reason(error),
        other => other.to_string(),
    }
}

/// The file of `--history`, in a folder that nobody else can read.
pub(super) fn history_file() -> Result<PathBuf, CliError> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|folder| folder.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    let Some(folder) = state.or_else(home) else {
        return Err(CliError::new(
            ExitStatus::Failed,
            message!("chat-history-nowhere"),
        ));
    };
    let folder = folder.join("gptoss");
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.map_err(|e| {
        let message = message!(
            "chat-history-folder",
            folder = %folder.display(),
            why = reason(&e)
        );
        CliError::new(ExitStatus::Failed, message)
    })?;
    Ok(folder.join("chat_history"))
}

/// The text without the backslashes at these bytes. Where what stands before one has
/// been edited since, it is no longer there, and stays.
fn without(mut text: String, backslashes: &[usize]) -> String {
    for &at in backslashes.iter().rev() {
        if text.get(at..).is_some_and(|rest| rest.starts_with("\\\n")) {
            text.remove(at);
        }
    }
    text
}

/// A backslash before Enter goes on in the next line, as in a shell. Remembers where:
/// it is then no part of the text.
#[derive(Default)]
struct Backslash(Arc<Mutex<Vec<usize>>>);

impl ConditionalEventHandler for Backslash {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        let at_end = context.pos() == context.line().len();
        let goes_on = at_end && context.line().ends_with('\\');
        if goes_on && let Ok(mut places) = self.0.lock() {
            places.push(context.pos() - 1);
        }
        goes_on.then_some(Cmd::Newline)
    }
}

/// Completes commands, efforts and files.
struct Completions(FilenameCompleter);

impl Completer for Completions {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..at).unwrap_or_default();
        match before.split_once(' ') {
            Some(("/file" | "/save", _)) => self.0.complete_path(line, at),
            Some(("/effort", begun)) => Ok((at - begun.len(), matching(EFFORTS, begun))),
            None if before.starts_with('/') => {
                let names = COMMANDS.iter().map(|entry| entry.name);
                Ok((1, matching(names, before.trim_start_matches('/'))))
            }
            _ => Ok((at, Vec::new())),
        }
    }
}

fn matching<'a>(words: impl IntoIterator<Item = &'a str>, begun: &str) -> Vec<Pair> {
    let words = words.into_iter().filter(|word| word.starts_with(begun));
    words
        .map(|word| Pair {
            display: word.to_owned(),
            replacement: word.to_owned(),
        })
        .collect()
}

impl Helper for Completions {}
impl Highlighter for Completions {}
impl Validator for Completions {}
impl Hinter for Completions {
    type Hint = String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_went_on_is_taken_out() {
        let text = || "c\\\nd\\\né".to_owned();
        assert_eq!(without(text(), &[4]), "c\\\nd\né");
        assert_eq!(without(text(), &[1, 4]), "c\nd\né");
        for elsewhere in [0, 2, 7, 8, 100] {
            assert_eq!(without(text(), &[elsewhere]), text());
        }
    }

    #[test]
    fn commands_are_completed() {
        let history = DefaultHistory::new();
        let complete = |line: &str| {
            let completions = Completions(FilenameCompleter::new());
            let (at, found) = completions
                .complete(line, line.len(), &Context::new(&history))
                .unwrap();
            let words: Vec<_> = found.into_iter().map(|pair| pair.replacement).collect();
            (at, words)
        };
        assert_eq!(complete("/mo"), (1, vec!["model".to_owned()]));
        assert_eq!(complete("/effort m"), (8, vec!["medium".to_owned()]));
        assert_eq!(complete("hello /mo").1, Vec::<String>::new());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let begun = format!("/file {}/no", folder.path().display());
        let (at, words) = complete(&begun);
        assert_eq!(at, 6);
        assert!(words[0].ends_with("/notes.txt"), "{words:?}");
    }
}
