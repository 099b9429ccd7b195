//! `gptoss-ctl export`.

use gptoss_onnx::export::Target;

use super::install::{self, all_of, find_own, open_stores};
use super::messages::message;
use super::progress::Ui;
use super::{CliError, Global, interrupt};

/// Arguments of `gptoss-ctl export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model: NAME or NAME@REVISION.
    model: String,
    /// What to export for, separated by commas: cpu, portable, cuda, cuda-int4, coreml.
    #[arg(long, value_delimiter = ',', required = true)]
    target: Vec<Target>,
    /// Export again what is exported already.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let stores = open_stores(global)?;
    let model = find_own(&stores, &args.model)?;
    interrupt::watch(message!("export-interrupted"));
    let targets = all_of(&args.target);
    let label = model.manifest.label();
    match install::add_targets(stores.own(), &model, &args.target, args.force, &ui)? {
        Some(model) => {
            let people = message!("export-done", model = label, targets = targets);
            install::tell(&ui, "exported", &people, &model);
        }
        None => {
            let people = message!("export-already", model = label, targets = targets);
            install::tell(&ui, "already-exported", &people, &model);
        }
    }
    Ok(())
}
