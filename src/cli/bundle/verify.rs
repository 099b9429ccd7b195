//! `gptoss-ctl bundle verify`.

use std::path::PathBuf;

use serde::Serialize;

use super::{record, runtime};
use crate::bundle::{Bundle, BundledModel};
use crate::cli::identity::describe;
use crate::cli::progress::Ui;
use crate::cli::trust::Trust;
use crate::cli::{CliError, Global};
use crate::model::{Catalog, FileEntry, Signature, human_size};

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
        bundle.prove(&model.files, &ui.transfer("proving", sizes))?;
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
    let people = format!(
        "{}@{}: all {} files, {}, are what the bundle's manifest lists; {}; {}{}",
        model.name,
        model.revision,
        model.files.len(),
        human_size(model.total_size()),
        describe(published.as_ref()),
        describe_signature(&proven, model),
        match &proven.runtimes[..] {
            [] => String::new(),
            platforms => format!(
                "; its ONNX Runtime for {} is the pinned one",
                platforms.join(" and ")
            ),
        }
    );
    ui.result(&people, &proven);
    Ok(())
}

fn describe_signature(proven: &Proven<'_>, model: &BundledModel) -> String {
    match (&proven.signature, &proven.signers[..]) {
        (Some(signature), _) => format!(
            "signed by the trusted key {} ({})",
            signature.key_id, signature.comment
        ),
        (None, []) => "not signed".into(),
        (None, keys) => format!(
            "signed by {}, which is not trusted here; to check it: \
             minisign -Vm blobs/sha256/{} with its public key",
            keys.join(", "),
            model.manifest.hex()
        ),
    }
}
