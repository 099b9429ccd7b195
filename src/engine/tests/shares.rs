//! Who goes first: fair shares, and answers that someone waits for.

use super::*;

/// Stops the model thread once so many tokens were said, until it is told to go
/// on.
#[derive(Debug)]
struct Gate {
    after: usize,
    reached: Sender<()>,
    go: Receiver<()>,
}

impl Guide for Gate {
    fn choice(&mut self) -> Choice<'_> {
        Choice::Any
    }

    fn said(&mut self, _id: u32) {
        self.after = self.after.wrapping_sub(1);
        if self.after == 0 {
            self.reached.send(()).unwrap();
            self.go.recv().unwrap();
        }
    }
}

/// A request that stops after three tokens: told so by the receiver, and freed
/// by the sender.
fn gated(request: GenerationRequest) -> (GenerationRequest, Receiver<()>, Sender<()>) {
    let (reached, is_reached) = channel();
    let (free, go) = channel();
    let gate = Gate {
        after: 3,
        reached,
        go,
    };
    let request = GenerationRequest {
        guide: Some(Box::new(gate)),
        ..request
    };
    (request, is_reached, free)
}

fn of(owner: u32, arrival: u64) -> GenerationRequest {
    GenerationRequest {
        owner: Owner(owner),
        arrival,
        ..request(&[1, owner], 5)
    }
}

/// A request that nobody waits for.
fn background() -> GenerationRequest {
    GenerationRequest {
        priority: Priority::Background,
        ..request(&[1, 2], 20)
    }
}

/// Tells its request's arrival with the first token.
#[derive(Debug)]
struct Announced {
    arrival: u64,
    begun: Option<Sender<u64>>,
}

impl Guide for Announced {
    fn choice(&mut self) -> Choice<'_> {
        Choice::Any
    }

    fn said(&mut self, _id: u32) {
        if let Some(begun) = self.begun.take() {
            begun.send(self.arrival).unwrap();
        }
    }
}

/// Submits requests, lets go of what holds them up, and takes the answers: arrivals in the
/// order in which they began. How long each waited says less, as they are submitted at times.
fn order(engine: &Engine, asked: &[(u32, u64)], let_go: impl FnOnce()) -> Vec<u64> {
    let (begun, order) = channel();
    let submit = |(owner, arrival): &(u32, u64)| {
        let guide = Announced {
            arrival: *arrival,
            begun: Some(begun.clone()),
        };
        let request = GenerationRequest {
            guide: Some(Box::new(guide)),
            ..of(*owner, *arrival)
        };
        engine.submit(request).unwrap()
    };
    let streams: Vec<_> = asked.iter().map(submit).collect();
    let_go();
    streams.into_iter().for_each(|stream| drop(drain(stream)));
    order.try_iter().collect()
}

#[test]
fn owners_take_turns() {
    let (engine, _seen) = engine_with(16);
    let (first, reached, free) = gated(of(1, 0));
    let first = engine.submit(first).unwrap();
    reached.recv().unwrap();
    // One asks for much before another asks at all.
    let asked = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)];
    let order = order(&engine, &asked, || {
        free.send(()).unwrap();
        drain(first);
    });
    assert_eq!(
        order[0], 4,
        "the other owner's goes before the first's second"
    );
    // Whose turn it is after that depends on how long each was computed for, which is
    // nothing here but the machine's whims; an owner's own keep their order.
    let own = |arrivals: [u64; 3]| order.iter().filter(move |a| arrivals.contains(a));
    assert!(own([1, 2, 3]).eq(&[1, 2, 3]), "{order:?}");
    assert!(own([4, 5, 0]).eq(&[4, 5]), "{order:?}");
}

#[test]
fn the_past_does_not_count() {
    let (engine, _seen) = engine_with(16);
    for arrival in 0..5 {
        drain(engine.submit(of(1, arrival)).unwrap());
    }
    let (held, reached, free) = gated(of(3, 10));
    let held = engine.submit(held).unwrap();
    reached.recv().unwrap();
    let order = order(&engine, &[(1, 11), (2, 12)], || {
        free.send(()).unwrap();
        drain(held);
    });
    let older_first = [11, 12];
    assert_eq!(order, older_first, "nobody has had anything");
}

#[test]
fn what_nobody_waits_for_makes_room_and_goes_on() {
    let (engine, seen) = engine_with(16);
    let expected = tokens(&drain(engine.submit(request(&[1, 2], 20)).unwrap()));
    let (background, reached, free) = gated(background());
    let mut background = engine.submit(background).unwrap();
    reached.recv().unwrap();
    let interactive = engine.submit(of(2, 1)).unwrap();
    free.send(()).unwrap();
    assert_eq!(tokens(&drain(interactive)).len(), 5);

    let mut before = Vec::new();
    while let Some(event) = background.blocking_next() {
        before.push(event);
    }
    assert_eq!(tokens(&before), expected, "nothing is lost or said twice");
    // It was not computed again from the start: the last long slice is a prompt.
    drop(engine);
    let forks = seen
        .into_iter()
        .filter(|s| matches!(s, Seen::Fork(n) if *n > 2));
    assert!(forks.count() > 0, "it went on from what was kept");
}

#[test]
fn a_parked_request_can_be_dropped() {
    let (engine, _seen) = engine_with(16);
    let (background, reached, free) = gated(background());
    let background = engine.submit(background).unwrap();
    reached.recv().unwrap();
    let (interactive, is_running, finish) = gated(of(2, 1));
    let interactive = engine.submit(interactive).unwrap();
    free.send(()).unwrap();
    is_running.recv().unwrap();
    drop(background);
    finish.send(()).unwrap();
    assert_eq!(tokens(&drain(interactive)).len(), 5);
    assert_eq!(tokens(&drain(engine.submit(of(3, 2)).unwrap())).len(), 5);
    let statistics = engine.statistics();
    assert_eq!((statistics.running, statistics.waiting), (0, 0));
    assert_eq!(statistics.cancelled, 1);
}

#[test]
fn a_parked_request_hears_of_the_end() {
    let (engine, _seen) = engine_with(16);
    let (background, reached, free) = gated(background());
    let background = engine.submit(background).unwrap();
    reached.recv().unwrap();
    let (interactive, is_running, finish) = gated(of(2, 1));
    let interactive = engine.submit(interactive).unwrap();
    free.send(()).unwrap();
    is_running.recv().unwrap();
    engine.stop();
    finish.send(()).unwrap();
    for stream in [background, interactive] {
        assert_eq!(
            drain(stream).last(),
            Some(&EngineEvent::Failed(EngineFailure::Stopped))
        );
    }
}
