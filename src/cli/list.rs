//! `gptoss-ctl list`.

use serde::Serialize;

use super::install::open_store;
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{Installed, human_size};

/// Arguments of `gptoss-ctl list`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// One model, for programs.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    revision: &'a str,
    size: u64,
    targets: Vec<&'a str>,
    source: &'a str,
    license: Option<&'a str>,
    installed_at: &'a str,
    verified_at: &'a str,
    dir: String,
}

#[derive(Debug, Serialize)]
struct Listing<'a> {
    store: String,
    models: Vec<Row<'a>>,
    /// Interrupted pulls and pulls at work, `NAME@REVISION`.
    staged: Vec<String>,
    /// Why folders in the store cannot be used.
    unusable: Vec<String>,
}

impl<'a> From<&'a Installed> for Row<'a> {
    fn from(model: &'a Installed) -> Self {
        let manifest = &model.manifest;
        Self {
            name: &model.name,
            revision: &model.revision,
            size: manifest.total_size(),
            targets: manifest.targets.keys().map(String::as_str).collect(),
            source: &manifest.source,
            license: manifest.license.as_deref(),
            installed_at: &manifest.installed_at,
            verified_at: &manifest.verified_at,
            dir: model.dir.display().to_string(),
        }
    }
}

/// Runs the command.
pub fn run(global: &Global, _args: Args) -> Result<(), CliError> {
    let store = open_store(global)?;
    let models = store.models();
    let listing = Listing {
        store: store.root().display().to_string(),
        models: models.iter().map(Row::from).collect(),
        staged: store
            .staged()
            .into_iter()
            .map(|(name, revision)| format!("{name}@{revision}"))
            .collect(),
        unusable: store
            .scan()
            .into_iter()
            .filter_map(|found| found.err().map(|e| e.to_string()))
            .collect(),
    };
    Ui::new(global.json).result(&table(&listing), &listing);
    Ok(())
}

fn table(listing: &Listing<'_>) -> String {
    let mut lines = Vec::new();
    if listing.models.is_empty() {
        lines.push(format!(
            "no models in {}; `gptoss-ctl pull 20b` fetches one, `gptoss-ctl pull nano` a tiny one",
            listing.store
        ));
    } else {
        let width = listing.models.iter().map(|m| m.name.len()).max();
        let width = width.unwrap_or(0).max("NAME".len());
        lines.push(format!(
            "{:width$}  {:12}  {:>9}  {:14}  INSTALLED",
            "NAME", "REVISION", "SIZE", "TARGETS"
        ));
        for model in &listing.models {
            let revision: String = model.revision.chars().take(12).collect();
            lines.push(format!(
                "{:width$}  {revision:12}  {:>9}  {:14}  {}",
                model.name,
                human_size(model.size),
                model.targets.join(","),
                model.installed_at
            ));
        }
    }
    for staged in &listing.staged {
        lines.push(format!("not complete: {staged}"));
    }
    for why in &listing.unusable {
        lines.push(format!("not usable: {why}"));
    }
    lines.join("\n")
}
