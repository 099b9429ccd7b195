//! Several requests at once, and what stays of those that have ended.

use super::prefix_cache::{Candidate, PrefixCache};
use super::*;

/// An engine for `sequences` requests at once.
fn several(sequences: usize) -> (Engine, Receiver<Seen>) {
    let (mut toy, seen) = toy();
    toy.info.sequences = sequences;
    (start(toy, 8), seen)
}

/// Holds the engine in mid-call until it is dropped, so that what is submitted
/// meanwhile begins together.
fn hold(engine: &Engine, seen: &Receiver<Seen>) -> TokenStream {
    let hanging = engine.submit(request(&[63], 1)).unwrap();
    wait_for_forward(seen);
    hanging
}

fn slices(seen: &Receiver<Seen>) -> Vec<Seen> {
    let forward = |s: &Seen| matches!(s, Seen::Forward(..) | Seen::Together(_));
    seen.try_iter().filter(forward).collect()
}

#[test]
fn requests_are_computed_together() {
    let (engine, seen) = several(3);
    let held = hold(&engine, &seen);
    let streams = [[1], [10], [20]].map(|prompt| engine.submit(request(&prompt, 4)).unwrap());
    drop(held);
    let answers = streams.map(|stream| tokens(&drain(stream)));
    assert_eq!(answers, [[2, 3, 4, 5], [11, 12, 13, 14], [21, 22, 23, 24]]);
    let calls = slices(&seen);
    let together = calls.iter().filter(|s| **s == Seen::Together(3)).count();
    assert!(together >= 3, "{calls:?}");
    let statistics = engine.statistics();
    assert_eq!((statistics.completed, statistics.running), (3, 0));
    assert_eq!(statistics.generated_tokens, 12);
}

#[test]
fn a_request_joins_those_that_run() {
    let (engine, _seen) = several(2);
    let mut first = engine.submit(request(&[1], 30)).unwrap();
    first.blocking_next();
    let second = drain(engine.submit(request(&[1, 2, 3], 2)).unwrap());
    assert_eq!(tokens(&second), [4, 5]);
    assert_eq!(tokens(&drain(first)).len(), 30);
}

#[test]
fn a_prompt_is_read_between_the_tokens_of_others() {
    let (mut toy, seen) = toy();
    (toy.info.sequences, toy.info.prefill_chunk) = (2, 80);
    let engine = start(toy, 8);
    let held = hold(&engine, &seen);
    let writing = engine.submit(request(&[1], 5)).unwrap();
    let reading = engine.submit(request(&[7; 90], 1)).unwrap();
    drop(held);
    assert_eq!(tokens(&drain(writing)), [2, 3, 4, 5, 6]);
    assert_eq!(tokens(&drain(reading)), [8]);
    let calls = slices(&seen);
    let mixed = calls.iter().position(|s| *s == Seen::Together(2)).unwrap();
    let pair = [&calls[mixed + 1], &calls[mixed + 2]];
    assert!(
        matches!(pair, [Seen::Forward(_, 1), Seen::Forward(_, 64)]),
        "{calls:?}"
    );
}

#[test]
fn who_came_last_makes_room_and_begins_again() {
    let (mut toy, seen) = toy();
    (toy.info.sequences, toy.room) = (2, 60);
    let engine = start(toy, 8);
    let held = hold(&engine, &seen);
    // 20 + 19 tokens each: together more than there is room for.
    let streams = [1, 20].map(|token| engine.submit(request(&[token; 20], 20)).unwrap());
    drop(held);
    for (stream, first) in streams.into_iter().zip([2, 21]) {
        let events = drain(stream);
        let expected: Vec<u32> = (first..first + 20).collect();
        assert_eq!(tokens(&events), expected);
        let starts = events
            .iter()
            .filter(|e| matches!(e, EngineEvent::Started { .. }));
        assert_eq!(starts.count(), 1);
    }
    assert_eq!(engine.statistics().completed, 2);
}

#[test]
fn what_has_ended_makes_room() {
    let (mut toy, _seen) = toy();
    toy.room = 30;
    let engine = start(toy, 8);
    for token in [1, 2, 3, 4] {
        let events = drain(engine.submit(request(&[token; 20], 3)).unwrap());
        assert_eq!(tokens(&events), [token + 1, token + 2, token + 3]);
    }
}

#[test]
fn what_can_never_fit_fails() {
    let (mut toy, _seen) = toy();
    toy.room = 30;
    let engine = start(toy, 8);
    let events = drain(engine.submit(request(&[1; 40], 3)).unwrap());
    let Some(EngineEvent::Failed(failure)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(failure.to_string().contains("full"), "{failure}");
    assert_eq!(
        tokens(&drain(engine.submit(request(&[1; 20], 1)).unwrap())),
        [2]
    );
}

#[test]
fn one_failure_spares_the_others() {
    let (engine, seen) = several(3);
    let held = hold(&engine, &seen);
    let good = engine.submit(request(&[1], 6)).unwrap();
    // 58, 59, 60: the toy fails at the last.
    let bad = engine.submit(request(&[57], 6)).unwrap();
    drop(held);
    assert_eq!(tokens(&drain(good)), [2, 3, 4, 5, 6, 7]);
    let events = drain(bad);
    assert_eq!(tokens(&events), [58, 59, 60]);
    assert!(matches!(events.last(), Some(EngineEvent::Failed(_))));
}

#[test]
fn a_dropped_stream_spares_the_others() {
    let (engine, seen) = several(2);
    let held = hold(&engine, &seen);
    let kept = engine.submit(request(&[1], 30)).unwrap();
    drop(held);
    // 39, 40, 63: it hangs there, and the other with it.
    let mut dropped = engine.submit(request(&[38], 30)).unwrap();
    while !matches!(
        dropped.blocking_next(),
        Some(EngineEvent::Token { id: 63, .. })
    ) {}
    drop(dropped);
    assert_eq!(tokens(&drain(kept)).len(), 30);
    // The worker notices between two steps, at the latest before this ends.
    drain(engine.submit(request(&[1], 1)).unwrap());
    let statistics = engine.statistics();
    assert_eq!((statistics.cancelled, statistics.completed), (2, 2));
    assert_eq!(engine.failure(), None);
}

#[test]
fn who_waits_learns_how_many_must_end() {
    let (engine, seen) = several(2);
    // Two hang, so the third waits for one of them, the fourth for two.
    let held = hold(&engine, &seen);
    let second = engine.submit(request(&[63], 1)).unwrap();
    let mut third = engine.submit(request(&[1], 1)).unwrap();
    let mut fourth = engine.submit(request(&[1], 1)).unwrap();
    assert_eq!(
        third.blocking_next(),
        Some(EngineEvent::Queued { position: 1 })
    );
    assert_eq!(
        fourth.blocking_next(),
        Some(EngineEvent::Queued { position: 2 })
    );
    drop(second);
    drop(held);
    assert_eq!(tokens(&drain(third)), [2]);
    assert_eq!(tokens(&drain(fourth)), [2]);
}

#[test]
fn a_running_request_lends_its_prefix_to_its_owner_alone() {
    let (mut toy, seen) = toy();
    let running = toy.insert(vec![1, 2, 3, 4]);
    let candidate = Candidate {
        owner: Owner(1000),
        sequence: running,
        tokens: &[1, 2, 3, 4],
    };
    let mut kept = PrefixCache::default();
    let mut begin = |owner, prompt: &[u32]| {
        let begun = kept.begin(&mut toy, Owner(owner), prompt, &[candidate]);
        toy.length(begun.unwrap())
    };
    assert_eq!(begin(1000, &[1, 2, 3, 9]), 3);
    assert_eq!(begin(1000, &[1, 2, 3, 4]), 3);
    assert_eq!(begin(1001, &[1, 2, 3, 9]), 0);
    let forks: Vec<_> = seen.try_iter().collect();
    assert_eq!(forks, [Seen::Fork(3), Seen::Fork(3)]);
    assert_eq!(toy.length(running), 4);
}

/// The next turn leaves out what the model thought: it differs where the answer
/// began, and the backend can come back there because it was marked.
#[test]
fn a_turn_goes_on_where_the_last_answer_began() {
    let (mut toy, seen) = toy();
    toy.marks_only = true;
    let engine = start(toy, 8);
    let mut first = request(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 10);
    first.boundaries = vec![0, 4];
    drain(engine.submit(first).unwrap());
    let marks = |s: Seen| match s {
        Seen::Mark(position) => Some(position),
        _ => None,
    };
    assert_eq!(
        seen.try_iter().filter_map(marks).collect::<Vec<_>>(),
        [4, 9]
    );
    let next = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30, 31];
    let events = drain(engine.submit(request(&next, 1)).unwrap());
    assert_eq!(cached(&events), 9);
    let edited = drain(engine.submit(request(&[1, 2, 3, 4, 50], 1)).unwrap());
    assert_eq!(cached(&edited), 4);
    let other = drain(engine.submit(request(&[1, 2, 30], 1)).unwrap());
    assert_eq!(cached(&other), 0);
}
