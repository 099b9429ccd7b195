//! A terminal with a program in it: a pseudo-terminal whose other end the test
//! reads and types at.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{LONG, send};

pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Everything the program wrote.
    pub raw: Vec<u8>,
    /// How much of its text was waited for.
    read: usize,
}

impl Terminal {
    /// Runs a command in a terminal of 80 columns.
    pub fn start(command: &Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = OsStr::from_bytes(name.as_bytes());
        let end = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(rustix::fs::open(name, flags, Mode::empty()).unwrap())
        };
        // Ctrl-C is a signal only for a terminal's own session.
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => session.env(key, value),
                None => session.env_remove(key),
            };
        }
        let child = session.spawn().expect("setsid is part of util-linux");
        Terminal {
            child,
            keyboard: File::from(master),
            raw: Vec::new(),
            read: 0,
        }
    }

    /// Presses keys.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the prompt, then enters a line.
    pub fn enter(&mut self, line: &str) {
        self.wait_for("> ");
        self.keys(&format!("{line}\r"));
    }

    /// Waits until the program has written this, since what was waited for
    /// last; returns what it wrote before it.
    pub fn wait_for(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let text = self.text();
            let new = &text[self.read..];
            if let Some(at) = new.find(wanted) {
                self.read += at + wanted.len();
                return new[..at].to_owned();
            }
            assert!(self.more(deadline), "{wanted:?} never came:\n{text}");
        }
    }

    /// Waits for the program's end; its exit code and the last of its text.
    pub fn end(mut self) -> (i32, String) {
        let deadline = Instant::now() + LONG;
        while self.more(deadline) {}
        let code = self.child.wait().unwrap().code();
        (code.unwrap_or(-1), self.text()[self.read..].to_owned())
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        let settings = tcgetattr(&self.keyboard).unwrap();
        settings.local_modes.contains(LocalModes::ECHO)
    }

    /// Sends the program a signal; its exit code.
    pub fn signal(&mut self, signal: Signal) -> i32 {
        send(&self.child, signal);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Reads more; `false` at the end.
    fn more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut waiting = [PollFd::new(&self.keyboard, PollFlags::IN)];
        assert_ne!(poll(&mut waiting, Some(&left)), Ok(0), "{}", self.text());
        let mut buffer = [0; 4096];
        // The other end is closed: an error.
        let read = self.keyboard.read(&mut buffer).unwrap_or(0);
        self.raw.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// What a reader sees: without the sequences that command the terminal.
    fn text(&self) -> String {
        let raw = String::from_utf8_lossy(&self.raw);
        let (mut text, mut characters) = (String::new(), raw.chars());
        while let Some(c) = characters.next() {
            match c {
                '\r' => {}
                '\x1b' => {
                    if characters.next() == Some('[') {
                        // Up to its last character.
                        let _ = characters.by_ref().find(|c| ('@'..='~').contains(c));
                    }
                }
                c => text.push(c),
            }
        }
        text
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
