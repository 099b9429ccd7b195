//! Where the log goes, and how much of it.
//!
//! Prompts and answers are never logged; the bus library, which could log whole
//! messages, is held to warnings whatever the level.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::dbus::{LogControl, LogLevel, LogTarget};

/// Names of our fields in the journal begin with it.
const FIELDS: &str = "GPTOSS";
/// What the journal calls us.
pub const IDENTIFIER: &str = "gptossd";

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// The log of this process.
pub struct Logging {
    now: Mutex<(LogLevel, LogTarget)>,
    output: reload::Handle<Output, Registry>,
    filter: reload::Handle<EnvFilter, Filtered>,
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Output, Registry>, Registry>;

impl Logging {
    /// Starts the log: at the level `GPTOSS_LOG` asks for, in the journal where
    /// stderr goes there, else on stderr.
    pub fn start() -> Arc<Logging> {
        let wish = std::env::var("GPTOSS_LOG");
        let filter = match &wish {
            Ok(wish) => EnvFilter::new(format!("{wish},zbus=warn")),
            Err(_) => filter(LogLevel::Info),
        };
        let level = filter.max_level_hint();
        let level = level.and_then(|hint| hint.into_level());
        let level = level.map_or(LogLevel::Err, LogLevel::of);
        let target = match stderr_is_the_journal() {
            true => LogTarget::Journal,
            false => LogTarget::Console,
        };
        // Without a journal to write to, stderr is always there.
        let (target, layer) = match output(target) {
            Ok(layer) => (target, layer),
            Err(_) => (LogTarget::Console, console()),
        };
        let (layer, output) = reload::Layer::new(layer);
        let (filter, levels) = reload::Layer::new(filter);
        let registry = tracing_subscriber::registry().with(layer).with(filter);
        if let Err(error) = registry.try_init() {
            eprintln!("gptossd: no log: {error}");
        }
        log_panics();
        Arc::new(Logging {
            now: Mutex::new((level, target)),
            output,
            filter: levels,
        })
    }

    fn now(&self) -> MutexGuard<'_, (LogLevel, LogTarget)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogControl for Logging {
    fn level(&self) -> LogLevel {
        self.now().0
    }

    fn set_level(&self, level: LogLevel) -> Result<(), String> {
        let mut now = self.now();
        let set = self.filter.reload(filter(level));
        set.map_err(|error| error.to_string())?;
        now.0 = level;
        Ok(())
    }

    fn target(&self) -> LogTarget {
        self.now().1
    }

    fn set_target(&self, target: LogTarget) -> Result<(), String> {
        let layer = output(target).map_err(|error| error.to_string())?;
        let mut now = self.now();
        let set = self.output.reload(layer);
        set.map_err(|error| error.to_string())?;
        now.1 = target;
        Ok(())
    }

    fn identifier(&self) -> &'static str {
        IDENTIFIER
    }
}

/// Has panics logged by their place alone: their words may quote what was said.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        match panic.location() {
            Some(place) => tracing::error!("thread {thread} panicked at {place}"),
            None => tracing::error!("thread {thread} panicked"),
        }
    }));
}

/// What passes at a level. Below information, ourselves alone: what libraries
/// know of texts is not ours to tell.
fn filter(level: LogLevel) -> EnvFilter {
    let ours = level.tracing();
    let theirs = ours.min(tracing::Level::INFO);
    EnvFilter::new(format!(
        "{theirs},gptoss={ours},gptoss_onnx={ours},zbus=warn"
    ))
}

fn output(target: LogTarget) -> std::io::Result<Output> {
    Ok(match target {
        LogTarget::Console => console(),
        LogTarget::Journal => {
            let journal = tracing_journald::layer()?.with_field_prefix(Some(FIELDS.into()));
            Box::new(journal.with_syslog_identifier(IDENTIFIER.into()))
        }
        LogTarget::Null => Box::new(tracing_subscriber::layer::Identity::new()),
    })
}

fn console() -> Output {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    match stderr_is_the_journal() {
        // The journal has its own clock and no colours.
        true => Box::new(layer.without_time().with_ansi(false)),
        false => Box::new(layer.with_ansi(std::io::stderr().is_terminal())),
    }
}

/// Whether stderr is the stream that the service manager opened to the journal,
/// as `sd_journal_stream_fd(3)` has it: `JOURNAL_STREAM` is its device and inode.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| is_stream(&stream, std::io::stderr()))
}

fn is_stream(stream: &str, descriptor: impl AsFd) -> bool {
    let Ok(status) = rustix::fs::fstat(descriptor) else {
        return false;
    };
    stream == format!("{}:{}", status.st_dev, status.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_stream_is_known_by_its_inode() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let status = rustix::fs::fstat(&one).unwrap();
        let stream = format!("{}:{}", status.st_dev, status.st_ino);
        assert!(is_stream(&stream, &one));
        assert!(!is_stream(&stream, &other));
        assert!(!is_stream("", &one));
    }

    #[test]
    fn libraries_tell_nothing_below_information() {
        let levels = filter(LogLevel::Debug).to_string();
        for part in ["info", "gptoss=debug", "gptoss_onnx=debug", "zbus=warn"] {
            assert!(levels.split(',').any(|p| p == part), "{part} in {levels}");
        }
        let levels = filter(LogLevel::Err).to_string();
        assert!(levels.split(',').any(|p| p == "error"), "{levels}");
    }
}
