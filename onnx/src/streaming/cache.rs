//! Which experts are kept in memory.
//!
//! Every use of an expert makes it hotter, by as many tokens as it had; heat halves
//! with every [`HALF_LIFE`] assignments of its layer. What has to go is what is
//! coldest, whichever layer's it is. So experts that the router chooses often stay
//! for good, however many others pass through the coldest slots, as all of them do
//! while a long prompt is computed.

use std::sync::Arc;

/// Assignments (tokens times experts of each) of a layer after which a use counts half:
/// those of 256 tokens, at four experts a token.
const HALF_LIFE: f64 = 1024.0;

/// Memory for some of the experts, each in a slot of its own. Experts are numbered
/// through all layers.
#[derive(Debug)]
pub(super) struct Cache<W> {
    slots: Vec<Slot<W>>,
    /// The slot of each expert that has one.
    places: Vec<Option<usize>>,
    /// The logarithm to base 2 of each expert's heat at time 0 of its layer: heat fades
    /// at the same pace everywhere, so what is colder stays colder without being touched.
    heat: Vec<f64>,
    limit: usize,
}

#[derive(Debug)]
enum Slot<W> {
    /// Nothing of use in it.
    Empty(W),
    /// On its way; whoever reads has the memory.
    Loading,
    /// There; others may be reading it.
    Ready { expert: usize, weights: Arc<W> },
}

/// What is there of an expert.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<W> {
    Ready(Arc<W>),
    Loading,
    Absent,
}

/// Room for an expert.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room<W> {
    /// Memory that another one had.
    Used(W),
    /// A slot that has no memory yet.
    New,
}

impl<W> Cache<W> {
    /// For `experts` in all, of which at most `limit` are kept.
    pub fn new(experts: usize, limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            places: vec![None; experts],
            heat: vec![f64::NEG_INFINITY; experts],
            limit: limit.min(experts),
        }
    }

    /// Experts there is room for.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that `tokens` tokens go to an expert, whose layer has had `clock`
    /// assignments so far.
    pub fn note(&mut self, expert: usize, tokens: usize, clock: u64) {
        let added = clock as f64 / HALF_LIFE + (tokens as f64).log2();
        let before = self.heat[expert];
        let (more, less) = (before.max(added), before.min(added));
        self.heat[expert] = more + (less - more).exp2().ln_1p() / std::f64::consts::LN_2;
    }

    /// What is there of an expert.
    pub fn find(&self, expert: usize) -> Found<W> {
        match self.places[expert].map(|place| &self.slots[place]) {
            Some(Slot::Ready { weights, .. }) => Found::Ready(Arc::clone(weights)),
            Some(_) => Found::Loading,
            None => Found::Absent,
        }
    }

    /// Makes room for an absent expert, which counts as on its way from now on; none
    /// while everything that is there is being read or on its way.
    pub fn reserve(&mut self, expert: usize) -> Option<Room<W>> {
        let (place, room) = self.room()?;
        self.places[expert] = Some(place);
        Some(room)
    }

    fn room(&mut self) -> Option<(usize, Room<W>)> {
        let mut slots = self.slots.iter();
        let empty = slots.position(|slot| matches!(slot, Slot::Empty(_)));
        if empty.is_none() && self.slots.len() < self.limit {
            self.slots.push(Slot::Loading);
            return Some((self.slots.len() - 1, Room::New));
        }
        let place = empty.or_else(|| self.coldest())?;
        match std::mem::replace(&mut self.slots[place], Slot::Loading) {
            Slot::Empty(weights) => Some((place, Room::Used(weights))),
            Slot::Ready { expert, weights } => match Arc::try_unwrap(weights) {
                Ok(weights) => {
                    self.places[expert] = None;
                    Some((place, Room::Used(weights)))
                }
                // Taken since: it stays what it was.
                Err(weights) => {
                    self.slots[place] = Slot::Ready { expert, weights };
                    None
                }
            },
            Slot::Loading => None,
        }
    }

    /// The slot of the coldest expert that nobody is reading.
    fn coldest(&self) -> Option<usize> {
        let slots = self.slots.iter().enumerate();
        let idle = slots.filter_map(|(place, slot)| match slot {
            Slot::Ready { expert, weights } if Arc::strong_count(weights) == 1 => {
                Some((place, self.heat[*expert]))
            }
            _ => None,
        });
        let coldest = idle.min_by(|a, b| a.1.total_cmp(&b.1));
        coldest.map(|(place, _)| place)
    }

    /// An expert on its way has come.
    pub fn arrived(&mut self, expert: usize, weights: W) {
        if let Some(place) = self.places[expert] {
            let weights = Arc::new(weights);
            self.slots[place] = Slot::Ready { expert, weights };
        }
    }

    /// An expert on its way will not come; its memory is given back, if there was some.
    pub fn failed(&mut self, expert: usize, weights: Option<W>) {
        let Some(place) = self.places[expert].take() else {
            return;
        };
        match weights {
            Some(weights) => self.slots[place] = Slot::Empty(weights),
            None => self.remove(place),
        }
    }

    /// Takes a slot away that has no memory.
    fn remove(&mut self, place: usize) {
        self.slots.swap_remove(place);
        let moved = self.slots.len();
        for other in self.places.iter_mut().flatten() {
            if *other == moved {
                *other = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Brings an expert in, whose weights are its number; gives whether it was absent.
    fn bring(cache: &mut Cache<usize>, expert: usize) -> bool {
        match cache.find(expert) {
            Found::Ready(weights) => {
                assert_eq!(*weights, expert);
                false
            }
            Found::Loading => panic!("nobody reads"),
            Found::Absent => {
                cache.reserve(expert).expect("nobody holds anything");
                assert_eq!(cache.find(expert), Found::Loading);
                cache.arrived(expert, expert);
                true
            }
        }
    }

    #[test]
    fn hot_experts_stay_while_all_others_pass() {
        let mut cache = Cache::new(100, 20);
        let mut clock = 0;
        for _ in 0..50 {
            for hot in 0..15 {
                cache.note(hot, 1, clock);
                bring(&mut cache, hot);
                clock += 1;
            }
        }
        for round in 0..3 {
            for expert in 15..100 {
                cache.note(expert, 1, clock);
                assert!(bring(&mut cache, expert) || round > 0);
                clock += 1;
            }
            for hot in 0..15 {
                assert!(!bring(&mut cache, hot), "{hot} was hot");
            }
        }
    }

    #[test]
    fn heat_fades() {
        let mut cache = Cache::new(3, 2);
        cache.note(0, 1000, 0);
        bring(&mut cache, 0);
        let later = 20 * HALF_LIFE as u64;
        cache.note(1, 1, later);
        bring(&mut cache, 1);
        cache.note(2, 1, later);
        bring(&mut cache, 2);
        assert_eq!(cache.find(0), Found::Absent, "long ago");
        assert!(!bring(&mut cache, 1));
    }

    #[test]
    fn what_is_read_is_not_taken_away() {
        let mut cache = Cache::new(4, 2);
        bring(&mut cache, 0);
        bring(&mut cache, 1);
        let (Found::Ready(zero), Found::Ready(one)) = (cache.find(0), cache.find(1)) else {
            panic!("both are there");
        };
        assert_eq!(cache.reserve(2), None);
        drop(one);
        assert_eq!(cache.reserve(2), Some(Room::Used(1)));
        assert_eq!(cache.reserve(3), None, "one is read, one on its way");
        cache.failed(2, Some(1));
        assert_eq!(cache.find(2), Found::Absent);
        assert_eq!(cache.reserve(3), Some(Room::Used(1)));
        drop(zero);
    }

    #[test]
    fn a_slot_without_memory_goes_away() {
        let mut cache = Cache::new(4, 3);
        assert_eq!(cache.reserve(0), Some(Room::New));
        assert_eq!(cache.reserve(1), Some(Room::New));
        cache.arrived(1, 1);
        cache.failed(0, None);
        assert!(!bring(&mut cache, 1), "found where it is now");
        assert_eq!(cache.reserve(0), Some(Room::New));
        assert_eq!(cache.reserve(2), Some(Room::New));
        assert_eq!(cache.reserve(3), Some(Room::Used(1)));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_what_was_asked_for(
            limit in 1usize..8, uses in proptest::collection::vec((0usize..12, 1usize..9), 1..300)
        ) {
            let mut cache = Cache::new(12, limit);
            for (clock, (expert, tokens)) in uses.into_iter().enumerate() {
                cache.note(expert, tokens, clock as u64);
                bring(&mut cache, expert);
                let held = (0..12).filter(|&e| cache.find(e) != Found::Absent).count();
                prop_assert!(held <= limit);
                prop_assert!(!bring(&mut cache, expert));
            }
        }
    }
}
