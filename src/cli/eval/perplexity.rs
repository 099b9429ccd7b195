//! Perplexity of a text: how well the model predicts it, token by token.

use std::path::Path;

use super::unreadable;
use crate::cli::messages::message;
use crate::cli::{CliError, ExitStatus};
use crate::engine::backend::{Backend, BackendError, Solo, Wanted};
use crate::harmony::Tokenizer;

/// Rows of logits held at once; 64 rows of 201 088 are 51 MB.
const ROWS: usize = 64;

/// What a model makes of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Perplexity {
    /// Windows the text was cut into, each read from an empty cache.
    pub windows: usize,
    /// Tokens predicted: all but the first of each window.
    pub scored: usize,
    /// Mean negative log-likelihood of a token, in nats.
    pub mean_nll: f64,
}

impl Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub fn value(&self) -> f64 {
        self.mean_nll.exp()
    }
}

/// The tokens of the text in `path`, in the vocabulary of the model in
/// `revision`.
pub(in crate::cli) fn tokens(path: &Path, revision: &Path) -> Result<Vec<u32>, CliError> {
    let text = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let usage = |message: String| CliError::new(ExitStatus::Usage, message);
    let text = String::from_utf8(text)
        .map_err(|_| usage(message!("eval-no-text", path = %path.display())))?;
    let tokenizer = Tokenizer::from_file(&revision.join("tokenizer.json"))
        .map_err(|error| CliError::new(ExitStatus::Failed, error.to_string()))?;
    let tokens = tokenizer.encode(&text);
    match tokens.len() {
        0 | 1 => Err(usage(
            message!("eval-nothing-to-predict", path = %path.display()),
        )),
        _ => Ok(tokens),
    }
}

/// Reads `tokens` in windows of `window` tokens (at least 2).
pub(super) fn measure(
    backend: &mut Solo<impl Backend>,
    tokens: &[u32],
    window: usize,
) -> Result<Perplexity, BackendError> {
    let mut total = Perplexity {
        windows: 0,
        scored: 0,
        mean_nll: 0.0,
    };
    let mut sum = 0.0;
    for window in tokens.chunks(window.max(2)).filter(|w| w.len() > 1) {
        backend.rewind(0);
        sum += window_nll(backend, window)?;
        total.windows += 1;
        total.scored += window.len() - 1;
    }
    total.mean_nll = sum / total.scored.max(1) as f64;
    Ok(total)
}

/// Sum of the negative log-likelihoods of all tokens but the first.
fn window_nll(backend: &mut Solo<impl Backend>, window: &[u32]) -> Result<f64, BackendError> {
    let (fed, predicted) = (&window[..window.len() - 1], &window[1..]);
    let all: Vec<usize> = (0..ROWS).collect();
    let mut sum = 0.0;
    for (fed, predicted) in fed.chunks(ROWS).zip(predicted.chunks(ROWS)) {
        let logits = backend.forward(fed, Wanted::At(&all[..fed.len()]))?;
        for (row, &token) in logits.rows().zip(predicted) {
            sum += nll(row, token);
        }
    }
    Ok(sum)
}

/// `-ln softmax(row)[token]`.
fn nll(row: &[f32], token: u32) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    let chosen = row
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(chosen - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_row_costs_the_logarithm_of_the_vocabulary() {
        assert!((nll(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        assert!(nll(&[0.0, 50.0], 1) < 1e-12);
        assert_eq!(nll(&[0.0], 1), f64::INFINITY);
    }

    #[test]
    fn perplexity_of_a_coin_is_two() {
        let coin = Perplexity {
            windows: 1,
            scored: 1,
            mean_nll: 2f64.ln(),
        };
        assert!((coin.value() - 2.0).abs() < 1e-12);
    }
}
