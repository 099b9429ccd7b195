//! `gptoss-ctl verify`.

mod origin;
mod repair;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::Spoken;
use super::identity::{Identity, is_embedded};
use super::install::open_stores;
use super::messages::{message, size};
use super::progress::Ui;
use super::{CliError, ExitStatus, Global, interrupt};
use crate::model::{
    Catalog, FileState, InUse, Installed, Manifest, Report, VerifiedFile, now_rfc3339, verify,
};
use repair::Repair;

/// Arguments of `gptoss-ctl verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model: NAME or NAME@REVISION.
    model: String,
    /// Name every file and the published file whose bytes it has.
    #[arg(long)]
    files: bool,
    /// Look digests up in a catalog of your own, too [default: the one that pinned
    /// the model].
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Bring back what is broken, and only that: from where the model came, or
    /// from --from or --endpoint. What was exported is exported again.
    #[arg(long)]
    repair: bool,
    /// Repair from a checkpoint's folder or a bundle on this machine.
    #[arg(long, value_name = "PATH", requires = "repair")]
    from: Option<PathBuf>,
    /// Repair from this server: a hub, a mirror of one, or oci://HOST[:PORT]/NAME for a
    /// registry.
    #[arg(long, value_name = "URL", requires = "repair", conflicts_with = "from")]
    endpoint: Option<String>,
    /// Speak HTTP without TLS to a registry, or not [default: only on this machine's
    /// loopback interface].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", requires = "repair")]
    plain_http: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Verdict<'a> {
    name: &'a str,
    revision: &'a str,
    /// The store it is in.
    store: &'a Path,
    sound: bool,
    /// The published model all of these bytes are, `OWNER/NAME@COMMIT`.
    published: Option<String>,
    /// Origins of the catalogs whose digests were looked up.
    catalogs: Vec<&'a str>,
    files: &'a [VerifiedFile],
    /// What was brought back; none where nothing was to be repaired.
    repair: Option<&'a Repair>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let stores = open_stores(global)?;
    let model = stores.find(&args.model)?;
    let store = stores.store_of(&model);
    let in_use = InUse::hold(&model.dir)?;
    let catalogs = catalogs(&args, &model.manifest, &ui)?;
    let mut report = {
        let task = ui.task(&message!("verify-proving-now"), model.manifest.total_size());
        verify(&model, &catalogs, &|done, total| task.set(done, total))
    };
    let mut repair = None;
    let mut failure = None;
    if args.repair && report.is_sound() {
        repair::tidy(store, &model);
    } else if args.repair {
        interrupt::watch(message!("verify-interrupted"));
        let (done, error) = repair::run(global, &args, store, &model, &report, &ui)?;
        report = report.mended(&model, &catalogs, &done.paths());
        (repair, failure) = (Some(done), error);
    }
    drop(in_use);
    let verdict = Verdict {
        name: &model.name,
        revision: &model.revision,
        store: store.root(),
        sound: report.is_sound(),
        published: report
            .published
            .as_ref()
            .filter(|p| p.complete())
            .map(|p| format!("{}@{}", p.repo, p.revision)),
        catalogs: catalogs.iter().map(Catalog::origin).collect(),
        files: &report.files,
        repair: repair.as_ref(),
    };
    let lines = text(&args, &model, &report, repair.as_ref());
    ui.result(&lines.join("\n"), &verdict);
    if let Some(repair) = &repair
        && repair.changed_something()
        && InUse::by_others(&model.dir)
    {
        ui.note(&message!("verify-in-use"));
    }
    if !report.is_sound() {
        return Err(failure.unwrap_or_else(|| damaged(&model, &report)));
    }
    if let Err(error) = store.mark_verified(&model, &now_rfc3339()) {
        // A read-only store is proven all the same.
        tracing::info!(%error, "the time of the proof was not recorded");
    }
    Ok(())
}

/// The built-in catalog and a site's: the one that is named, else the one that
/// pinned the model, where it is still there.
fn catalogs(args: &Args, manifest: &Manifest, ui: &Ui) -> Result<Vec<Catalog>, CliError> {
    let mut catalogs = vec![Catalog::builtin()];
    let recorded = manifest.catalog.as_deref();
    let recorded = recorded.filter(|origin| *origin != Catalog::BUILTIN);
    match (&args.catalog, recorded) {
        (Some(path), _) => catalogs.push(Catalog::from_file(path)?),
        (None, Some(path)) => match Catalog::from_file(Path::new(path)) {
            Ok(catalog) => catalogs.push(catalog),
            Err(error) => ui.note(&message!("verify-catalog-silent", error = error.spoken())),
        },
        (None, None) => {}
    }
    Ok(catalogs)
}

fn damaged(model: &Installed, report: &Report) -> CliError {
    let label = model.manifest.label();
    let (wrong, files) = (report.wrong().count(), report.files.len());
    let message = match report.wrong().any(|f| f.state == FileState::NotPublished) {
        // Nothing can be proven by a manifest that is wrong itself.
        true => message!(
            "verify-damaged-manifest",
            model = label,
            wrong = wrong,
            files = files,
        ),
        false => message!(
            "verify-damaged",
            model = label,
            wrong = wrong,
            files = files,
        ),
    };
    CliError::new(ExitStatus::Verification, message)
}

fn text(args: &Args, model: &Installed, report: &Report, repair: Option<&Repair>) -> Vec<String> {
    let manifest = &model.manifest;
    let mut lines = repair.map(Repair::lines).unwrap_or_default();
    let embedded = is_embedded(manifest);
    let shown = |file: &&VerifiedFile| args.files || file.state != FileState::Proven;
    let files = report.files.iter().filter(shown);
    lines.extend(files.map(|file| line(manifest, file, embedded)));
    if report.is_sound() {
        lines.push(sound(manifest, report, embedded));
    }
    lines
}

/// That all files are right, and what model they are.
fn sound(manifest: &Manifest, report: &Report, embedded: bool) -> String {
    let (label, size) = (manifest.label(), size(manifest.total_size()));
    let files = report.files.len();
    let published = report.published.as_ref();
    let identity = Identity::of(manifest, published).describe();
    let matching = report.files.iter().filter(|f| f.published.is_some());
    match published {
        None if !embedded => message!(
            "verify-sound-unknown",
            model = label,
            files = files,
            size = size,
            identity = identity,
            matching = matching.count(),
            own = manifest.files.len(),
        ),
        Some(published) if published.catalog != Catalog::BUILTIN => message!(
            "verify-sound-by-catalog",
            model = label,
            files = files,
            size = size,
            identity = identity,
            catalog = &published.catalog,
        ),
        _ => message!(
            "verify-sound",
            model = label,
            files = files,
            size = size,
            identity = identity,
        ),
    }
}

/// What became of a file, and which published file it is.
fn line(manifest: &Manifest, file: &VerifiedFile, embedded: bool) -> String {
    let own = manifest.files.iter().any(|f| f.path == file.path);
    let what = match &file.state {
        FileState::Proven => match &file.published {
            Some(published) => published.to_string(),
            None if !own => message!("verify-exported"),
            None if embedded => message!("verify-embedded"),
            None => message!("verify-unpublished"),
        },
        FileState::Missing => message!("verify-missing"),
        FileState::WrongSize { found } => {
            message!("verify-wrong-size", found = found, size = file.size)
        }
        FileState::WrongDigest { found } => match &file.published {
            Some(other) => message!("verify-bytes-of-another", other = %other),
            None => message!("verify-wrong-bytes", found = found),
        },
        FileState::Unreadable { why } => message!("verify-unreadable", why = why),
        FileState::NotPublished => message!("verify-not-published"),
    };
    message!("verify-file", file = &file.path, what = what)
}
