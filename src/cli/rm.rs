//! `gptoss-ctl rm`.

use serde::Serialize;

use super::install::{elsewhere, open_stores};
use super::messages::message;
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{StoreError, Stores, check_model_name, split_revision};

/// Arguments of `gptoss-ctl rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model: NAME, or NAME@REVISION where there are several.
    model: String,
    /// Remove every revision of the model.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<String>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let stores = open_stores(global)?;
    let store = stores.own();
    let (name, _) = split_revision(&args.model);
    check_model_name(name)?;
    let revisions = choose(&stores, &args)?;
    let mut removed = Vec::new();
    for revision in revisions {
        store.remove_revision(name, &revision)?;
        removed.push(format!("{name}@{revision}"));
    }
    let people = message!("rm-removed", models = removed.join(", "));
    ui.result(&people, &Removed { removed });
    Ok(())
}

/// Revisions to remove: installed ones, usable or not; else interrupted ones.
fn choose(stores: &Stores, args: &Args) -> Result<Vec<String>, CliError> {
    let store = stores.own();
    let (name, beginning) = split_revision(&args.model);
    let mut revisions = store.revisions(name);
    revisions.retain(|r| r.starts_with(beginning));
    if revisions.is_empty() {
        let staged = store.staged().into_iter();
        revisions = staged
            .filter(|(n, r)| n == name && r.starts_with(beginning))
            .map(|(_, r)| r)
            .collect();
    }
    if revisions.iter().any(|r| r == beginning) {
        revisions.retain(|r| r == beginning);
    }
    match revisions.len() {
        0 => Err(elsewhere(stores, &args.model)
            .unwrap_or_else(|| stores.own().not_installed(&args.model).into())),
        1 => Ok(revisions),
        _ if args.all => Ok(revisions),
        _ => {
            let candidates = revisions.iter().map(|r| format!("{name}@{r}")).collect();
            let wanted = args.model.clone();
            let mut error = CliError::from(StoreError::Ambiguous { wanted, candidates });
            error.message = message!("rm-or-all", which = error.message);
            Err(error)
        }
    }
}
