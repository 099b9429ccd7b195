//! What a bundle lies on: a folder, a tar file, or a tar file in pieces.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::BundleError;
use super::archive::{Archive, Member};
use super::oci::Digest;
use super::pieces::{self, Pieces};
use crate::platform;

/// The file by which an OCI image layout is known.
pub(super) const LAYOUT_FILE: &str = "oci-layout";
/// The image index.
pub(super) const INDEX_FILE: &str = "index.json";

/// Where a blob is in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a regular file and nothing else: no link is followed, no pipe waited for.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidData`] for what is there and is no file.
pub(super) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .and_then(|file| file.metadata().map(|m| (file, m)));
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match opened {
        Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
        Ok(_) => refuse("it is no regular file"),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            refuse("it is a link")
        }
        Err(e) => Err(e),
    }
}

/// [`open_regular`] of a part of a bundle.
pub(super) fn open_part(path: &Path) -> Result<(File, u64), BundleError> {
    open_regular(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => BundleError::malformed(format!("{}: {e}", path.display())),
        _ => BundleError::io("read", path)(e),
    })
}

/// An open bundle's bytes.
pub(super) enum Media {
    /// An OCI image layout as a folder.
    Folder(PathBuf),
    /// One in a tar file.
    Tar(Archive),
}

/// A blob's bytes, wherever they are.
pub(super) enum Blob<'a> {
    File {
        path: PathBuf,
        file: File,
        size: u64,
    },
    Member {
        archive: &'a Archive,
        member: Member,
    },
}

impl Media {
    /// Opens `path`: a folder, a tar file, or `PATH.000` and its fellows.
    pub(super) fn open(path: &Path) -> Result<Self, BundleError> {
        let path = pieces::whole_of(path).unwrap_or_else(|| path.to_owned());
        match fs::metadata(&path) {
            Ok(m) if m.is_dir() => Ok(Self::Folder(path)),
            _ => Ok(Self::Tar(Archive::open(Pieces::open(&path)?)?)),
        }
    }

    /// Whether `path` looks like a bundle and not like a checkpoint's folder.
    pub(super) fn is_at(path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => path.join(LAYOUT_FILE).exists(),
            Ok(m) => m.is_file(),
            Err(_) => pieces::exist_for(path),
        }
    }

    /// A document of the layout; none where it is not there.
    pub(super) fn document(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, BundleError> {
        match self.find(name)? {
            None => Ok(None),
            Some(blob) => blob.document(name, most).map(Some),
        }
    }

    /// A blob; none where it is not there.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Blob<'_>>, BundleError> {
        self.find(&blob_name(digest))
    }

    fn find(&self, name: &str) -> Result<Option<Blob<'_>>, BundleError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                if path
                    .symlink_metadata()
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
                {
                    return Ok(None);
                }
                let (file, size) = open_part(&path)?;
                Ok(Some(Blob::File { path, file, size }))
            }
            Self::Tar(archive) => Ok(archive
                .member(name)
                .map(|member| Blob::Member { archive, member })),
        }
    }
}

impl<'a> Blob<'a> {
    /// Its size in bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Member { member, .. } => member.size,
        }
    }

    /// Where it begins on its medium: reading in this order is one pass.
    pub(super) fn place(&self) -> u64 {
        match self {
            Self::File { .. } => 0,
            Self::Member { member, .. } => member.at,
        }
    }

    /// Its bytes from one of them on.
    pub(super) fn read_from(self, from: u64) -> Result<Box<dyn Read + Send + 'a>, BundleError> {
        match self {
            Self::Member { archive, member } => Ok(Box::new(archive.section(member, from))),
            Self::File { path, mut file, .. } => {
                platform::reads_in_order(&file);
                file.seek(SeekFrom::Start(from))
                    .map_err(BundleError::io("read", &path))?;
                Ok(Box::new(file))
            }
        }
    }

    /// All of it, if it is a document of bounded size.
    pub(super) fn document(self, name: &str, most: u64) -> Result<Vec<u8>, BundleError> {
        if self.size() > most {
            return Err(BundleError::malformed(format!(
                "{name} has {} bytes, more than the {most} of any document",
                self.size()
            )));
        }
        let mut bytes = Vec::new();
        self.read_from(0)?
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(|e| BundleError::malformed(format!("{name} cannot be read: {e}")))?;
        Ok(bytes)
    }
}
