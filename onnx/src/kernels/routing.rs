//! Which experts a token goes to, and which tokens an expert gets.

/// A group of tokens that one expert computes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The expert.
    pub expert: usize,
    /// The first of its assignments.
    pub start: usize,
    /// How many.
    pub len: usize,
}

/// The routing of some tokens. An *assignment* is a pair (token, expert);
/// assignments are numbered expert by expert, within one in token order.
#[derive(Debug, Default)]
pub struct Routing {
    /// The token of each assignment.
    pub tokens: Vec<u32>,
    /// Assignments by expert, none longer than the limit given.
    pub groups: Vec<Group>,
    /// Per token its `k` choices, best first.
    pub choices: Vec<Choice>,
    counts: Vec<usize>,
}

/// One of a token's experts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The expert.
    pub expert: usize,
    /// Its share in the token's output; a token's shares sum to 1.
    pub weight: f32,
    /// The group that computes it.
    pub group: usize,
    /// The place in that group.
    pub index: usize,
}

impl Routing {
    /// Routes every row of `logits` `[tokens, experts]` to its `k` largest
    /// logits, the lower index first among equals; weights are the softmax
    /// over those. Groups hold at most `group_limit` assignments.
    pub fn route(&mut self, logits: &[f32], experts: usize, k: usize, group_limit: usize) {
        self.choices.clear();
        self.counts.clear();
        self.counts.resize(experts, 0);
        for logits in logits.chunks_exact(experts) {
            let first = self.choices.len();
            choose(logits, k, &mut self.choices);
            softmax(&mut self.choices[first..]);
            for choice in &self.choices[first..] {
                self.counts[choice.expert] += 1;
            }
        }
        self.group(k, group_limit);
    }

    /// How many different experts the tokens go to.
    pub fn experts(&self) -> usize {
        self.groups.chunk_by(|a, b| a.expert == b.expert).count()
    }

    fn group(&mut self, k: usize, group_limit: usize) {
        self.groups.clear();
        // From here on counts[e] is where expert e's next assignment goes.
        let mut start = 0;
        // The first group of each expert, found again from an assignment's place.
        let mut first_groups = Vec::with_capacity(self.counts.len());
        for (expert, count) in self.counts.iter_mut().enumerate() {
            first_groups.push((self.groups.len(), start));
            let end = start + *count;
            for start in (start..end).step_by(group_limit) {
                let len = group_limit.min(end - start);
                self.groups.push(Group { expert, start, len });
            }
            *count = start;
            start = end;
        }
        self.tokens.clear();
        self.tokens.resize(start, 0);
        for (i, choice) in self.choices.iter_mut().enumerate() {
            let place = self.counts[choice.expert];
            self.counts[choice.expert] += 1;
            self.tokens[place] = (i / k) as u32;
            let (first, start) = first_groups[choice.expert];
            choice.group = first + (place - start) / group_limit;
            choice.index = (place - start) % group_limit;
        }
    }
}

/// Appends the `k` largest logits; NaN counts as the smallest, but poisons the weights.
fn choose(logits: &[f32], k: usize, choices: &mut Vec<Choice>) {
    let first = choices.len();
    for (expert, &weight) in logits.iter().enumerate() {
        let chosen = &choices[first..];
        let beats =
            |other: &Choice| weight > other.weight || (other.weight.is_nan() && !weight.is_nan());
        // Equal logits stay behind the lower index, which is already there.
        let behind = chosen.iter().rposition(|other| !beats(other));
        let place = first + behind.map_or(0, |i| i + 1);
        if place < first + k {
            choices.truncate(first + k - 1);
            choices.insert(
                place,
                Choice {
                    expert,
                    weight,
                    ..Choice::default()
                },
            );
        }
    }
}

/// Replaces the logits of one token's choices, best first, by their softmax.
fn softmax(choices: &mut [Choice]) {
    let largest = choices.first().map_or(0.0, |choice| choice.weight);
    let mut sum = 0.0;
    for choice in choices.iter_mut() {
        choice.weight = (choice.weight - largest).exp();
        sum += choice.weight;
    }
    for choice in choices {
        choice.weight /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(logits: &[f32], experts: usize, k: usize, limit: usize) -> Routing {
        let mut routing = Routing::default();
        routing.route(logits, experts, k, limit);
        routing
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let routing = route(&[1.0, 3.0, 3.0, 1.0, 3.0], 5, 4, 8);
        let experts: Vec<_> = routing.choices.iter().map(|c| c.expert).collect();
        assert_eq!(experts, [1, 2, 4, 0]);
    }

    #[test]
    fn nan_is_not_chosen_before_numbers() {
        let routing = route(&[f32::NAN, -5.0, f32::NEG_INFINITY, 2.0], 4, 2, 8);
        let experts: Vec<_> = routing.choices.iter().map(|c| c.expert).collect();
        assert_eq!(experts, [3, 1]);
        let all = route(&[f32::NAN, 1.0], 2, 2, 8);
        assert!(all.choices.iter().any(|c| c.weight.is_nan()));
    }

    proptest! {
        #[test]
        fn every_choice_is_found_in_its_group(
            experts in 1usize..=130, tokens in 0usize..40, limit in 1usize..9, seed in any::<u32>()
        ) {
            let k = experts.min(4);
            let logits: Vec<f32> = (0..tokens * experts)
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761) ^ seed) as f32 / 1e9)
                .map(|x| (x * 7.0).sin() * 3.0)
                .collect();
            let routing = route(&logits, experts, k, limit);
            prop_assert_eq!(routing.tokens.len(), tokens * k);
            prop_assert!(routing.groups.iter().all(|g| g.len > 0 && g.len <= limit));
            for (t, choices) in routing.choices.chunks_exact(k).enumerate() {
                let sum: f32 = choices.iter().map(|c| c.weight).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5);
                let mut sorted: Vec<usize> = (0..experts).collect();
                let row = &logits[t * experts..][..experts];
                sorted.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
                for (choice, &expected) in choices.iter().zip(&sorted) {
                    prop_assert_eq!(choice.expert, expected);
                    let group = routing.groups[choice.group];
                    prop_assert_eq!(group.expert, choice.expert);
                    prop_assert!(choice.index < group.len);
                    prop_assert_eq!(routing.tokens[group.start + choice.index] as usize, t);
                }
            }
        }
    }
}
