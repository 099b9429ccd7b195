//! `gptoss-ctl gc`.

use serde::{Serialize, Serializer};

use super::install::open_store;
use super::messages::{message, size};
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{Garbage, Reason, Store, StoreError, size_of};
use crate::wheel;

/// Arguments of `gptoss-ctl gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also revisions of which a newer one is installed, and ONNX Runtime for CUDA of
    /// other versions.
    #[arg(long)]
    superseded: bool,
    /// Only tell what would be removed.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    #[serde(serialize_with = "word")]
    reason: Reason,
    size: u64,
    removed: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    rows: Vec<Row>,
    freed: u64,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let store = open_store(global)?;
    if !args.dry_run {
        store.end_removals();
    }
    let mut rows = Vec::new();
    for garbage in store.garbage(args.superseded) {
        let removed = match args.dry_run {
            true => false,
            false => match store.collect(&garbage) {
                Ok(()) => true,
                // Somebody needs it after all.
                Err(StoreError::Busy { .. } | StoreError::InUse { .. }) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        rows.push(row(&garbage, removed));
    }
    if args.superseded {
        rows.extend(runtimes(&store, args.dry_run)?);
    }
    let freed = rows.iter().filter(|r| r.removed).map(|r| r.size).sum();
    let people = text(&rows, args.dry_run);
    ui.result(&people, &Outcome { rows, freed });
    Ok(())
}

/// Builds of ONNX Runtime that another version of this program loads.
fn runtimes(store: &Store, dry_run: bool) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    for folder in wheel::of_other_versions(store) {
        let size = size_of(&folder);
        if !dry_run {
            wheel::discard(&folder, store)?;
        }
        let name = folder.strip_prefix(store.root()).unwrap_or(&folder);
        rows.push(Row {
            model: name.display().to_string(),
            reason: Reason::Superseded,
            size,
            removed: !dry_run,
        });
    }
    Ok(rows)
}

/// A reason, for programs.
fn word<S: Serializer>(reason: &Reason, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(match reason {
        Reason::Interrupted => "interrupted",
        Reason::Superseded => "superseded",
    })
}

fn row(garbage: &Garbage, removed: bool) -> Row {
    Row {
        model: garbage.label(),
        reason: garbage.reason,
        size: garbage.size,
        removed,
    }
}

fn text(rows: &[Row], dry_run: bool) -> String {
    if rows.is_empty() {
        return message!("gc-nothing");
    }
    let line = |row: &Row| {
        let (model, size) = (&row.model, size(row.size));
        let reason = match row.reason {
            Reason::Interrupted => message!("gc-interrupted"),
            Reason::Superseded => message!("gc-superseded"),
        };
        match dry_run {
            true => message!(
                "gc-would-remove",
                model = model,
                reason = reason,
                size = size
            ),
            false => message!("gc-removed", model = model, reason = reason, size = size),
        }
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
