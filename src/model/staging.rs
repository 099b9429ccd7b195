//! A model on its way into the store.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::durable::{
    DIRECTORY_MODE, create_directory, create_file, fsync_directory, fsync_path, write_atomically,
};
use super::{FileEntry, Installed, Manifest, Store, StoreError, check_file_name, manifest};

/// An advisory lock on one model, held by a process at work on it.
///
/// The file is removed with the lock. Whoever locks a file that was removed
/// meanwhile notices and tries again, so that two never both hold it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(super) fn acquire(store: &Store, label: &str) -> Result<Self, StoreError> {
        let path = store.staging_dir().join(format!("{label}.lock"));
        loop {
            let file = create_file(&path).map_err(StoreError::io("lock", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Busy {
                        model: label.to_owned(),
                    });
                }
                Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &path)(e)),
            }
            let ours = file.metadata().map_err(StoreError::io("lock", &path))?;
            match fs::metadata(&path) {
                Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Self { path, _file: file });
                }
                _ => continue,
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A model that somebody runs or reads: while this is held, it is not removed.
///
/// A shared lock on the revision's folder. It needs no right to write, and ends with
/// the process whatever becomes of it.
#[derive(Debug)]
pub struct InUse {
    /// None where the file system has no locks.
    _folder: Option<File>,
}

impl InUse {
    /// Holds the model whose revision's folder this is.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while it is being removed.
    pub fn hold(dir: &Path) -> Result<Self, StoreError> {
        let locked = File::open(dir).and_then(|folder| match folder.try_lock_shared() {
            Ok(()) => Ok(folder),
            Err(error) => Err(error.into()),
        });
        match locked {
            Ok(folder) => Ok(Self {
                _folder: Some(folder),
            }),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(StoreError::Busy {
                model: dir.display().to_string(),
            }),
            Err(error) => {
                tracing::info!(%error, folder = %dir.display(), "cannot be locked");
                Ok(Self { _folder: None })
            }
        }
    }

    /// Whether anybody holds the model. Who asks must not hold it as well.
    pub fn by_others(dir: &Path) -> bool {
        let locked = File::open(dir).map(|folder| folder.try_lock());
        matches!(locked, Ok(Err(TryLockError::WouldBlock)))
    }
}

/// The right to remove a revision's folder: nobody runs it, and nobody begins to.
pub(super) fn claim(dir: &Path, label: &str) -> Result<File, StoreError> {
    let folder = File::open(dir).map_err(StoreError::io("open", dir))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            model: label.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", dir)(e)),
    }
}

/// Where a staging folder keeps its note.
pub(super) const NOTE_FILE: &str = ".note.json";

/// A staging folder, locked. Dropping it keeps the folder for a later attempt.
#[derive(Debug)]
pub struct Staging {
    /// The folder: the checkpoint's files at its top, one folder a target.
    pub dir: PathBuf,
    store: Store,
    name: String,
    revision: String,
    _lock: Lock,
}

impl Staging {
    pub(super) fn open(
        store: Store,
        name: &str,
        revision: &str,
        lock: Lock,
    ) -> Result<Self, StoreError> {
        let dir = store.staging_dir().join(format!("{name}@{revision}"));
        if fs::symlink_metadata(&dir).is_ok_and(|m| !m.is_dir()) {
            fs::remove_file(&dir).map_err(StoreError::io("remove", &dir))?;
        }
        create_directory(&dir)?;
        Ok(Self {
            dir,
            store,
            name: name.to_owned(),
            revision: revision.to_owned(),
            _lock: lock,
        })
    }

    /// Writes a file of the checkpoint as a whole.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::Io`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_file_name(name)?;
        write_atomically(&self.dir.join(name), bytes)
    }

    /// Keeps a note for a later attempt, which [`Store::notes`] finds. It is not
    /// installed, and no file of a checkpoint has its name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_note(&self, bytes: &[u8]) -> Result<(), StoreError> {
        write_atomically(&self.dir.join(NOTE_FILE), bytes)
    }

    /// Empties the folder.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear(&self) -> Result<(), StoreError> {
        discard_folder(&self.store, &self.dir)?;
        create_directory(&self.dir)
    }

    /// Gives the work up: the folder is removed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn discard(self) -> Result<(), StoreError> {
        discard_folder(&self.store, &self.dir)
    }

    /// Installs the folder under the manifest's name and revision.
    ///
    /// Everything the manifest does not list is removed first; everything it
    /// lists must be there in its size, and is flushed to the disk.
    ///
    /// # Errors
    /// [`StoreError::AlreadyInstalled`], [`StoreError::Incomplete`],
    /// [`StoreError::Io`]. The store is then as it was.
    pub fn commit(self, manifest: Manifest) -> Result<Installed, StoreError> {
        self.seal(&manifest)?;
        let parent = self.store.models_dir().join(&manifest.name);
        let dir = self.store.revision_dir(&manifest.name, &manifest.revision);
        create_directory(&parent)?;
        rename_new(&self.dir, &dir).map_err(|e| match is_taken(&e) {
            true => StoreError::AlreadyInstalled {
                model: manifest.label(),
            },
            false => StoreError::io("install", &dir)(e),
        })?;
        self.flush_folders(&parent)?;
        Ok(installed(dir, manifest))
    }

    /// Installs the folder in the place of an installed model.
    ///
    /// The folder holds what is new; every other file of the manifest is taken
    /// over from the old folder by a hard link. The two folders then change
    /// places in one step, so that there is never a mixture. Where the file
    /// system cannot do that, see [`Staging::replace_in_steps`].
    ///
    /// # Errors
    /// As [`Staging::commit`].
    pub fn replace(self, old: &Installed, manifest: Manifest) -> Result<Installed, StoreError> {
        manifest.check()?;
        if !self.link_missing(old, &manifest) {
            return self.replace_in_steps(old, manifest);
        }
        self.seal(&manifest)?;
        match renameat_with(CWD, &self.dir, CWD, &old.dir, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                return self.replace_in_steps(old, manifest);
            }
            Err(e) => return Err(StoreError::io("replace", &old.dir)(e.into())),
        }
        self.flush_folders(&self.store.models_dir().join(&self.name))?;
        // What the folder holds now is the old state.
        discard_folder(&self.store, &self.dir)?;
        Ok(installed(old.dir.clone(), manifest))
    }

    /// Installs the folder as `place`, a folder of the store that holds no model, and in
    /// the place of what is there: in one step, where the file system can.
    ///
    /// `files` are proven, and all that it will hold.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::Io`]. The store is then as it was.
    pub fn commit_folder(self, place: &Path, files: &[FileEntry]) -> Result<(), StoreError> {
        let folder = self.keep_only(files)?;
        seal_folder(&folder, &self.dir)?;
        let parent = place.parent().unwrap_or(self.store.root());
        create_directory(parent)?;
        match rename_new(&self.dir, place) {
            Ok(()) => {}
            Err(e) if is_taken(&e) => self.exchange(place)?,
            Err(e) => return Err(StoreError::io("install", place)(e)),
        }
        fsync_directory(parent)?;
        fsync_directory(self.store.root())?;
        fsync_directory(&self.store.staging_dir())
    }

    /// Changes places with what is there, and removes that.
    fn exchange(&self, place: &Path) -> Result<(), StoreError> {
        if fs::symlink_metadata(place).is_ok_and(|m| !m.is_dir()) {
            fs::remove_file(place).map_err(StoreError::io("remove", place))?;
            return rename_new(&self.dir, place).map_err(StoreError::io("install", place));
        }
        match renameat_with(CWD, &self.dir, CWD, place, RenameFlags::EXCHANGE) {
            Ok(()) => discard_folder(&self.store, &self.dir),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                discard_folder(&self.store, place)?;
                rename_new(&self.dir, place).map_err(StoreError::io("install", place))
            }
            Err(e) => Err(StoreError::io("replace", place)(e.into())),
        }
    }

    /// Puts files into `folder`, a folder of the store that holds no model, beside what
    /// is there: each in one step. They are proven. What else was staged is removed.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::Io`].
    pub fn commit_files(self, folder: &Path, files: &[FileEntry]) -> Result<(), StoreError> {
        self.keep_only(files)?;
        create_directory(folder)?;
        for file in files {
            let place = folder.join(&file.path);
            fs::rename(self.dir.join(&file.path), &place)
                .map_err(StoreError::io("install", &place))?;
        }
        fsync_directory(folder)?;
        fsync_directory(self.store.root())?;
        self.discard()
    }

    /// Removes everything but these files, which must be there; they are flushed. The
    /// folder.
    fn keep_only(&self, files: &[FileEntry]) -> Result<File, StoreError> {
        let keeps = |name: &OsStr| files.iter().any(|file| name == file.path.as_str());
        let folder = remove_others(&self.store, &self.dir, keeps)?;
        files
            .iter()
            .try_for_each(|file| check_staged(&self.dir, file))?;
        Ok(folder)
    }

    /// Removes a folder of the store that holds no model from sight in one step, then
    /// deletes it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_folder(&self, folder: &Path) -> Result<(), StoreError> {
        discard_folder(&self.store, folder)
    }

    /// Gives up what brought nothing: the folder is removed if there are no bytes in it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn discard_if_empty(self) -> Result<(), StoreError> {
        let mut entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let holds =
            |entry: fs::DirEntry| entry.metadata().map_or(true, |m| m.is_dir() || m.len() > 0);
        match entries.any(holds) {
            true => Ok(()),
            false => self.discard(),
        }
    }

    /// Takes over from `old` what the folder lacks; false where links don't work.
    fn link_missing(&self, old: &Installed, manifest: &Manifest) -> bool {
        manifest.all_files().all(|entry| {
            let (from, to) = (old.dir.join(&entry.path), self.dir.join(&entry.path));
            if to.exists() {
                return true;
            }
            let parent = to.parent().map(create_directory);
            parent.is_none_or(|made| made.is_ok()) && fs::hard_link(from, to).is_ok()
        })
    }

    /// [`Staging::replace`] without exchange or hard links: first the manifest
    /// forgets the targets that change, then their folders are replaced, then
    /// the manifest names them. A crash in between leaves a sound model that
    /// lacks a target, never one with mixed files.
    pub(super) fn replace_in_steps(
        self,
        old: &Installed,
        new: Manifest,
    ) -> Result<Installed, StoreError> {
        let changed: Vec<_> = new
            .targets
            .keys()
            .filter(|t| new.targets.get(*t) != old.manifest.targets.get(*t))
            .cloned()
            .collect();
        for target in &changed {
            for entry in &new.targets[target] {
                check_staged(&self.dir, entry)?;
            }
            fsync_directory(&self.dir.join(target))?;
        }
        let mut without = new.clone();
        without.targets.retain(|t, _| !changed.contains(t));
        without.write(&old.dir)?;
        for target in &changed {
            let place = old.dir.join(target);
            if place.exists() {
                discard_folder(&self.store, &place)?;
            }
            rename_new(&self.dir.join(target), &place)
                .map_err(StoreError::io("install", &place))?;
        }
        fsync_directory(&old.dir)?;
        new.write(&old.dir)?;
        discard_folder(&self.store, &self.dir)?;
        Ok(installed(old.dir.clone(), new))
    }

    /// Removes what the manifest does not list, writes it, checks and flushes what it
    /// does list.
    fn seal(&self, manifest: &Manifest) -> Result<(), StoreError> {
        manifest.check()?;
        let folders = self.prune(manifest)?;
        manifest.write(&self.dir)?;
        for entry in manifest.all_files() {
            check_staged(&self.dir, entry)?;
        }
        folders
            .iter()
            .try_for_each(|(path, folder)| seal_folder(folder, path))
    }

    /// Removes everything the manifest does not list. Its folders.
    fn prune(&self, manifest: &Manifest) -> Result<Vec<(PathBuf, File)>, StoreError> {
        let mut keep: HashSet<PathBuf> = manifest::folders(manifest, &self.dir)
            .into_iter()
            .chain(manifest.all_files().map(|e| self.dir.join(&e.path)))
            .collect();
        keep.insert(self.dir.join(Manifest::FILE));
        let prune = |path: PathBuf| {
            let keeps = |name: &OsStr| keep.contains(&path.join(name));
            let folder = remove_others(&self.store, &path, keeps)?;
            Ok((path, folder))
        };
        let folders = manifest::folders(manifest, &self.dir).into_iter();
        folders.map(prune).collect()
    }

    fn flush_folders(&self, parent: &Path) -> Result<(), StoreError> {
        fsync_directory(parent)?;
        fsync_directory(&self.store.models_dir())?;
        fsync_directory(self.store.root())?;
        fsync_directory(&self.store.staging_dir())
    }

    #[cfg(feature = "ctl")]
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// `NAME@REVISION` this folder was opened for.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }
}

fn installed(dir: PathBuf, manifest: Manifest) -> Installed {
    Installed {
        name: manifest.name.clone(),
        revision: manifest.revision.clone(),
        dir,
        manifest,
    }
}

/// A staged file must be a regular file of its size; it is flushed.
fn check_staged(dir: &Path, entry: &FileEntry) -> Result<(), StoreError> {
    let path = dir.join(&entry.path);
    let why = match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => "it is not there".to_owned(),
        Err(e) => return Err(StoreError::io("read", &path)(e)),
        Ok(m) if !m.is_file() => "it is no regular file".to_owned(),
        Ok(m) if m.len() != entry.size => {
            format!("it has {} bytes instead of {}", m.len(), entry.size)
        }
        Ok(_) => return fsync_path(&path),
    };
    Err(StoreError::Incomplete { path, why })
}

/// Removes everything from a folder but what is to be kept. Root works in stores that
/// belong to others, who may put a link in the folder's place at any moment: the folder
/// is opened, no link, and what is removed is in it.
fn remove_others(
    store: &Store,
    path: &Path,
    keeps: impl Fn(&OsStr) -> bool,
) -> Result<File, StoreError> {
    let read = |error: Errno| StoreError::io("read", path)(error.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty()).map_err(read)?;
    // Listed before anything changes.
    let entries: Result<Vec<_>, _> = Dir::read_from(&folder).map_err(read)?.collect();
    for entry in entries.map_err(read)? {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." || keeps(name) {
            continue;
        }
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => {}
            // A folder; which of the two is the system's choice.
            Err(Errno::ISDIR | Errno::PERM) => {
                empty(&to_trash(store, folder.as_fd(), Path::new(name))?)?;
            }
            Err(error) => {
                return Err(StoreError::io("remove", &path.join(name))(error.into()));
            }
        }
    }
    Ok(File::from(folder))
}

/// Gives a folder its mode, and flushes its entries to the disk.
fn seal_folder(folder: &File, path: &Path) -> Result<(), StoreError> {
    folder
        .set_permissions(fs::Permissions::from_mode(DIRECTORY_MODE))
        .map_err(StoreError::io("set the mode of", path))?;
    folder.sync_all().map_err(StoreError::io("flush", path))
}

/// Renames to a name that must be free.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_new_from(CWD, from, to)
}

/// Renames what has the name `from` in a folder to a name that must be free.
fn rename_new_from(folder: BorrowedFd<'_>, from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(folder, from, CWD, to, RenameFlags::NOREPLACE) {
        // A plain rename of a folder refuses to replace one that is not empty.
        Err(Errno::INVAL | Errno::NOSYS) => Ok(renameat(folder, from, CWD, to)?),
        result => result.map_err(Into::into),
    }
}

/// Whether a rename failed since there is something of that name.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Removes a folder from sight in one step, then deletes it.
pub(super) fn discard_folder(store: &Store, dir: &Path) -> Result<(), StoreError> {
    let trash = to_trash(store, CWD, dir)?;
    if let Some(parent) = dir.parent() {
        fsync_directory(parent)?;
    }
    empty(&trash)
}

/// Renames what has the name `from` in a folder to where it waits to be deleted.
fn to_trash(store: &Store, folder: BorrowedFd<'_>, from: &Path) -> Result<PathBuf, StoreError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    loop {
        let trash = store.staging_dir().join(format!(
            ".trash-{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        match rename_new_from(folder, from, &trash) {
            Ok(()) => return Ok(trash),
            // A process of the same number left it.
            Err(e) if is_taken(&e) => continue,
            Err(e) => return Err(StoreError::io("remove", from)(e)),
        }
    }
}

fn empty(trash: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(trash) {
        // Another process may be emptying the trash as well.
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", trash)(e)),
        _ => Ok(()),
    }
}

/// Deletes what interrupted removals left.
pub(super) fn empty_trash(store: &Store) {
    let Ok(entries) = fs::read_dir(store.staging_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".trash-") {
            // The next attempt tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
