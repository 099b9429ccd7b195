//! Whose turn it is, for given times that each has had.

use super::*;
use crate::engine::tests::request;

fn waiting(owner: u32, arrival: u64) -> Job {
    Job {
        id: arrival,
        request: GenerationRequest {
            owner: Owner(owner),
            arrival,
            ..request(&[1], 1)
        },
        events: unbounded_channel().0,
        submitted: Instant::now(),
        announced: 0,
    }
}

fn arrivals(state: &State) -> Vec<u64> {
    let arrival = |index: usize| state.waiting[index].request.arrival;
    state.order().into_iter().map(arrival).collect()
}

#[test]
fn owners_take_turns_and_who_has_had_less_begins() {
    // One asks for much before another asks at all.
    let asked = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)];
    let had = |owner, milliseconds| (Owner(owner), Duration::from_millis(milliseconds));
    let mut state = State {
        waiting: asked.map(|(owner, arrival)| waiting(owner, arrival)).into(),
        served: HashMap::from([had(1, 2), had(2, 1)]),
        ..State::default()
    };
    assert_eq!(arrivals(&state), [4, 1, 5, 2, 3]);
    // Who has a request at work has had a turn.
    state.running.push((0, Owner(2)));
    assert_eq!(arrivals(&state), [1, 4, 2, 5, 3]);
}
