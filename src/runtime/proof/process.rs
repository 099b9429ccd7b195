//! The process that proves a provider, as seen by who waits for it: bounded in time and
//! in what it may say, ended with all it has started, and reaped.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::NotProven;
use super::child::{self, Answer};
use crate::runtime::library::Library;
use crate::runtime::provider::Provider;
use crate::runtime::quarantine::one_line;

/// Longest answer, in bytes: a reason of 500 characters, each escaped.
const LONGEST_ANSWER: usize = 4096;

/// How much of the end of its standard error is kept, in bytes.
const LAST_WORDS: usize = 4096;

/// How long a process that was killed may take to be gone. One that a driver holds in
/// the kernel goes when the driver lets it.
const REAPING: Duration = Duration::from_secs(5);

/// Has a process prove the provider; gives the distance of its logits.
pub(super) fn ask(
    provider: Provider,
    library: &Library,
    limit: Duration,
) -> Result<f64, NotProven> {
    if !child::is_served() {
        return Err(NotProven::Unavailable(
            "this program cannot prove it in a process of its own, and it is not tried in this one"
                .into(),
        ));
    }
    let started = command(provider, library).and_then(|mut c| Running::start(c.spawn()?));
    let running = started.map_err(|error| {
        NotProven::Unavailable(format!(
            "no process could be started to prove it in: {error}"
        ))
    })?;
    running.answer(limit)
}

/// This program again.
fn command(provider: Provider, library: &Library) -> io::Result<Command> {
    let mut command = Command::new(crate::platform::this_program()?);
    command
        .args(child::arguments(provider, library))
        // Whom it serves is no matter of the service manager's.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        // A group of its own, to be ended together; and Ctrl-C is for us.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    Ok(command)
}

struct Running {
    /// Its standard input is in it: as long as we are there, so may it be.
    child: Child,
    line: Receiver<Vec<u8>>,
    words: Receiver<Vec<u8>>,
}

impl Running {
    fn start(mut child: Child) -> io::Result<Self> {
        let line = child
            .stdout
            .take()
            .map(|out| in_background(out, first_line));
        let words = child
            .stderr
            .take()
            .map(|err| in_background(err, last_words));
        match (line, words) {
            (Some(Ok(line)), Some(Ok(words))) => Ok(Self { child, line, words }),
            (line, words) => {
                end(child);
                let error = [line, words].into_iter().flatten().find_map(Result::err);
                Err(error.unwrap_or_else(|| io::Error::other("it has no output")))
            }
        }
    }

    fn answer(self, limit: Duration) -> Result<f64, NotProven> {
        let line = self.line.recv_timeout(limit);
        // It has answered, or is not to any more. What it has died of it keeps as its
        // status, if it has died.
        let status = end(self.child);
        let line = match line {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
            Err(RecvTimeoutError::Timeout) => {
                let left = match status {
                    Some(_) => "",
                    None => "; the driver holds its process, which cannot be ended",
                };
                return Err(NotProven::Broken(format!(
                    "its self-test did not end within {} s{left}",
                    limit.as_secs()
                )));
            }
        };
        if line.ends_with(b"\n") || line.len() >= LONGEST_ANSWER {
            return read(&line);
        }
        let words = self.words.recv_timeout(REAPING).unwrap_or_default();
        Err(unanswered(status, &words))
    }
}

fn read(line: &[u8]) -> Result<f64, NotProven> {
    match serde_json::from_slice(line) {
        Ok(Answer::Distance(found)) => Ok(found.unwrap_or(f64::INFINITY)),
        Ok(Answer::Unavailable(reason)) => Err(NotProven::Unavailable(one_line(&reason))),
        Err(_) => Err(NotProven::Broken(
            "the process that proves it gave no answer that can be read".into(),
        )),
    }
}

/// Kills a process and what it has started, and gives how it ended; nothing where it
/// does not end in time: then a thread goes on waiting for it.
fn end(mut child: Child) -> Option<ExitStatus> {
    // Until it is waited for, nobody else gets its number.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let (send, receive) = channel();
    let reap = move || {
        let _ = send.send(child.wait());
    };
    let thread = std::thread::Builder::new().name("reaper".into());
    thread.spawn(reap).ok()?;
    receive.recv_timeout(REAPING).ok()?.ok()
}

/// Why there is no answer.
fn unanswered(status: Option<ExitStatus>, words: &[u8]) -> NotProven {
    let words = String::from_utf8_lossy(words);
    let last = words.lines().rev().map(one_line).find(|l| !l.is_empty());
    let last = last.map_or_else(String::new, |line| format!("; its last words: {line}"));
    let signal = status.and_then(|status| status.signal());
    match (signal, status.and_then(|status| status.code())) {
        // It does not do so of itself: another time there may be memory.
        (Some(number), _) if number == Signal::KILL.as_raw() => NotProven::Unavailable(format!(
            "the process that proves it was killed, perhaps since memory ran out{last}"
        )),
        // Nor does it that. A service manager that stops us tells the whole control group.
        (Some(number), _) if is_a_request(number) => NotProven::Unavailable(format!(
            "the process that proves it was told to end by {}",
            signal_name(number)
        )),
        (Some(number), _) => NotProven::Broken(format!(
            "the process that proves it crashed with {}{last}",
            signal_name(number)
        )),
        (None, Some(code)) => NotProven::Broken(format!(
            "the process that proves it ended with exit code {code} and without an answer{last}"
        )),
        (None, None) => NotProven::Broken(
            "the process that proves it gave no answer and cannot be ended: the driver holds it"
                .into(),
        ),
    }
}

/// Whether somebody else asks for the end of a process by this signal.
fn is_a_request(number: i32) -> bool {
    let requests = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    requests.iter().any(|signal| signal.as_raw() == number)
}

fn signal_name(number: i32) -> String {
    let known = [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::ILL, "SIGILL"),
        (
            Signal::SYS,
            "SIGSYS: it made a system call that the unit's sandbox forbids",
        ),
    ];
    let name = known.iter().find(|(signal, _)| signal.as_raw() == number);
    name.map_or_else(
        || format!("signal {number}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Reads on a thread of its own, which ends with the other side of the pipe.
fn in_background<R: Read + Send + 'static>(
    pipe: R,
    read: impl FnOnce(R) -> Vec<u8> + Send + 'static,
) -> io::Result<Receiver<Vec<u8>>> {
    let (send, receive) = channel();
    let thread = std::thread::Builder::new().name("proof".into());
    thread.spawn(move || {
        // Nobody may want it any more.
        let _ = send.send(read(pipe));
    })?;
    Ok(receive)
}

/// As far as the end of the line, or of what a line may have.
fn first_line(pipe: impl Read) -> Vec<u8> {
    let mut line = Vec::new();
    // What came before an error is all that there is.
    let _ = BufReader::new(pipe.take(LONGEST_ANSWER as u64)).read_until(b'\n', &mut line);
    line
}

/// The end of what it says. All of it is read, so that it never waits for us.
fn last_words(mut pipe: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; LAST_WORDS]);
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return kept,
            Ok(length) => {
                kept.extend_from_slice(&buffer[..length]);
                let surplus = kept.len().saturating_sub(LAST_WORDS);
                kept.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A process with this shell script, as if it were one that proves a provider.
    fn running(script: &str) -> Running {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::start(shell.spawn().unwrap()).unwrap()
    }

    fn answer(script: &str) -> Result<f64, NotProven> {
        running(script).answer(Duration::from_secs(20))
    }

    #[test]
    fn an_answer_is_taken_and_nothing_after_it_matters() {
        assert_eq!(answer(r#"echo '{"distance":0.25}'"#), Ok(0.25));
        assert_eq!(answer(r#"echo '{"distance":null}'"#), Ok(f64::INFINITY));
        // It neither ends nor ever reads what is written to it.
        let begun = Instant::now();
        let after = r#"echo '{"distance":0.5}'; echo more; sleep 60 & sleep 60"#;
        assert_eq!(answer(after), Ok(0.5));
        assert!(begun.elapsed() < Duration::from_secs(15));
        let refused = answer(r#"echo '{"unavailable":"no\u001b[31m device"}'"#).unwrap_err();
        assert_eq!(refused, NotProven::Unavailable("no [31m device".into()));
    }

    #[test]
    fn silence_is_explained() {
        for (script, lasts, told) in [
            ("kill -SEGV $$", true, "SIGSEGV"),
            (
                "echo 'out of ideas' >&2; kill -ABRT $$",
                true,
                "SIGABRT; its last words: out of ideas",
            ),
            ("kill -SYS $$", true, "sandbox"),
            ("exit 3", true, "exit code 3"),
            ("exit 0", true, "without an answer"),
            ("kill -KILL $$", false, "memory"),
            ("kill -TERM $$", false, "told to end by SIGTERM"),
            ("kill -HUP $$", false, "told to end by SIGHUP"),
            ("printf '{\"distance\":0.25}'", true, "without an answer"),
            ("echo nonsense", true, "can be read"),
            ("head -c 100000 /dev/zero; sleep 60", true, "can be read"),
        ] {
            let error = answer(script).unwrap_err();
            assert_eq!(error.lasts(), lasts, "{script}: {error}");
            assert!(error.to_string().contains(told), "{script}: {error}");
        }
    }

    #[test]
    fn a_hang_ends_with_all_it_has_started() {
        // It obeys no request, and what it has started holds the pipes as well.
        let script = "trap '' TERM; echo talk >&2; sleep 60 & wait; sleep 60";
        let Running { child, line, words } = running(script);
        let (_, nothing) = channel();
        let running = Running {
            child,
            line,
            words: nothing,
        };
        let limit = Duration::from_millis(300);
        let begun = Instant::now();
        let error = running.answer(limit).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5), "{error}");
        assert!(error.lasts() && error.to_string().contains("did not end within"));
        // The pipe's end is that of the last process that held it.
        let said = words.recv_timeout(Duration::from_secs(20));
        assert_eq!(said.as_deref(), Ok(&b"talk\n"[..]));
    }

    /// One that has left the process group is out of reach, and nobody waits for it.
    #[test]
    fn what_got_away_is_not_waited_for() {
        let away = r#"setsid sleep 20 & echo '{"distance":0.25}'"#;
        let begun = Instant::now();
        assert_eq!(answer(away), Ok(0.25));
        let error = answer("setsid sleep 20 >/dev/null & exit 3").unwrap_err();
        assert!(error.to_string().contains("exit code 3"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    /// A test harness would take the argument for one of its own.
    #[test]
    fn a_program_that_does_not_serve_is_not_started_again() {
        let library = Library::Installed("/nowhere/libonnxruntime.so".into());
        let error = ask(Provider::Cuda, &library, Duration::from_secs(20)).unwrap_err();
        assert!(!error.lasts() && error.to_string().contains("not tried in this one"));
    }

    #[test]
    fn loud_children_are_heard_out() {
        let script = r#"head -c 1000000 /dev/zero >&2; echo '{"distance":0.5}'"#;
        assert_eq!(answer(script), Ok(0.5));
    }
}
