//! `gptoss-ctl show`.

mod provenance;

use std::path::Path;

use serde::Serialize;

use super::identity::Identity;
use super::install::{describe_quantized, open_stores};
use super::messages::{message, size};
use super::progress::Ui;
use super::trust::catalog_name;
use super::{CliError, Global};
use crate::model::{Catalog, Installed, Manifest, Signature};

/// Arguments of `gptoss-ctl show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model: NAME or NAME@REVISION.
    model: String,
    /// Where each byte came from, who vouched for it, and what was made of it how.
    #[arg(long)]
    provenance: bool,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    dir: String,
    /// The store it is in.
    store: &'a Path,
    size: u64,
    /// The published model all of these bytes are, `OWNER/NAME@COMMIT`.
    published: Option<String>,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let stores = open_stores(global)?;
    let model = stores.find(&args.model)?;
    if args.provenance {
        return provenance::run(global, &model);
    }
    let published = Catalog::builtin().recognise(&model.manifest.files);
    let shown = Shown {
        dir: model.dir.display().to_string(),
        store: stores.store_of(&model).root(),
        size: model.manifest.total_size(),
        published: published
            .as_ref()
            .filter(|p| p.complete())
            .map(|p| format!("{}@{}", p.repo, p.revision)),
        manifest: &model.manifest,
    };
    let identity = Identity::of(&model.manifest, published.as_ref());
    let people = text(&model, shown.store, identity.describe());
    Ui::new(global.json).result(&people, &shown);
    Ok(())
}

fn text(model: &Installed, store: &Path, identity: String) -> String {
    let manifest = &model.manifest;
    let targets: Vec<&str> = manifest.targets.keys().map(String::as_str).collect();
    let catalog = manifest.catalog.as_deref();
    let catalog = catalog.map_or_else(|| message!("show-pinned-by-nothing"), catalog_name);
    let signature = manifest.signature.as_ref();
    let signature = signature.map_or_else(|| message!("show-no-signature"), by);
    let installed = message!(
        "show-installed-by",
        time = &manifest.installed_at,
        version = &manifest.tool_version,
    );
    let mut rows = vec![
        (message!("show-name"), manifest.name.clone()),
        (message!("show-revision"), manifest.revision.clone()),
        (message!("show-source"), manifest.source.clone()),
        (message!("show-digests"), identity),
        (message!("show-pinned-by"), catalog),
        (
            message!("show-licence"),
            licence(manifest.license.as_deref()),
        ),
        (message!("show-signature"), signature),
        (message!("show-targets"), targets.join(", ")),
        (message!("show-size"), size(manifest.total_size())),
        (message!("show-installed"), installed),
        (message!("show-verified"), manifest.verified_at.clone()),
        (message!("show-store"), store.display().to_string()),
        (message!("show-folder"), model.dir.display().to_string()),
    ];
    rows.extend(experts(manifest).map(|what| (message!("show-experts"), what)));
    let mut lines = columns("", rows);
    lines.push(String::new());
    for entry in manifest.all_files() {
        let size = size(entry.size);
        lines.push(format!("{}  {size:>9}  {}", entry.sha256, entry.path));
    }
    lines.join("\n")
}

/// Lines of a name and a value each, the values one below the other.
fn columns(indent: &str, rows: Vec<(String, String)>) -> Vec<String> {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0) + 2;
    let line = |(name, value)| format!("{indent}{name:width$}{value}");
    rows.into_iter().map(line).collect()
}

fn licence(named: Option<&str>) -> String {
    named.map_or_else(|| message!("show-unknown-licence"), str::to_owned)
}

/// Whose signature it is.
fn by(signature: &Signature) -> String {
    message!(
        "show-by-key",
        key = &signature.key_id,
        comment = &signature.comment,
    )
}

/// What the experts of each target are: the checkpoint's own bytes, or what an export
/// has made of them.
fn experts(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.targets.keys().map(|target| {
        let record = manifest.exports.get(target);
        let quantized = record.and_then(|record| record.quantized.as_ref());
        let what = match (quantized, target.as_str()) {
            (Some(quantized), _) => describe_quantized(quantized),
            (None, "cpu" | "coreml") => message!("show-experts-published"),
            (None, "cuda") => message!("show-experts-columns"),
            (None, _) => message!("show-experts-int4"),
        };
        message!("show-experts-of", target = target, what = what)
    })
}
