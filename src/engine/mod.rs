//! Inference engine: admission, scheduling, sampling; owns the model thread.
//!
//! [`Engine::start`] takes a [`Backend`] and moves it to a thread of its own.
//! [`Engine::submit`] queues a [`GenerationRequest`] and gives a
//! [`TokenStream`]; dropping the stream cancels the request at once, while it
//! waits, during prefill and during decode. The engine never waits for whoever
//! reads a stream, and knows neither D-Bus nor ONNX Runtime.

mod active;
pub mod backend;
mod guide;
mod lookup;
mod pace;
mod prefix_cache;
mod queue;
mod request;
pub mod sampler;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::watch;

pub use backend::{
    Backend, BackendError, BackendInfo, CacheUse, Cancel, Logits, SequenceId, Slice, Solo, Wanted,
};
pub use guide::{Choice, Guide};
pub use pace::Pace;
pub use queue::{Statistics, TokenStream};
pub use request::{
    EngineEvent, EngineFailure, FinishReason, GenerationRequest, Owner, Priority, SubmitError,
    Usage,
};
pub use sampler::{InvalidSampling, Sampling, TokenLogprobs};

use queue::Shared;

/// What an engine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Requests that may wait besides the running ones; more are refused as
    /// [`SubmitError::Overloaded`].
    pub queue: usize,
    /// Whether tokens are guessed from what was said before and verified in one
    /// step, where that pays. The answers' distribution is the same.
    pub speculate: bool,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            queue: 64,
            speculate: false,
        }
    }
}

/// A model at work: the thread that owns it and the queue before it.
///
/// Dropping the engine fails what runs and what waits with
/// [`EngineFailure::Stopped`] and joins the thread.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    info: BackendInfo,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread that owns `backend`.
    ///
    /// # Errors
    /// The operating system's, where it has no thread to give.
    pub fn start(backend: Box<dyn Backend>, settings: EngineSettings) -> std::io::Result<Engine> {
        let info = backend.info().clone();
        let shared = Arc::new(Shared::new(
            settings.queue,
            info.sequences,
            backend.cancel_handle(),
        ));
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("engine".into())
                .spawn(move || worker::run(backend, &shared, settings.speculate))?
        };
        Ok(Engine {
            shared,
            info,
            thread: Some(thread),
        })
    }

    /// Fixed properties of the model.
    pub fn info(&self) -> &BackendInfo {
        &self.info
    }

    /// Queues a request.
    ///
    /// `max_new` is cut to what the context window leaves.
    ///
    /// # Errors
    /// The queue is full, the prompt does not fit or makes no sense, or the
    /// backend has failed before.
    pub fn submit(&self, mut request: GenerationRequest) -> Result<TokenStream, SubmitError> {
        let window = self.info.context_window;
        let prompt = request.prompt.len();
        if prompt >= window {
            return Err(SubmitError::ContextExceeded { prompt, window });
        }
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if request.max_new == 0 {
            return Err(SubmitError::NothingToGenerate);
        }
        let outside = |id: &&u32| **id as usize >= self.info.vocab_size;
        if let Some(&id) = request.prompt.iter().find(outside) {
            return Err(SubmitError::InvalidToken(id));
        }
        request.sampling.validate()?;
        request.max_new = request.max_new.min(window - prompt);
        Shared::submit(&self.shared, request)
    }

    /// A numeric snapshot.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// Where such snapshots come from, also after the engine's end.
    pub fn numbers(&self) -> Numbers {
        Numbers(Arc::clone(&self.shared))
    }

    /// Calls of the backend that returned.
    pub fn heartbeat(&self) -> u64 {
        self.shared.counters.heartbeat.load(Ordering::Relaxed)
    }

    /// The heartbeat while there is something to compute; `None` while there is
    /// not, or in a pause. While it stands still, the backend hangs.
    pub fn pulse(&self) -> Option<u64> {
        self.shared.pulse()
    }

    /// Changes how hard it works. A pause interrupts what is being computed,
    /// which is computed again afterwards.
    pub fn set_pace(&self, pace: Pace) {
        self.shared.set_pace(pace);
    }

    /// Waits until nothing is computed: after [`Pace::Paused`], soon.
    pub async fn at_rest(&self) {
        self.shared.at_rest().await;
    }

    /// Gives up the keys and values that are kept for prompts to come, and the
    /// memory they take. What runs keeps its own.
    pub fn trim(&self) {
        self.shared.trim();
    }

    /// Why the engine takes no requests any more, if so.
    pub fn failure(&self) -> Option<EngineFailure> {
        self.shared.failure()
    }

    /// What the execution provider said the last time that it failed a request. The
    /// engine goes on: it may have failed for that request alone.
    pub fn fault(&self) -> watch::Receiver<Option<String>> {
        self.shared.fault.subscribe()
    }

    /// Fails what runs and what waits and takes nothing more, without waiting
    /// for the thread.
    pub fn stop(&self) {
        self.shared.fail(EngineFailure::Stopped);
    }

    /// The same, since the machine sleeps and the backend would not survive it.
    pub fn suspend(&self) {
        self.shared.fail(EngineFailure::Suspended);
    }
}

/// What an engine counts; it outlives the engine.
#[derive(Debug, Clone)]
pub struct Numbers(Arc<Shared>);

impl Numbers {
    /// A numeric snapshot.
    pub fn statistics(&self) -> Statistics {
        self.0.statistics()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // The worker catches the backend's panics; should it panic
            // itself, the streams end without a last event, which their
            // readers report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
