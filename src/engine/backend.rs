//! What the engine asks of whatever computes logits.

use std::sync::Arc;

/// Fixed properties of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Name of the model, as in the store (`20b`, `nano`, …).
    pub model: String,
    /// Entries of one row of logits.
    pub vocab_size: usize,
    /// Positions the KV cache holds.
    pub context_window: usize,
    /// Longest slice one call of [`Backend::forward`] should get; longer
    /// prompts are fed in chunks of this many tokens.
    pub prefill_chunk: usize,
    /// Execution provider at work: `cpu`, `cuda`, `coreml` or `simulated`.
    pub provider: String,
}

/// Positions of the fed tokens whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last fed token only.
    Last,
    /// These indexes into the fed slice, ascending.
    At(&'a [usize]),
}

/// Rows of logits, one per wanted position: f32 `[rows, vocab_size]`.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// Row-major values.
    pub values: &'a [f32],
    /// Entries of a row.
    pub vocab_size: usize,
}

impl<'a> Logits<'a> {
    /// The rows in the order of the wanted positions.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.vocab_size.max(1))
    }

    /// The last row, if there is one.
    pub fn last(&self) -> Option<&'a [f32]> {
        self.rows().last()
    }
}

/// Why a backend could not compute.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// [`Cancel::cancel`] was called while the call ran.
    #[error("cancelled")]
    Cancelled,
    /// The tokens do not fit the KV cache any more.
    #[error("{wanted} tokens do not fit the context window of {window}")]
    ContextExceeded {
        /// Positions needed, those already cached included.
        wanted: usize,
        /// Positions there are.
        window: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {0} is outside the vocabulary")]
    InvalidToken(u32),
    /// The provider failed; the text is its own.
    #[error("the execution provider failed: {0}")]
    Provider(String),
}

/// Interrupts the call in progress, from any thread.
///
/// The interruption stays until [`Cancel::reset`], so that it cannot slip
/// between two chunks of a prefill.
pub trait Cancel: Send + Sync {
    /// Makes the running call, and every later one, return
    /// [`BackendError::Cancelled`].
    fn cancel(&self);
    /// Allows calls again.
    fn reset(&self);
}

/// One model with one KV cache, driven by the engine's thread.
///
/// The cache holds [`Backend::position`] tokens. After an error the position
/// is what it was before the failed call.
pub trait Backend: Send {
    /// Fixed properties.
    fn info(&self) -> &BackendInfo;

    /// Tokens in the KV cache.
    fn position(&self) -> usize;

    /// Appends `tokens` to the sequence and computes the wanted logits.
    fn forward(&mut self, tokens: &[u32], wanted: Wanted<'_>) -> Result<Logits<'_>, BackendError>;

    /// Forgets everything after the first `position` tokens; no effect where
    /// the cache is not that long.
    fn rewind(&mut self, position: usize);

    /// A handle that interrupts [`Backend::forward`].
    fn cancel_handle(&self) -> Arc<dyn Cancel>;
}
