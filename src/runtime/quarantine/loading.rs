//! What is written down while a provider loads a model, for whoever comes after a process
//! that did not survive it.
//!
//! ```text
//! loading-PID.json     beside quarantine.json and in its form: the record that will be due
//! ```
//!
//! Process PID holds it locked while it loads a model on a provider, and removes it
//! afterwards. One that is there and that nobody holds is of a process that is gone: the
//! next daemon puts the provider into quarantine. Several may keep their quarantine in one
//! place, a user's daemon on a bus and another on a socket.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{Document, Quarantine, Record, open_trusted, read_records, written};
use crate::runtime::provider::Provider;

/// How the file's name begins, and ends.
const NAME: (&str, &str) = ("loading-", ".json");

/// A provider loads a model as long as this is held.
#[must_use]
#[derive(Debug)]
pub struct Loading {
    /// The file, and the lock on it. None where nothing is written down.
    marker: Option<(PathBuf, File)>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.marker {
            // Another process of this number may have taken its place; nothing is to be
            // done about that.
            let _ = fs::remove_file(path);
        }
    }
}

impl Quarantine {
    /// To be held while a provider loads a model in this process. Should the process end
    /// with it, the next one [finds out](Self::convict).
    pub(in crate::runtime) fn loading(&self, provider: Provider, model: &str) -> Loading {
        let file = self.marker().filter(|_| !self.fixed);
        let marker = file.filter(|_| provider != Provider::Cpu).and_then(|path| {
            let reason = format!("the daemon ended while it loaded {model} on it");
            let document = Document::of(vec![Record::now(provider, &reason)]);
            match place(&path, &document) {
                Ok(held) => Some((path, held)),
                Err(error) => {
                    tracing::warn!("{} cannot be written: {error}", path.display());
                    None
                }
            }
        });
        Loading { marker }
    }

    /// Puts into quarantine what an earlier daemon did not survive.
    pub fn convict(&self) {
        for path in self.markers() {
            let Ok(marker) = open_trusted(&path) else {
                continue;
            };
            // Whoever holds it is alive. Where the file system has no locks, nobody tells.
            if matches!(marker.try_lock(), Err(TryLockError::WouldBlock)) {
                continue;
            }
            let left = marker.try_clone().map_err(|error| error.to_string());
            match left.and_then(read_records) {
                Ok(records) => records.into_iter().for_each(|record| self.add(record)),
                Err(why) => tracing::warn!("{} is ignored: {why}", path.display()),
            }
            // Where that may not be, the same is found out again.
            let _ = fs::remove_file(&path);
        }
    }

    /// The daemon ends, and in good order: what it loads meanwhile is no reason.
    pub fn forget_load(&self) {
        if let Some(marker) = self.marker() {
            // Most often there is none.
            let _ = fs::remove_file(marker);
        }
    }

    /// What is there while this process loads a model.
    fn marker(&self) -> Option<PathBuf> {
        let (begins, ends) = NAME;
        let name = format!("{begins}{}{ends}", std::process::id());
        Some(self.file()?.with_file_name(name))
    }

    /// What is there while any process loads one, or did not survive it.
    fn markers(&self) -> Vec<PathBuf> {
        let folder = self.file().and_then(Path::parent).map(fs::read_dir);
        let entries = folder.into_iter().flatten().flatten().flatten();
        let is_marker = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|n| n.strip_prefix(NAME.0)?.strip_suffix(NAME.1));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        entries
            .map(|entry| entry.path())
            .filter(is_marker)
            .collect()
    }
}

/// Puts the document there, locked from its first moment on.
fn place(path: &Path, document: &Document) -> io::Result<File> {
    let marker = written(path.parent().unwrap_or(Path::new("/")), document)?;
    if let Err(error) = marker.as_file().try_lock() {
        tracing::debug!("{} cannot be locked: {error}", path.display());
    }
    Ok(marker.persist(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine() -> (tempfile::TempDir, Quarantine) {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::in_folder(&folder.path().join("state"));
        (folder, quarantine)
    }

    /// As if a process of this number had written the same, and was gone.
    fn leave(quarantine: &Quarantine, number: u32) -> PathBuf {
        let loading = quarantine.loading(Provider::Cuda, "20b");
        let marker = quarantine.marker().unwrap();
        let left = marker.with_file_name(format!("loading-{number}.json"));
        fs::copy(&marker, &left).unwrap();
        drop(loading);
        assert!(!marker.exists());
        left
    }

    #[test]
    fn a_daemon_that_does_not_survive_a_load_leaves_a_word() {
        let (_folder, quarantine) = quarantine();
        drop(quarantine.loading(Provider::Cuda, "20b"));
        quarantine.convict();
        assert_eq!(quarantine.holds(Provider::Cuda), None);
        let left = leave(&quarantine, 1);
        quarantine.convict();
        let record = quarantine.holds(Provider::Cuda).unwrap();
        assert!(record.reason.contains("loaded 20b"), "{record:?}");
        assert!(!left.exists());
    }

    #[test]
    fn a_daemon_that_loads_now_is_left_alone() {
        let (_folder, quarantine) = quarantine();
        let loading = quarantine.loading(Provider::Cuda, "20b");
        let other = Quarantine::in_folder(quarantine.file().unwrap().parent().unwrap());
        other.convict();
        assert_eq!(other.holds(Provider::Cuda), None);
        assert!(quarantine.marker().unwrap().exists());
        // Nor does one that ends take another's along.
        let of_another = leave(&quarantine, 1);
        other.forget_load();
        assert!(of_another.exists());
        drop(loading);
    }

    #[test]
    fn the_processor_leaves_nothing_and_damage_is_cleared_away() {
        let (_folder, quarantine) = quarantine();
        let left = leave(&quarantine, 1);
        let loading = quarantine.loading(Provider::Cpu, "20b");
        assert!(!quarantine.marker().unwrap().exists());
        drop(loading);
        let fixed = quarantine.clone().read_only();
        let loading = fixed.loading(Provider::Cuda, "20b");
        assert!(left.exists() && !quarantine.marker().unwrap().exists());
        drop(loading);
        fs::write(&left, "{").unwrap();
        let elsewhere = left.with_file_name("loading-it.json");
        fs::write(&elsewhere, "{").unwrap();
        quarantine.convict();
        assert!(!left.exists() && elsewhere.exists());
        assert_eq!(quarantine.read(), Ok(Vec::new()));
    }
}
