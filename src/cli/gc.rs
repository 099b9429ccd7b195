//! `gptoss-ctl gc`.

use serde::Serialize;

use super::install::open_store;
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{Garbage, Reason, StoreError, human_size};

/// Arguments of `gptoss-ctl gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also revisions of which a newer one is installed.
    #[arg(long)]
    superseded: bool,
    /// Only tell what would be removed.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    reason: &'static str,
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
    let freed = rows.iter().filter(|r| r.removed).map(|r| r.size).sum();
    let people = text(&rows, args.dry_run);
    ui.result(&people, &Outcome { rows, freed });
    Ok(())
}

fn row(garbage: &Garbage, removed: bool) -> Row {
    Row {
        model: garbage.label(),
        reason: match garbage.reason {
            Reason::Interrupted => "interrupted",
            Reason::Superseded => "superseded",
        },
        size: garbage.size,
        removed,
    }
}

fn text(rows: &[Row], dry_run: bool) -> String {
    if rows.is_empty() {
        return "nothing to remove".into();
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let line = |row: &Row| {
        let size = human_size(row.size);
        format!("{verb} {} ({}), {size}", row.model, row.reason)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
