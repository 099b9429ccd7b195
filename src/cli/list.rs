//! `gptoss-ctl list`.

use std::path::Path;

use serde::Serialize;

use super::error::Spoken;
use super::install::open_stores;
use super::messages::{message, size};
use super::progress::Ui;
use super::{CliError, Global};
use crate::model::{Installed, Store, Stores};

/// Arguments of `gptoss-ctl list`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// One model, for programs.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    revision: &'a str,
    /// The store it is in.
    store: &'a Path,
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
    /// The store that is written.
    store: &'a Path,
    /// The machine's, where it is looked into as well.
    system_store: Option<&'a Path>,
    models: Vec<Row<'a>>,
    /// Interrupted pulls and pulls at work, `NAME@REVISION`.
    staged: Vec<String>,
    /// Why folders in the store cannot be used.
    unusable: Vec<String>,
}

impl<'a> Row<'a> {
    fn of(model: &'a Installed, stores: &'a Stores) -> Self {
        let manifest = &model.manifest;
        Self {
            name: &model.name,
            revision: &model.revision,
            store: stores.store_of(model).root(),
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
    let stores = open_stores(global)?;
    // Each store's own: of a model that both have, both copies take space.
    let models: Vec<_> = stores.all().flat_map(Store::models).collect();
    let staged = stores.own().staged().into_iter();
    let listing = Listing {
        store: stores.own().root(),
        system_store: stores.system().map(Store::root),
        models: models.iter().map(|m| Row::of(m, &stores)).collect(),
        staged: staged
            .map(|(name, revision)| format!("{name}@{revision}"))
            .collect(),
        unusable: stores
            .all()
            .flat_map(Store::scan)
            .filter_map(|found| found.err().map(|e| e.spoken()))
            .collect(),
    };
    Ui::new(global.json).result(&table(&listing), &listing);
    Ok(())
}

fn table(listing: &Listing<'_>) -> String {
    let mut lines = match listing.models.is_empty() {
        true => vec![none(listing)],
        false => rows(listing),
    };
    for staged in &listing.staged {
        lines.push(message!("list-staged", model = staged));
    }
    for why in &listing.unusable {
        lines.push(message!("list-unusable", why = why));
    }
    lines.join("\n")
}

fn none(listing: &Listing<'_>) -> String {
    let store = match listing.store.exists() {
        true => listing.store.display().to_string(),
        false => message!("list-not-there", store = %listing.store.display()),
    };
    match listing.system_store {
        None => message!("list-empty", store = store),
        Some(system) => {
            message!("list-empty-of-two", store = store, system = %system.display())
        }
    }
}

fn rows(listing: &Listing<'_>) -> Vec<String> {
    let name = message!("list-name");
    let width = listing.models.iter().map(|m| m.name.len()).max();
    let width = width.unwrap_or(0).max(name.chars().count());
    let column = |text: &str| match listing.system_store {
        Some(_) => format!("{text:7}  "),
        None => String::new(),
    };
    let mut lines = vec![format!(
        "{name:width$}  {:12}  {:>9}  {:14}  {}{}",
        message!("list-revision"),
        message!("list-size"),
        message!("list-targets"),
        column(&message!("list-store")),
        message!("list-installed"),
    )];
    for model in &listing.models {
        let revision: String = model.revision.chars().take(12).collect();
        let store = match model.store == listing.store {
            true => message!("list-own"),
            false => message!("list-system"),
        };
        lines.push(format!(
            "{:width$}  {revision:12}  {:>9}  {:14}  {}{}",
            model.name,
            size(model.size),
            model.targets.join(","),
            column(&store),
            model.installed_at
        ));
    }
    lines
}
