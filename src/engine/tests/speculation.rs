//! Drafts: fewer steps, the same answers.

use super::*;

fn speculating(soft: bool) -> (Engine, Receiver<Seen>) {
    let (mut toy, seen) = toy();
    toy.soft = soft;
    toy.info.prefill_chunk = 64;
    let settings = EngineSettings {
        queue: 8,
        speculate: true,
    };
    let engine = Engine::start(Box::new(toy), settings).unwrap();
    (engine, seen)
}

pub(super) fn calls(seen: &Receiver<Seen>) -> Vec<Seen> {
    let forward = |s: &Seen| matches!(s, Seen::Forward(..));
    seen.try_iter().filter(forward).collect()
}

/// 4 to 8 stood in the prompt behind 1, 2, 3; then it said 1 where the model
/// says 9.
#[test]
fn what_was_said_before_is_verified_in_one_step() {
    let (engine, seen) = speculating(false);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3];
    let events = drain(engine.submit(request(&prompt, 8)).unwrap());
    assert_eq!(tokens(&events), [4, 5, 6, 7, 8, 9, 10, 11]);
    let calls = calls(&seen);
    assert!(calls.len() < 8, "{calls:?}");
    assert!(calls.iter().any(|s| matches!(s, Seen::Forward(_, 2..=9))));
    let Some(EngineEvent::Done { usage, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(usage.generated_tokens, 8);
    // What was drafted wrongly is not in what is kept.
    let next = [&prompt[..], &[4, 5, 6, 7, 8, 9, 10, 20]].concat();
    let events = drain(engine.submit(request(&next, 1)).unwrap());
    assert_eq!(cached(&events), prompt.len() + 7);
    assert_eq!(tokens(&events), [21]);
}

#[test]
fn an_answer_ends_inside_of_a_draft() {
    for (max_new, stop) in [(2, 50), (9, 6)] {
        let (engine, _seen) = speculating(false);
        let mut asked = request(&[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3], max_new);
        asked.stop_tokens = vec![stop];
        let events = drain(engine.submit(asked).unwrap());
        let expected: &[u32] = if stop == 6 { &[4, 5, 6] } else { &[4, 5] };
        assert_eq!(tokens(&events), expected);
        let again = drain(
            engine
                .submit(request(&[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4], 1))
                .unwrap(),
        );
        assert_eq!(tokens(&again), [5]);
    }
}

/// With the same seed the same tokens come, drafts or none: each is drawn from
/// the model's distribution at its place.
#[test]
fn the_distribution_is_the_same() {
    let prompt: Vec<u32> = (0..30).map(|i| i % 5).collect();
    let mut fewer = 0;
    for seed in 0..60 {
        let asked = || GenerationRequest {
            sampling: Sampling {
                seed: Some(seed),
                ..Sampling::default()
            },
            ..request(&prompt, 40)
        };
        let (mut plain, _) = toy();
        plain.soft = true;
        let plain = start(plain, 8);
        let expected = tokens(&drain(plain.submit(asked()).unwrap()));
        let (engine, seen) = speculating(true);
        assert_eq!(tokens(&drain(engine.submit(asked()).unwrap())), expected);
        fewer += usize::from(calls(&seen).len() < expected.len());
    }
    assert!(fewer > 0, "no draft was right in any of the runs");
}

#[test]
fn sequences_together_do_without() {
    let (mut toy, seen) = toy();
    (toy.info.sequences, toy.info.prefill_chunk) = (2, 64);
    let settings = EngineSettings {
        queue: 8,
        speculate: true,
    };
    let engine = Engine::start(Box::new(toy), settings).unwrap();
    let held = engine.submit(request(&[63], 1)).unwrap();
    wait_for_forward(&seen);
    let prompt: Vec<u32> = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3].to_vec();
    let pair = [(); 2].map(|()| engine.submit(request(&prompt, 6)).unwrap());
    drop(held);
    for stream in pair {
        assert_eq!(tokens(&drain(stream)), [4, 5, 6, 7, 8, 9]);
    }
}
