//! Which model some bytes are.

use std::fmt;

use gptoss_onnx::nano;
use serde::{Serialize, Serializer};

use super::install::Provenance;
use super::messages::{message, translated};
use super::{CliError, ExitStatus};
use crate::model::{
    Catalog, CatalogFile, FileEntry, Manifest, Published, content_revision, sha256_bytes,
};

/// Name of the embedded model.
pub(super) const NANO: &str = "nano";

/// The embedded model's files, and the revision made from them.
pub(super) fn embedded() -> (String, Vec<FileEntry>) {
    let entry = |(path, bytes): &(&str, &[u8])| FileEntry {
        path: (*path).to_owned(),
        size: bytes.len() as u64,
        sha256: sha256_bytes(bytes),
    };
    let files: Vec<FileEntry> = nano::files().iter().map(entry).collect();
    (content_revision(&files), files)
}

/// Whether an installed model is the embedded one.
pub(super) fn is_embedded(manifest: &Manifest) -> bool {
    manifest.name == NANO && content_revision(&manifest.files) == embedded().0
}

/// What some bytes are, by what this program knows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity<'a> {
    /// The model inside this program, of so many files.
    Embedded(usize),
    /// A published model, or a part of one.
    Published(&'a Published),
    /// No model that this version knows.
    Unknown,
}

impl<'a> Identity<'a> {
    /// What an installed model's bytes are.
    pub(super) fn of(manifest: &Manifest, published: Option<&'a Published>) -> Self {
        match is_embedded(manifest) {
            true => Self::Embedded(manifest.files.len()),
            false => published.into(),
        }
    }

    /// In words, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Embedded(files) => translated!(self, "identity-embedded", files = files),
            Self::Unknown => translated!(self, "identity-unknown"),
            Self::Published(p) if p.complete() => translated!(
                self,
                "identity-published",
                files = p.matching.len(),
                repo = &p.repo,
                revision = &p.revision,
            ),
            Self::Published(p) => translated!(
                self,
                "identity-published-in-part",
                matching = p.matching.len(),
                files = p.matching.len() + p.differing.len(),
                repo = &p.repo,
                revision = &p.revision,
                others = p.differing.join(", "),
            ),
        }
    }
}

impl<'a> From<Option<&'a Published>> for Identity<'a> {
    fn from(published: Option<&'a Published>) -> Self {
        published.map_or(Self::Unknown, Self::Published)
    }
}

/// In words, for programs.
impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(files) => {
                write!(f, "all {files} files are those embedded in this program")
            }
            Self::Unknown => f.write_str("not a published model this version knows"),
            Self::Published(p) if p.complete() => write!(
                f,
                "all {} files are the published bytes of {} at {}",
                p.matching.len(),
                p.repo,
                p.revision
            ),
            Self::Published(p) => write!(
                f,
                "{} of {} files are the published bytes of {} at {}; not: {}",
                p.matching.len(),
                p.matching.len() + p.differing.len(),
                p.repo,
                p.revision,
                p.differing.join(", ")
            ),
        }
    }
}

impl Serialize for Identity<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// What published model these bytes are, for people.
pub(super) fn describe(published: Option<&Published>) -> String {
    Identity::from(published).describe()
}

/// What is known of a checkpoint besides its bytes.
pub(super) struct Claim<'a> {
    /// The name a person asked for.
    pub(super) asked: Option<&'a str>,
    /// The name it gets where nobody asked for one and its bytes have none.
    pub(super) fallback: &'a str,
    /// Its revision, where somebody who is trusted says so.
    pub(super) revision: Option<&'a str>,
    /// Where it comes from.
    pub(super) source: String,
    /// Its licence, by somebody's word.
    pub(super) license: Option<String>,
}

/// Name, revision and origin of a checkpoint's bytes. A published model's name is
/// given to its bytes only.
pub(super) fn identify(
    claim: Claim<'_>,
    files: &[FileEntry],
) -> Result<(Provenance, Option<Published>), CliError> {
    let catalog = Catalog::builtin();
    let published = catalog.recognise(files);
    let complete = published.as_ref().filter(|p| p.complete());
    let in_program = content_revision(files) == embedded().0;
    let name = match (claim.asked, complete) {
        (Some(asked), _) => asked.to_owned(),
        (None, Some(published)) => published.name.clone(),
        (None, None) => claim.fallback.to_owned(),
    };
    let reserved = catalog.get(&name).is_some() || name == NANO;
    let entitled = complete.is_some_and(|p| p.name == name) || (name == NANO && in_program);
    if reserved && !entitled {
        return Err(CliError::new(
            ExitStatus::Verification,
            message!(
                "identity-name-taken",
                name = name,
                identity = describe(published.as_ref()),
            ),
        ));
    }
    let provenance = match complete {
        // The catalog pins exactly its files: another one makes another revision.
        Some(p) if p.matching.len() == files.len() => Provenance {
            name,
            revision: p.revision.clone(),
            source: claim.source,
            catalog: Some(Catalog::BUILTIN.into()),
            catalog_file: Some(CatalogFile {
                sha256: catalog.sha256().to_owned(),
                signature: None,
            }),
            license: catalog.get(&p.name).and_then(|m| m.license.clone()),
            signature: None,
        },
        _ => Provenance {
            name,
            revision: match claim.revision {
                Some(revision) if !in_program => revision.to_owned(),
                _ => content_revision(files),
            },
            source: claim.source,
            catalog: in_program.then(|| Catalog::BUILTIN.into()),
            catalog_file: None,
            license: claim.license,
            signature: None,
        },
    };
    Ok((provenance, published))
}
