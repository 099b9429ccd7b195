//! `gptoss-ctl show --provenance`: the way of a model's bytes from where they were
//! published into the store, and from the checkpoint into each target.
//!
//! It tells what the manifest recorded and what this program knows by itself;
//! `gptoss-ctl verify` proves that the bytes on disk are these.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::{by, columns, licence};
use crate::cli::identity::{Identity, is_embedded};
use crate::cli::messages::{message, size, translated};
use crate::cli::progress::Ui;
use crate::cli::trust::{Trust, VouchedCatalog, catalog_name};
use crate::cli::{CliError, Global};
use crate::model::{
    Catalog, CatalogFile, Export, FileEntry, Installed, Manifest, Published, Signature,
};

#[derive(Debug, Serialize)]
struct Provenance<'a> {
    name: &'a str,
    revision: &'a str,
    dir: &'a Path,
    /// Where the bytes came from.
    source: &'a str,
    license: Option<&'a str>,
    /// What this program knows the bytes to be.
    identity: Identity<'a>,
    /// The catalog that pinned the digests.
    catalog: Option<PinningCatalog<'a>>,
    /// The signature over the bundle that the model came in.
    signature: Option<&'a Signature>,
    installed_at: &'a str,
    verified_at: &'a str,
    files: Vec<File<'a>>,
    targets: BTreeMap<&'a str, Target<'a>>,
}

#[derive(Debug, Serialize)]
struct PinningCatalog<'a> {
    origin: &'a str,
    /// SHA-256 of the catalog, and who had signed it, when the model was installed.
    #[serde(flatten)]
    then: Option<&'a CatalogFile>,
    /// Whether it is, byte for byte, the one inside this program.
    in_this_program: bool,
    /// Who has signed the one inside this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_now: Option<Signature>,
}

#[derive(Debug, Serialize)]
struct File<'a> {
    #[serde(flatten)]
    entry: &'a FileEntry,
    /// Who said, before the file was there, what its digest must be.
    pinned_by: Pin<'a>,
}

/// Who said what a file's digest must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pin<'a> {
    /// Whoever signed the bundle, with the key of this number.
    Bundle(&'a str),
    Nobody,
    BuiltIn,
    /// The built-in catalog of the version that installed it.
    OtherBuiltIn,
    Catalog(&'a str),
    Server,
    /// This program holds the file.
    Program,
}

impl Pin<'_> {
    /// For people.
    fn describe(&self) -> String {
        match self {
            Self::Bundle(key) => translated!(self, "pinned-by-bundle", key = *key),
            Self::Nobody => translated!(self, "pinned-by-nobody"),
            Self::BuiltIn => translated!(self, "pinned-by-built-in"),
            Self::OtherBuiltIn => translated!(self, "pinned-by-other-built-in"),
            Self::Catalog(origin) => translated!(self, "pinned-by-catalog", catalog = *origin),
            Self::Server => translated!(self, "pinned-by-server"),
            Self::Program => translated!(self, "pinned-by-program"),
        }
    }
}

/// For programs.
impl fmt::Display for Pin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundle(key) => return write!(f, "a bundle signed by key {key}"),
            Self::Nobody => "nobody: measured when it was installed",
            Self::BuiltIn => "the built-in catalog",
            Self::OtherBuiltIn => "the built-in catalog of the version that installed it",
            Self::Catalog(origin) => return write!(f, "the catalog {origin}"),
            Self::Server => "the server it was fetched from",
            Self::Program => "this program, which holds the file",
        })
    }
}

impl Serialize for Pin<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

#[derive(Debug, Serialize)]
struct Target<'a> {
    /// How it was made; none where an older version made it.
    export: Option<&'a Export>,
    /// What makes the same bytes again.
    again: String,
    files: &'a [FileEntry],
}

/// Shows the model's provenance.
pub(super) fn run(global: &Global, model: &Installed) -> Result<(), CliError> {
    let builtin = Trust::load(global, &[])?.builtin()?;
    let published = builtin.catalog.recognise(&model.manifest.files);
    let shown = collect(model, &builtin, published.as_ref());
    Ui::new(global.json).result(&text(&shown), &shown);
    Ok(())
}

fn collect<'a>(
    model: &'a Installed,
    builtin: &VouchedCatalog,
    published: Option<&'a Published>,
) -> Provenance<'a> {
    let manifest = &model.manifest;
    let embedded = is_embedded(manifest);
    let files = manifest.files.iter().map(|entry| File {
        entry,
        pinned_by: match embedded {
            true => Pin::Program,
            false => pinned_by(manifest, published, entry),
        },
    });
    let targets = manifest.targets.iter().map(|(name, files)| {
        let target = Target {
            export: manifest.exports.get(name),
            again: format!(
                "gptoss-ctl export {} --target {name} --force",
                manifest.label()
            ),
            files,
        };
        (name.as_str(), target)
    });
    Provenance {
        name: &manifest.name,
        revision: &manifest.revision,
        dir: &model.dir,
        source: &manifest.source,
        license: manifest.license.as_deref(),
        identity: Identity::of(manifest, published),
        // The embedded model is in no catalog: its bytes are the program's.
        catalog: catalog(manifest, builtin).filter(|_| !embedded),
        signature: manifest.signature.as_ref(),
        installed_at: &manifest.installed_at,
        verified_at: &manifest.verified_at,
        files: files.collect(),
        targets: targets.collect(),
    }
}

fn catalog<'a>(manifest: &'a Manifest, builtin: &VouchedCatalog) -> Option<PinningCatalog<'a>> {
    let origin = manifest.catalog.as_deref()?;
    let then = manifest.catalog_file.as_ref();
    let in_this_program = then.is_some_and(|file| file.sha256 == builtin.catalog.sha256());
    Some(PinningCatalog {
        origin,
        then,
        in_this_program,
        signed_now: builtin.signature.clone().filter(|_| in_this_program),
    })
}

/// Who said what a file's digest must be. What this program knows of itself comes
/// first, then what was recorded.
fn pinned_by<'a>(
    manifest: &'a Manifest,
    published: Option<&Published>,
    entry: &FileEntry,
) -> Pin<'a> {
    if published.is_some_and(|p| p.matching.contains(&entry.path)) {
        return Pin::BuiltIn;
    }
    match (&manifest.catalog, &manifest.signature) {
        // It is in the catalog of another version.
        (Some(origin), _) if origin == Catalog::BUILTIN => Pin::OtherBuiltIn,
        (Some(origin), _) => Pin::Catalog(origin),
        (None, Some(signature)) => Pin::Bundle(&signature.key_id),
        (None, None) if manifest.source.starts_with("http") => Pin::Server,
        (None, None) => Pin::Nobody,
    }
}

fn text(shown: &Provenance<'_>) -> String {
    let mut lines = vec![format!("{}@{}", shown.name, shown.revision)];
    let rows = vec![
        (message!("show-bytes"), shown.identity.describe()),
        (message!("show-source"), shown.source.to_owned()),
        (
            message!("show-catalog"),
            catalog_text(shown.catalog.as_ref()),
        ),
        (message!("show-signature"), signature_text(shown.signature)),
        (message!("show-licence"), licence(shown.license)),
        (message!("show-installed"), shown.installed_at.to_owned()),
        (message!("show-verified"), shown.verified_at.to_owned()),
        (message!("show-folder"), shown.dir.display().to_string()),
    ];
    lines.extend(columns("  ", rows));
    // Most models have one answer for all files.
    let mut pins: Vec<Pin<'_>> = shown.files.iter().map(|f| f.pinned_by).collect();
    pins.sort_unstable();
    pins.dedup();
    for pin in pins {
        lines.push(String::new());
        lines.push(message!("show-files-pinned-by", whom = pin.describe()));
        let pinned = shown.files.iter().filter(|f| f.pinned_by == pin);
        lines.extend(pinned.map(|f| file_text(f.entry)));
    }
    for (name, target) in &shown.targets {
        lines.push(String::new());
        lines.extend(target_text(name, target));
    }
    lines.join("\n")
}

fn target_text(name: &str, target: &Target<'_>) -> Vec<String> {
    let mut lines = vec![message!(
        "show-target",
        target = name,
        how = export_text(target.export),
    )];
    for weights in target.export.iter().flat_map(|e| &e.weights) {
        let tensors = message!(
            "show-tensors",
            count = format!("{:>4}", weights.tensors),
            tensors = weights.tensors,
            form = &weights.form,
        );
        lines.push(format!("  {:>9}  {tensors}", size(weights.bytes)));
    }
    lines.extend(target.files.iter().map(file_text));
    lines.push(format!(
        "  {}",
        message!("show-again", command = &target.again)
    ));
    lines
}

fn file_text(entry: &FileEntry) -> String {
    let size = size(entry.size);
    format!("  {}  {size:>9}  {}", entry.sha256, entry.path)
}

fn export_text(export: Option<&Export>) -> String {
    match export {
        None => message!("show-export-unknown"),
        Some(export) => message!(
            "show-export",
            time = &export.exported_at,
            version = &export.tool_version,
            format = &export.format,
            inputs = export.inputs.join(", "),
        ),
    }
}

/// Which catalog it is, whether this program holds it, and who vouches for it.
fn catalog_text(catalog: Option<&PinningCatalog<'_>>) -> String {
    let Some(catalog) = catalog else {
        return message!("show-no-catalog");
    };
    let mut facts = vec![catalog_name(catalog.origin)];
    facts.extend(catalog.then.map(|then| format!("sha256:{}", then.sha256)));
    if catalog.in_this_program {
        facts.push(message!("show-catalog-in-program"));
    }
    let then = catalog.then.and_then(|file| file.signature.as_ref());
    facts.push(match then.or(catalog.signed_now.as_ref()) {
        Some(signature) => message!("show-catalog-signed", by = by(signature)),
        None if catalog.origin == Catalog::BUILTIN => message!("show-catalog-of-package"),
        None => message!("show-catalog-not-signed"),
    });
    facts.join(", ")
}

fn signature_text(signature: Option<&Signature>) -> String {
    match signature {
        Some(signature) => message!("show-signature-of-bundle", by = by(signature)),
        None => message!("show-no-signature"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SCHEMA;

    fn manifest(catalog: Option<&str>, source: &str) -> Manifest {
        let files = Catalog::builtin().get("20b").unwrap().files.clone();
        Manifest {
            schema: SCHEMA,
            name: "m".into(),
            revision: "r".into(),
            source: source.into(),
            catalog: catalog.map(str::to_owned),
            catalog_file: None,
            license: None,
            signature: None,
            tool_version: "0".into(),
            installed_at: String::new(),
            verified_at: String::new(),
            files,
            targets: BTreeMap::new(),
            exports: BTreeMap::new(),
        }
    }

    fn pin(manifest: &Manifest) -> String {
        let mut other = manifest.files[0].clone();
        other.path = "of-our-own.bin".into();
        pinned_by(manifest, None, &other).to_string()
    }

    #[test]
    fn every_file_has_somebody_who_pinned_it_or_nobody() {
        let published = Catalog::builtin();
        let mut model = manifest(Some("/etc/gptoss/catalog.toml"), "https://hub/a/b");
        let recognised = published.recognise(&model.files);
        let file = model.files[0].clone();
        assert_eq!(
            pinned_by(&model, recognised.as_ref(), &file),
            Pin::BuiltIn,
            "whatever the manifest says, the program knows this file"
        );
        assert!(pin(&model).contains("/etc/gptoss/catalog.toml"));
        model.catalog = None;
        assert!(pin(&model).contains("server"));
        model.signature = Some(Signature {
            key_id: "ABCD".into(),
            comment: "c".into(),
            over: "sha256:0".into(),
        });
        assert!(pin(&model).contains("signed by key ABCD"));
        assert!(pin(&manifest(None, "/srv/tune")).contains("nobody"));
    }

    #[test]
    fn a_signature_is_of_the_catalog_that_pinned() {
        let signature = Signature {
            key_id: "DISTRIBUTOR".into(),
            comment: "c".into(),
            over: "sha256:0".into(),
        };
        let builtin = VouchedCatalog {
            catalog: Catalog::builtin(),
            signature: Some(signature),
        };
        let mut model = manifest(Some(Catalog::BUILTIN), "https://hub/a/b");
        let said = |model: &Manifest| catalog_text(catalog(model, &builtin).as_ref());
        assert!(
            !said(&model).contains("DISTRIBUTOR"),
            "it is not known to be the same catalog: {}",
            said(&model)
        );
        model.catalog_file = Some(CatalogFile {
            sha256: builtin.catalog.sha256().to_owned(),
            signature: None,
        });
        assert!(said(&model).contains("signed by key DISTRIBUTOR"));
    }
}
