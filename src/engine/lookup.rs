//! Drafts without a second model: what followed when the sequence's last tokens
//! stood in it before (prompt lookup decoding, arXiv 2304.04487). Summaries,
//! edits and code repeat what they were given; one step then verifies several
//! tokens.
//!
//! A draft never changes what is said: each token is still sampled from the
//! model's own distribution, and a draft only saves the step that would have
//! computed it.

use std::ops::Range;
use std::time::Duration;

/// Most tokens of a draft.
pub(super) const MOST: usize = 8;
/// Fewest tokens that must have stood together before.
const SHORTEST: usize = 3;
/// Longest match that is told from longer ones.
const LONGEST: usize = 16;
/// How far back is looked: further costs more than it finds.
const REACH: usize = 16_384;

/// What a draft must promise, as a factor of the speed without it: less may be
/// an error of measurement.
const WORTH: f64 = 1.05;

/// Where in `tokens` the draft stands, and how long a match leads to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub draft: Range<usize>,
    pub matched: usize,
}

/// The latest of the places with the longest match.
pub(super) fn find(tokens: &[u32]) -> Option<Found> {
    let suffix = tokens.len().checked_sub(SHORTEST)?;
    let last = tokens.get(suffix..)?;
    let from = suffix.saturating_sub(REACH);
    let mut best: Option<Found> = None;
    // Ends of earlier occurrences, the latest first; something must follow.
    for end in (from + SHORTEST..tokens.len()).rev() {
        if tokens[end - SHORTEST..end] != *last {
            continue;
        }
        let before = tokens[..end].iter().rev();
        let pairs = before.zip(tokens.iter().rev()).take(LONGEST);
        let matched = pairs.take_while(|(a, b)| a == b).count();
        if best.as_ref().is_none_or(|best| matched > best.matched) {
            let draft = end..tokens.len().min(end + MOST);
            best = Some(Found { draft, matched });
        }
        if matched == LONGEST {
            break;
        }
    }
    best
}

/// How often drafts were right, for matches of about the same length.
#[derive(Debug, Clone)]
pub(super) struct Acceptance {
    rates: [f64; 3],
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            rates: [0.5, 0.7, 0.85],
        }
    }
}

impl Acceptance {
    fn class(matched: usize) -> usize {
        match matched {
            0..=5 => 0,
            6..=11 => 1,
            _ => 2,
        }
    }

    /// The chance that the next token of a draft is right.
    fn rate(&self, matched: usize) -> f64 {
        self.rates[Self::class(matched)]
    }

    /// Learns from a verified draft: so many tokens were right, and whether one
    /// was wrong.
    pub fn learn(&mut self, matched: usize, right: usize, wrong: bool) {
        let rate = &mut self.rates[Self::class(matched)];
        for _ in 0..right {
            *rate += 0.1 * (1.0 - *rate);
        }
        if wrong {
            *rate -= 0.1 * *rate;
        }
    }

    /// Forgets a little, so that what never seems to pay is tried again.
    fn relax(&mut self, matched: usize) {
        let class = Self::class(matched);
        self.rates[class] += 0.01 * (Self::default().rates[class] - self.rates[class]);
    }
}

/// What steps of a single sequence have cost, by their number of tokens.
#[derive(Debug, Default)]
pub(super) struct StepCost {
    seconds: [Option<f64>; MOST + 1],
}

/// How much more a token more costs where nothing was measured, relative to the
/// first: most of a step is weights that all its tokens share.
const GUESS: f64 = 0.35;

impl StepCost {
    /// Takes in a step of `tokens` tokens.
    pub fn learn(&mut self, tokens: usize, took: Duration) {
        if let Some(place) = tokens.checked_sub(1).and_then(|i| self.seconds.get_mut(i)) {
            let took = took.as_secs_f64();
            *place = Some(place.map_or(took, |before| before + 0.2 * (took - before)));
        }
    }

    /// Of a step with `drafted` tokens more, as a multiple of one without.
    fn ratio(&self, drafted: usize) -> f64 {
        let one = self.seconds[0];
        let many = self.seconds.get(drafted).copied().flatten();
        match (one, many) {
            (Some(one), Some(many)) if drafted > 0 => (many / one.max(1e-9)).max(1.0),
            _ => 1.0 + GUESS * drafted as f64,
        }
    }
}

/// How many of the found tokens are worth a try.
pub(super) fn worthwhile(found: &Found, acceptance: &mut Acceptance, cost: &StepCost) -> usize {
    let rate = acceptance.rate(found.matched);
    let (mut best, mut best_speed) = (0, WORTH);
    let (mut expected, mut chance) = (1.0, 1.0);
    for count in 1..=found.draft.len().min(MOST) {
        chance *= rate;
        expected += chance;
        let speed = expected / cost.ratio(count);
        if speed > best_speed {
            (best, best_speed) = (count, speed);
        }
    }
    if best == 0 {
        acceptance.relax(found.matched);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_match_wins_and_the_latest_among_equals() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[1, 2, 3]), None);
        assert_eq!(find(&[1, 2, 3, 9, 1, 2, 4]), None);
        let found = find(&[1, 2, 3, 9, 1, 2, 3]).unwrap();
        assert_eq!((found.draft, found.matched), (3..7, 3));
        let longer = [5, 1, 2, 3, 8, 1, 2, 3, 9, 5, 1, 2, 3];
        let found = find(&longer).unwrap();
        assert_eq!((found.draft.start, found.matched), (4, 4));
        let latest = [1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3];
        assert_eq!(find(&latest).unwrap().draft.start, 7);
    }

    #[test]
    fn a_loop_is_drafted_whole() {
        let tokens: Vec<u32> = (0..40).map(|i| i % 4).collect();
        let found = find(&tokens).unwrap();
        assert_eq!(found.matched, LONGEST);
        assert_eq!(tokens[found.draft.start], 0);
    }

    #[test]
    fn drafts_are_made_where_they_pay() {
        let found = |matched| Found {
            draft: 0..MOST,
            matched,
        };
        let mut cost = StepCost::default();
        cost.learn(1, Duration::from_millis(100));
        for tokens in 2..=MOST + 1 {
            cost.learn(
                tokens,
                Duration::from_millis(100 + 40 * (tokens as u64 - 1)),
            );
        }
        let mut sure = Acceptance::default();
        sure.learn(16, 100, false);
        assert_eq!(worthwhile(&found(16), &mut sure, &cost), MOST);
        let mut unsure = Acceptance::default();
        for _ in 0..30 {
            unsure.learn(3, 0, true);
        }
        assert_eq!(worthwhile(&found(3), &mut unsure, &cost), 0);
        // Tried again some time.
        let tries =
            (0..500).filter(|_| worthwhile(&found(3), &mut unsure, &StepCost::default()) > 0);
        assert!(tries.count() > 0);
        // Steps that cost as much as their tokens alone are never worth it.
        let mut linear = StepCost::default();
        for tokens in 1..=MOST + 1 {
            linear.learn(tokens, Duration::from_millis(100 * tokens as u64));
        }
        assert_eq!(worthwhile(&found(16), &mut sure, &linear), 0);
    }

    proptest! {
        #[test]
        fn what_is_found_stood_there_before(tokens in prop::collection::vec(0u32..4, 0..60)) {
            let Some(Found { draft, matched }) = find(&tokens) else {
                // Then no three tokens at the end were there before.
                let end = tokens.len().saturating_sub(SHORTEST);
                let last = &tokens[end..];
                prop_assert!(last.len() < SHORTEST
                    || !tokens[..tokens.len() - 1].windows(SHORTEST).any(|w| w == last));
                return Ok(());
            };
            prop_assert!(!draft.is_empty() && draft.len() <= MOST && matched >= SHORTEST);
            let matched = matched.min(draft.start);
            prop_assert_eq!(
                &tokens[draft.start - matched..draft.start],
                &tokens[tokens.len() - matched..]
            );
        }
    }
}
