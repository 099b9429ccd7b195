//! `gptoss-ctl bench`: tokens per second, in-process.

mod report;
mod samples;

use std::time::{Duration, Instant};

use gptoss_onnx::export::Target;

use self::report::{Machine, Measured};
use self::samples::Samples;
use super::eval::positive;
use super::{CliError, ExitStatus, Global, in_process, locate};
use crate::engine::backend::{Backend, BackendError, Wanted};
use crate::runtime::{DEFAULT_PREFILL_CHUNK, Options, OrtBackend};

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
    /// Most tokens computed at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PREFILL_CHUNK, value_parser = positive)]
    chunk: usize,
    /// Let threads sleep between operators instead of waiting actively.
    #[arg(long)]
    no_spinning: bool,
    /// Leave the weights to be read on demand instead of at the start.
    #[arg(long)]
    no_prefault: bool,
}

/// One measurement: `prompt` tokens at once or `generate` one by one, after
/// `depth` tokens in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    prompt: usize,
    generate: usize,
    depth: usize,
}

impl Test {
    fn tokens(&self) -> usize {
        self.prompt + self.generate
    }

    /// llama-bench's name of it: `pp512`, `tg128 @ d1024`.
    fn name(&self) -> String {
        let kind = match self.prompt {
            0 => format!("tg{}", self.generate),
            n => format!("pp{n}"),
        };
        match self.depth {
            0 => kind,
            depth => format!("{kind} @ d{depth}"),
        }
    }
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let tests = tests(&args);
    let Some(needed) = tests.iter().map(|test| test.depth + test.tokens()).max() else {
        return Err(CliError::new(
            ExitStatus::Usage,
            "nothing to measure: give -p or -n a number above 0",
        ));
    };
    let located = locate::locate(global, &args.model)?;
    let mut backend = in_process::load(
        &located,
        Options {
            model: located.name.clone(),
            target: args.target,
            context: args.context.unwrap_or(needed),
            threads: args.threads,
            prefill_chunk: args.chunk,
            prefault: !args.no_prefault,
            spinning: !args.no_spinning,
            ..Options::default()
        },
    )?;
    let machine = Machine::of(&backend, &located.revision, args.target);
    if !global.json {
        report::print_head(&machine);
    }
    let mut all = Vec::new();
    for test in tests {
        let samples = measure(&mut backend, test, args.repetitions).map_err(|error| {
            CliError::new(ExitStatus::Failed, format!("{}: {error}", test.name()))
        })?;
        let measured = Measured::new(test, samples);
        if !global.json {
            report::print_row(&measured);
        }
        all.push(measured);
    }
    if global.json {
        report::print_json(&machine, &all);
    } else {
        report::print_foot();
    }
    Ok(())
}

fn tests(args: &Args) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth {
        let prompts = args.n_prompt.iter().map(|&n| (n, 0));
        let generations = args.n_gen.iter().map(|&n| (0, n));
        for (prompt, generate) in prompts.chain(generations) {
            if prompt + generate > 0 {
                tests.push(Test {
                    prompt,
                    generate,
                    depth,
                });
            }
        }
    }
    tests
}

/// Times the test after one run that does not count.
fn measure(
    backend: &mut OrtBackend,
    test: Test,
    repetitions: usize,
) -> Result<Samples, BackendError> {
    let mut tokens = Tokens::new(backend.info().vocab_size);
    backend.rewind(0);
    if test.depth > 0 {
        backend.forward(&tokens.take(test.depth), Wanted::None)?;
    }
    let warm_up = Test {
        generate: test.generate.min(1),
        ..test
    };
    once(backend, warm_up, &mut tokens)?;
    let durations = (0..repetitions)
        .map(|_| once(backend, test, &mut tokens))
        .collect::<Result<_, _>>()?;
    Ok(Samples::new(test.tokens(), durations))
}

fn once(
    backend: &mut OrtBackend,
    test: Test,
    tokens: &mut Tokens,
) -> Result<Duration, BackendError> {
    backend.rewind(test.depth);
    let prompt = tokens.take(test.prompt);
    let generated = tokens.take(test.generate);
    let started = Instant::now();
    if !prompt.is_empty() {
        backend.forward(&prompt, Wanted::Last)?;
    }
    for token in generated {
        backend.forward(&[token], Wanted::Last)?;
    }
    Ok(started.elapsed())
}

/// Pseudo-random tokens, the same in every run (xorshift64).
struct Tokens {
    state: u64,
    vocabulary: u64,
}

impl Tokens {
    fn new(vocabulary: usize) -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            vocabulary: vocabulary.max(1) as u64,
        }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % self.vocabulary) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        let test = |prompt, generate, depth| Test {
            prompt,
            generate,
            depth,
        };
        assert_eq!(test(512, 0, 0).name(), "pp512");
        assert_eq!(test(0, 128, 1024).name(), "tg128 @ d1024");
    }

    #[test]
    fn tokens_stay_inside_the_vocabulary_and_differ() {
        let tokens = Tokens::new(100).take(1000);
        assert!(tokens.iter().all(|&token| token < 100));
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert!(distinct.len() > 90);
    }
}
