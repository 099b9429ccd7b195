//! The embedded model `nano`: a tiny trained checkpoint of the same
//! architecture, and what it must answer, for self-tests.

use serde::Deserialize;

use crate::checkpoint::{Checkpoint, CheckpointError};

/// Positions of the rotary tables in [`checkpoint`]: plenty for a self-test,
/// and built in no time.
const SELF_TEST_POSITIONS: usize = 1024;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../nano/", $name)) as &[u8])),*]
    };
}

static FILES: &[(&str, &[u8])] = embedded![
    "config.json",
    "generation_config.json",
    "model-00000-of-00001.safetensors",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The checkpoint's files as published ones are laid out: (name, content).
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    FILES
}

/// The checkpoint, for a self-test: its contexts end at 1024 positions, so
/// that its graph is small. To install it, write [`files`].
///
/// # Errors
/// Never in a sound build; a test opens it.
pub fn checkpoint() -> Result<Checkpoint, CheckpointError> {
    Ok(Checkpoint::from_static(FILES)?.with_max_positions(SELF_TEST_POSITIONS))
}

/// A prompt and the logits a float64 computation of the published weights
/// gives.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Golden {
    /// Token ids of the prompt, longer than the sliding window.
    pub ids: Vec<u32>,
    /// Positions whose logits are known, ascending.
    pub positions: Vec<usize>,
    /// Logits, one row of the vocabulary's length for each position.
    pub logits: Vec<Vec<f32>>,
}

/// What to expect of [`golden`].
pub fn golden() -> Golden {
    serde_json::from_slice(include_bytes!("../nano/golden.json"))
        .expect("golden.json is part of the build, and a test reads it")
}

impl Golden {
    /// Largest distance a sound provider may have, see [`Golden::distance`].
    ///
    /// int8 weights and activations on the CPU cost 0.018; other providers run
    /// int4 experts (0.11) or float16 besides. A wrong graph or kernel is off
    /// by 1 and more.
    pub fn tolerance(provider: &str) -> f64 {
        match provider {
            "cpu" => 0.06,
            _ => 0.3,
        }
    }

    /// How far rows of logits are from the golden ones: root mean square of
    /// the differences, relative to the spread of the golden row; the largest
    /// of all rows. Infinite where a row is missing, of another length or not
    /// finite.
    pub fn distance<'a>(&self, rows: impl IntoIterator<Item = &'a [f32]>) -> f64 {
        let rows: Vec<&[f32]> = rows.into_iter().collect();
        if rows.len() != self.logits.len() {
            return f64::INFINITY;
        }
        let pairs = self.logits.iter().zip(rows);
        pairs
            .map(|(golden, row)| relative(golden, row))
            .fold(0.0, f64::max)
    }
}

fn relative(golden: &[f32], row: &[f32]) -> f64 {
    if golden.len() != row.len() || !row.iter().all(|v| v.is_finite()) {
        return f64::INFINITY;
    }
    let wide = |v: &f32| f64::from(*v);
    let mean = golden.iter().map(wide).sum::<f64>() / golden.len() as f64;
    let spread: f64 = golden.iter().map(|g| (wide(g) - mean).powi(2)).sum();
    let squares = golden
        .iter()
        .zip(row)
        .map(|(g, r)| (wide(g) - wide(r)).powi(2));
    (squares.sum::<f64>() / spread).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_checkpoint_is_sound() {
        let checkpoint = checkpoint().expect("sound");
        let config = checkpoint.config();
        assert_eq!(config.head_dim, 64);
        assert!(config.experts >= 8 && config.experts_per_token == 4);
        assert!(config.vocab_size <= 4096);
        assert!(!config.eos_token_ids.is_empty());
    }

    #[test]
    fn golden_rows_fit_the_model() {
        let (golden, checkpoint) = (golden(), checkpoint().expect("sound"));
        let config = checkpoint.config();
        assert!(golden.ids.len() > config.sliding_window);
        assert!(
            golden
                .ids
                .iter()
                .all(|id| (*id as usize) < config.vocab_size)
        );
        assert!(golden.positions.iter().all(|p| *p < golden.ids.len()));
        assert_eq!(golden.positions.len(), golden.logits.len());
        assert!(
            golden
                .logits
                .iter()
                .all(|row| row.len() == config.vocab_size)
        );
    }

    #[test]
    fn distance_tells_right_from_wrong() {
        let golden = golden();
        let rows = || golden.logits.iter().map(Vec::as_slice);
        assert_eq!(golden.distance(rows()), 0.0);
        assert_eq!(golden.distance(rows().skip(1)), f64::INFINITY);
        let mut wrong = golden.logits.clone();
        wrong[0].rotate_left(1);
        assert!(golden.distance(wrong.iter().map(Vec::as_slice)) > 0.5);
        wrong[0][0] = f32::NAN;
        assert_eq!(
            golden.distance(wrong.iter().map(Vec::as_slice)),
            f64::INFINITY
        );
    }
}
