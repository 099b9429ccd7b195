//! A provider's proof, in the process that is started for it alone.
//!
//! ```text
//! gptossd    --prove-provider cuda installed /usr/lib/gptoss/cuda/libonnxruntime.so.1.31.1
//! gptoss-ctl --prove-provider cuda carried   ~/.local/share/gptoss/runtime/libonnxruntime.so.1.31.1
//!
//! standard input    held by whoever waits for the answer: its end is ours
//! standard output   one line of JSON, then the end:
//!                     {"distance":0.018}          how far the logits are from the golden ones
//!                     {"distance":null}           further than any number, or not numbers
//!                     {"unavailable":"…"}         why the provider cannot be asked
//! standard error    whatever the libraries say; its last line is told where no answer comes
//! ```
//!
//! The argument stands first and alone: no option of either program begins so, and none
//! of their help shows it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::runtime::fault_injection;
use crate::runtime::library::{self, Library};
use crate::runtime::provider::Provider;
use crate::runtime::quarantine::one_line;
use crate::runtime::self_test;
use crate::runtime::wheels::{Build, Kind};

/// The hidden argument.
pub(in crate::runtime) const ARGUMENT: &str = "--prove-provider";

/// Words for [`Library`].
const INSTALLED: &str = "installed";
const CARRIED: &str = "carried";
/// The build for CUDA that `runtime install` put into a store.
const CUDA: &str = "cuda";

/// Whether this program answers to [`ARGUMENT`].
static SERVES: AtomicBool = AtomicBool::new(false);

/// What the child says, as drawn above.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// Of the logits; none where it is no finite number.
    Distance(Option<f64>),
    /// Why not.
    Unavailable(String),
}

/// To be called first in `main`. If this process was started to prove a provider, does
/// so and gives the exit code; else lets the providers be proven in such processes.
pub fn serve() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ARGUMENT)) {
        SERVES.store(true, Ordering::Relaxed);
        return None;
    }
    Some(match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is not there to read it.
        Err(_) => ExitCode::FAILURE,
    })
}

/// Whether another process of this program would answer. A program of somebody else's
/// that uses this library would just start once more.
pub(super) fn is_served() -> bool {
    SERVES.load(Ordering::Relaxed)
}

/// The arguments of the process that proves this provider.
pub(super) fn arguments(provider: Provider, library: &Library) -> [OsString; 4] {
    let kind = match library {
        Library::Installed(_) => INSTALLED,
        Library::Carried(_) => CARRIED,
        Library::Cuda { .. } => CUDA,
    };
    [
        ARGUMENT.into(),
        provider.to_string().into(),
        kind.into(),
        library.path().into(),
    ]
}

/// What comes after the argument itself.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<(Provider, Library)> {
    let provider = arguments.next()?;
    let provider = Provider::named(provider.to_str()?)?;
    let kind = arguments.next()?;
    let path = PathBuf::from(arguments.next()?);
    let library = match kind.to_str()? {
        INSTALLED => Library::Installed(path),
        CARRIED => Library::Carried(path),
        CUDA => Library::Cuda {
            path,
            build: Box::new(Build::here(Kind::Cuda)?.clone()),
        },
        _ => return None,
    };
    arguments.next().is_none().then_some((provider, library))
}

fn run(arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let mut out = private_output()?;
    end_with_parent()?;
    crate::platform::dies_first(c"gptoss-proof");
    let answer = match parse(arguments) {
        None => Answer::Unavailable(format!("{ARGUMENT} was given arguments that are none")),
        Some((provider, library)) => prove(provider, &library),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    out.write_all(&line)
}

fn prove(provider: Provider, library: &Library) -> Answer {
    if let Err(error) = library::initialise(library) {
        return Answer::Unavailable(one_line(&error.to_string()));
    }
    fault_injection::strike(provider);
    match self_test::run(provider) {
        Ok(distance) => Answer::Distance(distance.is_finite().then_some(distance)),
        Err(reason) => Answer::Unavailable(one_line(&reason)),
    }
}

/// Standard output for the answer alone: what libraries print goes to standard error.
fn private_output() -> io::Result<File> {
    let out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(out.into())
}

/// Ends this process with the one that waits for it, at once: whatever hangs here would
/// hang at an orderly exit as well.
fn end_with_parent() -> io::Result<()> {
    let watch = || {
        // Nobody writes there.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = kill_process(getpid(), Signal::KILL);
    };
    let thread = std::thread::Builder::new().name("parent".into());
    thread.spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn arguments_arrive() {
        let odd = OsString::from_vec(b"/lib/\xff dir/libonnxruntime.so".to_vec());
        for library in [
            Library::Installed("libonnxruntime.so.1".into()),
            Library::Carried(odd.into()),
        ] {
            let given = arguments(Provider::Cuda, &library);
            let arrived = parse(given.into_iter().skip(1));
            assert_eq!(arrived, Some((Provider::Cuda, library)));
        }
        for wrong in [
            &["cuda", "installed"][..],
            &["gpu", "installed", "/x"],
            &["cuda", "stolen", "/x"],
            &["cuda", "installed", "/x", "/y"],
            &[],
        ] {
            assert_eq!(parse(wrong.iter().map(OsString::from)), None, "{wrong:?}");
        }
    }

    #[test]
    fn answers_are_a_line_each() {
        for (answer, line) in [
            (Answer::Distance(Some(0.25)), r#"{"distance":0.25}"#),
            (Answer::Distance(None), r#"{"distance":null}"#),
            (
                Answer::Unavailable("no device".into()),
                r#"{"unavailable":"no device"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&answer).unwrap(), line);
            assert_eq!(serde_json::from_str::<Answer>(line).unwrap(), answer);
        }
    }
}
