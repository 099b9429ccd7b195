//! `gptoss-ctl bench --replay`: what prompt lookup gains on a given answer.
//!
//! The engine works as in the daemon, once with drafts and once without, and the
//! model computes every step; but whatever it would say, it is made to say the
//! answer. So acceptance is that of a real text, and the cost of each step is
//! measured, whatever the weights are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::cli::eval::perplexity;
use crate::cli::locate::Located;
use crate::cli::messages::{decimal, message};
use crate::cli::terminal::say;
use crate::cli::{CliError, ExitStatus};
use crate::engine::backend::{
    Backend, BackendError, BackendInfo, Cancel, Logits, SequenceId, Slice, Wanted,
};
use crate::engine::{
    Engine, EngineEvent, EngineSettings, GenerationRequest, Owner, Priority, Sampling, Usage,
};

/// A prompt and what is answered, as tokens.
pub(super) struct Text {
    tokens: Arc<[u32]>,
    prompt: usize,
}

impl Text {
    /// Reads `[prompt, answer]` in the vocabulary of the model.
    pub fn read(files: &[PathBuf], located: &Located) -> Result<Self, CliError> {
        let [prompt, answer] = files else {
            let message = message!("bench-replay-two-files");
            return Err(CliError::new(ExitStatus::Usage, message));
        };
        let read = |file: &Path| perplexity::tokens(file, &located.revision);
        let mut tokens = read(prompt)?;
        let prompt = tokens.len();
        tokens.extend(read(answer)?);
        Ok(Self {
            tokens: tokens.into(),
            prompt,
        })
    }

    /// Positions that the context window needs.
    pub fn positions(&self) -> usize {
        self.tokens.len() + 1
    }
}

/// How fast the answer came.
#[derive(Debug, Clone, Copy)]
struct Run {
    tokens: usize,
    steps: usize,
    rate: f64,
}

/// Answers with and without drafts, `repetitions` times each in turns, and
/// prints the medians.
pub(super) fn run(
    load: &dyn Fn() -> Result<Box<dyn Backend>, CliError>,
    text: &Text,
    repetitions: usize,
    as_json: bool,
) -> Result<(), CliError> {
    let mut runs: [Vec<Run>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..repetitions {
        for (speculate, runs) in [false, true].into_iter().zip(&mut runs) {
            runs.push(answer(load()?, text, speculate)?);
        }
    }
    let [without, with] = runs.map(|mut runs| {
        runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        runs[runs.len() / 2]
    });
    let per_step = with.tokens as f64 / with.steps.max(1) as f64;
    let gain = with.rate / without.rate;
    if as_json {
        let side = |run: Run| -> Value { json!({"ts": run.rate, "steps": run.steps}) };
        say!(
            "{:#}",
            json!({
                "n_prompt": text.prompt,
                "n_gen": with.tokens,
                "without": side(without),
                "with": side(with),
                "tokens_per_step": per_step,
                "gain": gain,
            })
        );
        return Ok(());
    }
    let told = message!(
        "bench-replayed",
        tokens = with.tokens,
        prompt = text.prompt,
        without = decimal(without.rate, 2),
        with = decimal(with.rate, 2),
        gain = decimal(gain, 2),
        step = decimal(per_step, 2),
    );
    say!("{told}");
    Ok(())
}

fn answer(backend: Box<dyn Backend>, text: &Text, speculate: bool) -> Result<Run, CliError> {
    let failed = |error: String| CliError::new(ExitStatus::Failed, error);
    let steps = Arc::new(AtomicUsize::new(0));
    let forced = Forced {
        rows: Vec::new(),
        backend,
        tokens: Arc::clone(&text.tokens),
        steps: Arc::clone(&steps),
    };
    let settings = EngineSettings {
        speculate,
        ..EngineSettings::default()
    };
    let engine = Engine::start(Box::new(forced), settings).map_err(|e| failed(e.to_string()))?;
    let request = GenerationRequest {
        owner: Owner(0),
        priority: Priority::Interactive,
        arrival: 0,
        prompt: text.tokens[..text.prompt].to_vec(),
        boundaries: Vec::new(),
        max_new: text.tokens.len() - text.prompt,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        stop_tokens: Vec::new(),
        guide: None,
    };
    let mut stream = engine.submit(request).map_err(|e| failed(e.to_string()))?;
    let usage: Usage = loop {
        match stream.blocking_next() {
            Some(EngineEvent::Done { usage, .. }) => break usage,
            Some(EngineEvent::Failed(failure)) => return Err(failed(failure.to_string())),
            Some(_) => {}
            None => return Err(failed(message!("bench-no-answer"))),
        }
    };
    // The first token comes from the prompt's step, of which the others are not.
    let tokens = usage.generated_tokens.saturating_sub(1);
    Ok(Run {
        tokens,
        steps: steps.load(Ordering::Relaxed).saturating_sub(1),
        rate: tokens as f64 / usage.decode.as_secs_f64().max(1e-9),
    })
}

/// A backend that computes and then says the next of `tokens`.
struct Forced {
    backend: Box<dyn Backend>,
    tokens: Arc<[u32]>,
    steps: Arc<AtomicUsize>,
    /// Logits of the last step: a one in each row, and zeros.
    rows: Vec<f32>,
}

impl Backend for Forced {
    fn info(&self) -> &BackendInfo {
        self.backend.info()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.backend.open()
    }

    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId> {
        self.backend.fork(sequence, position)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.backend.close(sequence);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        self.backend.length(sequence)
    }

    fn rewind(&mut self, sequence: SequenceId, position: usize) {
        self.backend.rewind(sequence, position);
    }

    fn mark(&mut self, sequence: SequenceId, position: usize) {
        self.backend.mark(sequence, position);
    }

    fn longest_slice(&self, sequence: SequenceId) -> usize {
        self.backend.longest_slice(sequence)
    }

    fn forward(&mut self, slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError> {
        let mut positions = Vec::new();
        for slice in slices {
            let first = self.backend.length(slice.sequence);
            match slice.wanted {
                Wanted::None => {}
                Wanted::Last => positions.push(first + slice.tokens.len() - 1),
                Wanted::At(wanted) => positions.extend(wanted.iter().map(|&p| first + p)),
            }
        }
        let vocab_size = self.backend.info().vocab_size;
        self.backend.forward(slices)?;
        self.steps
            .fetch_add(usize::from(!positions.is_empty()), Ordering::Relaxed);
        self.rows.clear();
        self.rows.resize(positions.len() * vocab_size, 0.0);
        for (row, position) in self.rows.chunks_exact_mut(vocab_size).zip(positions) {
            // Nothing is sampled behind the end.
            let next = self.tokens.get(position + 1).copied().unwrap_or_default();
            row[next as usize] = 1.0;
        }
        Ok(Logits {
            values: &self.rows,
            vocab_size,
        })
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        self.backend.cancel_handle()
    }
}
