//! Sequences that are steered.

use super::speculation::calls;
use super::*;

/// Allows one token in turns, and forces a run in between.
#[derive(Debug)]
struct Plan {
    steps: Vec<Step>,
    at: usize,
    said: Vec<u32>,
    mask: Vec<u32>,
    told: Sender<Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Any,
    Only(u32),
    Of(&'static [u32]),
    Nothing,
}

impl Guide for Plan {
    fn choice(&mut self) -> Choice<'_> {
        match self.steps.get(self.at).copied().unwrap_or(Step::Any) {
            Step::Any => Choice::Any,
            Step::Only(id) => Choice::Only(id),
            Step::Nothing => Choice::Nothing,
            Step::Of(ids) => {
                self.mask.fill(0);
                for id in ids {
                    self.mask[*id as usize / 32] |= 1 << (id % 32);
                }
                Choice::Of(&self.mask)
            }
        }
    }

    fn said(&mut self, id: u32) {
        self.at += 1;
        self.said.push(id);
        let _ = self.told.send(self.said.clone());
    }
}

fn planned(steps: &[Step], max_new: usize) -> (GenerationRequest, Receiver<Vec<u32>>) {
    let (told, heard) = channel();
    let plan = Plan {
        steps: steps.to_vec(),
        at: 0,
        said: Vec::new(),
        mask: vec![0; 2],
        told,
    };
    let request = GenerationRequest {
        guide: Some(Box::new(plan)),
        ..request(&[1], max_new)
    };
    (request, heard)
}

#[test]
fn what_is_allowed_is_said() {
    let (engine, _seen) = engine();
    let steps = [
        Step::Of(&[40, 41]),
        Step::Only(7),
        Step::Only(8),
        Step::Of(&[33]),
        Step::Any,
    ];
    let (asked, heard) = planned(&steps, 6);
    let events = drain(engine.submit(asked).unwrap());
    let said = tokens(&events);
    assert!([40, 41].contains(&said[0]), "{said:?}");
    assert_eq!(said[1..4], [7, 8, 33]);
    assert_eq!(said.len(), 6);
    assert_eq!(heard.into_iter().last().unwrap(), said, "all of it is told");
    let Some(EngineEvent::Done { usage, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(usage.generated_tokens, 6);
}

/// What is forced goes into the cache together with the token after it.
#[test]
fn a_forced_run_takes_no_steps() {
    let steps = |forced: usize| {
        let (engine, seen) = engine();
        let mut steps = vec![Step::Any];
        steps.extend([Step::Only(7)].repeat(forced));
        let (asked, _heard) = planned(&steps, forced + 2);
        let said = tokens(&drain(engine.submit(asked).unwrap()));
        assert_eq!(said.len(), forced + 2);
        drop(engine);
        calls(&seen).len()
    };
    assert_eq!(steps(0), steps(3));
}

#[test]
fn a_forced_stop_ends_it() {
    let (engine, _seen) = engine();
    let (asked, _heard) = planned(&[Step::Any, Step::Only(50)], 9);
    let events = drain(engine.submit(asked).unwrap());
    assert_eq!(tokens(&events).len(), 2);
    assert!(matches!(
        events.last(),
        Some(EngineEvent::Done {
            reason: FinishReason::Stop(50),
            ..
        })
    ));
}

#[test]
fn a_dead_end_is_a_failure_of_its_own() {
    let (engine, _seen) = engine();
    let (asked, _heard) = planned(&[Step::Any, Step::Nothing], 9);
    let events = drain(engine.submit(asked).unwrap());
    assert!(matches!(events.last(), Some(EngineEvent::Failed(_))));
    assert_eq!(
        tokens(&drain(engine.submit(request(&[1], 3)).unwrap())).len(),
        3
    );
}
