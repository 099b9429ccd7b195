//! `gptoss-ctl`: one file or folder a subcommand.

mod attachment;
mod bench;
mod bundle;
mod chat;
mod completions;
mod daemon;
mod doctor;
mod error;
mod eval;
mod export;
mod gc;
mod generation;
mod help;
mod identity;
mod import;
mod in_process;
mod install;
mod interrupt;
mod list;
mod load;
mod locate;
mod man;
mod markdown;
mod messages;
mod plan;
mod progress;
mod pull;
mod rm;
mod run;
mod runtime;
mod selftest;
mod settings;
mod show;
mod size;
mod status;
mod streaming;
mod terminal;
mod trust;
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
    /// Folder of the model store [default: your own; the machine's is read as well].
    #[arg(long, global = true, env = "GPTOSS_STORE", value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The only file of settings [default: those of gptossd].
    #[arg(long, global = true, env = "GPTOSS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Open no connection but the bus': a pull uses only what is on this machine.
    #[arg(long, global = true)]
    pub offline: bool,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model, prove its bytes and export it.
    Pull(pull::Args),
    /// Say what a model takes of disk and memory, before any of it is there.
    Plan(plan::Args),
    /// Install a checkpoint or a bundle that is already on this machine.
    Import(import::Args),
    /// Carry models to machines without a network.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// List the installed models.
    List(list::Args),
    /// Show a model's files, digests and provenance.
    Show(show::Args),
    /// Prove a model's bytes again.
    Verify(verify::Args),
    /// Remove a model.
    Rm(rm::Args),
    /// Remove what nobody needs any more.
    Gc(gc::Args),
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
    /// Show which ONNX Runtime library is used, or bring one in.
    Runtime(runtime::Args),
    /// Look for what is wrong on this machine, and say what to do about it.
    Doctor(doctor::Args),
    /// Run the embedded model on each provider and compare its logits.
    Selftest(selftest::Args),
    /// Write what a shell needs to complete the command line.
    Completions(completions::Args),
    /// Write the manual.
    Man(man::Args),
}

/// Entry point of `gptoss-ctl`.
pub fn main() -> ExitCode {
    if let Some(code) = crate::runtime::proof::serve() {
        return code;
    }
    let Arguments { global, command } = help::parse(messages::language());
    if global.json {
        messages::speak_to_programs();
    }
    let result = match command {
        Command::Pull(args) => pull::run(&global, args),
        Command::Plan(args) => plan::run(&global, args),
        Command::Import(args) => import::run(&global, args),
        Command::Bundle(command) => bundle::run(&global, command),
        Command::List(args) => list::run(&global, args),
        Command::Show(args) => show::run(&global, args),
        Command::Verify(args) => verify::run(&global, args),
        Command::Rm(args) => rm::run(&global, args),
        Command::Gc(args) => gc::run(&global, args),
        Command::Export(args) => export::run(&global, args),
        Command::Run(args) => run::run(&global, args),
        Command::Chat(args) => chat::run(&global, args),
        Command::Load(args) => load::load(args),
        Command::Unload(args) => load::unload(args),
        Command::Status(args) => status::run(&global, args),
        Command::Eval(args) => eval::run(&global, args),
        Command::Bench(args) => bench::run(&global, args),
        Command::Runtime(args) => runtime::run(&global, args),
        Command::Doctor(args) => doctor::run(&global, args),
        Command::Selftest(args) => selftest::run(&global, args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(format_args!("gptoss-ctl: {error}\n"));
            error.status.into()
        }
    }
}
