//! Members of a wheel, by the names that are known before.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::fetch::FetchError;
use crate::model::incoming::{Begun, CopyError, Partial, Progress, Wanted, begin};
use crate::model::{FileEntry, StoreError, sha256_read};
use crate::runtime::wheels::Member;

/// An open wheel.
pub(super) struct Archive {
    name: String,
    path: PathBuf,
    zip: ZipArchive<File>,
}

impl Archive {
    /// Opens a wheel in a folder that was proven as it came there.
    pub(super) fn open(folder: &Path, wheel: &FileEntry) -> Result<Self, FetchError> {
        let file = open(folder, wheel)?;
        Self::of(folder, wheel, file)
    }

    /// Opens a wheel in a folder and proves it: who reads a list of files that anybody
    /// made may read for long.
    pub(super) fn prove(
        folder: &Path,
        wheel: &FileEntry,
        progress: &dyn Progress,
    ) -> Result<Self, FetchError> {
        let mut file = open(folder, wheel)?;
        progress.checking(&wheel.path, wheel.size);
        let mut read = 0;
        let digest = sha256_read(&mut file, |bytes| {
            read += bytes;
            progress.position(&wheel.path, read);
        });
        let path = folder.join(&wheel.path);
        let (_, found) = digest.map_err(StoreError::io("read", &path))?;
        if found != wheel.sha256 {
            let why = format!("its SHA-256 is {found} and must be {}", wheel.sha256);
            return Err(wrong_wheel(folder, wheel, why));
        }
        file.rewind().map_err(StoreError::io("read", &path))?;
        progress.proven(&wheel.path);
        Self::of(folder, wheel, file)
    }

    fn of(folder: &Path, wheel: &FileEntry, file: File) -> Result<Self, FetchError> {
        let zip = ZipArchive::new(file);
        Ok(Self {
            name: wheel.path.clone(),
            path: folder.join(&wheel.path),
            zip: zip.map_err(|error| wrong_wheel(folder, wheel, error.to_string()))?,
        })
    }

    /// Takes a member out into `dir` and proves it there.
    pub(super) fn unpack(
        &mut self,
        member: &Member,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let wanted = Wanted::from(&member.file);
        let mut part = match begin(dir, &wanted)? {
            Begun::Proven(_) => return Ok(()),
            Begun::Part(part) => part,
        };
        // Unpacking cannot go on in the middle.
        part.restart()?;
        let unpacked = self.fill(&mut part, member, progress);
        if let Err(FetchError::WrongCopy { .. }) = &unpacked {
            part.delete()?;
        }
        unpacked?;
        progress.proven(&member.file.path);
        Ok(())
    }

    fn fill(
        &mut self,
        part: &mut Partial,
        member: &Member,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let (file, name) = (&member.file, &self.name);
        let wrong = |why: String| FetchError::WrongCopy {
            path: member.inside.clone(),
            place: name.clone(),
            why,
        };
        let entry = self.zip.by_name(&member.inside);
        let mut entry = entry.map_err(|error| match error {
            ZipError::FileNotFound => wrong("it is not there".into()),
            error => wrong(error.to_string()),
        })?;
        if !entry.is_file() || entry.is_symlink() {
            return Err(wrong("it is no regular file".into()));
        }
        if entry.size() != file.size {
            let why = format!("it has {} bytes and must have {}", entry.size(), file.size);
            return Err(wrong(why));
        }
        // No more than that is read, whatever comes.
        let filled = part.fill(&mut entry, &mut |n| progress.position(&file.path, n));
        filled.map_err(|error| match error {
            CopyError::Write(error) => error.into(),
            CopyError::Read(error) if is_damage(&error) => wrong(error.to_string()),
            CopyError::Read(error) => StoreError::io("read", &self.path)(error).into(),
        })?;
        if part.missing() > 0 {
            return Err(wrong(format!("{} bytes are missing", part.missing())));
        }
        part.check().map_err(wrong)?;
        Ok(part.complete()?)
    }
}

/// Whether what was read makes no sense, and not the reading failed.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::UnexpectedEof
            | ErrorKind::Other
    )
}

/// Opens a regular file of the wheel's name and size: no pipe is waited for.
fn open(folder: &Path, wheel: &FileEntry) -> Result<File, FetchError> {
    let path = folder.join(&wheel.path);
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(&path)
        .map_err(StoreError::io("read", &path))?;
    let metadata = file.metadata().map_err(StoreError::io("read", &path))?;
    if !metadata.is_file() {
        return Err(wrong_wheel(folder, wheel, "it is no regular file".into()));
    }
    match metadata.len() {
        size if size == wheel.size => Ok(file),
        size => {
            let why = format!("it has {size} bytes and must have {}", wheel.size);
            Err(wrong_wheel(folder, wheel, why))
        }
    }
}

fn wrong_wheel(folder: &Path, wheel: &FileEntry, why: String) -> FetchError {
    FetchError::WrongCopy {
        path: wheel.path.clone(),
        place: folder.display().to_string(),
        why,
    }
}
