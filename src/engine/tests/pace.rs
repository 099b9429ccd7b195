//! Pauses, a slow pace, and memory given back.

use super::*;

fn waited(engine: &Engine, reached: impl Fn(&Statistics) -> bool) {
    while !reached(&engine.statistics()) {
        std::thread::yield_now();
    }
}

/// Pauses the engine and waits until nothing is computed.
fn pause(engine: &Engine) {
    engine.set_pace(Pace::Paused);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    runtime.block_on(engine.at_rest());
}

#[test]
fn a_pause_interrupts_and_what_ran_goes_on() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    assert!(engine.pulse().is_some());
    pause(&engine);
    assert_eq!(engine.pulse(), None, "a pause is no hang");
    assert_eq!(engine.statistics().running, 1, "it is not over");
    engine.set_pace(Pace::Full);
    wait_for_forward(&seen);
    assert!(engine.pulse().is_some());
    drop(hanging);
    waited(&engine, |now| now.cancelled == 1);
    assert_eq!(engine.statistics().failed, 0);
}

#[test]
fn nothing_is_computed_in_a_pause() {
    let (engine, seen) = engine();
    pause(&engine);
    let stream = engine.submit(request(&[1, 2, 3], 4)).unwrap();
    pause(&engine);
    assert!(seen.try_recv().is_err());
    engine.set_pace(Pace::Full);
    assert_eq!(tokens(&drain(stream)), [4, 5, 6, 7]);
}

#[test]
fn what_is_dropped_in_a_pause_is_gone_at_once() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    pause(&engine);
    let waiting = engine.submit(request(&[1], 1)).unwrap();
    drop((hanging, waiting));
    waited(&engine, |now| (now.running, now.cancelled) == (0, 2));
}

#[test]
fn the_engines_end_is_told_in_a_pause() {
    let (engine, seen) = engine();
    let hanging = engine.submit(request(&[63], 10)).unwrap();
    wait_for_forward(&seen);
    pause(&engine);
    let waiting = engine.submit(request(&[1], 1)).unwrap();
    engine.suspend();
    for stream in [hanging, waiting] {
        assert_eq!(
            drain(stream).last(),
            Some(&EngineEvent::Failed(EngineFailure::Suspended))
        );
    }
}

#[test]
fn at_a_slow_pace_nobody_waits_for_what_nobody_waits_for() {
    let (engine, _seen) = engine();
    let background = |prompt: &[u32]| GenerationRequest {
        priority: Priority::Background,
        ..request(prompt, 4)
    };
    engine.set_pace(Pace::Slow);
    let later = engine.submit(background(&[1, 2, 3])).unwrap();
    let events = drain(engine.submit(request(&[7], 3)).unwrap());
    assert_eq!(tokens(&events), [8, 9, 10], "slow, and the same");
    assert_eq!(engine.statistics().waiting, 1);
    engine.set_pace(Pace::Full);
    assert_eq!(tokens(&drain(later)), [4, 5, 6, 7]);
}

#[test]
fn what_runs_in_the_background_stops_at_a_slow_pace() {
    let (engine, seen) = engine();
    let background = GenerationRequest {
        priority: Priority::Background,
        ..request(&[63], 10)
    };
    let hanging = engine.submit(background).unwrap();
    wait_for_forward(&seen);
    // Out of its hanging step; at a slow pace it is not taken up again.
    pause(&engine);
    engine.set_pace(Pace::Slow);
    waited(&engine, |now| now.running == 0);
    assert_eq!(engine.statistics().cancelled, 0);
    drop(hanging);
    waited(&engine, |now| now.cancelled == 1);
}

#[test]
fn what_is_kept_is_given_up_on_demand() {
    let (engine, _seen) = engine();
    let prompt = [1, 2, 3, 4];
    drain(engine.submit(request(&prompt, 2)).unwrap());
    let again = drain(engine.submit(request(&prompt, 2)).unwrap());
    assert_eq!(cached(&again), 3);
    engine.trim();
    pause(&engine);
    engine.set_pace(Pace::Full);
    let again = drain(engine.submit(request(&prompt, 2)).unwrap());
    assert_eq!(cached(&again), 0);
}
