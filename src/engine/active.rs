//! A request that runs: its sequence, what of it is in the cache, and what it
//! has cost.

use std::cmp::Ordering;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::backend::{Logits, SequenceId, Slice, Wanted};
use super::guide::{Choice, Guide};
use super::lookup::{self, Acceptance, StepCost};
use super::prefix_cache::Candidate;
use super::queue::Job;
use super::request::{EngineEvent, EngineFailure, FinishReason, Owner, Usage};
use super::sampler::{Sampler, TokenLogprobs};

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
    /// Prompt and generated tokens, then the draft.
    tokens: Vec<u32>,
    /// How many of them are in the cache.
    fed: usize,
    /// How many of them are the draft, and how long a match led to it.
    draft: (usize, usize),
    acceptance: Acceptance,
    sampler: Sampler,
    guide: Option<Box<dyn Guide>>,
    pub usage: Usage,
    /// Its share of the steps' time.
    pub cost: Duration,
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
            draft: (0, 0),
            acceptance: Acceptance::default(),
            sampler,
            guide: job.request.guide.take(),
            usage: Usage {
                prompt_tokens: tokens.len(),
                queued: begun - job.submitted,
                ..Usage::default()
            },
            tokens,
            cost: Duration::ZERO,
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

    /// Guesses what follows, where the step that verifies it promises more than
    /// it costs. There must be no draft.
    pub fn propose(&mut self, cost: &StepCost) {
        if let Some(found) = lookup::find(&self.tokens) {
            let left = self.job.request.max_new - self.usage.generated_tokens;
            let count = lookup::worthwhile(&found, &mut self.acceptance, cost);
            // The last token is sampled, not verified.
            let count = count.min(left.saturating_sub(1));
            let start = found.draft.start;
            self.tokens.extend_from_within(start..start + count);
            self.draft = (count, found.matched);
        }
    }

    /// Forgets the draft.
    pub fn drop_draft(&mut self) {
        let (count, _) = std::mem::take(&mut self.draft);
        self.tokens.truncate(self.tokens.len() - count);
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.job.request.owner
    }

    /// It stops for others: its sequence and the tokens of it that are in the
    /// cache, where it finds them when it goes on.
    pub fn park(&mut self) -> Option<(SequenceId, Vec<u32>)> {
        self.drop_draft();
        let cached = self.tokens[..self.fed].to_vec();
        self.fed = 0;
        Some((self.sequence.take()?, cached))
    }

    /// Its sequence is gone; everything must be computed again.
    pub fn stop(&mut self) -> Option<SequenceId> {
        self.drop_draft();
        self.fed = 0;
        self.sequence.take()
    }

    /// Tokens that the next step can take, the draft aside.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.draft.0 - self.fed
    }

    /// Tokens of the draft.
    pub fn drafted(&self) -> usize {
        self.draft.0
    }

    /// Tokens of the prompt that are not in the cache.
    pub fn prompt_left(&self) -> usize {
        self.usage.prompt_tokens.saturating_sub(self.fed)
    }

    /// Whether all but the newest token is in the cache.
    pub fn decodes(&self) -> bool {
        self.sequence.is_some() && self.left() == 1
    }

    /// Tokens of the next step: `count` of them, the draft included.
    pub fn slice(&self, count: usize) -> Option<Slice<'_>> {
        /// Positions of the newest token and of the draft.
        const ALL: [usize; lookup::MOST + 1] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        Some(Slice {
            sequence: self.sequence?,
            tokens: self.tokens.get(self.fed..self.fed + count)?,
            wanted: match (count.cmp(&self.left()), self.draft.0) {
                (Ordering::Less, _) => Wanted::None,
                (_, 0) => Wanted::Last,
                (_, drafted) => Wanted::At(&ALL[..=drafted]),
            },
        })
    }

    /// Positions in the prompt from `range` that a later prompt may come back
    /// to.
    pub fn boundaries(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        // Where the answer begins, less the token that must be computed again
        // if the same prompt comes again.
        let answer = self.usage.prompt_tokens.checked_sub(1);
        let messages = self.job.request.boundaries.iter().copied();
        messages.chain(answer).filter(move |p| range.contains(p))
    }

    /// How many of its tokens are in the cache.
    pub fn fed(&self) -> usize {
        self.fed
    }

    /// `count` tokens of the prompt are in the cache.
    pub fn advance(&mut self, count: usize) {
        self.fed += count;
    }

    /// Takes in the rows of its newest token and of the draft: as many tokens as
    /// the draft was right, and one more. `Some` if that ends it. Fewer tokens
    /// may be right than the backend has: those up to [`Active::fed`] are.
    pub fn take(&mut self, rows: &mut Rows<'_>) -> Option<End> {
        let (drafted, matched) = std::mem::take(&mut self.draft);
        let confirmed = self.tokens.len() - drafted;
        let mut end = None;
        let mut right = 0;
        for row in rows.take(drafted + 1) {
            self.fed = confirmed + right;
            let proposed = self.tokens.get(self.fed).copied();
            let sampled = self.sample(row);
            if let (Ok(id), Some(proposed)) = (&sampled, proposed)
                && *id == proposed
            {
                right += 1;
                continue;
            }
            // Nothing of what the draft says from here on was right.
            self.tokens.truncate(self.fed);
            match sampled {
                Ok(id) => {
                    self.tokens.push(id);
                    end = self.say_what_must_follow();
                }
                Err(ended) => end = Some(ended),
            }
            break;
        }
        if drafted > 0 {
            let wrong = right < drafted && end.is_none();
            self.acceptance.learn(matched, right, wrong);
        }
        end
    }

    /// Tokens that the guide leaves no choice about need no step of their own:
    /// they are computed together with the next one.
    fn say_what_must_follow(&mut self) -> Option<End> {
        while let Some(guide) = &mut self.guide
            && let Choice::Only(id) = guide.choice()
        {
            match self.say(id, None) {
                Ok(id) => self.tokens.push(id),
                Err(end) => return Some(end),
            }
        }
        None
    }

    /// Chooses a token and tells the stream; an error ends it.
    fn sample(&mut self, row: &[f32]) -> Result<u32, End> {
        let choice = self.guide.as_mut().map(|guide| guide.choice());
        let chosen = match choice.unwrap_or(Choice::Any) {
            Choice::Any => self.sampler.sample(row),
            Choice::Of(allowed) => self.sampler.sample_of(row, allowed),
            Choice::Only(id) => Ok(id),
            Choice::Nothing => {
                let stuck = "nothing more can be said in the form that was asked for";
                return Err(End::Failed(EngineFailure::Backend(stuck.into())));
            }
        };
        let id = chosen.map_err(|e| End::Failed(EngineFailure::Backend(e.to_string())))?;
        let logprobs = self.sampler.logprobs(row, id);
        self.say(id, logprobs)
    }

    /// Tells the stream and the guide; an error ends it.
    fn say(&mut self, id: u32, logprobs: Option<Box<TokenLogprobs>>) -> Result<u32, End> {
        if let Some(guide) = &mut self.guide {
            guide.said(id);
        }
        let now = Instant::now();
        let first = *self.first_token.get_or_insert(now);
        self.usage.prefill = first - self.begun;
        self.usage.decode = now - first;
        self.usage.generated_tokens += 1;
        let event = EngineEvent::Token { id, logprobs };
        if self.job.events.send(event).is_err() {
            return Err(End::Abandoned);
        }
        let request = &self.job.request;
        if request.stop_tokens.contains(&id) {
            return Err(End::Done(FinishReason::Stop(id)));
        }
        if self.usage.generated_tokens >= request.max_new {
            return Err(End::Done(FinishReason::Length));
        }
        Ok(id)
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

    /// The next rows; empty ones if the backend computed fewer than it should.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let (logits, first) = (self.logits, self.next);
        self.next += count;
        (first..first + count).map(move |row| logits.rows().nth(row).unwrap_or_default())
    }
}
