//! The queue before the model thread, and the streams that come out of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::backend::{CacheUse, Cancel};
use super::pace::{Next, Pace};
use super::request::{EngineEvent, EngineFailure, GenerationRequest, Owner, Priority, SubmitError};

/// Numbers of an engine since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Requests accepted.
    pub submitted: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Requests that ended with `Done`.
    pub completed: u64,
    /// Requests whose stream was dropped before.
    pub cancelled: u64,
    /// Requests that ended with `Failed`.
    pub failed: u64,
    /// Tokens of prompts computed.
    pub prefill_tokens: u64,
    /// Tokens of prompts found in the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Microseconds spent in prefill.
    pub prefill_us: u64,
    /// Microseconds spent in decode.
    pub decode_us: u64,
    /// Microseconds in which the backend computed; what requests took beyond
    /// that is sampling, guides and waiting for each other.
    pub forward_us: u64,
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests that run now.
    pub running: usize,
    /// Blocks of the key/value cache, and those of them that hold something.
    pub cache: CacheUse,
}

impl Statistics {
    /// Adds what was counted elsewhere; what is now stays as it is.
    pub fn add_counts(&mut self, other: &Statistics) {
        self.submitted += other.submitted;
        self.refused += other.refused;
        self.completed += other.completed;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
        self.prefill_tokens += other.prefill_tokens;
        self.cached_tokens += other.cached_tokens;
        self.generated_tokens += other.generated_tokens;
        self.prefill_us += other.prefill_us;
        self.decode_us += other.decode_us;
        self.forward_us += other.forward_us;
    }
}

/// The part of the statistics that the worker counts without the lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub heartbeat: AtomicU64,
    pub prefill_tokens: AtomicU64,
    pub cached_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub prefill_us: AtomicU64,
    pub decode_us: AtomicU64,
    pub forward_us: AtomicU64,
    pub cache_used: AtomicUsize,
    pub cache_total: AtomicUsize,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn add_time(counter: &AtomicU64, time: Duration) {
        Self::add(counter, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn note_cache(&self, now: CacheUse) {
        self.cache_used.store(now.used, Ordering::Relaxed);
        self.cache_total.store(now.total, Ordering::Relaxed);
    }
}

/// A request that was accepted.
#[derive(Debug)]
pub(super) struct Job {
    pub id: u64,
    pub request: GenerationRequest,
    pub events: UnboundedSender<EngineEvent>,
    pub submitted: Instant,
    /// The position its stream was told last.
    announced: usize,
}

/// How a job left the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    Cancelled,
    Failed,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of arrival.
    waiting: VecDeque<Job>,
    running: Vec<(u64, Owner)>,
    /// What each owner has had of the model. Counts while anyone waits or runs:
    /// whoever comes begins with the least that another of them has had.
    served: HashMap<Owner, Duration>,
    /// The running request that most of the present step is for.
    longest: Option<u64>,
    failure: Option<EngineFailure>,
    pace: Pace,
    /// Whether the present step was cut short by a pause.
    interrupted: bool,
    /// Whether a stream was dropped that the worker has not looked at.
    abandoned: bool,
    /// Whether what is kept for prompts to come is to be given up.
    trim: bool,
    next_id: u64,
    totals: Statistics,
}

fn is_interactive(job: &Job) -> bool {
    job.request.priority == Priority::Interactive
}

impl State {
    /// What a worker does next that has running jobs, or parked ones; `None`
    /// where it waits.
    fn next(&mut self, runs: bool, parked: bool) -> Option<Next> {
        if self.failure.is_some() {
            let left = runs || parked;
            return Some(if left { Next::Work } else { Next::End });
        }
        let trim = std::mem::take(&mut self.trim);
        if std::mem::take(&mut self.abandoned) || trim {
            return Some(Next::Tidy { trim });
        }
        let work = match self.pace {
            Pace::Full => runs || parked || !self.waiting.is_empty(),
            Pace::Slow => runs || self.waiting.iter().any(is_interactive),
            Pace::Paused => false,
        };
        work.then_some(Next::Work)
    }

    /// The waiting jobs in the order in which they would be taken if nothing
    /// came and nothing ended: interactive ones first; among them the owner's who
    /// has the fewest running, then who has had the least; then the oldest.
    fn order(&self) -> Vec<usize> {
        let mut running: HashMap<Owner, usize> = HashMap::new();
        for (_, owner) in &self.running {
            *running.entry(*owner).or_default() += 1;
        }
        // One line an owner and priority, in the order of arrival: only their
        // heads have to be compared.
        let mut lines: HashMap<(bool, Owner), VecDeque<usize>> = HashMap::new();
        for (index, job) in self.waiting.iter().enumerate() {
            let background = job.request.priority == Priority::Background;
            let line = (background, job.request.owner);
            lines.entry(line).or_default().push_back(index);
        }
        let mut order = Vec::with_capacity(self.waiting.len());
        let rank = |(background, owner): (bool, Owner), head: usize, running: usize| {
            let served = self.served.get(&owner).copied().unwrap_or_default();
            (background, running, served, head)
        };
        let next = |lines: &HashMap<(bool, Owner), VecDeque<usize>>,
                    running: &HashMap<Owner, usize>| {
            let heads = lines
                .iter()
                .filter_map(|(line, all)| Some((*line, *all.front()?)));
            let heads = heads.map(|(line, head)| {
                let running = running.get(&line.1).copied().unwrap_or_default();
                (rank(line, head, running), line)
            });
            heads.min_by_key(|(rank, _)| *rank).map(|(_, line)| line)
        };
        while let Some(line) = next(&lines, &running) {
            order.extend(lines.get_mut(&line).and_then(VecDeque::pop_front));
            *running.entry(line.1).or_default() += 1;
        }
        order
    }

    /// Tells every waiting request whose position changed: how many must end
    /// before one of `slots` is its.
    fn announce(&mut self, slots: usize) {
        let ahead = self.running.len() + 1;
        for (place, index) in self.order().into_iter().enumerate() {
            let Some(job) = self.waiting.get_mut(index) else {
                continue;
            };
            let position = (place + ahead).saturating_sub(slots);
            if position != job.announced && position > 0 {
                job.announced = position;
                // A stream that is gone is on its way out of the queue.
                let _ = job.events.send(EngineEvent::Queued { position });
            }
        }
    }

    /// An owner who had nothing here begins where the others are.
    fn welcome(&mut self, owner: Owner) {
        let waiting = self.waiting.iter().map(|job| job.request.owner);
        let here: Vec<Owner> = waiting.chain(self.running.iter().map(|r| r.1)).collect();
        if here.contains(&owner) {
            return;
        }
        self.served.retain(|owner, _| here.contains(owner));
        let least = here
            .iter()
            .map(|o| self.served.get(o).copied().unwrap_or_default());
        if let Some(least) = least.min() {
            self.served.insert(owner, least);
        }
    }
}

/// What the handle, the streams and the worker share.
///
/// The backend's cancel flag is touched under the lock only, and only for a
/// request that is marked as running: a cancellation can't hit its successor.
/// Where several run, the others repeat the step that it interrupts.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    bound: usize,
    /// Requests that may run together.
    slots: usize,
    cancel: Arc<dyn Cancel>,
    /// Whether the worker waits, or has ended. Changed under the lock.
    at_rest: watch::Sender<bool>,
    /// What the execution provider said the last time that it failed.
    pub fault: watch::Sender<Option<String>>,
    pub counters: Counters,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(bound: usize, slots: usize, cancel: Arc<dyn Cancel>) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            bound,
            slots: slots.max(1),
            cancel,
            at_rest: watch::Sender::new(false),
            fault: watch::Sender::default(),
            counters: Counters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn submit(
        this: &Arc<Self>,
        request: GenerationRequest,
    ) -> Result<TokenStream, SubmitError> {
        let (events, receiver) = unbounded_channel();
        let mut state = this.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone().into());
        }
        let queued = state.waiting.len();
        if queued >= this.bound.max(1) {
            state.totals.refused += 1;
            return Err(SubmitError::Overloaded { queued });
        }
        state.next_id += 1;
        state.totals.submitted += 1;
        let id = state.next_id;
        state.welcome(request.owner);
        let later = |job: &Job| job.request.arrival > request.arrival;
        let place = state.waiting.iter().position(later).unwrap_or(queued);
        let job = Job {
            id,
            request,
            events,
            submitted: Instant::now(),
            announced: 0,
        };
        state.waiting.insert(place, job);
        state.announce(this.slots);
        this.wake.notify_one();
        Ok(TokenStream {
            receiver,
            shared: Arc::clone(this),
            id,
        })
    }

    /// Waits until there is something to do for a worker that has running jobs,
    /// or parked ones, or neither.
    pub fn next(&self, runs: bool, parked: bool) -> Next {
        let mut state = self.lock();
        let next = loop {
            if let Some(next) = state.next(runs, parked) {
                break next;
            }
            self.at_rest.send_replace(true);
            let woken = self.wake.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        };
        self.at_rest.send_replace(next == Next::End);
        next
    }

    /// Marks the next job as running, where one waits and a slot is free. What
    /// is `parked` goes before background jobs that wait.
    pub fn next_job(&self, parked: bool) -> Option<Job> {
        let mut state = self.lock();
        if state.failure.is_some() || state.running.len() >= self.slots {
            return None;
        }
        let index = state.order().first().copied()?;
        let background = state.waiting.get(index)?.request.priority == Priority::Background;
        if background && (parked || state.pace == Pace::Slow) {
            return None;
        }
        let job = state.waiting.remove(index)?;
        state.running.push((job.id, job.request.owner));
        state.announce(self.slots);
        Some(job)
    }

    /// Whether background jobs have to make room: the pace is slow, or an
    /// interactive one waits and all slots are taken.
    pub fn is_pressed(&self) -> bool {
        let state = self.lock();
        let waits = || state.waiting.iter().any(is_interactive);
        state.pace == Pace::Slow || (state.running.len() >= self.slots && waits())
    }

    /// A running job makes room; it is not over.
    pub fn park(&self, id: u64) {
        let mut state = self.lock();
        state.running.retain(|(running, _)| *running != id);
        state.announce(self.slots);
    }

    /// A parked job runs again, if a slot is free.
    pub fn unpark(&self, id: u64, owner: Owner) -> bool {
        let mut state = self.lock();
        let free = state.running.len() < self.slots && state.pace != Pace::Slow;
        if free {
            state.running.push((id, owner));
            state.announce(self.slots);
        }
        free
    }

    /// A step of the running jobs begins, most of it for `longest`, unless there
    /// is a pause. What was cancelled before is known to the worker by now; after
    /// the engine's end the cancellation stays.
    pub fn begin_step(&self, longest: Option<u64>) -> bool {
        let mut state = self.lock();
        if state.failure.is_some() {
            return true;
        }
        if state.pace == Pace::Paused {
            return false;
        }
        state.longest = longest;
        state.interrupted = false;
        self.cancel.reset();
        true
    }

    /// Whether a pause cut the present step short.
    pub fn was_interrupted(&self) -> bool {
        self.lock().interrupted
    }

    /// Waits for as long as a step `took`, while the pace is slow.
    pub fn rest_after(&self, took: Duration) {
        let until = Instant::now() + took;
        let mut state = self.lock();
        while state.pace == Pace::Slow && state.failure.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.wake.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Changes the pace; a pause interrupts the present step.
    pub fn set_pace(&self, pace: Pace) {
        let mut state = self.lock();
        if state.pace == pace {
            return;
        }
        state.pace = pace;
        if pace == Pace::Paused && !state.running.is_empty() {
            state.interrupted = true;
            self.cancel.cancel();
        }
        self.wake.notify_all();
    }

    /// Waits until the worker waits.
    pub async fn at_rest(&self) {
        // The sender is in `self`, so this ends by the value alone.
        let _ = self.at_rest.subscribe().wait_for(|rests| *rests).await;
    }

    /// Has the worker give up what is kept for prompts to come.
    pub fn trim(&self) {
        self.lock().trim = true;
        self.wake.notify_all();
    }

    /// The heartbeat of a worker that computes, or should.
    pub fn pulse(&self) -> Option<u64> {
        let state = self.lock();
        let computes = !state.running.is_empty() && !*self.at_rest.borrow();
        computes.then(|| self.counters.heartbeat.load(Ordering::Relaxed))
    }

    /// A job that ran, or was parked, has ended after `cost`.
    pub fn finish(&self, id: u64, owner: Owner, outcome: Outcome, cost: Duration) {
        let mut state = self.lock();
        *state.served.entry(owner).or_default() += cost;
        state.running.retain(|(running, _)| *running != id);
        state.announce(self.slots);
        match outcome {
            Outcome::Completed => state.totals.completed += 1,
            Outcome::Cancelled => state.totals.cancelled += 1,
            Outcome::Failed => state.totals.failed += 1,
        }
    }

    /// Ends the engine: nothing is accepted any more, everything that waits
    /// fails.
    pub fn fail(&self, failure: EngineFailure) {
        let mut state = self.lock();
        if state.failure.is_none() {
            state.failure = Some(failure.clone());
        }
        for job in std::mem::take(&mut state.waiting) {
            state.totals.failed += 1;
            let _ = job.events.send(EngineEvent::Failed(failure.clone()));
        }
        if !state.running.is_empty() {
            self.cancel.cancel();
        }
        self.wake.notify_all();
    }

    pub fn failure(&self) -> Option<EngineFailure> {
        self.lock().failure.clone()
    }

    pub fn statistics(&self) -> Statistics {
        let state = self.lock();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            prefill_tokens: read(&self.counters.prefill_tokens),
            cached_tokens: read(&self.counters.cached_tokens),
            generated_tokens: read(&self.counters.generated_tokens),
            prefill_us: read(&self.counters.prefill_us),
            decode_us: read(&self.counters.decode_us),
            forward_us: read(&self.counters.forward_us),
            waiting: state.waiting.len(),
            running: state.running.len(),
            cache: CacheUse {
                used: self.counters.cache_used.load(Ordering::Relaxed),
                total: self.counters.cache_total.load(Ordering::Relaxed),
            },
            ..state.totals
        }
    }

    /// A stream was dropped: takes its request out of the queue or interrupts
    /// it, unless that would cost others more than it saves: the worker drops
    /// it after the step. No effect on one that has ended.
    fn abandon(&self, id: u64) {
        let mut state = self.lock();
        if let Some(index) = state.waiting.iter().position(|job| job.id == id) {
            state.waiting.remove(index);
            state.totals.cancelled += 1;
            state.announce(self.slots);
            return;
        }
        let runs = state.running.iter().any(|(running, _)| *running == id);
        if runs && (state.running.len() == 1 || state.longest == Some(id)) {
            self.cancel.cancel();
        }
        // It may be parked, or the worker may be in a pause.
        state.abandoned = true;
        self.wake.notify_all();
    }
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    receiver: UnboundedReceiver<EngineEvent>,
    shared: Arc<Shared>,
    id: u64,
}

impl TokenStream {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        self.receiver.recv().await
    }

    /// The same for a thread outside of an async runtime.
    pub fn blocking_next(&mut self) -> Option<EngineEvent> {
        self.receiver.blocking_recv()
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        // Closed first, so that the worker sees it in whatever order.
        self.receiver.close();
        self.shared.abandon(self.id);
    }
}

#[cfg(test)]
#[path = "tests/order.rs"]
mod tests;
