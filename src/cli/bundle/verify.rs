//! `gptoss-ctl bundle verify`.

use std::path::PathBuf;

use serde::Serialize;

use super::{record, runtime};
use crate::bundle::{Bundle, BundledModel};
use crate::cli::identity::describe;
use crate::cli::install::all_of;
use crate::cli::messages::{message, size};
use crate::cli::progress::Ui;
use crate::cli::trust::Trust;
use crate::cli::{CliError, Global};
use crate::model::{Catalog, FileEntry, Published, Signature};

/// Arguments of `gptoss-ctl bundle verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bundle: a tar file, the first of its pieces, or a folder.
    path: PathBuf,
    /// The model, where the bundle holds several.
    #[arg(long)]
    model: Option<String>,
    /// A public key of minisign's whose signature counts, too.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Proven<'a> {
    name: &'a str,
    revision: &'a str,
    source: &'a str,
    license: Option<&'a str>,
    /// Digest of the model's manifest.
    manifest: String,
    size: u64,
    /// The published model all of these bytes are, `OWNER/NAME@COMMIT`.
    published: Option<String>,
    /// The trusted key's signature.
    signature: Option<Signature>,
    /// Numbers of the keys that signatures name.
    signers: Vec<String>,
    files: &'a [FileEntry],
    /// Platforms whose pinned ONNX Runtime is in it.
    runtimes: Vec<&'a str>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let trust = Trust::load(global, &args.key)?;
    let bundle = Bundle::open(&args.path)?;
    let model = bundle.model(args.model.as_deref())?;
    let signed = model.signed_by(&trust.keys)?;
    {
        let sizes = model.files.iter().map(|f| (f.path.as_str(), f.size));
        let display = ui.transfer(&message!("bundle-proving-now"), sizes);
        bundle.prove(&model.files, &display)?;
    }
    runtime::prove(&bundle, &ui)?;
    let published = Catalog::builtin().recognise(&model.files);
    let signature = signed.map(|s| record(s, &model.manifest));
    let proven = Proven {
        name: &model.name,
        revision: &model.revision,
        source: &model.source,
        license: model.license.as_deref(),
        manifest: model.manifest.to_string(),
        size: model.total_size(),
        published: published
            .as_ref()
            .filter(|p| p.complete())
            .map(|p| format!("{}@{}", p.repo, p.revision)),
        signers: model.signers()?,
        signature,
        files: &model.files,
        runtimes: runtime::platforms(&bundle),
    };
    let people = text(&proven, published.as_ref(), model);
    ui.result(&people, &proven);
    Ok(())
}

fn text(proven: &Proven<'_>, published: Option<&Published>, model: &BundledModel) -> String {
    let label = format!("{}@{}", proven.name, proven.revision);
    let size = size(proven.size);
    let identity = describe(published);
    let signature = describe_signature(proven, model);
    match &proven.runtimes[..] {
        [] => message!(
            "bundle-proven",
            model = label,
            files = proven.files.len(),
            size = size,
            identity = identity,
            signature = signature,
        ),
        platforms => message!(
            "bundle-proven-with-runtime",
            model = label,
            files = proven.files.len(),
            size = size,
            identity = identity,
            signature = signature,
            platforms = all_of(platforms),
        ),
    }
}

fn describe_signature(proven: &Proven<'_>, model: &BundledModel) -> String {
    match (&proven.signature, &proven.signers[..]) {
        (Some(signature), _) => message!(
            "bundle-signed",
            key = &signature.key_id,
            comment = &signature.comment,
        ),
        (None, []) => message!("bundle-not-signed"),
        (None, keys) => message!(
            "bundle-signed-by-others",
            keys = keys.join(", "),
            digest = %model.manifest.hex(),
        ),
    }
}
