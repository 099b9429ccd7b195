//! `gptoss-ctl bundle import`.

use std::path::PathBuf;

use gptoss_onnx::export::Target;

use super::{record, runtime};
use crate::bundle::{Bundle, BundledModel};
use crate::cli::identity::{Claim, describe, identify};
use crate::cli::import::tell_installed;
use crate::cli::install::{self, Provenance, SMALL, discard_if_empty, open_store};
use crate::cli::messages::{message, size};
use crate::cli::progress::Ui;
use crate::cli::trust::Trust;
use crate::cli::{CliError, ExitStatus, Global, interrupt, plan};
use crate::model::incoming::{Wanted, remaining};
use crate::model::{
    FileEntry, Installed, Published, Staging, check_model_name, content_revision, require_space,
};
use crate::runtime::Options;

/// Arguments of `gptoss-ctl bundle import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bundle: a tar file, the first of its pieces, or a folder.
    pub path: PathBuf,
    /// Name in the store [default: the published model's, else the bundle's].
    #[arg(long)]
    pub name: Option<String>,
    /// The model, where the bundle holds several.
    #[arg(long)]
    pub model: Option<String>,
    /// What to export for, separated by commas: cpu, portable, cuda, cuda-int4, coreml.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    pub target: Vec<Target>,
    /// A public key of minisign's whose signature counts, too.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Leave ONNX Runtime out where the bundle holds it.
    #[arg(long)]
    pub no_runtime: bool,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let trust = Trust::load(global, &args.key)?;
    let loaded = plan::as_the_daemon(global)?;
    let store = open_store(global)?;
    let bundle = Bundle::open(&args.path)?;
    let model = bundle.model(args.model.as_deref())?;
    let path = std::path::absolute(&args.path).unwrap_or_else(|_| args.path.clone());
    let place = format!("bundle {}", path.display());
    let (provenance, published) = judge(args.name.as_deref(), &place, model, &trust)?;
    interrupt::watch(message!("bundle-import-interrupted"));
    if !args.no_runtime {
        runtime::install(&bundle, &store, &ui)?;
    }
    let installed = || store.get(&provenance.name, &provenance.revision);
    if let Some(installed) = installed()? {
        refuse_other_bytes(&installed, &model.files)?;
        return tell_installed(&store, installed, &args.target, &ui);
    }
    let staging = store.stage(&provenance.name, &provenance.revision)?;
    // It may have been installed before the lock was ours.
    if let Some(installed) = installed()? {
        drop(staging);
        return tell_installed(&store, installed, &args.target, &ui);
    }
    if let Err(error) = copy(&bundle, model, &staging, &args.target, &loaded, &ui) {
        discard_if_empty(staging)?;
        return Err(error);
    }
    let installed = install::install(staging, model.files.clone(), provenance, &args.target, &ui)?;
    let people = describe_import(&installed, published.as_ref());
    install::tell(&ui, "installed", &people, &installed);
    Ok(())
}

fn describe_import(model: &Installed, published: Option<&Published>) -> String {
    let manifest = &model.manifest;
    let size = size(manifest.total_size());
    let identity = describe(published);
    match &manifest.signature {
        None => message!(
            "import-installed",
            model = manifest.label(),
            size = size,
            identity = identity,
        ),
        Some(signature) => message!(
            "bundle-installed-signed",
            model = manifest.label(),
            size = size,
            identity = identity,
            key = &signature.key_id,
        ),
    }
}

/// Which model it is and whether the site takes it, before anything is copied.
/// `asked` is the name a person wants it to have, `place` where it lies.
pub(in crate::cli) fn judge(
    asked: Option<&str>,
    place: &str,
    model: &BundledModel,
    trust: &Trust,
) -> Result<(Provenance, Option<Published>), CliError> {
    if let Some(name) = asked {
        check_model_name(name)?;
    }
    let signature = model
        .signed_by(&trust.keys)?
        .map(|signed| record(signed, &model.manifest));
    let claim = Claim {
        asked,
        fallback: &model.name,
        // Without a signature a revision is anybody's word.
        revision: signature.as_ref().map(|_| model.revision.as_str()),
        source: format!("{place}, from {}", model.source),
        license: model.license.clone(),
    };
    let (mut provenance, published) = identify(claim, &model.files)?;
    provenance.signature = signature;
    trust.judge(&provenance)?;
    Ok((provenance, published))
}

/// The same revision with other bytes is not the same model.
fn refuse_other_bytes(installed: &Installed, files: &[FileEntry]) -> Result<(), CliError> {
    if content_revision(&installed.manifest.files) == content_revision(files) {
        return Ok(());
    }
    Err(CliError::new(
        ExitStatus::Verification,
        message!(
            "bundle-other-bytes-installed",
            model = installed.manifest.label(),
        ),
    ))
}

/// Brings every file into the staging folder, the small ones first; once the
/// configuration is there, it says what running it will take.
fn copy(
    bundle: &Bundle,
    model: &BundledModel,
    staging: &Staging,
    targets: &[Target],
    loaded: &Options,
    ui: &Ui,
) -> Result<(), CliError> {
    let dir = &staging.dir;
    let (small, large): (Vec<_>, Vec<_>) =
        model.files.iter().cloned().partition(|f| f.size <= SMALL);
    ui.note(&message!(
        "bundle-copying",
        model = format!("{}@{}", model.name, model.revision),
        files = model.files.len(),
        size = size(model.total_size()),
    ));
    let sizes = model.files.iter().map(|f| (f.path.as_str(), f.size));
    let display = ui.transfer(&message!("import-copying-now"), sizes);
    let left =
        |files: &[FileEntry]| remaining(dir, &files.iter().map(Wanted::from).collect::<Vec<_>>());
    require_space(dir, &message!("space-copy"), left(&model.files))?;
    bundle.bring(&small, dir, &display)?;
    let needed = match install::check_config(dir, targets) {
        Err(error) => {
            // These bytes are proven, and of no use.
            staging.clear()?;
            return Err(error);
        }
        Ok(needed) => needed,
    };
    plan::tell_memory(ui, dir, loaded);
    let needed = left(&large).saturating_add(needed);
    require_space(dir, &message!("space-copy-and-export"), needed)?;
    Ok(bundle.bring(&large, dir, &display)?)
}
