//! `gptoss-ctl bench`: tokens per second, in-process or over D-Bus.

mod measure;
mod over_dbus;
mod plot;
mod profile;
mod replay;
mod report;
mod samples;
mod streamed;

use std::path::PathBuf;

use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;

use self::measure::{Memory, measure};
use self::report::{Machine, Measured};
use super::daemon::Place;
use super::eval::positive;
use super::locate::Located;
use super::messages::message;
use super::{CliError, ExitStatus, Global, in_process, locate, streaming};
use crate::engine::Backend;
use crate::runtime::{DEFAULT_PREFILL_CHUNK, ExpertMemory, Options, bandwidth};

/// Arguments of `gptoss-ctl bench`. Short options are llama-bench's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model, or the path of a revision folder.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Prompt lengths to measure, separated by commas; 0 for none.
    #[arg(
        short = 'p',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "512"
    )]
    n_prompt: Vec<usize>,
    /// Numbers of tokens to generate, separated by commas; 0 for none.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "128"
    )]
    n_gen: Vec<usize>,
    /// Tokens already in the cache, separated by commas.
    #[arg(
        short = 'd',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "0"
    )]
    n_depth: Vec<usize>,
    /// Sequences that generate together, separated by commas.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1",
        value_parser = positive
    )]
    parallel: Vec<usize>,
    /// Fill the cache up to the depth with noise instead of computing it: times
    /// are the same, and a deep context costs no minutes.
    #[arg(long)]
    noise: bool,
    /// Repetitions of each test.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = positive)]
    repetitions: usize,
    /// Threads [default: one per physical core].
    #[arg(short = 't', long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Which export of the model.
    #[arg(long, default_value = "cpu")]
    target: Target,
    /// Positions of the KV cache [default: as many as the tests need].
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,
    /// What the KV cache is made of: f16, f32 or int8 [default: as exported].
    #[arg(long, value_name = "KIND")]
    kv_cache: Option<Precision>,
    /// Most tokens computed at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PREFILL_CHUNK, value_parser = positive)]
    chunk: usize,
    /// Let threads sleep between operators instead of waiting actively.
    #[arg(long)]
    no_spinning: bool,
    /// Leave the weights to be read on demand instead of at the start.
    #[arg(long)]
    no_prefault: bool,
    /// Leave experts on the disk and keep as many in memory as fit into this size (6G), or into
    /// what is free; slow. Says what of the disk's speed is used.
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = streaming::FREE,
        value_parser = streaming::expert_memory
    )]
    stream_experts: Option<ExpertMemory>,
    /// Say how long each operator took; everything is slower then.
    #[arg(long)]
    profile: bool,
    /// Instead of all that: how much faster an answer comes when its tokens are
    /// guessed from what was said before. The model computes, but says ANSWER.
    #[arg(long, value_names = ["PROMPT", "ANSWER"], num_args = 2)]
    replay: Vec<PathBuf>,
    /// Instead of all that: ask the running daemon, and say what the way over
    /// D-Bus costs.
    #[arg(long)]
    over_dbus: bool,
    #[command(flatten)]
    place: Place,
    /// Draw tokens per second against depth.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// One measurement, after `depth` tokens in the cache: `prompt` tokens at once,
/// or `generate` of each of `parallel` sequences one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    prompt: usize,
    generate: usize,
    parallel: usize,
    depth: usize,
}

impl Test {
    /// Tokens of all sequences.
    fn tokens(&self) -> usize {
        (self.prompt + self.generate) * self.parallel
    }

    /// Positions that one of its sequences needs.
    fn positions(&self) -> usize {
        self.depth + self.prompt + self.generate
    }

    /// llama-bench's name of it: `pp512`, `tg128 @ d1024`, and `tg128 x 4` for
    /// four sequences.
    fn name(&self) -> String {
        let kind = match (self.prompt, self.parallel) {
            (0, 1) => format!("tg{}", self.generate),
            (0, streams) => format!("tg{} x {streams}", self.generate),
            (n, _) => format!("pp{n}"),
        };
        match self.depth {
            0 => kind,
            depth => format!("{kind} @ d{depth}"),
        }
    }
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    if !args.replay.is_empty() {
        return run_replay(global, &args);
    }
    if args.over_dbus {
        let first = |numbers: &[usize]| numbers.first().copied().unwrap_or_default();
        let plan = over_dbus::Plan {
            model: &args.model,
            place: &args.place,
            prompt: first(&args.n_prompt),
            generate: first(&args.n_gen).max(1),
            repetitions: args.repetitions,
        };
        return over_dbus::run(&plan, global.json);
    }
    let tests = tests(&args);
    let Some(needed) = tests.iter().map(Test::positions).max() else {
        return Err(CliError::new(
            ExitStatus::Usage,
            message!("bench-nothing-to-measure"),
        ));
    };
    let located = locate::locate(global, &args.model)?;
    let in_all = |test: &Test| test.parallel * test.positions().next_multiple_of(64);
    let profile = profile::Folder::new(args.profile)?;
    let mut backend = in_process::load_backend(
        global,
        &located,
        Options {
            context: args.context.unwrap_or(needed),
            cache_positions: tests.iter().map(in_all).max(),
            sequences: args.parallel.iter().copied().max().unwrap_or(1),
            profile: profile.path(),
            ..options(&args, &located)
        },
    )?;
    let read = bandwidth::measure(backend.load_report().threads);
    let machine = Machine::of(&backend, &located.revision, args.target, read);
    if !global.json {
        report::print_head(&machine);
    }
    let mut all = Vec::new();
    for test in tests {
        let memory = Memory { noise: args.noise };
        let measured = measure(&mut backend, test, memory, args.repetitions);
        let measured: Measured = measured.map_err(|error| {
            let message = message!("bench-test-failed", test = test.name(), error = %error);
            CliError::new(ExitStatus::Failed, message)
        })?;
        if !global.json {
            report::print_row(&machine, &measured);
        }
        all.push(measured);
    }
    if global.json {
        report::print_json(&machine, &all);
    } else {
        report::print_foot();
    }
    if let Some(file) = &args.plot {
        plot::write(file, &all)?;
    }
    profile.print(&mut backend, &all)
}

fn run_replay(global: &Global, args: &Args) -> Result<(), CliError> {
    let located = locate::locate(global, &args.model)?;
    let text = replay::Text::read(&args.replay, &located)?;
    let load = || -> Result<Box<dyn Backend>, CliError> {
        let options = Options {
            context: args.context.unwrap_or(text.positions()),
            ..options(args, &located)
        };
        Ok(Box::new(in_process::load_backend(
            global, &located, options,
        )?))
    };
    replay::run(&load, &text, args.repetitions, global.json)
}

/// What all measurements have in common.
fn options(args: &Args, located: &Located) -> Options {
    Options {
        model: located.name.clone(),
        target: args.target,
        threads: args.threads,
        kv_cache: args.kv_cache,
        prefill_chunk: args.chunk,
        prefault: !args.no_prefault,
        spinning: !args.no_spinning,
        stream_experts: args.stream_experts,
        ..Options::default()
    }
}

fn tests(args: &Args) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth {
        let prompts = args.n_prompt.iter().map(|&n| (n, 0, 1));
        let generations = args
            .n_gen
            .iter()
            .flat_map(|&n| args.parallel.iter().map(move |&parallel| (0, n, parallel)));
        for (prompt, generate, parallel) in prompts.chain(generations) {
            if prompt + generate > 0 {
                tests.push(Test {
                    prompt,
                    generate,
                    parallel,
                    depth,
                });
            }
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        let test = |prompt, generate, parallel, depth| Test {
            prompt,
            generate,
            parallel,
            depth,
        };
        assert_eq!(test(512, 0, 1, 0).name(), "pp512");
        assert_eq!(test(0, 128, 1, 1024).name(), "tg128 @ d1024");
        assert_eq!(test(0, 128, 4, 0).name(), "tg128 x 4");
        assert_eq!(test(0, 128, 4, 0).tokens(), 512);
    }
}
