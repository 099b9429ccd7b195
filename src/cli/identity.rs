//! Which model some bytes are.

use gptoss_onnx::nano;

use super::install::Provenance;
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

/// What an installed model's bytes are, in words, by what this program knows.
pub(super) fn describe_installed(manifest: &Manifest, published: Option<&Published>) -> String {
    if is_embedded(manifest) {
        return format!(
            "all {} files are those embedded in this program",
            manifest.files.len()
        );
    }
    describe(published)
}

/// What published model these bytes are, in words.
pub(super) fn describe(published: Option<&Published>) -> String {
    match published {
        None => "not a published model this version knows".into(),
        Some(p) if p.complete() => format!(
            "all {} files are the published bytes of {} at {}",
            p.matching.len(),
            p.repo,
            p.revision
        ),
        Some(p) => format!(
            "{} of {} files are the published bytes of {} at {}; not: {}",
            p.matching.len(),
            p.matching.len() + p.differing.len(),
            p.repo,
            p.revision,
            p.differing.join(", ")
        ),
    }
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
            format!(
                "{name} is the name of a published model and these are not its bytes ({}); \
                 choose another name with --name. Nothing was installed",
                describe(published.as_ref())
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
