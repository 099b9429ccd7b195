//! `gptoss-ctl`: one file or folder a subcommand.

mod attachment;
mod bench;
mod chat;
mod daemon;
mod error;
mod eval;
mod export;
mod generation;
mod import;
mod in_process;
mod install;
mod interrupt;
mod list;
mod load;
mod locate;
mod markdown;
mod progress;
mod pull;
mod rm;
mod run;
mod runtime;
mod show;
mod status;
mod terminal;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::{CliError, ExitStatus};

/// Fetch, prove and run OpenAI's gpt-oss models on this machine.
#[derive(Debug, Parser)]
#[command(name = "gptoss-ctl", version)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand gets.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Folder of the model store.
    #[arg(long, global = true, env = "GPTOSS_STORE", value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model, prove its bytes and export it.
    Pull(pull::Args),
    /// Install a checkpoint that is already on this machine.
    Import(import::Args),
    /// List the installed models.
    List(list::Args),
    /// Show a model's files, digests and provenance.
    Show(show::Args),
    /// Prove a model's bytes again.
    Verify(verify::Args),
    /// Remove a model.
    Rm(rm::Args),
    /// Export an installed model for another target.
    Export(export::Args),
    /// Ask a model one question through the daemon.
    Run(run::Args),
    /// Converse with a model at the terminal.
    Chat(chat::Args),
    /// Have the daemon load a model.
    Load(load::LoadArgs),
    /// Have the daemon unload its model.
    Unload(load::UnloadArgs),
    /// Show the daemon's state.
    Status(status::Args),
    /// Compute logits of given tokens, in-process.
    Eval(eval::Args),
    /// Measure tokens per second, in-process.
    Bench(bench::Args),
    /// Show which ONNX Runtime library is used.
    Runtime(runtime::Args),
}

/// Entry point of `gptoss-ctl`.
pub fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let result = match command {
        Command::Pull(args) => pull::run(&global, args),
        Command::Import(args) => import::run(&global, args),
        Command::List(args) => list::run(&global, args),
        Command::Show(args) => show::run(&global, args),
        Command::Verify(args) => verify::run(&global, args),
        Command::Rm(args) => rm::run(&global, args),
        Command::Export(args) => export::run(&global, args),
        Command::Run(args) => run::run(&global, args),
        Command::Chat(args) => chat::run(&global, args),
        Command::Load(args) => load::load(args),
        Command::Unload(args) => load::unload(args),
        Command::Status(args) => status::run(&global, args),
        Command::Eval(args) => eval::run(&global, args),
        Command::Bench(args) => bench::run(&global, args),
        Command::Runtime(args) => runtime::run(&global, args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(format_args!("gptoss-ctl: {error}\n"));
            error.status.into()
        }
    }
}
