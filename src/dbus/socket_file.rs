//! The daemon's own socket in the file system.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not say where.
    #[error("the socket's path {} does not begin with /", .0.display())]
    Relative(PathBuf),
    /// Others could put their own socket in its place.
    #[error(
        "{} is no folder for a socket: {why}; name one of your own, or one that is not there yet",
        .folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A daemon that lives has it.
    #[error("another gptossd listens on {}; stop it, or name another socket", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket; remove it, or name another path", .0.display())]
    NoSocket(PathBuf),
    /// The operating system refused.
    #[error("cannot listen on {}: {source}", .path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

/// A socket that this process listens on:
///
/// ```text
/// FOLDER             0700, made where it is missing
/// FOLDER/NAME        0600, the socket; gone when this is dropped
/// FOLDER/NAME.lock   0600, empty; locked for as long, and left behind
/// ```
///
/// Who holds the lock may replace the socket, which one that died leaves there. The
/// kernel gives the lock back whatever becomes of its holder.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of our socket.
    identity: (u64, u64),
    _lock: File,
}

impl SocketFile {
    /// Listens on `path`, in place of a daemon that died.
    ///
    /// # Errors
    /// Its folder is open to others, somebody listens there, or the operating
    /// system's.
    pub fn listen(path: &Path) -> Result<(SocketFile, UnixListener), SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = match path.parent() {
            Some(folder) if path.is_absolute() => folder,
            _ => return Err(SocketError::Relative(path.to_owned())),
        };
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        make.create(folder).map_err(failed)?;
        check_folder(folder)?;
        let lock = lock(path)?;
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Nobody but us may have connected before: who does is asked who they are.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        let socket = SocketFile {
            identity: identity(path).map_err(failed)?,
            path: path.to_owned(),
            _lock: lock,
        };
        Ok((socket, listener))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put something else there.
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether the folder is ours, or root's, and nobody else may write to it.
fn check_folder(folder: &Path) -> Result<(), SocketError> {
    let wrong = |why: String| SocketError::Folder {
        folder: folder.to_owned(),
        why,
    };
    let metadata = std::fs::metadata(folder).map_err(|e| wrong(e.to_string()))?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(wrong("it is a file".into()));
    }
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(wrong(format!("it belongs to user {}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(wrong(format!("others may write to it (mode {mode:o})")));
    }
    Ok(())
}

/// Locks the file beside the socket.
fn lock(path: &Path) -> Result<File, SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(name).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::Taken(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Another program's has no lock of ours. Only what is refused is known to be dead:
    // one for datagrams, or one that we may not connect to, may well be alive.
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/socket");
        let (socket, listener) = SocketFile::listen(&path).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).unwrap();
        let second = SocketFile::listen(&path);
        assert!(matches!(second, Err(SocketError::Taken(_))), "{second:?}");
        drop((socket, listener));
        assert!(!path.exists());
        SocketFile::listen(&path).unwrap();
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_living_programs_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let other = UnixListener::bind(&path).unwrap();
        let taken = SocketFile::listen(&path).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
        drop(other);
        assert!(path.exists(), "a socket stays when its program ends");
        let (socket, _listener) = SocketFile::listen(&path).unwrap();
        // What is not ours is left alone.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        drop(socket);
        assert!(path.exists());
        let error = SocketFile::listen(&path).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket(_)), "{error}");
    }

    #[test]
    fn a_living_programs_socket_of_another_kind_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let datagrams = UnixDatagram::bind(&path).unwrap();
        let error = SocketFile::listen(&path).unwrap_err();
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"x", &path)
            .unwrap();
        assert_eq!(datagrams.recv(&mut [0; 8]).unwrap(), 1);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = SocketFile::listen(&folder.path().join("socket")).unwrap_err();
        assert!(error.to_string().contains("mode 1777"), "{error}");
        let error = SocketFile::listen(Path::new("here/socket")).unwrap_err();
        assert!(matches!(error, SocketError::Relative(_)), "{error}");
    }
}
