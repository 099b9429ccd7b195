//! The build for CUDA that `gptoss-ctl runtime install --cuda` put into a store.
//!
//! ```text
//! <store>/runtime/cuda-1.31.1/
//! ├── libonnxruntime.so.1.31.1
//! ├── libonnxruntime_providers_cuda.so      opened by the library above, beside itself
//! ├── libonnxruntime_providers_shared.so
//! ├── libcudart.so.13, libcublas.so.13, …   NVIDIA's, which the provider needs by name
//! └── …-LICENSE…
//! ```
//!
//! It cannot be one copy in memory, as [`carried`](super::carried) has it: its
//! libraries open each other by path, and they have gigabytes. So nobody else may be
//! able to change them: the folder and each file in it must belong to root or to this
//! user, and nobody else may write to them. The folder is opened once and everything
//! in it by that handle, so that it does not matter who may rename the folders above.
//! Then each file's SHA-256 is proven against the digest inside this program, which
//! finds what a disk, not a person, has changed.
//!
//! What the provider needs is loaded before ONNX Runtime opens it: a library is found
//! by its name where one of that name is loaded already, and no `LD_LIBRARY_PATH` has
//! a say in which. Each is opened by a handle of its own: cuDNN looks for what it needs
//! in `$ORIGIN/../../cublas/lib` as well, which from the folder would be a place in the
//! store that others may fill; from `/proc/self/fd/N` it is none.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, lstat, openat};

use super::error::RuntimeError;
use super::wheels::{Build, Kind};
use crate::model::{FileEntry, sha256_read};

/// Threads that prove files at once, at most: beyond, memory is what limits them.
const THREADS: usize = 8;

/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: Mode = Mode::WGRP.union(Mode::WOTH);

/// Where a store keeps this machine's; none where no build is pinned for it.
pub fn folder(store: &Path) -> Option<PathBuf> {
    Build::here(Kind::Cuda).map(|build| build.folder(store))
}

/// Proves that a folder holds a build, and that nobody else can change it.
///
/// # Errors
/// [`RuntimeError::Untrusted`], [`RuntimeError::NotPinned`].
pub fn verify(folder: &Path, build: &Build) -> Result<(), RuntimeError> {
    Proven::open(folder, build).map(|_| ())
}

/// Whether nobody but root and this user can change a folder.
pub fn is_ours(folder: &Path) -> bool {
    lstat(folder).is_ok_and(|stat| only_ours(&stat, folder).is_ok())
}

/// A folder whose files were proven and which only root and this user can change.
#[derive(Debug)]
pub(super) struct Proven {
    folder: OwnedFd,
    /// They stay loaded as long as this lives, each with the handle it was opened by:
    /// the loader takes the same path for the same library.
    needed: Vec<(libloading::Library, OwnedFd)>,
}

impl Proven {
    /// Opens and proves the folder at `path`.
    pub(super) fn open(path: &Path, build: &Build) -> Result<Self, RuntimeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let not_there = |error: rustix::io::Errno| wrong(path, error.to_string());
        let folder = openat(CWD, path, flags, Mode::empty()).map_err(not_there)?;
        let stat = fstat(&folder).map_err(not_there)?;
        only_ours(&stat, path)?;
        prove_all(&folder, path, build)?;
        Ok(Self {
            folder,
            needed: Vec::new(),
        })
    }

    /// A path by which the loader opens one of its files, whatever becomes of the
    /// folders above.
    pub(super) fn path_of(&self, file: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{file}", self.folder.as_raw_fd()).into()
    }

    /// Loads everything that ONNX Runtime's providers need. What does not load is told
    /// again, better, by the provider that lacks it.
    pub(super) fn load_needed(&mut self, build: &Build) {
        for file in build.files().filter(|file| is_needed(&file.path)) {
            let loaded = open(&self.folder, &file.path)
                .map_err(|error| error.to_string())
                .and_then(|file| {
                    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                    // SAFETY: opening runs the library's initialisers; its bytes were
                    // proven to be those that NVIDIA publishes, and nobody else can
                    // change them.
                    let library = unsafe { libloading::Library::new(path) };
                    Ok((library.map_err(|error| error.to_string())?, file))
                });
            match loaded {
                Ok(loaded) => self.needed.push(loaded),
                Err(error) => tracing::warn!(library = file.path, error, "not loaded"),
            }
        }
    }
}

/// Opens a file of the folder, and no link: no pipe is waited for.
fn open(folder: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// Whether a file is a library that ONNX Runtime does not open itself.
fn is_needed(name: &str) -> bool {
    name.contains(".so") && !name.starts_with("libonnxruntime")
}

fn wrong(path: &Path, why: impl Into<String>) -> RuntimeError {
    RuntimeError::NotPinned {
        path: path.to_owned(),
        why: why.into(),
    }
}

/// Refuses what others than root and this user own or may write.
fn only_ours(stat: &Stat, path: &Path) -> Result<(), RuntimeError> {
    let us = rustix::process::geteuid().as_raw();
    let untrusted = |why: String| RuntimeError::Untrusted {
        path: path.to_owned(),
        why,
    };
    if stat.st_uid != 0 && stat.st_uid != us {
        let owner = stat.st_uid;
        let why = format!("it belongs to user {owner}, and this is user {us}");
        return Err(untrusted(why));
    }
    // With an access control list, the bits of the group are the most it gives.
    let mode = Mode::from_raw_mode(stat.st_mode);
    match mode.intersects(OTHERS_WRITE) {
        false => Ok(()),
        true => Err(untrusted(format!("it has mode {:04o}", mode.as_raw_mode()))),
    }
}

/// Proves every file, the largest first, several at once.
fn prove_all(folder: &OwnedFd, path: &Path, build: &Build) -> Result<(), RuntimeError> {
    let mut files: Vec<&FileEntry> = build.files().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.size));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), RuntimeError> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            prove(folder, &path.join(&file.path), file)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.min(THREADS).min(files.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut result = work();
        for worker in workers {
            let panicked = |_| Err(wrong(path, "proving it panicked"));
            result = result.and(worker.join().unwrap_or_else(panicked));
        }
        result
    })
}

fn prove(folder: &OwnedFd, path: &Path, file: &FileEntry) -> Result<(), RuntimeError> {
    let opened = open(folder, &file.path);
    let opened = opened.map_err(|error| wrong(path, error.to_string()))?;
    let stat = fstat(&opened).map_err(|error| wrong(path, error.to_string()))?;
    only_ours(&stat, path)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || u64::try_from(stat.st_size) != Ok(file.size) {
        return Err(wrong(path, format!("it is no file of {} bytes", file.size)));
    }
    let read = sha256_read(&mut File::from(opened), |_| ());
    match read {
        Ok((_, found)) if found == file.sha256 => Ok(()),
        Ok((_, found)) => Err(wrong(path, format!("its SHA-256 is {found}"))),
        Err(error) => Err(wrong(path, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::model::sha256_bytes;

    /// A build of three files, and a folder with it.
    fn installed() -> (tempfile::TempDir, PathBuf, Build) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cuda-1.0");
        fs::create_dir(&folder).unwrap();
        set(&folder, 0o755);
        let mut table = format!(
            "build cuda linux-x86_64 1.0\nwheel {} 1 a.whl a 1.0 MIT\n",
            "0".repeat(64)
        );
        for (name, bytes) in [
            ("libcudart.so.13", "a"),
            ("liba.so", "bb"),
            ("LICENSE", "ccc"),
        ] {
            fs::write(folder.join(name), bytes).unwrap();
            set(&folder.join(name), 0o644);
            let digest = sha256_bytes(bytes.as_bytes());
            table += &format!("member {digest} {} {name} x/{name}\n", bytes.len());
        }
        let build = Build::read(&table).unwrap().remove(0);
        (dir, folder, build)
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(folder: &Path, build: &Build) -> String {
        verify(folder, build).unwrap_err().to_string()
    }

    #[test]
    fn what_is_whole_and_ours_is_taken() {
        let (_dir, folder, build) = installed();
        verify(&folder, &build).unwrap();
        let proven = Proven::open(&folder, &build).unwrap();
        // The folder's name leads elsewhere now, and the handle does not.
        let moved = folder.with_file_name("moved");
        fs::rename(&folder, &moved).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("liba.so"), "evil").unwrap();
        assert_eq!(fs::read(proven.path_of("liba.so")).unwrap(), b"bb");
    }

    #[test]
    fn what_others_may_write_is_refused() {
        for mode in [0o775, 0o757, 0o777] {
            let (_dir, folder, build) = installed();
            set(&folder, mode);
            let why = refused(&folder, &build);
            assert!(why.contains(&format!("mode {mode:04o}")), "{why}");
        }
        for mode in [0o664, 0o646] {
            let (_dir, folder, build) = installed();
            set(&folder.join("liba.so"), mode);
            let why = refused(&folder, &build);
            assert!(
                why.contains("liba.so") && why.contains("runtime install --cuda"),
                "{why}"
            );
        }
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let (_dir, folder, build) = installed();
        let mut stat = fstat(File::open(&folder).unwrap()).unwrap();
        only_ours(&stat, &folder).unwrap();
        stat.st_uid = 0;
        only_ours(&stat, &folder).unwrap();
        stat.st_uid = rustix::process::geteuid().as_raw() + 4711;
        let error = only_ours(&stat, &folder).unwrap_err();
        assert!(matches!(error, RuntimeError::Untrusted { .. }), "{error}");
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tried on the disk: this user gives nothing away");
            return;
        }
        for path in [folder.clone(), folder.join("LICENSE")] {
            std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
            let why = refused(&folder, &build);
            assert!(why.contains("user 4711"), "{why}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        verify(&folder, &build).unwrap();
    }

    #[test]
    fn other_bytes_are_refused() {
        type Spoil = fn(&Path);
        let spoilers: [(Spoil, &str); 6] = [
            (|f| fs::write(f.join("liba.so"), "bx").unwrap(), "SHA-256"),
            (|f| fs::write(f.join("liba.so"), "b").unwrap(), "2 bytes"),
            (|f| fs::remove_file(f.join("LICENSE")).unwrap(), "LICENSE"),
            (
                |f| {
                    fs::remove_file(f.join("LICENSE")).unwrap();
                    fs::create_dir(f.join("LICENSE")).unwrap();
                    set(&f.join("LICENSE"), 0o755);
                },
                "no file of",
            ),
            (
                |f| {
                    fs::rename(f.join("liba.so"), f.join("other")).unwrap();
                    symlink("other", f.join("liba.so")).unwrap();
                },
                "liba.so",
            ),
            (|f| fs::remove_dir_all(f).unwrap(), "cuda-1.0"),
        ];
        for (spoil, word) in spoilers {
            let (_dir, folder, build) = installed();
            spoil(&folder);
            let why = refused(&folder, &build);
            assert!(why.contains(word) && why.contains("not loaded"), "{why}");
        }
        // Nor is a link to a folder that would do.
        let (dir, folder, build) = installed();
        let link = dir.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(verify(&link, &build).is_err());
    }

    #[test]
    fn onnx_runtime_opens_its_own_libraries_itself() {
        assert!(is_needed("libcudart.so.13"));
        for other in [
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_cuda.so",
            "a-LICENSE.txt",
        ] {
            assert!(!is_needed(other), "{other}");
        }
    }
}
