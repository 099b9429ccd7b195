//! A request that runs: its sequence, what of it is in the cache, and what it
//! has cost.

use std::time::Instant;

use super::backend::{Logits, SequenceId, Slice, Wanted};
use super::prefix_cache::Candidate;
use super::queue::Job;
use super::request::{EngineEvent, EngineFailure, FinishReason, Usage};
use super::sampler::Sampler;

/// How a request ends.
pub(super) enum End {
    Done(FinishReason),
    /// Nobody reads its stream any more.
    Abandoned,
    Failed(EngineFailure),
}

/// A request that runs.
pub(super) struct Active {
    pub job: Job,
    /// `None` until there is room for it.
    pub sequence: Option<SequenceId>,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    /// How many of them are in the cache.
    fed: usize,
    sampler: Sampler,
    pub usage: Usage,
    begun: Instant,
    first_token: Option<Instant>,
    started: bool,
}

impl Active {
    pub fn new(mut job: Job) -> Self {
        let begun = Instant::now();
        let mut sampler = Sampler::default();
        sampler.begin(&job.request.sampling);
        let tokens = std::mem::take(&mut job.request.prompt);
        Self {
            sequence: None,
            fed: 0,
            sampler,
            usage: Usage {
                prompt_tokens: tokens.len(),
                queued: begun - job.submitted,
                ..Usage::default()
            },
            tokens,
            begun,
            first_token: None,
            started: false,
            job,
        }
    }

    /// Whether nobody reads its stream any more.
    pub fn is_abandoned(&self) -> bool {
        self.job.events.is_closed()
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What of it others may begin like.
    pub fn candidate(&self) -> Option<Candidate<'_>> {
        Some(Candidate {
            owner: self.job.request.owner,
            sequence: self.sequence?,
            tokens: &self.tokens[..self.fed],
        })
    }

    /// It has a sequence now, with `cached` of its tokens. Tells the stream, and
    /// answers `true`, the first time.
    pub fn start(&mut self, sequence: SequenceId, cached: usize) -> bool {
        self.sequence = Some(sequence);
        self.fed = cached;
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.usage.cached_tokens = cached;
            let _ = self.job.events.send(EngineEvent::Started { cached });
        }
        first
    }

    /// Its sequence is gone; everything must be computed again.
    pub fn stop(&mut self) -> Option<SequenceId> {
        self.fed = 0;
        self.sequence.take()
    }

    /// Tokens that the next step can take.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.fed
    }

    /// Tokens of the prompt that are not in the cache.
    pub fn prompt_left(&self) -> usize {
        self.usage.prompt_tokens.saturating_sub(self.fed)
    }

    /// Whether all but the newest token is in the cache.
    pub fn decodes(&self) -> bool {
        self.sequence.is_some() && self.left() == 1
    }

    /// Tokens of the next step, at most `most` of them.
    pub fn slice(&self, most: usize) -> Option<Slice<'_>> {
        let count = self.left().min(most);
        Some(Slice {
            sequence: self.sequence?,
            tokens: &self.tokens[self.fed..self.fed + count],
            wanted: match count == self.left() {
                true => Wanted::Last,
                false => Wanted::None,
            },
        })
    }

    /// `count` tokens are in the cache; gives the positions among them that a
    /// later prompt may come back to.
    pub fn advance(&mut self, count: usize) -> impl Iterator<Item = usize> + '_ {
        let (from, to) = (self.fed, self.fed + count);
        self.fed = to;
        let prompt = self.usage.prompt_tokens;
        // Where the answer begins, less the token that must be computed again
        // if the same prompt comes again.
        let boundaries = self.job.request.boundaries.iter().copied();
        let boundaries = boundaries.chain(prompt.checked_sub(1));
        boundaries.filter(move |p| (from + 1..=to).contains(p))
    }

    /// Takes in the logits of its last token; `Some` if that ends it.
    pub fn sample(&mut self, row: &[f32]) -> Option<End> {
        let id = match self.sampler.sample(row) {
            Ok(id) => id,
            Err(error) => {
                let failure = EngineFailure::Backend(error.to_string());
                return Some(End::Failed(failure));
            }
        };
        let logprobs = self.sampler.logprobs(row, id);
        let now = Instant::now();
        let first = *self.first_token.get_or_insert(now);
        self.usage.prefill = first - self.begun;
        self.usage.decode = now - first;
        self.usage.generated_tokens += 1;
        let event = EngineEvent::Token { id, logprobs };
        if self.job.events.send(event).is_err() {
            return Some(End::Abandoned);
        }
        let request = &self.job.request;
        if request.stop_tokens.contains(&id) {
            return Some(End::Done(FinishReason::Stop(id)));
        }
        if self.usage.generated_tokens >= request.max_new {
            return Some(End::Done(FinishReason::Length));
        }
        self.tokens.push(id);
        None
    }

    /// Its sequence and the tokens of it that are in the cache.
    pub fn into_cached(mut self) -> Option<(SequenceId, Vec<u32>)> {
        self.tokens.truncate(self.fed);
        Some((self.sequence?, self.tokens))
    }
}

/// The rows of a step, handed out slice by slice.
pub(super) struct Rows<'a> {
    logits: Logits<'a>,
    next: usize,
}

impl<'a> Rows<'a> {
    pub fn new(logits: Logits<'a>) -> Self {
        Self { logits, next: 0 }
    }

    /// The next row; empty if the backend computed fewer than it should.
    pub fn next(&mut self) -> &'a [f32] {
        let row = self.logits.rows().nth(self.next).unwrap_or_default();
        self.next += 1;
        row
    }
}
