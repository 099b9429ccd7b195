//! Providers that broke or computed wrongly, kept from being tried again and again.
//!
//! ```text
//! /var/lib/gptossd/quarantine.json          of the machine's daemon ($STATE_DIRECTORY)
//! ~/.local/state/gptoss/quarantine.json     of a user's own ($XDG_STATE_HOME)
//!
//! {
//!   "schema": 1,
//!   "providers": [
//!     {
//!       "provider": "cuda",
//!       "since": "2026-01-31T12:00:00Z",
//!       "reason": "the process that proves it crashed with SIGSEGV",
//!       "driver": "570.86.15",                     null: there was none, or it does not say
//!       "devices": ["NVIDIA H200"],
//!       "onnxruntime": "1.31.1",
//!       "library": "/usr/lib/gptoss/cuda/libonnxruntime.so.1.31.1 21962872 1767225600.000000000, …",
//!       "gptoss": "0.1.0"
//!     }
//!   ]
//! }
//! ```
//!
//! A record counts while all from `driver` on is what it was: the library, and what the
//! system has of CUDA's, by path, size and time of change of each file; and this program,
//! whose graph it is that was computed wrongly, and may have been the wrong one. The file
//! is replaced by a rename. All that it can do is to have a provider passed over; one that
//! is damaged, or not ours, is told of and does nothing.

mod loading;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::library::Library;
use super::provider::Provider;
use super::{driver, library, system_libraries};
use crate::model::{FILE_MODE, create_directory, now_rfc3339};

/// Version of the file's form.
const SCHEMA: u32 = 1;

const FILE: &str = "quarantine.json";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// Most records that are kept: there are fewer providers.
const MOST: usize = 8;

/// Longest text that is kept or shown, in characters.
const LONGEST: usize = 500;

/// Where the machine's daemon keeps what it learns, unless its unit says otherwise.
const MACHINE_FOLDER: &str = "/var/lib/gptossd";

/// A provider in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub provider: String,
    /// When it broke, RFC 3339.
    pub since: String,
    /// What it did.
    pub reason: String,
    /// Version of the driver it did so with.
    pub driver: Option<String>,
    /// Models of the devices that driver had.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Which library that was, and which it has of the system's.
    pub library: String,
    /// Version of this program.
    #[serde(default)]
    pub gptoss: String,
}

impl Record {
    /// Of this moment.
    pub(super) fn now(provider: Provider, reason: &str) -> Self {
        let now = Circumstances::of(provider);
        Self {
            provider: provider.to_string(),
            since: now_rfc3339(),
            reason: one_line(reason),
            driver: now.driver,
            devices: now.devices,
            onnxruntime: now.onnxruntime,
            library: now.library,
            gptoss: VERSION.to_owned(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    schema: u32,
    providers: Vec<Record>,
}

impl Document {
    fn of(providers: Vec<Record>) -> Self {
        Self {
            schema: SCHEMA,
            providers,
        }
    }
}

/// What must change for a provider to be another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Circumstances {
    driver: Option<String>,
    devices: Vec<String>,
    onnxruntime: String,
    library: String,
}

impl Circumstances {
    /// As they are now; without a library there are none.
    fn of(provider: Provider) -> Self {
        let (mut onnxruntime, mut libraries) = (String::new(), Vec::new());
        if let Ok(used) = library::in_use() {
            (onnxruntime, libraries) = (used.version, vec![used.identity]);
            // What a store has for CUDA has CUDA with it.
            if provider == Provider::Cuda && !matches!(used.library, Library::Cuda { .. }) {
                libraries.extend(system_libraries::identity());
            }
        }
        Self {
            driver: driver::version(provider),
            devices: driver::devices(provider),
            onnxruntime,
            library: libraries.join(", "),
        }
    }

    fn are_those_of(&self, record: &Record) -> bool {
        self.driver == record.driver
            && self.devices == record.devices
            && record.gptoss == VERSION
            && self.onnxruntime == record.onnxruntime
            && self.library == record.library
    }
}

/// The file, or none: then nothing is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quarantine {
    file: Option<PathBuf>,
    /// Whether it may not be changed.
    fixed: bool,
}

/// When a file was changed, to notice that it is again.
pub type Stamp = Option<(SystemTime, u64)>;

impl Quarantine {
    /// Of the machine's daemon.
    pub fn of_machine() -> Self {
        // systemd names several with colons; ours is one.
        let named = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        let named = named.filter(|folder| folder.is_absolute());
        Self::in_folder(&named.unwrap_or_else(|| MACHINE_FOLDER.into()))
    }

    /// Of this user's own daemon. Without a home nothing is kept.
    pub fn of_user() -> Self {
        let folder = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let states = folder("XDG_STATE_HOME");
        let states = states.or_else(|| Some(folder("HOME")?.join(".local/state")));
        states.map_or_else(Self::default, |states| {
            Self::in_folder(&states.join("gptoss"))
        })
    }

    /// In this folder, which is made when there is something to keep.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            file: Some(folder.join(FILE)),
            fixed: false,
        }
    }

    /// The same, only to be looked at.
    pub fn read_only(self) -> Self {
        Self {
            fixed: true,
            ..self
        }
    }

    /// The file, if there may be one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// When the file was changed.
    pub fn stamp(&self) -> Stamp {
        let metadata = self.file()?.symlink_metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.ino()))
    }

    /// What is in the file.
    ///
    /// # Errors
    /// In a sentence, why nothing in it counts.
    pub fn read(&self) -> Result<Vec<Record>, String> {
        let Some(file) = self.file() else {
            return Ok(Vec::new());
        };
        let opened = match open_trusted(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("{} is ignored: {error}", file.display())),
        };
        read_records(opened).map_err(|why| format!("{} is ignored: {why}", file.display()))
    }

    /// What is in the file; why nothing counts goes to the log.
    fn records(&self) -> Vec<Record> {
        self.read().unwrap_or_else(|why| {
            tracing::warn!("{why}");
            Vec::new()
        })
    }

    /// The record that keeps a provider from being tried now.
    pub fn holds(&self, provider: Provider) -> Option<Record> {
        // The processor is what is left when nothing else works.
        if provider == Provider::Cpu {
            return None;
        }
        let name = provider.to_string();
        let now = Circumstances::of(provider);
        let mut records = self.records().into_iter();
        records.find(|record| record.provider == name && now.are_those_of(record))
    }

    /// Keeps a provider from being tried until something changes.
    pub(super) fn put(&self, provider: Provider, reason: &str) {
        if provider == Provider::Cpu || self.fixed {
            return;
        }
        self.add(Record::now(provider, reason));
    }

    pub(super) fn add(&self, record: Record) {
        let (provider, reason) = (&record.provider, &record.reason);
        tracing::warn!(provider, reason, "execution provider quarantined");
        let mut records = self.records();
        records.retain(|other| other.provider != record.provider);
        records.truncate(MOST - 1);
        records.push(record);
        self.keep(records);
    }

    /// Lets a provider be tried again, since it works.
    pub(super) fn release(&self, provider: Provider) {
        let name = provider.to_string();
        let mut records = self.records();
        let before = records.len();
        records.retain(|record| record.provider != name);
        if records.len() < before && !self.fixed {
            self.keep(records);
        }
    }

    /// Replaces the file. Where that may not be, what was learnt is forgotten.
    fn keep(&self, providers: Vec<Record>) {
        let Some(file) = self.file() else { return };
        let document = Document::of(providers);
        let folder = file.parent().unwrap_or(Path::new("/"));
        let replaced = written(folder, &document).and_then(|next| Ok(next.persist(file)?));
        if let Err(error) = replaced {
            tracing::warn!("{} cannot be written: {error}", file.display());
        }
    }
}

/// Opens a file, if it is one, of a length that it can have, and of somebody who may say
/// what we do.
fn open_trusted(path: &Path) -> io::Result<File> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return refused("it is no file of ours");
    }
    // In a folder that others may write to, too, it could be anybody's.
    let folder = path.parent().map(fs::metadata).transpose()?;
    let ours = rustix::process::geteuid().as_raw();
    let trusted = [Some(0), Some(ours), folder.map(|folder| folder.uid())];
    if !trusted.contains(&Some(metadata.uid())) {
        return refused("it belongs to another user");
    }
    Ok(file)
}

/// The records in a file that was opened so.
fn read_records(file: File) -> Result<Vec<Record>, String> {
    let mut bytes = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Vec<Record>, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if document.schema != SCHEMA {
        return Err(format!("its schema is {}, not {SCHEMA}", document.schema));
    }
    if document.providers.len() > MOST {
        return Err(format!("it has more than {MOST} records"));
    }
    // These are shown to people, and may be anybody's.
    let clean = |record: Record| Record {
        provider: one_line(&record.provider),
        since: one_line(&record.since),
        reason: one_line(&record.reason),
        ..record
    };
    Ok(document.providers.into_iter().map(clean).collect())
}

/// The document in a new file, complete and synced, which is not yet where it belongs.
fn written(folder: &Path, document: &Document) -> io::Result<NamedTempFile> {
    create_directory(folder).map_err(|error| io::Error::other(error.to_string()))?;
    let mut next = NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut next, document)?;
    next.write_all(b"\n")?;
    // Whoever asks `gptoss-ctl doctor` may read it.
    let mode = fs::Permissions::from_mode(FILE_MODE);
    next.as_file().set_permissions(mode)?;
    next.as_file().sync_all()?;
    Ok(next)
}

/// Text from outside as one line of a bounded length, which no terminal obeys.
pub(super) fn one_line(text: &str) -> String {
    let printable = text.replace(|c: char| c.is_control(), " ");
    let words: Vec<_> = printable.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn quarantine() -> (tempfile::TempDir, Quarantine) {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::in_folder(&folder.path().join("state"));
        (folder, quarantine)
    }

    /// Writes the file as `change` makes it of one with a record for CUDA.
    fn altered(change: impl Fn(&str) -> String) -> (tempfile::TempDir, Quarantine) {
        let (folder, quarantine) = quarantine();
        quarantine.put(Provider::Cuda, "it crashed");
        let file = quarantine.file().unwrap();
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, change(&text)).unwrap();
        (folder, quarantine)
    }

    #[test]
    fn a_provider_stays_until_it_works() {
        let (_folder, quarantine) = quarantine();
        assert_eq!(quarantine.holds(Provider::Cuda), None);
        assert_eq!(quarantine.stamp(), None);
        quarantine.put(Provider::Cuda, "it crashed");
        let record = quarantine.holds(Provider::Cuda).unwrap();
        assert_eq!(record.reason, "it crashed");
        let mode = quarantine.file().unwrap().metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(quarantine.holds(Provider::CoreMl), None);
        // Another daemon, or the next one.
        let other = Quarantine::in_folder(quarantine.file().unwrap().parent().unwrap());
        assert!(other.holds(Provider::Cuda).is_some());
        let before = quarantine.stamp();
        quarantine.put(Provider::Cuda, "it hung");
        assert_ne!(quarantine.stamp(), before);
        assert_eq!(quarantine.read().unwrap().len(), 1);
        quarantine.release(Provider::Cuda);
        assert_eq!(other.holds(Provider::Cuda), None);
    }

    #[test]
    fn another_driver_device_or_program_is_another_matter() {
        for (key, another) in [
            ("driver", json!("another")),
            ("devices", json!(["another"])),
            ("onnxruntime", json!("another")),
            ("library", json!("another")),
            ("gptoss", json!("another")),
            // Of a version that did not say.
            ("gptoss", json!("")),
        ] {
            let (_folder, quarantine) = altered(|text| {
                let mut document: serde_json::Value = serde_json::from_str(text).unwrap();
                document["providers"][0][key] = another.clone();
                document.to_string()
            });
            assert_eq!(quarantine.holds(Provider::Cuda), None, "{key}");
            // It is still told of.
            assert_eq!(quarantine.read().unwrap().len(), 1);
        }
    }

    #[test]
    fn the_processor_is_never_in_it() {
        let (_folder, quarantine) = altered(|text| text.replace("cuda", "cpu"));
        assert_eq!(quarantine.holds(Provider::Cpu), None);
        quarantine.put(Provider::Cpu, "it crashed");
        assert_eq!(quarantine.read().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_does_nothing() {
        for (change, told) in [
            ("".to_owned(), "EOF"),
            ("{\"schema\": 1}".to_owned(), "providers"),
            ("{\"schema\": 2, \"providers\": []}".to_owned(), "schema"),
            ("x".repeat(LARGEST as usize + 1), "no file of ours"),
        ] {
            let (_folder, quarantine) = altered(|_| change.clone());
            assert_eq!(quarantine.holds(Provider::Cuda), None);
            let why = quarantine.read().unwrap_err();
            assert!(why.contains(told) && why.contains("is ignored"), "{why}");
            // And is replaced where there is something to say.
            quarantine.put(Provider::Cuda, "it hung");
            assert!(quarantine.holds(Provider::Cuda).is_some());
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let (folder, quarantine) = altered(str::to_owned);
        let file = quarantine.file().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file).unwrap();
        assert!(quarantine.read().is_err());
        quarantine.put(Provider::Cuda, "it hung");
        assert!(!file.is_symlink());
        assert!(fs::read_to_string(elsewhere).unwrap().contains("crashed"));
    }

    #[test]
    fn only_to_be_looked_at_it_does_not_change() {
        let (_folder, quarantine) = quarantine();
        quarantine.clone().read_only().put(Provider::Cuda, "x");
        assert_eq!(quarantine.stamp(), None);
        quarantine.put(Provider::Cuda, "it crashed");
        quarantine.clone().read_only().release(Provider::Cuda);
        assert!(quarantine.holds(Provider::Cuda).is_some());
        // Nor is it an error where there is no place for it.
        Quarantine::default().put(Provider::Cuda, "x");
        Quarantine::in_folder(Path::new("/proc/nowhere")).put(Provider::Cuda, "x");
    }

    proptest! {
        #[test]
        fn no_terminal_obeys_what_is_in_it(text in "(?s).{0,700}") {
            let line = one_line(&text);
            prop_assert!(!line.contains(char::is_control));
            prop_assert!(line.chars().count() <= LONGEST + 1);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
