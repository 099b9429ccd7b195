//! The terminal: what may reach it, how wide it is, when it is quiet.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::error::reason;
use super::messages::message;

/// Whether colours and emphasis may be written there.
pub(super) fn takes_styles(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    stream.is_terminal() && !dumb && set("NO_COLOR").is_none()
}

/// Writes to standard error, unless nobody is there to read it any more.
pub(super) fn tell(text: impl std::fmt::Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// Exit code of a program whose reader went away: 128 and SIGPIPE.
const READER_GONE: i32 = 141;

/// Writes to standard output. A reader that went away ends the program quietly, as
/// it ends others; a full disk is told.
pub(super) fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        result => result,
    }
}

/// A line of the result.
pub(super) fn say_line(text: std::fmt::Arguments<'_>) {
    if let Err(error) = write_out(format!("{text}\n").as_bytes()) {
        let message = message!("terminal-unwritable", why = reason(&error));
        tell(format_args!("gptoss-ctl: {message}\n"));
        std::process::exit(1);
    }
}

/// [`say_line`] with the arguments of `println!`, which would panic.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::say_line(format_args!($($text)*))
    };
}
pub(super) use say;

/// Its columns, where it is one and says so.
pub(super) fn columns(stream: &impl AsFd) -> Option<usize> {
    let size = tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Text that a terminal shows and does not obey, if it is for one.
pub(super) fn printable(text: &str, neutralise: bool) -> String {
    match neutralise {
        true => text.chars().map(visible).collect(),
        false => text.to_owned(),
    }
}

/// A line of JSON that a terminal shows and does not obey, if it is for one: the same
/// JSON, as such characters stand in its strings alone.
pub(super) fn printable_json(line: &str, neutralise: bool) -> String {
    let escaped = |c: char| match neutralise && visible(c) != c {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    line.chars().map(escaped).collect()
}

/// Control characters other than line feed and tab, and those that reorder
/// text, become visible.
pub(super) fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        // The pictures of the control characters.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

/// The settings of the terminal at standard input, to be put back.
#[derive(Debug, Clone)]
pub(super) struct Settings(Option<Termios>);

impl Settings {
    /// As they are now.
    pub(super) fn now() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }

    /// Puts them back.
    pub(super) fn restore(&self) {
        if let Some(settings) = &self.0 {
            // The terminal may be gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
        }
    }
}

/// Has the signals that end the process put the terminal back as it is now:
/// the line editor may be at work. Must be called inside the async runtime.
pub(super) fn restore_at_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let settings = Settings::now();
    let kinds = [SignalKind::terminate(), SignalKind::hangup()];
    for kind in kinds {
        // Without its stream a signal keeps its default action.
        let Ok(mut stream) = signal(kind) else {
            continue;
        };
        let settings = settings.clone();
        tokio::spawn(async move {
            stream.recv().await;
            settings.restore();
            // What is pasted is no longer marked.
            tell("\x1b[?2004l\n");
            std::process::exit(128 + kind.as_raw_value());
        });
    }
}

/// While it lives, what is typed does not appear in the middle of what is
/// written. It is not lost: the next prompt has it.
#[derive(Debug)]
pub(super) struct Quiet(Settings);

impl Quiet {
    pub(super) fn begin() -> Self {
        let before = Settings::now();
        if let Some(settings) = &before.0 {
            let mut quiet = settings.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            Settings(Some(quiet)).restore();
        }
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        let text = "a\x1b]0;title\x07b\r\n\tc\u{9b}31m\u{202e}é\u{7f}";
        assert_eq!(
            printable(text, true),
            "a␛]0;title␇b␍\n\tc\u{fffd}31m\u{fffd}é␡"
        );
        assert_eq!(printable(text, false), text);
        let json = "{\"text\":\"a\u{9b}31m\u{202e}é\u{7f}\"}";
        let shown = printable_json(json, true);
        assert_eq!(shown, r#"{"text":"a\u009b31m\u202eé\u007f"}"#);
        let read = |json| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(read(&shown), read(json));
        assert_eq!(printable_json(json, false), json);
    }
}
