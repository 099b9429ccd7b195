//! `gptoss-ctl show`.

mod provenance;

use std::path::Path;

use serde::Serialize;

use super::identity::describe_installed;
use super::install::open_stores;
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{Catalog, Installed, Manifest, human_size};

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
    let published = describe_installed(&model.manifest, published.as_ref());
    let people = text(&model, shown.store, &published);
    Ui::new(global.json).result(&people, &shown);
    Ok(())
}

fn text(model: &Installed, store: &Path, published: &str) -> String {
    let manifest = &model.manifest;
    let targets: Vec<&str> = manifest.targets.keys().map(String::as_str).collect();
    let mut lines = vec![
        format!("name       {}", manifest.name),
        format!("revision   {}", manifest.revision),
        format!("source     {}", manifest.source),
        format!("digests    {published}"),
        format!(
            "pinned by  {}",
            manifest.catalog.as_deref().unwrap_or("nothing")
        ),
        format!(
            "licence    {}",
            manifest.license.as_deref().unwrap_or("unknown")
        ),
        format!(
            "signature  {}",
            match &manifest.signature {
                Some(signature) => format!("by key {} ({})", signature.key_id, signature.comment),
                None => "none".into(),
            }
        ),
        format!("targets    {}", targets.join(", ")),
        format!("size       {}", human_size(manifest.total_size())),
        format!(
            "installed  {} by gptoss {}",
            manifest.installed_at, manifest.tool_version
        ),
        format!("verified   {}", manifest.verified_at),
        format!("store      {}", store.display()),
        format!("folder     {}", model.dir.display()),
    ];
    lines.extend(experts(manifest));
    lines.push(String::new());
    for entry in manifest.all_files() {
        let size = human_size(entry.size);
        lines.push(format!("{}  {size:>9}  {}", entry.sha256, entry.path));
    }
    lines.join("\n")
}

/// What the experts of each target are: the checkpoint's own bytes, or what an export
/// has made of them.
fn experts(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.targets.keys().map(|target| {
        let record = manifest.exports.get(target);
        let quantized = record.and_then(|record| record.quantized.as_ref());
        let what = match (quantized, target.as_str()) {
            (Some(quantized), _) => quantized.to_string(),
            (None, "cpu") => "the checkpoint's own bytes, MXFP4".into(),
            (None, _) => "quantized by the export from MXFP4 to int4".into(),
        };
        format!("experts    for {target}: {what}")
    })
}
