//! `gptoss-ctl eval`: logits of given tokens, so that anyone can judge the numbers.

pub(super) mod perplexity;
mod prompts;

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;
use ndarray::{Array1, Array2, ArrayView1};
use ndarray_npy::{NpzWriter, WriteNpzError};
use serde_json::json;

use self::prompts::Prompt;
use super::error::reason;
use super::locate::{self, Located};
use super::messages::{decimal, message};
use super::{CliError, ExitStatus, Global, in_process, streaming};
use crate::cli::terminal::say;
use crate::engine::backend::{Backend, BackendError, BackendInfo, Solo, Wanted};
use crate::runtime::{DEFAULT_PREFILL_CHUNK, ExpertMemory, Options, OrtBackend};

/// Tokens of a window unless said otherwise.
const PERPLEXITY_WINDOW: usize = 512;

/// Arguments of `gptoss-ctl eval`.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("input").required(true).args(["tokens", "perplexity"])))]
pub struct Args {
    /// An installed model, or the path of a revision folder.
    #[arg(value_name = "MODEL")]
    model: String,
    /// The tokens: a JSON list of {"ids": [..], "positions": [..], "prefill": K}.
    #[arg(long, value_name = "FILE.json", requires = "logits")]
    tokens: Option<PathBuf>,
    /// Where the logits go: p{i}_logits, f32 [positions, vocabulary].
    #[arg(long, value_name = "OUT.npz", requires = "tokens")]
    logits: Option<PathBuf>,
    /// Mean negative log-likelihood and perplexity of a text, read in windows
    /// of --context tokens (default 512), each from an empty cache.
    #[arg(long, value_name = "FILE.txt")]
    perplexity: Option<PathBuf>,
    /// Which export of the model.
    #[arg(long, default_value = "cpu")]
    target: Target,
    /// Compute with float32 activations; slow.
    #[arg(long)]
    exact: bool,
    /// What the KV cache is made of: f16, f32 or int8 [default: as exported,
    /// f32 with --exact].
    #[arg(long, value_name = "KIND")]
    kv_cache: Option<Precision>,
    /// Continue each prompt greedily: p{i}_greedy, i64 [N], end tokens ignored.
    #[arg(long, value_name = "N", default_value_t = 0)]
    greedy: usize,
    /// Most tokens computed at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PREFILL_CHUNK, value_parser = positive)]
    chunk: usize,
    /// Positions of the KV cache [default: as many as the prompts need].
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,
    /// Threads [default: one per physical core].
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Leave experts on the disk and keep as many in memory as fit into this size (6G), or into
    /// what is free; slow.
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = streaming::FREE,
        value_parser = streaming::expert_memory
    )]
    stream_experts: Option<ExpertMemory>,
}

/// A number from 1 on.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(message!("measure-positive")),
        Ok(number) => Ok(number),
    }
}

/// A file that was named and cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> CliError {
    let status = match error.kind() {
        io::ErrorKind::NotFound => ExitStatus::NotFound,
        _ => ExitStatus::Failed,
    };
    let message = message!("measure-unreadable", path = %path.display(), error = reason(error));
    CliError::new(status, message)
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let located = locate::locate(global, &args.model)?;
    match (&args.tokens, &args.logits, &args.perplexity) {
        (Some(tokens), Some(logits), _) => run_logits(global, &args, &located, tokens, logits),
        (_, _, Some(text)) => run_perplexity(global, &args, &located, text),
        _ => Err(CliError::new(
            ExitStatus::Usage,
            message!("eval-nothing-to-do"),
        )),
    }
}

/// Loads the model with a cache of `context` positions.
fn load(
    global: &Global,
    args: &Args,
    located: &Located,
    context: usize,
) -> Result<Solo<OrtBackend>, CliError> {
    let options = Options {
        model: located.name.clone(),
        target: args.target,
        context,
        threads: args.threads,
        exact: args.exact,
        kv_cache: args.kv_cache,
        prefill_chunk: args.chunk,
        prefault: false,
        stream_experts: args.stream_experts,
        ..Options::default()
    };
    in_process::load(global, located, options)
}

fn run_logits(
    global: &Global,
    args: &Args,
    located: &Located,
    tokens: &Path,
    output: &Path,
) -> Result<(), CliError> {
    let prompts = prompts::read(tokens)?;
    let needed = |p: &Prompt| p.ids.len() + args.greedy;
    let longest = prompts.iter().map(needed).max().unwrap_or(1);
    let mut backend = load(global, args, located, args.context.unwrap_or(longest))?;
    let rows = write(output, &prompts, args.greedy, &mut backend)?;
    if global.json {
        let summary = json!({
            "model": located.name,
            "target": args.target.to_string(),
            "exact": args.exact,
            "kv_cache": backend.backend().load_report().kv_cache.name(),
            "prompts": prompts.len(),
            "rows": rows,
            "output": output,
            "load_ms": backend.backend().load_report().duration.as_secs_f64() * 1e3,
        });
        say!("{summary}");
    } else {
        let written = message!(
            "eval-written",
            rows = rows,
            prompts = prompts.len(),
            output = %output.display(),
        );
        say!("{written}");
    }
    Ok(())
}

fn run_perplexity(
    global: &Global,
    args: &Args,
    located: &Located,
    text: &Path,
) -> Result<(), CliError> {
    let tokens = perplexity::tokens(text, &located.revision)?;
    let mut backend = load(
        global,
        args,
        located,
        args.context.unwrap_or(PERPLEXITY_WINDOW),
    )?;
    let window = backend.info().context_window;
    let measured = perplexity::measure(&mut backend, &tokens, window)
        .map_err(|error| CliError::new(ExitStatus::Failed, error.to_string()))?;
    if global.json {
        let summary = json!({
            "model": located.name,
            "target": args.target.to_string(),
            "exact": args.exact,
            "kv_cache": backend.backend().load_report().kv_cache.name(),
            "window": window,
            "windows": measured.windows,
            "tokens": tokens.len(),
            "scored": measured.scored,
            "mean_nll": measured.mean_nll,
            "perplexity": measured.value(),
        });
        say!("{summary}");
    } else {
        let told = message!(
            "eval-perplexity",
            perplexity = decimal(measured.value(), 4),
            mean = decimal(measured.mean_nll, 5),
            tokens = measured.scored,
            windows = measured.windows,
            window = window,
        );
        say!("{told}");
    }
    Ok(())
}

/// Writes the archive beside its final name first, so that a failure leaves
/// nothing that looks like a result. Returns the number of rows.
fn write(
    output: &Path,
    prompts: &[Prompt],
    greedy: usize,
    backend: &mut Solo<OrtBackend>,
) -> Result<usize, CliError> {
    let cannot = |error: String| {
        let message = message!("measure-unwritable", path = %output.display(), error = error);
        CliError::new(ExitStatus::Failed, message)
    };
    let refused = |error: io::Error| cannot(reason(&error));
    let unwritten = |error: WriteNpzError| cannot(error.to_string());
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(refused)?;
    let mut archive = NpzWriter::new(BufWriter::new(file));
    let mut rows = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        let failed = |error: BackendError| {
            let message = message!("eval-prompt-failed", number = i, error = %error);
            CliError::new(ExitStatus::Failed, message)
        };
        let evaluated = evaluate(backend, prompt, greedy).map_err(failed)?;
        rows += evaluated.logits.nrows();
        archive
            .add_array(format!("p{i}_logits"), &evaluated.logits)
            .map_err(unwritten)?;
        if greedy > 0 {
            archive
                .add_array(format!("p{i}_greedy"), &evaluated.greedy)
                .map_err(unwritten)?;
        }
    }
    let file = archive.finish().map_err(unwritten)?;
    let file = file.into_inner().map_err(|e| refused(e.into_error()))?;
    persist(file, output).map_err(refused)?;
    Ok(rows)
}

/// Gives the file its name, with the permissions a new file gets.
fn persist(file: tempfile::NamedTempFile, output: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.persist(output).map(drop).map_err(|error| error.error)
}

struct Evaluated {
    /// f32 `[positions, vocabulary]`.
    logits: Array2<f32>,
    /// i64 `[N]`.
    greedy: Array1<i64>,
}

/// The wanted logits of one prompt, and its greedy continuation.
///
/// Rows go straight to their place: a hundred of the real vocabulary's length
/// are 80 MB.
fn evaluate(
    backend: &mut Solo<impl Backend>,
    prompt: &Prompt,
    greedy: usize,
) -> Result<Evaluated, BackendError> {
    backend.rewind(0);
    let BackendInfo {
        vocab_size,
        prefill_chunk,
        ..
    } = *backend.info();
    let mut logits = Array2::zeros((prompt.positions.len(), vocab_size));
    let mut last_row = Vec::new();
    let (head, rest) = prompt.ids.split_at(prompt.prefill);
    let mut fed = 0;
    for slice in head.chunks(prefill_chunk).chain(rest.chunks(1)) {
        let end = fed + slice.len();
        let ends_prompt = end == prompt.ids.len();
        let mut wanted: Vec<usize> = (fed..end)
            .filter(|p| prompt.positions.contains(p) || (ends_prompt && p + 1 == end))
            .collect();
        wanted.iter_mut().for_each(|position| *position -= fed);
        let rows = backend.forward(slice, Wanted::At(&wanted))?;
        for (position, row) in wanted.iter().zip(rows.rows()) {
            place(row, fed + position, &prompt.positions, &mut logits);
        }
        if ends_prompt {
            last_row = rows.last().unwrap_or(&[]).to_vec();
        }
        fed = end;
    }
    let greedy = continue_greedily(backend, &last_row, greedy)?;
    Ok(Evaluated {
        logits,
        greedy: Array1::from_vec(greedy),
    })
}

/// Copies the row of `position` to wherever it is asked for.
fn place(row: &[f32], position: usize, positions: &[usize], logits: &mut Array2<f32>) {
    for (mut target, _) in logits
        .rows_mut()
        .into_iter()
        .zip(positions)
        .filter(|(_, wanted)| **wanted == position)
    {
        target.assign(&ArrayView1::from(row));
    }
}

/// The `count` most likely tokens after the position `row` belongs to.
fn continue_greedily(
    backend: &mut Solo<impl Backend>,
    row: &[f32],
    count: usize,
) -> Result<Vec<i64>, BackendError> {
    let mut tokens = Vec::with_capacity(count);
    let mut token = argmax(row);
    while tokens.len() < count {
        tokens.push(i64::from(token));
        if tokens.len() < count {
            let logits = backend.forward(&[token], Wanted::Last)?;
            token = argmax(logits.last().unwrap_or(&[]));
        }
    }
    Ok(tokens)
}

/// Index of the largest value, the first of equals.
fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_logits_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -1.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let mut logits = Array2::zeros((3, 2));
        let positions = [4, 1, 4];
        place(&[1.0, 2.0], 1, &positions, &mut logits);
        place(&[3.0, 4.0], 4, &positions, &mut logits);
        place(&[9.0, 9.0], 7, &positions, &mut logits);
        assert_eq!(logits, ndarray::arr2(&[[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]));
    }
}
