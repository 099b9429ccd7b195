//! What the engine asks of whatever computes logits.

use std::sync::Arc;

/// Fixed properties of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Name of the model, as in the store (`20b`, `nano`, …).
    pub model: String,
    /// Entries of one row of logits.
    pub vocab_size: usize,
    /// Most tokens of a sequence.
    pub context_window: usize,
    /// Longest slice one call of [`Backend::forward`] takes; longer prompts are
    /// fed in chunks of this many tokens.
    pub prefill_chunk: usize,
    /// Most sequences that one call of [`Backend::forward`] takes.
    pub sequences: usize,
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
    /// The KV cache has no room for the slices, since other sequences fill it.
    /// Closing one helps.
    #[error("the KV cache is full")]
    CacheFull,
    /// The tokens do not fit the context window.
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

/// A sequence that a backend keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// Some tokens to append to a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    /// Which sequence.
    pub sequence: SequenceId,
    /// At least one token, at most [`Backend::longest_slice`].
    pub tokens: &'a [u32],
    /// Whose logits are wanted.
    pub wanted: Wanted<'a>,
}

/// How full a KV cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Blocks that hold something.
    pub used: usize,
    /// Blocks there are.
    pub total: usize,
}

/// One model and the sequences in its KV cache, driven by the engine's thread.
pub trait Backend: Send {
    /// Fixed properties.
    fn info(&self) -> &BackendInfo;

    /// Begins an empty sequence; `None` where there can be no more.
    fn open(&mut self) -> Option<SequenceId>;

    /// A new sequence that begins like the first `position` tokens of another,
    /// or like fewer, which [`Backend::length`] tells: some positions are not
    /// to be had any more, see [`Backend::mark`]. `None` as for
    /// [`Backend::open`].
    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId>;

    /// Gives up a sequence and what memory it does not share.
    fn close(&mut self, sequence: SequenceId);

    /// Tokens of a sequence in the KV cache.
    fn length(&self, sequence: SequenceId) -> usize;

    /// Forgets everything after the first `position` tokens, or after fewer;
    /// no effect where the sequence is not that long.
    fn rewind(&mut self, sequence: SequenceId, position: usize);

    /// Says that the sequence may be rewound or forked at `position`, which is
    /// within the tokens of its last slice. Tokens behind it may cost the
    /// backend the way back to places that were not marked.
    fn mark(&mut self, sequence: SequenceId, position: usize);

    /// Most tokens of the next slice of a sequence.
    fn longest_slice(&self, _sequence: SequenceId) -> usize {
        self.info().prefill_chunk
    }

    /// Appends tokens to sequences, of which none comes twice, and computes the
    /// wanted logits: the rows of the first slice, then of the next. After an
    /// error each sequence is as it was before.
    fn forward(&mut self, slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError>;

    /// How full the KV cache is.
    fn cache_use(&self) -> CacheUse {
        CacheUse::default()
    }

    /// Gives memory back to the system that no sequence uses.
    fn trim(&mut self) {}

    /// A handle that interrupts [`Backend::forward`].
    fn cancel_handle(&self) -> Arc<dyn Cancel>;
}

/// A backend with a single sequence, for who needs no more.
#[derive(Debug)]
pub struct Solo<B> {
    backend: B,
    sequence: SequenceId,
    gathered: Vec<f32>,
}

impl<B: Backend> Solo<B> {
    /// Begins the sequence; `None` if the backend has none to give.
    pub fn new(mut backend: B) -> Option<Self> {
        let sequence = backend.open()?;
        Some(Self {
            backend,
            sequence,
            gathered: Vec::new(),
        })
    }

    /// The backend itself.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Its fixed properties.
    pub fn info(&self) -> &BackendInfo {
        self.backend.info()
    }

    /// Tokens in the KV cache.
    pub fn length(&self) -> usize {
        self.backend.length(self.sequence)
    }

    /// Forgets everything after the first `position` tokens, as
    /// [`Backend::rewind`].
    pub fn rewind(&mut self, position: usize) {
        self.backend.rewind(self.sequence, position);
    }

    /// Keeps the way back to here.
    pub fn mark(&mut self) {
        self.backend.mark(self.sequence, self.length());
    }

    /// Appends any number of tokens and computes the wanted logits.
    ///
    /// # Errors
    /// The backend's; a part of the tokens may be in the cache then.
    pub fn forward(
        &mut self,
        tokens: &[u32],
        wanted: Wanted<'_>,
    ) -> Result<Logits<'_>, BackendError> {
        self.gathered.clear();
        if !tokens.is_empty() && tokens.len() <= self.backend.longest_slice(self.sequence) {
            return self.backend.forward(&[Slice {
                sequence: self.sequence,
                tokens,
                wanted,
            }]);
        }
        let mut done = 0;
        while done < tokens.len() {
            let longest = self.backend.longest_slice(self.sequence).max(1);
            let length = longest.min(tokens.len() - done);
            let positions = wanted_in(wanted, done, length, tokens.len());
            let logits = self.backend.forward(&[Slice {
                sequence: self.sequence,
                tokens: &tokens[done..done + length],
                wanted: match positions.as_slice() {
                    [] => Wanted::None,
                    positions => Wanted::At(positions),
                },
            }])?;
            self.gathered.extend_from_slice(logits.values);
            done += length;
        }
        Ok(Logits {
            values: &self.gathered,
            vocab_size: self.backend.info().vocab_size,
        })
    }
}

/// The wanted positions that fall in the slice of `length` tokens at `offset`
/// of `total` tokens, counted from the slice's start.
fn wanted_in(wanted: Wanted<'_>, offset: usize, length: usize, total: usize) -> Vec<usize> {
    let inside = |position: usize| {
        let relative = position.checked_sub(offset)?;
        (relative < length).then_some(relative)
    };
    match wanted {
        Wanted::None => Vec::new(),
        Wanted::Last => total.checked_sub(1).and_then(inside).into_iter().collect(),
        Wanted::At(positions) => positions.iter().filter_map(|&p| inside(p)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_positions_are_split_over_the_chunks() {
        let at = Wanted::At(&[0, 3, 4, 9]);
        assert_eq!(wanted_in(at, 0, 4, 10), [0, 3]);
        assert_eq!(wanted_in(at, 4, 4, 10), [0]);
        assert_eq!(wanted_in(at, 8, 2, 10), [1]);
        assert!(wanted_in(Wanted::Last, 0, 4, 10).is_empty());
        assert_eq!(wanted_in(Wanted::Last, 8, 2, 10), [1]);
        assert!(wanted_in(Wanted::Last, 0, 0, 0).is_empty());
        assert!(wanted_in(Wanted::None, 8, 2, 10).is_empty());
    }
}
