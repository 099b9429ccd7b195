//! Memory pressure: the kernel's PSI, or what the service manager has us watch.
//!
//! The protocol is systemd's: `MEMORY_PRESSURE_WATCH` names a file, FIFO or
//! socket, `MEMORY_PRESSURE_WRITE` has in base64 what is to be written to it. A
//! file of the kernel's says with `POLLPRI` that memory is short, the others by
//! having something to read. Without the variables it is our own control
//! group's `memory.pressure`, else the machine's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;

use crate::config::OnPressure;
use crate::runtime::memory;
use crate::session::ModelHost;

/// Some task waited for memory for a tenth of two seconds, as in systemd's own
/// services. Who is not privileged may ask for multiples of two seconds alone.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// What is watched, and what is written to it first.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    path: PathBuf,
    write: Vec<u8>,
}

impl Target {
    /// What the service manager names; `None` where it wants nothing watched.
    fn named(watch: PathBuf, write: Option<String>) -> Option<Target> {
        if watch == Path::new("/dev/null") {
            return None;
        }
        let write = match BASE64_STANDARD.decode(write.unwrap_or_default()) {
            Ok(write) => write,
            Err(error) => {
                tracing::warn!("MEMORY_PRESSURE_WRITE is not base64: {error}");
                TRIGGER.to_vec()
            }
        };
        Some(Target { path: watch, write })
    }

    /// The kernel's files, the closest first.
    fn of_the_kernel() -> Vec<Target> {
        let group = memory::control_group();
        let own = group.map(|folder| folder.join("memory.pressure"));
        let machine = PathBuf::from("/proc/pressure/memory");
        let target = |path| Target {
            path,
            write: TRIGGER.to_vec(),
        };
        own.into_iter().chain([machine]).map(target).collect()
    }
}

/// Something that says when memory is short.
struct Source {
    descriptor: OwnedFd,
    /// How it says so.
    event: PollFlags,
    /// What it must be able to show for it, if it is the kernel's.
    stall: Option<Stall>,
}

/// The time that tasks have waited for memory, by the kernel's count. It has been
/// seen to report a shortage where there was none, right after it was asked to.
struct Stall {
    path: PathBuf,
    /// `some` or `full`
    kind: String,
    /// Microseconds that make a shortage.
    threshold: u64,
    /// The count when there last was one.
    last: u64,
}

impl Stall {
    fn of(target: &Target) -> Option<Stall> {
        let trigger = std::str::from_utf8(&target.write).ok()?;
        let (kind, times) = trigger.trim_end_matches('\0').split_once(' ')?;
        let mut stall = Stall {
            path: target.path.clone(),
            kind: kind.to_owned(),
            threshold: times.split(' ').next()?.parse().ok()?,
            last: 0,
        };
        stall.last = stall.read()?;
        Some(stall)
    }

    fn read(&self) -> Option<u64> {
        let table = std::fs::read_to_string(&self.path).ok()?;
        stalled(&table, &self.kind)
    }

    /// Whether tasks have waited for long since the last shortage.
    fn has_grown(&mut self) -> bool {
        let Some(now) = self.read() else {
            return true;
        };
        let grown = now.saturating_sub(self.last) >= self.threshold;
        if grown {
            self.last = now;
        }
        grown
    }
}

/// Microseconds in a table of the kernel's:
/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=85495178`.
fn stalled(table: &str, kind: &str) -> Option<u64> {
    let mut words = table
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next() == Some(kind)).then_some(words))?;
    words.find_map(|word| word.strip_prefix("total=")?.parse().ok())
}

impl Source {
    fn open(target: &Target) -> io::Result<Source> {
        let kind = std::fs::metadata(&target.path)?.file_type();
        if kind.is_socket() {
            let mut socket = UnixStream::connect(&target.path)?;
            socket.write_all(&target.write)?;
            return Ok(Source {
                descriptor: socket.into(),
                event: PollFlags::IN,
                stall: None,
            });
        }
        // A FIFO that is open for writing here has no end when others close it.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&target.path)?;
        let event = match kind.is_fifo() {
            true => PollFlags::IN,
            false => {
                file.write_all(&target.write)?;
                PollFlags::PRI
            }
        };
        Ok(Source {
            descriptor: file.into(),
            event,
            stall: Stall::of(target).filter(|_| event == PollFlags::PRI),
        })
    }

    /// Waits until memory is short.
    fn shortage(&mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            if self.stall.as_mut().is_none_or(Stall::has_grown) {
                return Ok(());
            }
        }
    }

    /// Waits until it says something.
    fn wait(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.descriptor, self.event)];
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        let [polled] = polled;
        if !polled.revents().contains(self.event) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = || rustix::io::read(&self.descriptor, &mut [0; 512]);
        match self.event {
            PollFlags::IN if rustix::io::retry_on_intr(read)? == 0 => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            _ => Ok(()),
        }
    }

    /// Watches on a thread of its own. Shortages that come while one is dealt with
    /// are one.
    fn watch(mut self) -> io::Result<Receiver<()>> {
        let (sender, shortages) = channel(1);
        let watch = move || loop {
            if let Err(error) = self.shortage() {
                tracing::warn!("memory pressure is not watched any more: {error}");
                return;
            }
            if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        };
        std::thread::Builder::new()
            .name("pressure".into())
            .spawn(watch)?;
        Ok(shortages)
    }
}

fn source() -> Option<Source> {
    let targets = match std::env::var_os("MEMORY_PRESSURE_WATCH") {
        Some(watch) => {
            let write = std::env::var("MEMORY_PRESSURE_WRITE").ok();
            Vec::from_iter(Target::named(watch.into(), write))
        }
        None => Target::of_the_kernel(),
    };
    for target in targets {
        let path = target.path.display();
        match Source::open(&target) {
            Ok(source) => {
                tracing::debug!("watching memory pressure in {path}");
                return Some(source);
            }
            Err(error) => tracing::debug!("cannot watch {path}: {error}"),
        }
    }
    None
}

/// Gives memory back when it is short: first what is kept for prompts to come;
/// if memory is short for longer than `interval`, the model that nobody uses.
pub async fn relieve(host: Arc<ModelHost>, setting: OnPressure, interval: Duration) {
    let watched = source().and_then(|source| source.watch().ok());
    let Some(mut shortages) = watched else {
        tracing::info!("memory pressure is not watched: the system offers nothing to watch");
        return;
    };
    let mut spell: Option<Spell> = None;
    while shortages.recv().await.is_some() {
        let now = Instant::now();
        let goes_on = spell.filter(|spell| now < spell.last + 3 * interval);
        let begun = goes_on.map_or(now, |spell| spell.begun);
        spell = Some(Spell { begun, last: now });
        if goes_on.is_none() {
            tracing::info!("memory is short: dropping what is kept for prompts to come");
        }
        host.drop_caches();
        if setting == OnPressure::Unload && now >= begun + interval {
            host.unload_unused().await;
        }
    }
}

/// A time in which memory was short again and again.
#[derive(Debug, Clone, Copy)]
struct Spell {
    begun: Instant,
    last: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_says_what_to_watch() {
        assert_eq!(Target::named("/dev/null".into(), None), None);
        let target = Target::named("/x".into(), Some("c29tZSAxIDIA".into()));
        assert_eq!(target.unwrap().write, b"some 1 2\0");
        let broken = Target::named("/x".into(), Some("?".into()));
        assert_eq!(broken.unwrap().write, TRIGGER);
    }

    #[test]
    fn a_shortage_is_one_that_the_kernel_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.pressure");
        let count = |some: u64| {
            let table = format!("some avg10=0.00 total={some}\nfull avg10=0.00 total=9\n");
            std::fs::write(&path, table).unwrap();
        };
        count(1_000_000);
        let target = Target {
            path: path.clone(),
            write: TRIGGER.to_vec(),
        };
        let mut stall = Stall::of(&target).unwrap();
        count(1_199_999);
        assert!(!stall.has_grown());
        count(1_200_000);
        assert!(stall.has_grown());
        assert!(!stall.has_grown(), "it is told once");
        assert_eq!(stalled("full avg10=0.00 total=7", "some"), None);
    }

    #[test]
    fn a_socket_is_told_what_to_watch_and_its_end_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let source = Source::open(&Target {
            path,
            write: b"some".to_vec(),
        });
        let mut source = source.unwrap();
        let (mut manager, _) = listener.accept().unwrap();
        let mut told = [0; 4];
        io::Read::read_exact(&mut manager, &mut told).unwrap();
        assert_eq!(&told, b"some");
        manager.write_all(b"!").unwrap();
        source.shortage().unwrap();
        drop(manager);
        assert!(source.shortage().is_err());
    }
}
