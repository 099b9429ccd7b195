//! The model thread: one sequence at a time, prefill then decode.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backend::{Backend, BackendError, Wanted};
use super::queue::{Counters, Job, Outcome, Shared};
use super::request::{EngineEvent, EngineFailure, FinishReason, Owner, Usage};
use super::sampler::{Sampler, TokenLogprobs};

/// Body of the thread. Returns when the engine stops or the backend panics.
pub(super) fn run(backend: Box<dyn Backend>, shared: &Shared) {
    let mut worker = Worker {
        backend,
        shared,
        cached: Vec::new(),
        owner: None,
        sampler: Sampler::default(),
    };
    while let Some(job) = shared.next_job() {
        match catch_unwind(AssertUnwindSafe(|| worker.serve(&job))) {
            Ok((outcome, last)) => {
                // Not running any more before the last event says so: who
                // reads it and submits again finds a free engine.
                shared.finish(outcome);
                if let Some(event) = last {
                    let _ = job.events.send(event);
                }
            }
            Err(payload) => {
                let failure = EngineFailure::Panicked(panic_message(payload.as_ref()));
                tracing::error!("{failure}");
                shared.finish(Outcome::Failed);
                shared.fail(failure.clone());
                let _ = job.events.send(EngineEvent::Failed(failure));
            }
        }
    }
    // A backend that panicked may do so again while it is taken down.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(worker))) {
        let reason = panic_message(payload.as_ref());
        tracing::error!("the backend panicked while it was dropped: {reason}");
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".into())
}

struct Worker<'a> {
    backend: Box<dyn Backend>,
    shared: &'a Shared,
    /// The tokens in the backend's KV cache.
    cached: Vec<u32>,
    /// Whose they are.
    owner: Option<Owner>,
    sampler: Sampler,
}

/// Why a sequence stopped early.
enum Interrupted {
    /// Nobody reads its stream any more.
    Abandoned,
    Failed(EngineFailure),
}

impl Worker<'_> {
    /// Runs one job; gives how it ended and the event that says so, if anyone
    /// is left to hear it.
    fn serve(&mut self, job: &Job) -> (Outcome, Option<EngineEvent>) {
        let begun = Instant::now();
        let mut usage = Usage {
            prompt_tokens: job.request.prompt.len(),
            queued: begun - job.submitted,
            ..Usage::default()
        };
        let result = self.generate(job, begun, &mut usage);
        let counters = &self.shared.counters;
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Counters::add(&counters.prefill_us, micros(usage.prefill));
        Counters::add(&counters.decode_us, micros(usage.decode));
        match result {
            Ok(reason) => (
                Outcome::Completed,
                Some(EngineEvent::Done { reason, usage }),
            ),
            Err(Interrupted::Abandoned) => match self.shared.failure() {
                Some(failure) => (Outcome::Failed, Some(EngineEvent::Failed(failure))),
                None if job.events.is_closed() => (Outcome::Cancelled, None),
                None => {
                    let failure = EngineFailure::Backend("the backend gave up unasked".into());
                    (Outcome::Failed, Some(EngineEvent::Failed(failure)))
                }
            },
            Err(Interrupted::Failed(failure)) => {
                (Outcome::Failed, Some(EngineEvent::Failed(failure)))
            }
        }
    }

    fn generate(
        &mut self,
        job: &Job,
        begun: Instant,
        usage: &mut Usage,
    ) -> Result<FinishReason, Interrupted> {
        let request = &job.request;
        let cached = self.reuse(request.owner, &request.prompt);
        usage.cached_tokens = cached;
        Counters::add(&self.shared.counters.cached_tokens, cached as u64);
        send(job, EngineEvent::Started { cached })?;
        self.sampler.begin(&request.sampling);

        let mut token = self.prefill(job, cached)?;
        let first = Instant::now();
        usage.prefill = first - begun;
        loop {
            usage.generated_tokens += 1;
            usage.decode = first.elapsed();
            Counters::add(&self.shared.counters.generated_tokens, 1);
            let (id, logprobs) = token;
            send(job, EngineEvent::Token { id, logprobs })?;
            if request.stop_tokens.contains(&id) {
                return Ok(FinishReason::Stop(id));
            }
            if usage.generated_tokens >= request.max_new {
                return Ok(FinishReason::Length);
            }
            token = self.step(job, &[id])?;
        }
    }

    /// Rewinds the cache to what `prompt` shares with it, and says how many
    /// tokens that are. At least one token is left to compute, for its logits.
    fn reuse(&mut self, owner: Owner, prompt: &[u32]) -> usize {
        let same = |(a, b): &(&u32, &u32)| a == b;
        let shared = match self.owner == Some(owner) {
            true => self.cached.iter().zip(prompt).take_while(same).count(),
            false => 0,
        };
        self.owner = Some(owner);
        self.backend.rewind(shared.min(prompt.len() - 1));
        // A backend may have to go back further than asked.
        let position = self.backend.position();
        self.cached.truncate(position);
        let usable = self.cached.len() == position
            && position < prompt.len()
            && prompt.starts_with(&self.cached);
        if !usable {
            self.forget();
        }
        self.cached.len()
    }

    fn forget(&mut self) {
        self.cached.clear();
        self.backend.rewind(0);
    }

    /// Feeds the prompt from `from` on, chunk by chunk, and samples the first
    /// token.
    fn prefill(
        &mut self,
        job: &Job,
        from: usize,
    ) -> Result<(u32, Option<Box<TokenLogprobs>>), Interrupted> {
        let prompt = job.request.prompt.get(from..).unwrap_or_default();
        let chunk = self.backend.info().prefill_chunk.max(1);
        let counter = &self.shared.counters.prefill_tokens;
        let mut chunks = prompt.chunks(chunk).peekable();
        while let Some(tokens) = chunks.next() {
            Counters::add(counter, tokens.len() as u64);
            if chunks.peek().is_none() {
                return self.step(job, tokens);
            }
            self.check(job)?;
            let fed = self.backend.forward(tokens, Wanted::None).map(|_| ());
            self.settle(tokens, fed)?;
        }
        // `reuse` leaves at least one token.
        Err(failed("the prompt has no tokens"))
    }

    /// Feeds `tokens` and samples the token that follows.
    fn step(
        &mut self,
        job: &Job,
        tokens: &[u32],
    ) -> Result<(u32, Option<Box<TokenLogprobs>>), Interrupted> {
        self.check(job)?;
        let sampler = &mut self.sampler;
        let fed = self.backend.forward(tokens, Wanted::Last).map(|logits| {
            let row = logits.last().unwrap_or_default();
            let id = sampler.sample(row)?;
            Ok((id, sampler.logprobs(row, id)))
        });
        self.settle(tokens, fed)?
            .map_err(|error: super::sampler::NotFinite| failed(error.to_string()))
    }

    /// Whether anyone still wants the rest.
    fn check(&self, job: &Job) -> Result<(), Interrupted> {
        match job.events.is_closed() {
            true => Err(Interrupted::Abandoned),
            false => Ok(()),
        }
    }

    /// Keeps the record of the cache in step with the backend.
    fn settle<T>(
        &mut self,
        tokens: &[u32],
        result: Result<T, BackendError>,
    ) -> Result<T, Interrupted> {
        self.shared
            .counters
            .heartbeat
            .fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(value) => {
                self.cached.extend_from_slice(tokens);
                Ok(value)
            }
            Err(BackendError::Cancelled) => Err(Interrupted::Abandoned),
            Err(error) => {
                // What the cache holds after a failure is not to be trusted.
                self.forget();
                Err(failed(error.to_string()))
            }
        }
    }
}

fn failed(message: impl Into<String>) -> Interrupted {
    Interrupted::Failed(EngineFailure::Backend(message.into()))
}

fn send(job: &Job, event: EngineEvent) -> Result<(), Interrupted> {
    job.events.send(event).map_err(|_| Interrupted::Abandoned)
}
