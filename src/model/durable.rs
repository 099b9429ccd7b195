//! Files that survive a power cut: created with fixed modes, flushed, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::StoreError;

/// Mode of every file in the store, whatever the umask.
pub const FILE_MODE: u32 = 0o644;
/// Mode of every folder in the store.
pub const DIRECTORY_MODE: u32 = 0o755;

/// Opens a file for writing without truncating it; creates it with [`FILE_MODE`].
///
/// A symbolic link in its place is not followed.
///
/// # Errors
/// The system's.
pub fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Creates a folder and its missing parents with [`DIRECTORY_MODE`].
///
/// # Errors
/// [`StoreError::Io`].
pub fn create_directory(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(StoreError::io("create the folder", path))
}

/// Flushes a folder's entries to the disk.
///
/// # Errors
/// [`StoreError::Io`].
pub fn fsync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(StoreError::io("flush", path))
}

/// Flushes a file's bytes to the disk and gives it [`FILE_MODE`].
///
/// A symbolic link in its place is not followed: what it leads to has a mode of its own.
///
/// # Errors
/// [`StoreError::Io`].
pub fn fsync_path(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .and_then(|file| {
            file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
            file.sync_all()
        })
        .map_err(StoreError::io("flush", path))
}

/// Replaces a file as a whole: readers see the old bytes or the new ones.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    // What a crash left there belongs to nobody.
    let _ = fs::remove_file(&fresh);
    create_file(&fresh)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|error| {
            let _ = fs::remove_file(&fresh);
            StoreError::io("write", path)(error)
        })?;
    fsync_directory(folder)
}

/// Whether an error, or what caused it, is a full disk, a quota or a size limit.
pub fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let full = matches!(
                io.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            );
            if full {
                return true;
            }
            // An `io::Error` around another error shows that one only here.
            if let Some(inner) = io.get_ref()
                && is_no_space(inner)
            {
                return true;
            }
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_through_layers() {
        let full = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        assert!(is_no_space(&full()));
        assert!(is_no_space(&io::Error::other(full())));
        assert!(is_no_space(
            &StoreError::io("write", Path::new("x"))(full())
        ));
        let quota = io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
        assert!(is_no_space(&quota));
        assert!(!is_no_space(&io::Error::from(io::ErrorKind::NotFound)));
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("link")).unwrap();
        assert!(create_file(&dir.path().join("link")).is_err());
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(fsync_path(&dir.path().join("link")).is_err());
        let mode = victim.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
