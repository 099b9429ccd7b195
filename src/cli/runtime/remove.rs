//! `gptoss-ctl runtime remove`.

use std::path::PathBuf;

use serde::Serialize;

use super::build;
use crate::cli::install::open_store;
use crate::cli::messages::message;
use crate::cli::progress::Ui;
use crate::cli::{CliError, ExitStatus, Global};
use crate::wheel;

/// Arguments of `gptoss-ctl runtime remove`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The build for CUDA, with the libraries of CUDA and cuDNN.
    #[arg(long)]
    cuda: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    status: &'static str,
    build: &'static str,
    folder: PathBuf,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let build = build(args.cuda)?;
    let store = open_store(global)?;
    let folder = build.folder(store.root());
    if !wheel::remove(build, &store)? {
        let message = message!(
            "runtime-nothing-to-remove",
            build = build.kind.name(),
            folder = %folder.display(),
        );
        return Err(CliError::new(ExitStatus::NotFound, message));
    }
    let people = message!(
        "runtime-removed",
        build = build.kind.name(),
        folder = %folder.display(),
    );
    let removed = Removed {
        status: "removed",
        build: build.kind.name(),
        folder,
    };
    ui.result(&people, &removed);
    Ok(())
}
