//! The model thread: continuous batching. Each step takes one token of every
//! sequence that decodes, and a chunk of one that is still in its prompt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::active::{Active, End, Rows};
use super::backend::{Backend, BackendError, CacheUse, Slice};
use super::lookup::StepCost;
use super::pace::Next;
use super::prefix_cache::PrefixCache;
use super::queue::{Counters, Outcome, Shared};
use super::request::{EngineEvent, EngineFailure, Priority};

/// Most tokens of a prompt in a step that others decode in: what their answers
/// halt for.
const SHARED_CHUNK: usize = 64;

/// Body of the thread. Returns when the engine stops or the backend panics.
pub(super) fn run(backend: Box<dyn Backend>, shared: &Shared, speculate: bool) {
    let mut worker = Worker {
        backend,
        shared,
        active: Vec::new(),
        parked: Vec::new(),
        kept: PrefixCache::default(),
        crowded: false,
        steps: 0,
        speculate,
        cost: StepCost::default(),
    };
    loop {
        let next = shared.next(!worker.active.is_empty(), !worker.parked.is_empty());
        if next == Next::End {
            break;
        }
        if catch_unwind(AssertUnwindSafe(|| worker.proceed(next))).is_err() {
            let failure = EngineFailure::Panicked;
            tracing::error!("{failure}");
            shared.fail(failure.clone());
            let running = worker.active.drain(..).chain(worker.parked.drain(..));
            for active in running {
                shared.finish(active.job.id, active.owner(), Outcome::Failed, active.cost);
                let _ = active.job.events.send(EngineEvent::Failed(failure.clone()));
            }
        }
    }
    shared.counters.note_cache(CacheUse::default());
    // A backend that panicked may do so again while it is taken down.
    if catch_unwind(AssertUnwindSafe(|| drop(worker))).is_err() {
        tracing::error!("the backend panicked while it was dropped");
    }
}

struct Worker<'a> {
    backend: Box<dyn Backend>,
    shared: &'a Shared,
    /// What runs, in the order of admission.
    active: Vec<Active>,
    /// What made room for it, the oldest first.
    parked: Vec<Active>,
    kept: PrefixCache,
    /// Whether someone gave up its place, which stays empty until another ends.
    crowded: bool,
    steps: usize,
    /// Whether drafts are made.
    speculate: bool,
    cost: StepCost,
}

/// What of an active sequence a step takes.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Of the job.
    id: u64,
    tokens: usize,
}

impl Worker<'_> {
    fn proceed(&mut self, next: Next) {
        match next {
            Next::End => {}
            Next::Tidy { trim } => self.tidy(trim),
            Next::Work => {
                self.park();
                while let Some(job) = self.shared.next_job(!self.parked.is_empty()) {
                    self.active.push(Active::new(job));
                }
                self.unpark();
                let begun = Instant::now();
                self.step();
                self.shared.rest_after(begun.elapsed());
            }
        }
        self.shared.counters.note_cache(self.backend.cache_use());
    }

    /// Lets go of what was abandoned and, to `trim`, of what is kept for prompts
    /// to come.
    fn tidy(&mut self, trim: bool) {
        self.end_abandoned();
        if trim {
            let backend = self.backend.as_mut();
            while self.kept.give_up_one(backend) {}
            backend.trim();
        }
    }

    /// Where someone waits for an answer and all places are taken, the youngest
    /// that nobody waits for gives up its own; at a slow pace all of them do.
    /// What they have computed stays in the cache as long as there is room.
    fn park(&mut self) {
        while self.shared.is_pressed() {
            let background = |a: &Active| a.job.request.priority == Priority::Background;
            let Some(index) = self.active.iter().rposition(background) else {
                return;
            };
            let mut active = self.active.remove(index);
            self.shared.park(active.job.id);
            if let Some((sequence, tokens)) = active.park() {
                let backend = self.backend.as_mut();
                self.kept.keep(backend, active.owner(), sequence, tokens);
            }
            self.parked.insert(0, active);
        }
    }

    /// What was parked goes on where there is room again.
    fn unpark(&mut self) {
        self.end_abandoned();
        // After the engine's end the next step tells them.
        while let Some(active) = self.parked.first()
            && (self.shared.failure().is_some()
                || self.shared.unpark(active.job.id, active.owner()))
        {
            let active = self.parked.remove(0);
            self.active.push(active);
        }
    }

    /// Computes the next tokens of what runs.
    fn step(&mut self) {
        if let Some(failure) = self.shared.failure() {
            while let Some(active) = self.active.last() {
                self.end(active.job.id, End::Failed(failure.clone()));
            }
            return;
        }
        self.end_abandoned();
        self.start_waiting();
        self.propose();
        let parts = self.parts();
        let longest = parts.iter().max_by_key(|part| part.tokens);
        if !self.shared.begin_step(longest.map(|part| part.id)) {
            return;
        }
        // What is abandoned from here on interrupts the step; what was before
        // must not be computed for nobody.
        if parts.is_empty() || self.active.iter().any(Active::is_abandoned) {
            return;
        }
        self.steps += 1;
        match self.compute(&parts) {
            Ok(()) => {}
            Err(BackendError::CacheFull) => self.make_room(),
            Err(BackendError::Cancelled) => self.explain_cancellation(),
            Err(error) => match parts.as_slice() {
                [part] => self.fail(part.id, &error),
                parts => self.compute_each(parts),
            },
        }
    }

    fn end_abandoned(&mut self) {
        let abandoned = |active: &&Active| active.is_abandoned();
        while let Some(active) = self.active.iter().find(abandoned) {
            self.end(active.job.id, End::Abandoned);
        }
        while let Some(index) = self.parked.iter().position(Active::is_abandoned) {
            let active = self.parked.remove(index);
            let (id, owner) = (active.job.id, active.owner());
            self.shared
                .finish(id, owner, Outcome::Cancelled, active.cost);
        }
    }

    /// Gives sequences to those that have none.
    fn start_waiting(&mut self) {
        for index in 0..self.active.len() {
            let others = self.active.iter().any(|a| a.sequence.is_some());
            if self.active[index].sequence.is_some() || (self.crowded && others) {
                continue;
            }
            let running: Vec<_> = self.active.iter().filter_map(Active::candidate).collect();
            let active = &self.active[index];
            let owner = active.job.request.owner;
            let backend = self.backend.as_mut();
            let begun = self.kept.begin(backend, owner, active.tokens(), &running);
            let Some(sequence) = begun else {
                // Someone ends and leaves a sequence; or the backend has none
                // to give at all.
                if !others {
                    let error = BackendError::Provider("there is no sequence to be had".into());
                    self.fail(self.active[index].job.id, &error);
                    return;
                }
                continue;
            };
            let cached = self.backend.length(sequence);
            if self.active[index].start(sequence, cached) {
                Counters::add(&self.shared.counters.cached_tokens, cached as u64);
            }
        }
    }

    /// Drafts for a sequence that is alone: where several share a step, each
    /// token more costs them all.
    fn propose(&mut self) {
        self.active.iter_mut().for_each(Active::drop_draft);
        if let [active] = self.active.as_mut_slice()
            && self.speculate
            && active.decodes()
        {
            active.propose(&self.cost);
        }
    }

    /// A token of each sequence that decodes, and a chunk of one that does not:
    /// in turns the first of them and the one with the least left, so that
    /// short prompts need not wait for long ones, nor long ones for ever.
    fn parts(&self) -> Vec<Part> {
        let part = |active: &Active, tokens| Part {
            id: active.job.id,
            tokens,
        };
        let decoding = self.active.iter().filter(|a| a.decodes());
        let mut parts: Vec<Part> = decoding
            .map(|active| part(active, 1 + active.drafted()))
            .collect();
        let mut reading = self
            .active
            .iter()
            .filter(|a| a.sequence.is_some() && !a.decodes());
        let next = match self.steps % 2 {
            0 => reading.next(),
            _ => reading.min_by_key(|active| active.left()),
        };
        if let Some(active) = next
            && let Some(sequence) = active.sequence
        {
            let most = match parts.is_empty() {
                true => self.backend.longest_slice(sequence),
                false => self.backend.longest_slice(sequence).min(SHARED_CHUNK),
            };
            parts.push(part(active, most.max(1).min(active.left())));
        }
        parts
    }

    /// One call of the backend, and what follows from it.
    fn compute(&mut self, parts: &[Part]) -> Result<(), BackendError> {
        let of = |part: &Part| self.active.iter().find(|a| a.job.id == part.id);
        let slices: Vec<Slice<'_>> = parts
            .iter()
            .filter_map(|part| of(part)?.slice(part.tokens))
            .collect();
        let begun = Instant::now();
        let result = self.backend.forward(&slices);
        let took = begun.elapsed();
        Counters::add_time(&self.shared.counters.forward_us, took);
        let beat = &self.shared.counters.heartbeat;
        beat.fetch_add(1, Relaxed);
        let mut rows = Rows::new(result?);
        let computed: usize = parts.iter().map(|part| part.tokens).sum();
        let (mut ends, mut marks) = (Vec::new(), Vec::new());
        for part in parts {
            let mut active = self.active.iter_mut();
            let Some(active) = active.find(|a| a.job.id == part.id) else {
                continue;
            };
            active.cost += took.mul_f64(part.tokens as f64 / computed.max(1) as f64);
            if parts.len() == 1 && active.decodes() {
                self.cost.learn(part.tokens, took);
            }
            let read = active.prompt_left().min(part.tokens);
            Counters::add(&self.shared.counters.prefill_tokens, read as u64);
            let before = active.fed();
            let sequence = active.sequence.into_iter();
            let range = before + 1..before + part.tokens + 1;
            marks.extend(
                sequence.flat_map(|s| active.boundaries(range.clone()).map(move |p| (s, p))),
            );
            if part.tokens < active.left() {
                active.advance(part.tokens);
                continue;
            }
            let tokens = active.usage.generated_tokens;
            let end = active.take(&mut rows);
            let tokens = active.usage.generated_tokens - tokens;
            Counters::add(&self.shared.counters.generated_tokens, tokens as u64);
            ends.extend(end.map(|end| (part.id, end)));
        }
        for (sequence, position) in marks {
            self.backend.mark(sequence, position);
        }
        for active in &self.active {
            // What was drafted wrongly is in the cache, too.
            if let Some(sequence) = active.sequence
                && self.backend.length(sequence) > active.fed()
            {
                self.backend.rewind(sequence, active.fed());
            }
        }
        for (id, end) in ends {
            self.end(id, end);
        }
        Ok(())
    }

    /// After an error of them together: each alone, so that one fails the
    /// others no longer than for this step.
    fn compute_each(&mut self, parts: &[Part]) {
        for part in parts {
            match self.compute(&[*part]) {
                Ok(()) => {}
                // The next step meets the same again.
                Err(BackendError::CacheFull | BackendError::Cancelled) => return,
                Err(error) => self.fail(part.id, &error),
            }
        }
    }

    /// Frees blocks: those of an ended sequence, else the youngest running
    /// one's, which begins again when another has ended.
    fn make_room(&mut self) {
        if self.kept.give_up_one(self.backend.as_mut()) {
            return;
        }
        let mut placed = self.active.iter_mut().filter(|a| a.sequence.is_some());
        let Some(youngest) = placed.next_back() else {
            return;
        };
        if placed.next().is_none() {
            let id = youngest.job.id;
            self.fail(id, &BackendError::CacheFull);
            return;
        }
        if let Some(sequence) = youngest.stop() {
            self.backend.close(sequence);
        }
        self.crowded = true;
    }

    /// A cancelled call is no surprise if a stream was dropped, or the engine
    /// pauses or stops; then the next step finds out.
    fn explain_cancellation(&mut self) {
        let expected = self.shared.failure().is_some()
            || self.shared.was_interrupted()
            || self.active.iter().any(Active::is_abandoned);
        while !expected && let Some(active) = self.active.last() {
            let error = BackendError::Provider("the backend gave up unasked".into());
            self.fail(active.job.id, &error);
        }
    }

    fn fail(&mut self, id: u64, error: &BackendError) {
        if let BackendError::Provider(why) = error {
            // Before the request's end: whoever reads that may ask for another.
            self.shared.fault.send_replace(Some(why.clone()));
        }
        self.end(id, End::Failed(EngineFailure::Backend(error.to_string())));
    }

    /// Takes a job out of what runs and says how it ended, if anyone is left to
    /// hear it.
    fn end(&mut self, id: u64, end: End) {
        let Some(index) = self.active.iter().position(|a| a.job.id == id) else {
            return;
        };
        self.crowded = false;
        let mut active = self.active.remove(index);
        let usage = active.usage;
        let (owner, cost) = (active.owner(), active.cost);
        let counters = &self.shared.counters;
        Counters::add_time(&counters.prefill_us, usage.prefill);
        Counters::add_time(&counters.decode_us, usage.decode);
        let events = active.job.events.clone();
        let backend = self.backend.as_mut();
        match end {
            // What the cache holds after a failure is not to be trusted.
            End::Failed(_) => {
                if let Some(sequence) = active.stop() {
                    backend.close(sequence);
                }
            }
            End::Done(_) | End::Abandoned => {
                if let Some((sequence, tokens)) = active.into_cached() {
                    self.kept.keep(backend, owner, sequence, tokens);
                }
            }
        }
        // Not running any more before the last event says so: who reads it and
        // submits again finds a free engine.
        let (outcome, event) = match end {
            End::Done(reason) => (
                Outcome::Completed,
                Some(EngineEvent::Done { reason, usage }),
            ),
            End::Abandoned => (Outcome::Cancelled, None),
            End::Failed(failure) => (Outcome::Failed, Some(EngineEvent::Failed(failure))),
        };
        self.shared.finish(id, owner, outcome, cost);
        if let Some(event) = event {
            let _ = events.send(event);
        }
    }
}
