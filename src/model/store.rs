//! What is installed, and where.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::durable::{create_directory, fsync_directory};
use super::staging::{self, Lock};
use super::{
    Manifest, Staging, StoreError, check_model_name, check_revision, mounts, split_revision,
};
use crate::platform::{MACHINE_STORE, user_data_folder};

/// A folder of installed models.
///
/// ```text
/// <store>/
/// ├── models/
/// │   └── 20b/                                       name
/// │       └── 6cee5e81ee83917806bbde320786a8fb61efebee/   revision
/// │           ├── manifest.json                      every file below, with size and SHA-256
/// │           ├── config.json
/// │           ├── model-00000-of-00002.safetensors   the published bytes, mapped by the runtime
/// │           ├── …
/// │           └── cpu/                               one folder a target
/// │               ├── model.onnx
/// │               ├── dense.bin
/// │               └── experts.bin                only where the checkpoint's experts are floats
/// ├── runtime/                                       ONNX Runtime, where a bundle or `runtime
/// │   │                                              install` brought it
/// │   └── cuda-1.31.1/                               its build for CUDA, with CUDA's libraries
/// └── .staging/                                      same file system, so that a rename installs
///     ├── 20b@6cee5e81…/                             a model on its way in, kept for resuming
///     │   ├── config.json                            proven
///     │   ├── model-00000-of-00002.safetensors.part  not yet
///     │   └── .model-00000-of-….67108864.part        bytes that came before their turn
///     ├── 20b@6cee5e81….lock                         held by the process at work on it
///     └── .trash-…/                                  removed, waiting to be deleted
/// ```
///
/// A folder appears under `models/` by one rename of a complete, flushed folder
/// and leaves it by one rename: a crash at any point leaves the old state or the
/// new one. Nothing below a revision's folder is ever written in place, except
/// `manifest.json`, which is replaced as a whole.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An installed model.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Name in the store.
    pub name: String,
    /// Revision of the checkpoint.
    pub revision: String,
    /// The revision's folder.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Store {
    /// A store in `root`, which is created when something is first installed.
    ///
    /// # Errors
    /// [`StoreError::Io`] when `root` exists and is no folder.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("open the store", root))?;
        match fs::metadata(&root) {
            Ok(m) if m.is_dir() => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
        .map_err(StoreError::io("open the store", &root))?;
        Ok(Self { root })
    }

    /// Refuses a store that has no models because its disk is not there.
    ///
    /// # Errors
    /// [`StoreError::NotMounted`].
    pub fn check_disk(&self) -> Result<(), StoreError> {
        if self.models_dir().exists() {
            return Ok(());
        }
        match mounts::absent_disk(&self.root) {
            None => Ok(()),
            Some(why) => Err(StoreError::NotMounted {
                root: self.root.clone(),
                why,
            }),
        }
    }

    /// Where models are kept unless something else is asked for: `GPTOSS_STORE`;
    /// the daemon's state folder under systemd; [`Store::system_root`] for root;
    /// `$XDG_DATA_HOME/gptoss`, by default `~/.local/share/gptoss`.
    pub fn default_root() -> PathBuf {
        default_root(
            |name| std::env::var_os(name).filter(|v| !v.is_empty()),
            rustix::process::geteuid().is_root(),
        )
    }

    /// The machine's store: `GPTOSS_SYSTEM_STORE`, by default `/var/lib/gptoss`.
    pub fn system_root() -> PathBuf {
        system_root(|name| std::env::var_os(name).filter(|v| !v.is_empty()))
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every installed model, by name and then the newest first. One with a
    /// broken manifest is left out and logged; [`Store::scan`] shows it.
    pub fn models(&self) -> Vec<Installed> {
        let sound = |found: Result<Installed, StoreError>| {
            found
                .inspect_err(|error| tracing::warn!(%error, "a model in the store is unusable"))
                .ok()
        };
        let mut models: Vec<_> = self.scan().into_iter().filter_map(sound).collect();
        models.sort_by(|a, b| {
            let newest_first = || b.manifest.installed_at.cmp(&a.manifest.installed_at);
            let tie = || a.revision.cmp(&b.revision);
            a.name.cmp(&b.name).then_with(newest_first).then_with(tie)
        });
        models
    }

    /// Every revision's folder, usable or not.
    pub fn scan(&self) -> Vec<Result<Installed, StoreError>> {
        let mut found = Vec::new();
        for name in folders(&self.models_dir()) {
            if check_model_name(&name).is_err() {
                continue;
            }
            for revision in folders(&self.models_dir().join(&name)) {
                if check_revision(&revision).is_ok() {
                    found.push(self.read(&name, &revision));
                }
            }
        }
        found
    }

    fn read(&self, name: &str, revision: &str) -> Result<Installed, StoreError> {
        let dir = self.revision_dir(name, revision);
        let manifest = Manifest::read(&dir)?;
        if manifest.name != name || manifest.revision != revision {
            return Err(StoreError::BadManifest {
                path: dir.join(Manifest::FILE),
                why: format!("it is the manifest of {}", manifest.label()),
            });
        }
        Ok(Installed {
            name: name.to_owned(),
            revision: revision.to_owned(),
            dir,
            manifest,
        })
    }

    /// Finds `NAME` (its newest revision) or `NAME@REVISION`, where the
    /// beginning of a revision is enough.
    ///
    /// # Errors
    /// [`StoreError::NotInstalled`], [`StoreError::Ambiguous`], or why the only
    /// candidate cannot be used.
    pub fn find(&self, wanted: &str) -> Result<Installed, StoreError> {
        let (name, revision) = split_revision(wanted);
        check_model_name(name)?;
        let mut matching: Vec<_> = self
            .models()
            .into_iter()
            .filter(|m| m.name == name && m.revision.starts_with(revision))
            .collect();
        if let Some(exact) = matching.iter().position(|m| m.revision == revision) {
            return Ok(matching.swap_remove(exact));
        }
        if matching.len() > 1 && !revision.is_empty() {
            return Err(StoreError::Ambiguous {
                wanted: wanted.to_owned(),
                candidates: matching.iter().map(|m| m.manifest.label()).collect(),
            });
        }
        if !matching.is_empty() {
            return Ok(matching.swap_remove(0));
        }
        let broken = folders(&self.models_dir().join(name))
            .into_iter()
            .filter(|r| r.starts_with(revision) && check_revision(r).is_ok())
            .find_map(|r| self.read(name, &r).err());
        Err(broken.unwrap_or_else(|| self.not_installed(wanted)))
    }

    /// The error that tells that a model is not in this store.
    pub fn not_installed(&self, wanted: &str) -> StoreError {
        StoreError::NotInstalled {
            wanted: wanted.to_owned(),
            looked: vec![self.root.display().to_string()],
        }
    }

    /// The installed model of exactly that name and revision.
    ///
    /// # Errors
    /// Why its manifest cannot be used.
    pub fn get(&self, name: &str, revision: &str) -> Result<Option<Installed>, StoreError> {
        check_model_name(name)?;
        check_revision(revision)?;
        if !self.revision_dir(name, revision).exists() {
            return Ok(None);
        }
        self.read(name, revision).map(Some)
    }

    /// Opens the staging folder of a model, with what an interrupted attempt
    /// left there, and locks it against other processes.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another process works on it.
    pub fn stage(&self, name: &str, revision: &str) -> Result<Staging, StoreError> {
        check_model_name(name)?;
        check_revision(revision)?;
        self.create_folders()?;
        staging::empty_trash(self);
        let lock = Lock::acquire(self, &format!("{name}@{revision}"))?;
        Staging::open(self.clone(), name, revision, lock)
    }

    /// Removes an installed model.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while somebody runs it, [`StoreError::Busy`],
    /// [`StoreError::Io`].
    pub fn remove(&self, model: &Installed) -> Result<(), StoreError> {
        self.remove_revision(&model.name, &model.revision)
    }

    /// Removes a revision, usable or not, and what was staged for it.
    ///
    /// # Errors
    /// As [`Store::remove`]; [`StoreError::NotInstalled`] when neither is there.
    pub fn remove_revision(&self, name: &str, revision: &str) -> Result<(), StoreError> {
        check_model_name(name)?;
        check_revision(revision)?;
        let label = format!("{name}@{revision}");
        let installed = self.revision_dir(name, revision);
        let staged = self.staging_dir().join(&label);
        if !installed.exists() && !staged.exists() {
            return Err(self.not_installed(&label));
        }
        self.create_folders()?;
        let _lock = Lock::acquire(self, &label)?;
        if installed.exists() {
            let _claim = staging::claim(&installed, &label)?;
            staging::discard_folder(self, &installed)?;
        }
        if staged.exists() {
            staging::discard_folder(self, &staged)?;
        }
        if installed
            .parent()
            .is_some_and(|p| fs::remove_dir(p).is_ok())
        {
            fsync_directory(&self.models_dir())?;
        }
        Ok(())
    }

    /// `NAME`, `REVISION` of every model on its way in: an interrupted `pull`,
    /// or one still at work.
    pub fn staged(&self) -> Vec<(String, String)> {
        let split = |label: String| {
            let (name, revision) = split_revision(&label);
            let sound = check_model_name(name).is_ok() && check_revision(revision).is_ok();
            sound.then(|| (name.to_owned(), revision.to_owned()))
        };
        folders(&self.staging_dir())
            .into_iter()
            .filter_map(split)
            .collect()
    }

    /// What [`Staging::keep_note`] kept of models on their way in, of at most `most`
    /// bytes each. Anybody who may write to the store may have written it.
    pub fn notes(&self, most: u64) -> Vec<Vec<u8>> {
        let read = |(name, revision)| {
            let dir = self.staging_dir().join(format!("{name}@{revision}"));
            let file = File::open(dir.join(staging::NOTE_FILE)).ok()?;
            let mut note = Vec::new();
            file.take(most).read_to_end(&mut note).ok()?;
            Some(note)
        };
        self.staged().into_iter().filter_map(read).collect()
    }

    /// Names of every revision's folder of a model, usable or not.
    pub fn revisions(&self, name: &str) -> Vec<String> {
        if check_model_name(name).is_err() {
            return Vec::new();
        }
        let mut revisions = folders(&self.models_dir().join(name));
        revisions.retain(|r| check_revision(r).is_ok());
        revisions
    }

    /// Records that an installed model's bytes were proven at `when` (RFC 3339).
    ///
    /// Nothing happens when the manifest is not the one that was proven any more.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the store is read-only; [`StoreError::Busy`].
    pub fn mark_verified(&self, model: &Installed, when: &str) -> Result<(), StoreError> {
        self.create_folders()?;
        let _lock = Lock::acquire(self, &model.manifest.label())?;
        if Manifest::read(&model.dir)? != model.manifest {
            return Ok(());
        }
        let mut manifest = model.manifest.clone();
        manifest.verified_at = when.to_owned();
        manifest.write(&model.dir)
    }

    /// Creates the store's own folders.
    fn create_folders(&self) -> Result<(), StoreError> {
        create_directory(&self.models_dir())?;
        create_directory(&self.staging_dir())
    }

    pub(super) fn models_dir(&self) -> PathBuf {
        self.root.join("models")
    }

    pub(super) fn staging_dir(&self) -> PathBuf {
        self.root.join(".staging")
    }

    pub(super) fn revision_dir(&self, name: &str, revision: &str) -> PathBuf {
        self.models_dir().join(name).join(revision)
    }
}

fn default_root(variable: impl Fn(&str) -> Option<std::ffi::OsString>, is_root: bool) -> PathBuf {
    if let Some(root) = variable("GPTOSS_STORE") {
        return root.into();
    }
    if let Some(state) = variable("STATE_DIRECTORY") {
        let first = state.to_string_lossy().split(':').next().map(PathBuf::from);
        return first.unwrap_or_default();
    }
    if is_root {
        return system_root(&variable);
    }
    user_data_folder(&variable).unwrap_or_else(|| system_root(&variable))
}

fn system_root(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> PathBuf {
    variable("GPTOSS_SYSTEM_STORE").map_or_else(|| MACHINE_STORE.into(), PathBuf::from)
}

/// Names of the folders in a folder, sorted; none where it cannot be read.
fn folders(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
