//! What goes into the engine and what comes out.

use std::time::Duration;

use super::guide::Guide;
use super::sampler::{InvalidSampling, Sampling, TokenLogprobs};

/// Whose request it is: a user id. Cached keys and values are reused between
/// requests of one owner only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);

/// Which of the waiting requests goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Someone waits for the answer.
    #[default]
    Interactive,
    /// Nobody does: behind every interactive request that waits.
    Background,
}

/// One sequence to generate.
#[derive(Debug)]
pub struct GenerationRequest {
    /// Whose it is.
    pub owner: Owner,
    /// Which queue it stands in.
    pub priority: Priority,
    /// Its number in the order of acceptance: preparing a prompt takes more or
    /// less time, and must not decide who is first.
    pub arrival: u64,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Positions in the prompt, ascending, at which a later one may begin to
    /// differ: where its messages begin.
    pub boundaries: Vec<usize>,
    /// Most tokens to generate, at least one.
    pub max_new: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the generation. The one that did is delivered too.
    pub stop_tokens: Vec<u32>,
    /// Steers what is said, where not everything may be.
    pub guide: Option<Box<dyn Guide>>,
}

/// One step of a request. The last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// It waits until `position` requests have ended, running ones included.
    Queued {
        /// Requests ahead.
        position: usize,
    },
    /// Prefill begins.
    Started {
        /// Tokens of the prompt whose keys and values were still cached.
        cached: usize,
    },
    /// One generated token.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability, where the request asked.
        logprobs: Option<Box<TokenLogprobs>>,
    },
    /// Complete.
    Done {
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// It could not be completed.
    Failed(EngineFailure),
}

/// Why a generation ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was generated.
    Stop(u32),
    /// `max_new` tokens, or a full context window.
    Length,
}

/// Tokens and time a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt, the cached ones included.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: usize,
    /// Tokens generated, the stop token included.
    pub generated_tokens: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// From the start to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why a request was not completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineFailure {
    /// The backend returned an error; the engine goes on.
    #[error("{0}")]
    Backend(String),
    /// The backend panicked; the engine takes no more requests. With what words is
    /// not said: they may quote another's request.
    #[error("the backend panicked; the daemon's log says where")]
    Panicked,
    /// The engine was told to stop.
    #[error("the engine is stopping")]
    Stopped,
    /// The machine went to sleep, and the backend's device with it.
    #[error("the machine went to sleep, and what its accelerator held is lost; ask again")]
    Suspended,
}

/// Why a request was not queued.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{queued} requests are waiting already; try again later")]
    Overloaded {
        /// Requests that wait.
        queued: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, the context window is {window}")]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of the window.
        window: usize,
    },
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// `max_new` is zero.
    #[error("the request asks for no tokens")]
    NothingToGenerate,
    /// A token the model does not have.
    #[error("token id {0} is outside the vocabulary")]
    InvalidToken(u32),
    /// Sampling parameters out of range.
    #[error(transparent)]
    InvalidSampling(#[from] InvalidSampling),
    /// The engine takes no requests any more.
    #[error(transparent)]
    Unavailable(#[from] EngineFailure),
}
