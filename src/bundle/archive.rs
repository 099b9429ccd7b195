//! A tar file as a table of contents: where each member's bytes are.
//!
//! Only the headers are read, so that a member is read in place and from any
//! byte on. The crate `tar` reads the header's fields; walking from one to the
//! next is done here, because what a stranger's file may make us hold or follow is
//! bounded: no links, no names that leave the folder, no name twice, few entries.
//!
//! ```text
//! header (512) │ data, padded to 512 │ header │ data │ … │ 2 × 512 zero bytes
//! ```
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block".

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use tar::{EntryType, Header, PaxExtensions};

use super::BundleError;
use super::pieces::{Pieces, Section};

const BLOCK: u64 = 512;
/// Most headers: a bundle of 120b has thirty.
const HEADERS_MAX: usize = 4096;
/// Largest extension header: names and sizes.
const EXTENSION_MAX: u64 = 64 << 10;

/// Where a member's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) at: u64,
    pub(super) size: u64,
}

/// A tar file that was looked through.
pub(super) struct Archive {
    pieces: Pieces,
    members: BTreeMap<String, Member>,
}

/// What an extension header says about the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Archive {
    /// Reads every header.
    pub(super) fn open(pieces: Pieces) -> Result<Self, BundleError> {
        let mut archive = Self {
            pieces,
            members: BTreeMap::new(),
        };
        let (mut at, mut extended) = (0, Extended::default());
        for _ in 0..HEADERS_MAX {
            let Some(header) = archive.header(at)? else {
                return Ok(archive);
            };
            at = archive.entry(&header, at + BLOCK, &mut extended)?;
        }
        Err(BundleError::malformed(format!(
            "it has more than {HEADERS_MAX} entries"
        )))
    }

    /// A member's place.
    pub(super) fn member(&self, name: &str) -> Option<Member> {
        self.members.get(name).copied()
    }

    /// A member's bytes from one of them on.
    pub(super) fn section(&self, member: Member, from: u64) -> Section<'_> {
        let end = member.at + member.size;
        self.pieces
            .section(member.at.saturating_add(from).min(end), end)
    }

    /// The header at a place; none at the end.
    fn header(&self, at: u64) -> Result<Option<Header>, BundleError> {
        let block = self.read(at, BLOCK)?;
        if block.starts_with(&[0x1f, 0x8b]) || block.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(BundleError::malformed("it is compressed: expand it first"));
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum().ok() != Some(checksum(&block)) {
            return Err(BundleError::malformed(match at {
                0 => "it is neither a tar file nor a folder with an OCI image layout".to_owned(),
                _ => format!("its tar header at byte {at} is damaged"),
            }));
        }
        Ok(Some(header))
    }

    /// Takes one entry in, whose data begin at `at`; where the next one begins.
    fn entry(
        &mut self,
        header: &Header,
        at: u64,
        extended: &mut Extended,
    ) -> Result<u64, BundleError> {
        let own_size = header
            .entry_size()
            .map_err(|_| BundleError::malformed("a tar header has no usable size"))?;
        let kind = header.entry_type();
        match kind {
            EntryType::XHeader => {
                *extended = self.extension(at, own_size)?;
                return self.after(at, own_size);
            }
            EntryType::XGlobalHeader if own_size <= EXTENSION_MAX => {
                return self.after(at, own_size);
            }
            EntryType::GNULongName => {
                let mut path = self.read_extension(at, own_size)?;
                path.truncate(path.iter().position(|b| *b == 0).unwrap_or(path.len()));
                extended.path = Some(path);
                return self.after(at, own_size);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
            EntryType::Link | EntryType::Symlink | EntryType::GNULongLink => {
                return Err(BundleError::malformed("it holds a link"));
            }
            _ => return Err(BundleError::malformed("it holds something that is no file")),
        }
        let Extended { path, size } = std::mem::take(extended);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let name = plain_name(&path)?;
        if kind == EntryType::Directory {
            return self.after(at, own_size);
        }
        let size = size.unwrap_or(own_size);
        let next = self.after(at, size)?;
        if self
            .members
            .insert(name.clone(), Member { at, size })
            .is_some()
        {
            return Err(BundleError::malformed(format!("it holds {name} twice")));
        }
        Ok(next)
    }

    fn extension(&self, at: u64, size: u64) -> Result<Extended, BundleError> {
        let bytes = self.read_extension(at, size)?;
        let mut extended = Extended::default();
        for record in PaxExtensions::new(&bytes) {
            let broken = || BundleError::malformed("an extended tar header is broken");
            let record = record.map_err(|_| broken())?;
            match record.key_bytes() {
                b"path" => extended.path = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    extended.size = Some(size.ok_or_else(broken)?);
                }
                _ => {}
            }
        }
        Ok(extended)
    }

    fn read_extension(&self, at: u64, size: u64) -> Result<Vec<u8>, BundleError> {
        if size > EXTENSION_MAX {
            return Err(BundleError::malformed("an extended tar header is too long"));
        }
        self.read(at, size)
    }

    /// Where the block after some data begins.
    fn after(&self, at: u64, size: u64) -> Result<u64, BundleError> {
        let end = at
            .checked_add(size)
            .filter(|end| *end <= self.pieces.length());
        match end {
            Some(end) => Ok(end.next_multiple_of(BLOCK)),
            None => Err(self.short()),
        }
    }

    /// Bytes that must be there.
    fn read(&self, at: u64, length: u64) -> Result<Vec<u8>, BundleError> {
        let mut bytes = Vec::new();
        let mut section = self.pieces.section(at, at.saturating_add(length));
        section
            .read_to_end(&mut bytes)
            .map_err(|e| BundleError::malformed(format!("it cannot be read: {e}")))?;
        if (bytes.len() as u64) < length {
            return Err(self.short());
        }
        Ok(bytes)
    }

    fn short(&self) -> BundleError {
        BundleError::malformed(format!("it ends too early: {}", self.pieces.missing()))
    }
}

/// Sum of a header's bytes, those of its own sum taken as spaces.
fn checksum(block: &[u8]) -> u32 {
    let byte = |(i, byte): (usize, &u8)| match i {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    };
    block.iter().enumerate().map(byte).sum()
}

/// A member's name, without a leading `./`, if it stays inside.
fn plain_name(path: &[u8]) -> Result<String, BundleError> {
    let refuse = |why: &str| {
        let name: String = path.escape_ascii().to_string().chars().take(100).collect();
        BundleError::malformed(format!("it holds \"{name}\", {why}"))
    };
    let name = std::str::from_utf8(path).map_err(|_| refuse("a name that is not UTF-8"))?;
    let mut plain = name;
    while let Some(rest) = plain.strip_prefix("./") {
        plain = rest;
    }
    let plain = plain.trim_end_matches('/');
    let climbs = plain.split('/').any(|part| part == "..");
    if plain.starts_with('/') || climbs || plain.contains('\0') {
        return Err(refuse("which leaves the bundle"));
    }
    Ok(plain.to_owned())
}

/// Writes a member's header. The same member has the same bytes on every day and
/// machine.
pub(super) fn write_header(out: &mut dyn Write, name: &str, size: u64) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Pads a member of `size` bytes.
pub(super) fn write_padding(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let rest = size.next_multiple_of(BLOCK) - size;
    // Less than a block.
    out.write_all(&[0; BLOCK as usize][..rest as usize])
}

/// Writes the end.
pub(super) fn write_end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK as usize])
}

/// Bytes of a tar file with members of these sizes.
pub(super) fn length(sizes: impl Iterator<Item = u64>) -> u64 {
    let padded = |size: u64| size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    let member = |size: u64| padded(size).saturating_add(BLOCK);
    sizes.map(member).fold(2 * BLOCK, u64::saturating_add)
}

#[cfg(test)]
mod tests;
