//! A provider with a fault, for tests of what follows from it.
//!
//! No machine that builds this has every broken driver at hand. So the processor plays
//! a provider, with one fault:
//!
//! ```text
//! GPTOSS_FAULT_INJECTION=cuda:crash gptossd …
//! ```
//!
//! Builds with debug assertions have this, which are those that tests run; releases have
//! `no_fault_injection.rs`, and `packaging/install` refuses a program that holds the
//! variable's name.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::provider::Provider;
use crate::engine::backend::{
    Backend, BackendError, BackendInfo, CacheUse, Cancel, Logits, SequenceId, Slice,
};

const VARIABLE: &str = "GPTOSS_FAULT_INJECTION";

/// How long a hang is waited for: a test cannot wait as long as a GPU may take.
const HANG_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It works: the other end of the scale.
    None,
    MissingLibrary,
    NoDevice,
    WrongLogits,
    NoNumbers,
    Crash,
    Abort,
    /// A library ends the process.
    Exit,
    /// As the system does when memory runs out.
    Killed,
    Hang,
    CrashAtLoad,
    HangAtLoad,
    OutOfMemoryAtLoad,
    OutOfMemoryAtRun,
}

/// Names of the faults in the variable.
const FAULTS: [(&str, Fault); 14] = [
    ("none", Fault::None),
    ("missing-library", Fault::MissingLibrary),
    ("no-device", Fault::NoDevice),
    ("wrong-logits", Fault::WrongLogits),
    ("no-numbers", Fault::NoNumbers),
    ("crash", Fault::Crash),
    ("abort", Fault::Abort),
    ("exit", Fault::Exit),
    ("killed", Fault::Killed),
    ("hang", Fault::Hang),
    ("crash-at-load", Fault::CrashAtLoad),
    ("hang-at-load", Fault::HangAtLoad),
    ("out-of-memory-at-load", Fault::OutOfMemoryAtLoad),
    ("out-of-memory-at-run", Fault::OutOfMemoryAtRun),
];

/// The fault of this provider, if it is played.
fn fault(provider: Provider) -> Option<Fault> {
    let asked = std::env::var(VARIABLE).ok()?;
    let (name, fault) = asked.split_once(':')?;
    let known = FAULTS.iter().find(|(name, _)| *name == fault);
    let (_, fault) = known.unwrap_or_else(|| panic!("{VARIABLE}: there is no fault {fault:?}"));
    (name == provider.to_string() && provider != Provider::Cpu).then_some(*fault)
}

/// Whether the processor plays this provider.
pub fn plays(provider: Provider) -> bool {
    fault(provider).is_some()
}

/// What comes of adding it to a session's options; `None` for one that is not played.
pub fn register(provider: Provider) -> Option<Result<(), String>> {
    let proves = std::env::args_os().nth(1);
    let proves = proves.is_some_and(|first| first == super::proof::ARGUMENT);
    Some(match fault(provider)? {
        Fault::MissingLibrary => Err(
            "libcublasLt.so.13: cannot open shared object file: No such file or directory".into(),
        ),
        Fault::NoDevice => {
            Err("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1".into())
        }
        Fault::CrashAtLoad if !proves => die(Signal::SEGV),
        Fault::HangAtLoad if !proves => hang(),
        Fault::OutOfMemoryAtLoad if !proves => {
            Err("Failed to allocate memory for requested buffer of size 13186891776".into())
        }
        _ => Ok(()),
    })
}

/// In the process that proves it: the end of that process, if this is the fault.
pub fn strike(provider: Provider) {
    match fault(provider) {
        Some(Fault::Crash) => die(Signal::SEGV),
        Some(Fault::Abort) => {
            eprintln!("terminate called after throwing an instance of 'onnxruntime::Exception'");
            std::process::abort();
        }
        Some(Fault::Exit) => std::process::exit(3),
        Some(Fault::Killed) => die(Signal::KILL),
        Some(Fault::Hang) => hang(),
        _ => {}
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn die(signal: Signal) -> ! {
    loop {
        // The first SIGSEGV is our own runtime's, which looks for an overflow of the stack
        // and leaves the next one to the system.
        let _ = kill_process(getpid(), signal);
        std::thread::yield_now();
    }
}

/// How long its proof may take, where that is no usual time.
pub fn limit(provider: Provider) -> Option<Duration> {
    (fault(provider)? == Fault::Hang).then_some(HANG_LIMIT)
}

/// How long its load may take, likewise.
pub fn load_limit(provider: Provider) -> Option<Duration> {
    (fault(provider)? == Fault::HangAtLoad).then_some(HANG_LIMIT)
}

/// A row of logits as the provider gives it.
pub fn logits(provider: Provider, row: &[f32]) -> Cow<'_, [f32]> {
    let mut row = Cow::Borrowed(row);
    match fault(provider) {
        Some(Fault::WrongLogits) => row.to_mut().rotate_left(1),
        Some(Fault::NoNumbers) => row.to_mut().fill(f32::NAN),
        _ => {}
    }
    row
}

/// A loaded model as the provider runs it.
pub fn failing_at_run(provider: Provider, backend: Box<dyn Backend>) -> Box<dyn Backend> {
    match fault(provider) {
        Some(Fault::OutOfMemoryAtRun) => Box::new(Failing(backend)),
        _ => backend,
    }
}

/// Loads, and computes nothing.
struct Failing(Box<dyn Backend>);

impl Backend for Failing {
    fn info(&self) -> &BackendInfo {
        self.0.info()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.0.open()
    }

    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId> {
        self.0.fork(sequence, position)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.0.close(sequence);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        self.0.length(sequence)
    }

    fn rewind(&mut self, sequence: SequenceId, position: usize) {
        self.0.rewind(sequence, position);
    }

    fn mark(&mut self, sequence: SequenceId, position: usize) {
        self.0.mark(sequence, position);
    }

    fn longest_slice(&self, sequence: SequenceId) -> usize {
        self.0.longest_slice(sequence)
    }

    fn forward(&mut self, _slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError> {
        let message = "CUDA failure 2: out of memory ; GPU=0";
        Err(BackendError::Provider(message.into()))
    }

    fn cache_use(&self) -> CacheUse {
        self.0.cache_use()
    }

    fn trim(&mut self) {
        self.0.trim();
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        self.0.cancel_handle()
    }
}
