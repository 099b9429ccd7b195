//! The engine on a toy backend that a test can hold in mid-call.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use super::*;

mod batching;
mod guide;
mod pace;
mod shares;
mod speculation;

const VOCAB: usize = 64;
const WINDOW: usize = 100;

/// What happened inside the backend.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A call got a slice of so many tokens that begins at this position.
    Forward(usize, usize),
    /// The call's slices were so many.
    Together(usize),
    /// A sequence began with so many tokens of another.
    Fork(usize),
    /// A way back was kept.
    Mark(usize),
}

#[derive(Default)]
struct Flag {
    cancelled: Mutex<bool>,
    wake: Condvar,
}

impl Cancel for Flag {
    fn cancel(&self) {
        *self.cancelled.lock().unwrap() = true;
        self.wake.notify_all();
    }
    fn reset(&self) {
        *self.cancelled.lock().unwrap() = false;
    }
}

/// The next token is the fed one plus one, 63 after 40. Token 60 fails, 61
/// panics, 62 computes NaN, 63 hangs until cancelled.
struct Toy {
    info: BackendInfo,
    /// Tokens that all sequences may have together.
    room: usize,
    /// Logits are spread out instead of sure.
    soft: bool,
    /// Positions that can be come back to, where `marks_only`.
    marks: BTreeMap<SequenceId, Vec<usize>>,
    marks_only: bool,
    sequences: BTreeMap<SequenceId, Vec<u32>>,
    next: u32,
    logits: Vec<f32>,
    flag: Arc<Flag>,
    seen: Sender<Seen>,
}

impl Toy {
    fn insert(&mut self, tokens: Vec<u32>) -> SequenceId {
        self.next += 1;
        self.sequences.insert(SequenceId(self.next), tokens);
        SequenceId(self.next)
    }

    fn row(&self, last: u32) -> Vec<f32> {
        if self.soft {
            let hash = |next: u32| (last * 64 + next).wrapping_mul(2_654_435_761) >> 20;
            return (0..VOCAB as u32).map(|n| hash(n) as f32 / 25.0).collect();
        }
        let mut row = vec![0.0; VOCAB];
        let next = if last == 40 { 63 } else { last as usize + 1 };
        row[next % VOCAB] = 9.0;
        if last == 62 {
            row.fill(f32::NAN);
        }
        row
    }

    fn compute(&self, tokens: &[u32]) -> Result<(), BackendError> {
        if self.soft {
            // A step costs the same for any number of tokens, more or less.
            std::thread::sleep(std::time::Duration::from_micros(300));
            return Ok(());
        }
        let mut cancelled = self.flag.cancelled.lock().unwrap();
        while tokens.contains(&63) && !*cancelled {
            cancelled = self.flag.wake.wait(cancelled).unwrap();
        }
        if *cancelled {
            return Err(BackendError::Cancelled);
        }
        drop(cancelled);
        if tokens.contains(&60) {
            return Err(BackendError::Provider("out of toys".into()));
        }
        assert!(!tokens.contains(&61), "token 61");
        Ok(())
    }
}

impl Backend for Toy {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn open(&mut self) -> Option<SequenceId> {
        Some(self.insert(Vec::new()))
    }

    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId> {
        let mut tokens = self.sequences[&sequence].clone();
        let mut marks = self.marks.get(&sequence).cloned().unwrap_or_default();
        marks.retain(|&mark| mark <= position);
        let mark = marks.last().copied().unwrap_or(0);
        let end = position == tokens.len() || !self.marks_only;
        tokens.truncate(if end { position } else { mark });
        let _ = self.seen.send(Seen::Fork(tokens.len()));
        let fork = self.insert(tokens);
        self.marks.insert(fork, marks);
        Some(fork)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence).expect("an open sequence");
        self.marks.remove(&sequence);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        self.sequences[&sequence].len()
    }

    fn rewind(&mut self, sequence: SequenceId, position: usize) {
        self.sequences
            .get_mut(&sequence)
            .unwrap()
            .truncate(position);
    }

    fn mark(&mut self, sequence: SequenceId, position: usize) {
        assert!(position <= self.length(sequence));
        let _ = self.seen.send(Seen::Mark(position));
        self.marks.entry(sequence).or_default().push(position);
    }

    fn forward(&mut self, slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError> {
        if slices.len() > 1 {
            let _ = self.seen.send(Seen::Together(slices.len()));
        }
        for slice in slices {
            let position = self.length(slice.sequence);
            let _ = self.seen.send(Seen::Forward(position, slice.tokens.len()));
        }
        let fed = slices.iter().map(|slice| slice.tokens.len());
        let kept = self.sequences.values().map(Vec::len);
        if fed.chain(kept).sum::<usize>() > self.room {
            return Err(BackendError::CacheFull);
        }
        for slice in slices {
            self.compute(slice.tokens)?;
        }
        self.logits.clear();
        for slice in slices {
            let sequence = self.sequences.get_mut(&slice.sequence).unwrap();
            sequence.extend_from_slice(slice.tokens);
            let wanted = match slice.wanted {
                Wanted::None => &[][..],
                Wanted::Last => &[slice.tokens.len() - 1],
                Wanted::At(positions) => positions,
            };
            for &position in wanted {
                let row = self.row(slice.tokens[position]);
                self.logits.extend(row);
            }
        }
        Ok(Logits {
            values: &self.logits,
            vocab_size: VOCAB,
        })
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.flag) as Arc<dyn Cancel>
    }
}

/// A toy for one sequence at a time, and what it will have seen.
fn toy() -> (Toy, Receiver<Seen>) {
    let (seen, receiver) = channel();
    let toy = Toy {
        info: BackendInfo {
            model: "toy".into(),
            vocab_size: VOCAB,
            context_window: WINDOW,
            prefill_chunk: 8,
            sequences: 1,
            provider: "simulated".into(),
        },
        room: usize::MAX,
        soft: false,
        marks: BTreeMap::new(),
        marks_only: false,
        sequences: BTreeMap::new(),
        next: 0,
        logits: Vec::new(),
        flag: Arc::default(),
        seen,
    };
    (toy, receiver)
}

fn start(toy: Toy, queue: usize) -> Engine {
    let settings = EngineSettings {
        queue,
        speculate: false,
    };
    Engine::start(Box::new(toy), settings).unwrap()
}

fn engine_with(queue: usize) -> (Engine, Receiver<Seen>) {
    let (toy, receiver) = toy();
    (start(toy, queue), receiver)
}

fn engine() -> (Engine, Receiver<Seen>) {
    engine_with(4)
}

pub(super) fn request(prompt: &[u32], max_new: usize) -> GenerationRequest {
    GenerationRequest {
        owner: Owner(1000),
        priority: Priority::Interactive,
        arrival: 0,
        prompt: prompt.to_vec(),
        boundaries: Vec::new(),
        max_new,
        sampling: Sampling::greedy(),
        stop_tokens: vec![50],
        guide: None,
    }
}

fn drain(mut stream: TokenStream) -> Vec<EngineEvent> {
    std::iter::from_fn(|| stream.blocking_next()).collect()
}

fn tokens(events: &[EngineEvent]) -> Vec<u32> {
    let id = |e: &EngineEvent| match e {
        EngineEvent::Token { id, .. } => Some(*id),
        _ => None,
    };
    events.iter().filter_map(id).collect()
}

fn cached(events: &[EngineEvent]) -> usize {
    let cached = |e: &EngineEvent| match e {
        EngineEvent::Started { cached } => Some(*cached),
        _ => None,
    };
    events.iter().find_map(cached).unwrap()
}

/// Waits until the backend computes the sequence with a hanging token.
fn wait_for_forward(seen: &Receiver<Seen>) {
    while !matches!(seen.recv().unwrap(), Seen::Forward(..)) {}
}

#[test]
fn a_request_is_answered() {
    let (engine, seen) = engine();
    let events = drain(engine.submit(request(&[1, 2, 3], 4)).unwrap());
    assert_eq!(events[0], EngineEvent::Started { cached: 0 });
    assert_eq!(tokens(&events), [4, 5, 6, 7]);
    let Some(EngineEvent::Done { reason, usage }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(*reason, FinishReason::Length);
    assert_eq!((usage.prompt_tokens, usage.generated_tokens), (3, 4));
    // The last token is not fed: nobody asks what follows it.
    let forwards: Vec<_> = seen
        .try_iter()
        .filter(|s| matches!(s, Seen::Forward(..)))
        .collect();
    assert_eq!(forwards.len(), 4);
}

#[test]
fn a_stop_token_ends_it_and_is_delivered() {
    let (engine, _seen) = engine();
    let events = drain(engine.submit(request(&[47], 40)).unwrap());
    assert_eq!(tokens(&events), [48, 49, 50]);
    let done = events.last();
    assert!(
        matches!(
            done,
            Some(EngineEvent::Done {
                reason: FinishReason::Stop(50),
                ..
            })
        ),
        "{done:?}"
    );
}

#[test]
fn a_long_prompt_goes_in_chunks() {
    let (engine, seen) = engine();
    drain(engine.submit(request(&[1; 20], 1)).unwrap());
    let forwards: Vec<_> = seen
        .try_iter()
        .filter(|s| matches!(s, Seen::Forward(..)))
        .collect();
    assert_eq!(
        forwards,
        [
            Seen::Forward(0, 8),
            Seen::Forward(8, 8),
            Seen::Forward(16, 4)
        ]
    );
}

#[test]
fn the_window_is_the_limit() {
    let (engine, _seen) = engine();
    let full = engine.submit(request(&[1; WINDOW], 1));
    assert!(matches!(
        full,
        Err(SubmitError::ContextExceeded {
            prompt: WINDOW,
            window: WINDOW
        })
    ));
    let events = drain(engine.submit(request(&[1; WINDOW - 3], 1000)).unwrap());
    assert_eq!(tokens(&events).len(), 3);
}

#[test]
fn nonsense_is_refused_before_it_queues() {
    let (engine, _seen) = engine();
    let mut hot = request(&[1], 1);
    hot.sampling.temperature = f32::NAN;
    let errors = [
        engine.submit(request(&[], 1)).unwrap_err(),
        engine.submit(request(&[1], 0)).unwrap_err(),
        engine.submit(request(&[VOCAB as u32], 1)).unwrap_err(),
    ];
    assert_eq!(
        errors,
        [
            SubmitError::EmptyPrompt,
            SubmitError::NothingToGenerate,
            SubmitError::InvalidToken(VOCAB as u32)
        ]
    );
    assert!(matches!(
        engine.submit(hot),
        Err(SubmitError::InvalidSampling(_))
    ));
}

#[test]
fn a_shared_prefix_is_not_computed_again() {
    let (engine, _seen) = engine();
    drain(engine.submit(request(&[1, 2, 3, 4], 3)).unwrap());
    // Cached now: 1 2 3 4 5 6.
    let longer = drain(engine.submit(request(&[1, 2, 3, 4, 5, 9, 9], 2)).unwrap());
    assert_eq!(cached(&longer), 5);
    assert_eq!(tokens(&longer), [10, 11]);
    let same = drain(engine.submit(request(&[1, 2, 3, 4, 5, 9, 9], 2)).unwrap());
    assert_eq!(cached(&same), 6, "one token is left for its logits");
    assert_eq!(tokens(&same), [10, 11]);
    let other = drain(engine.submit(request(&[7, 2, 3], 2)).unwrap());
    assert_eq!(cached(&other), 0);
}

#[test]
fn another_owner_never_meets_the_cache() {
    let (engine, seen) = engine();
    drain(engine.submit(request(&[1, 2, 3, 4], 3)).unwrap());
    let mut theirs = request(&[1, 2, 3, 4], 3);
    theirs.owner = Owner(1001);
    assert_eq!(cached(&drain(engine.submit(theirs).unwrap())), 0);
    assert!(!seen.try_iter().any(|seen| matches!(seen, Seen::Fork(_))));
    let back = drain(engine.submit(request(&[1, 2, 3, 4], 3)).unwrap());
    assert_eq!(cached(&back), 3, "nor takes it away");
}

#[test]
fn dropping_the_stream_interrupts_prefill_and_spares_the_next() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[5, 63, 5], 10)).unwrap();
    wait_for_forward(&seen);
    let mut next = engine.submit(request(&[1, 2], 2)).unwrap();
    assert_eq!(
        next.blocking_next(),
        Some(EngineEvent::Queued { position: 1 })
    );
    drop(hanging);
    assert_eq!(tokens(&drain(next)), [3, 4]);
    let statistics = engine.statistics();
    assert_eq!((statistics.cancelled, statistics.completed), (1, 1));
}

#[test]
fn dropping_the_stream_interrupts_decode() {
    let (engine, seen) = engine();
    let mut stream = engine.submit(request(&[38], 10)).unwrap();
    while stream.blocking_next()
        != Some(EngineEvent::Token {
            id: 63,
            logprobs: None,
        })
    {}
    while seen.recv().unwrap() != Seen::Forward(3, 1) {}
    drop(stream);
    let events = drain(engine.submit(request(&[38, 39, 41], 2)).unwrap());
    assert_eq!(cached(&events), 2, "what was computed stays usable");
    assert_eq!(tokens(&events), [42, 43]);
    assert_eq!(engine.statistics().cancelled, 1);
}

#[test]
fn a_dropped_stream_leaves_the_queue() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let first = engine.submit(request(&[1], 1)).unwrap();
    let mut second = engine.submit(request(&[2], 1)).unwrap();
    assert_eq!(
        second.blocking_next(),
        Some(EngineEvent::Queued { position: 2 })
    );
    drop(first);
    assert_eq!(
        second.blocking_next(),
        Some(EngineEvent::Queued { position: 1 })
    );
    drop(hanging);
    assert_eq!(tokens(&drain(second)), [3]);
    assert_eq!(engine.statistics().cancelled, 2);
}

#[test]
fn the_queue_is_bounded_and_in_order() {
    let (engine, seen) = engine_with(2);
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let first = engine.submit(request(&[1], 1)).unwrap();
    let second = engine.submit(request(&[20], 1)).unwrap();
    let refused = engine.submit(request(&[30], 1));
    assert!(matches!(
        refused,
        Err(SubmitError::Overloaded { queued: 2 })
    ));
    drop(hanging);
    assert_eq!(tokens(&drain(first)), [2]);
    assert_eq!(tokens(&drain(second)), [21]);
    assert_eq!(engine.statistics().refused, 1);
}

#[test]
fn an_earlier_arrival_goes_first() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let mut arrived = [2, 1].map(|arrival| {
        let mut request = request(&[1], 1);
        request.arrival = arrival;
        engine.submit(request).unwrap()
    });
    let positions = |stream: &mut TokenStream| stream.blocking_next().unwrap();
    let [second, first] = &mut arrived;
    assert_eq!(positions(second), EngineEvent::Queued { position: 1 });
    assert_eq!(positions(second), EngineEvent::Queued { position: 2 });
    assert_eq!(positions(first), EngineEvent::Queued { position: 1 });
    drop(hanging);
}

#[test]
fn interactive_requests_pass_background_ones() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let mut later = request(&[1], 1);
    later.priority = Priority::Background;
    let mut background = engine.submit(later).unwrap();
    let interactive = engine.submit(request(&[20], 1)).unwrap();
    let positions = [
        background.blocking_next().unwrap(),
        background.blocking_next().unwrap(),
    ];
    assert_eq!(
        positions,
        [
            EngineEvent::Queued { position: 1 },
            EngineEvent::Queued { position: 2 }
        ]
    );
    drop(hanging);
    assert_eq!(tokens(&drain(interactive)), [21]);
    assert_eq!(tokens(&drain(background)), [2]);
}

#[test]
fn an_error_fails_the_request_alone() {
    let (engine, _seen) = engine();
    let events = drain(engine.submit(request(&[57], 9)).unwrap());
    assert_eq!(tokens(&events), [58, 59, 60]);
    let Some(EngineEvent::Failed(failure)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(failure.to_string().contains("out of toys"));
    let nan = drain(engine.submit(request(&[62], 9)).unwrap());
    assert!(matches!(nan.last(), Some(EngineEvent::Failed(_))));
    assert_eq!(
        tokens(&drain(engine.submit(request(&[1], 2)).unwrap())),
        [2, 3]
    );
    assert_eq!(engine.failure(), None);
}

#[test]
fn a_panic_fails_everything_and_says_so() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let panicking = engine.submit(request(&[61], 1)).unwrap();
    let waiting = engine.submit(request(&[1], 1)).unwrap();
    drop(hanging);
    for events in [drain(panicking), drain(waiting)] {
        let last = events.last();
        assert!(
            matches!(last, Some(EngineEvent::Failed(EngineFailure::Panicked))),
            "{last:?}"
        );
    }
    assert!(matches!(
        engine.submit(request(&[1], 1)),
        Err(SubmitError::Unavailable(EngineFailure::Panicked))
    ));
    assert!(engine.failure().is_some());
}

#[test]
fn dropping_the_engine_fails_what_is_left() {
    let (engine, seen) = engine();
    let running = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    let waiting = engine.submit(request(&[1], 1)).unwrap();
    drop(engine);
    for stream in [running, waiting] {
        assert_eq!(
            drain(stream).last(),
            Some(&EngineEvent::Failed(EngineFailure::Stopped))
        );
    }
}

#[test]
fn the_heartbeat_beats() {
    let (engine, _seen) = engine();
    let before = engine.heartbeat();
    drain(engine.submit(request(&[1; 20], 5)).unwrap());
    assert_eq!(engine.heartbeat() - before, 3 + 4);
    assert_eq!(engine.statistics().running, 0);
}
