//! `gptoss-ctl verify`.

use serde::Serialize;

use super::identity::describe_installed;
use super::install::open_store;
use super::progress::Ui;
use super::{CliError, ExitStatus, Global};
use crate::model::{FileState, InUse, Report, VerifiedFile, human_size, now_rfc3339, verify};

/// Arguments of `gptoss-ctl verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model: NAME or NAME@REVISION.
    model: String,
}

#[derive(Debug, Serialize)]
struct Verdict<'a> {
    name: &'a str,
    revision: &'a str,
    sound: bool,
    /// The published model all of these bytes are, `OWNER/NAME@COMMIT`.
    published: Option<String>,
    files: &'a [VerifiedFile],
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let store = open_store(global)?;
    let model = store.find(&args.model)?;
    let _in_use = InUse::hold(&model.dir)?;
    let total = model.manifest.total_size();
    let report = {
        let task = ui.task("proving", total);
        verify(&model, &|done, total| task.set(done, total))?
    };
    let verdict = Verdict {
        name: &model.name,
        revision: &model.revision,
        sound: report.is_sound(),
        published: report
            .published
            .as_ref()
            .filter(|p| p.complete())
            .map(|p| format!("{}@{}", p.repo, p.revision)),
        files: &report.files,
    };
    let label = model.manifest.label();
    if !report.is_sound() {
        ui.result(&wrong_files(&report), &verdict);
        return Err(CliError::new(
            ExitStatus::Verification,
            format!(
                "{label} is damaged: {} of {} files are wrong; remove it with \
                 `gptoss-ctl rm {label}` and install it again",
                report.wrong().count(),
                report.files.len()
            ),
        ));
    }
    if let Err(error) = store.mark_verified(&model, &now_rfc3339()) {
        // A read-only store is proven all the same.
        tracing::info!(%error, "the time of the proof was not recorded");
    }
    let people = format!(
        "{label}: all {} files, {}, are what was installed; {}",
        report.files.len(),
        human_size(total),
        describe_installed(&model.manifest, report.published.as_ref())
    );
    ui.result(&people, &verdict);
    Ok(())
}

fn wrong_files(report: &Report) -> String {
    let line = |file: &VerifiedFile| {
        let why = match &file.state {
            FileState::Proven => "proven".into(),
            FileState::Missing => "missing".into(),
            FileState::WrongSize { found } => {
                format!("{found} bytes, must be {}", file.size)
            }
            FileState::WrongDigest { found } => format!("wrong bytes, SHA-256 {found}"),
            FileState::Unreadable { why } => format!("cannot be read: {why}"),
            FileState::NotPublished => {
                "the built-in catalog pins other bytes than the manifest".into()
            }
        };
        format!("{}: {why}", file.path)
    };
    report.wrong().map(line).collect::<Vec<_>>().join("\n")
}
