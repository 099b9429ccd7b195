//! Chooses a token from a row of logits.
//!
//! Order of the filters, each on what the one before left, as in the reference
//! implementation: temperature, top-k, top-p, min-p. Ties are broken by the
//! lower token id. A published vocabulary has 201 088 entries, so nothing here
//! sorts a row: the k best are kept in a buffer of 2 k entries, the nucleus is
//! found by quickselect on its mass, and the choice walks the row in id order.
//! After the first token of a given size nothing is allocated, log-probabilities
//! where asked excepted.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

/// How tokens are chosen. The default is the model's own: temperature 1, no
/// filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token always.
    pub temperature: f32,
    /// Smallest set of the most probable tokens with at least this mass, in
    /// (0, 1]; 1 is off.
    pub top_p: f32,
    /// Number of most probable tokens kept; 0 is off.
    pub top_k: u32,
    /// Least probability kept, relative to the most probable token's, in
    /// [0, 1]; 0 is off.
    pub min_p: f32,
    /// Same seed, same logits: same tokens. `None` draws one.
    pub seed: Option<u64>,
    /// Alternatives to report beside each token's log-probability; `None` for
    /// no log-probabilities.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            logprobs: None,
        }
    }
}

/// Most alternatives a request may ask for.
pub const MAX_LOGPROBS: usize = 20;

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{parameter} is {value}, it must be {range}")]
pub struct InvalidSampling {
    /// Which.
    pub parameter: &'static str,
    /// What it is.
    pub value: f64,
    /// What it may be.
    pub range: &'static str,
}

impl Sampling {
    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the first parameter that is out of range, NaN included.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let check = |ok: bool, parameter, value: f64, range| match ok {
            true => Ok(()),
            false => Err(InvalidSampling {
                parameter,
                value,
                range,
            }),
        };
        let temperature = (0.0..=100.0).contains(&self.temperature);
        let top_p = self.top_p > 0.0 && self.top_p <= 1.0;
        let min_p = (0.0..=1.0).contains(&self.min_p);
        let logprobs = self.logprobs.unwrap_or(0);
        check(
            temperature,
            "temperature",
            self.temperature.into(),
            "from 0 to 100",
        )?;
        check(top_p, "top-p", self.top_p.into(), "above 0 and not above 1")?;
        check(min_p, "min-p", self.min_p.into(), "from 0 to 1")?;
        check(
            logprobs <= MAX_LOGPROBS,
            "logprobs",
            logprobs as f64,
            "at most 20",
        )
    }
}

/// Log-probabilities of one generated token under the model's own
/// distribution: temperature 1, no filter.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself, natural logarithm.
    pub chosen: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// The row holds no finite maximum: the model computed nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model computed logits that are not finite")]
pub struct NotFinite;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    logit: f32,
    id: u32,
}

/// Best first: higher logit, then lower id. Candidates are never NaN.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    let logits = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
    logits.then(a.id.cmp(&b.id))
}

/// The sampler of one sequence at a time, with its scratch memory.
#[derive(Debug, Default)]
pub struct Sampler {
    settings: Sampling,
    random: Random,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Begins a sequence.
    pub fn begin(&mut self, settings: &Sampling) {
        self.settings = settings.clone();
        self.random = match settings.seed {
            Some(seed) => Random(seed),
            None => Random::from_entropy(),
        };
    }

    /// Chooses a token from `logits`, f32 `[vocabulary]`. NaN and -inf are
    /// never chosen.
    ///
    /// # Errors
    /// [`NotFinite`] where the greatest logit is not a number one can use.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, NotFinite> {
        let (best, max) = maximum(logits);
        if !max.is_finite() {
            return Err(NotFinite);
        }
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            ..
        } = self.settings;
        if temperature <= 0.0 {
            return Ok(best);
        }
        let weigh = Weigh { max, temperature };
        let mut last = None;
        let top_k = top_k as usize;
        if top_k > 0 && top_k < logits.len() {
            keep_best(logits, top_k, &mut self.candidates);
            last = self.candidates.iter().copied().max_by(best_first);
            if top_p < 1.0 {
                last = self.nucleus(&weigh, self.mass(&weigh));
            }
        } else if top_p < 1.0 {
            let mass = logits.iter().map(|&l| f64::from(weigh.of(l))).sum();
            self.gather_nucleus_candidates(logits, &weigh, mass);
            last = self.nucleus(&weigh, mass);
        }
        let kept = Kept {
            floor: weigh.logit_at(min_p),
            last,
        };
        let mass: f64 = kept.walk(logits).map(|(_, l)| f64::from(weigh.of(l))).sum();
        let target = self.random.unit() * mass;
        let mut passed = 0.0;
        let mut choice = best;
        for (id, logit) in kept.walk(logits) {
            let weight = f64::from(weigh.of(logit));
            if weight > 0.0 {
                choice = id;
                passed += weight;
                if passed > target {
                    break;
                }
            }
        }
        Ok(choice)
    }

    /// Log-probabilities of `chosen` and of the best alternatives, where the
    /// sequence asked for them.
    pub fn logprobs(&mut self, logits: &[f32], chosen: u32) -> Option<Box<TokenLogprobs>> {
        let count = self.settings.logprobs?;
        let (_, max) = maximum(logits);
        let mass: f64 = logits
            .iter()
            .filter(|l| !l.is_nan())
            .map(|&l| f64::from((l - max).exp()))
            .sum();
        let of = |logit: f32| (f64::from(logit - max) - mass.ln()) as f32;
        keep_best(logits, count, &mut self.candidates);
        self.candidates.sort_unstable_by(best_first);
        Some(Box::new(TokenLogprobs {
            chosen: logits
                .get(chosen as usize)
                .map_or(f32::NEG_INFINITY, |&l| of(l)),
            top: self
                .candidates
                .iter()
                .map(|c| (c.id, of(c.logit)))
                .collect(),
        }))
    }

    fn mass(&self, weigh: &Weigh) -> f64 {
        let weights = self.candidates.iter().map(|c| weigh.of(c.logit));
        weights.map(f64::from).sum()
    }

    /// Fills `candidates` with every token that may be in the nucleus. Tokens
    /// below `(1 - top_p) · mass / n` weigh less than `(1 - top_p) · mass`
    /// together, so the nucleus is complete before the first of them.
    fn gather_nucleus_candidates(&mut self, logits: &[f32], weigh: &Weigh, mass: f64) {
        let share = (1.0 - f64::from(self.settings.top_p)) * mass / logits.len() as f64;
        // A little lower, for the rounding of the logarithm.
        let floor = weigh.logit_at((share * 0.99) as f32);
        self.candidates.clear();
        let able = logits.iter().enumerate().filter(|(_, l)| **l >= floor);
        self.candidates.extend(able.map(|(id, &logit)| Candidate {
            logit,
            id: id as u32,
        }));
    }

    /// The last candidate, best first, of the smallest set that has `top_p`
    /// of `mass`. Quickselect: linear in the number of candidates.
    fn nucleus(&mut self, weigh: &Weigh, mass: f64) -> Option<Candidate> {
        let target = f64::from(self.settings.top_p) * mass;
        let mut range = self.candidates.as_mut_slice();
        let mut passed = 0.0;
        while range.len() > 1 {
            let middle = range.len() / 2;
            range.select_nth_unstable_by(middle, best_first);
            let (better, worse) = range.split_at_mut(middle);
            let weights = better.iter().map(|c| f64::from(weigh.of(c.logit)));
            let upper: f64 = weights.sum();
            if passed + upper >= target {
                range = better;
            } else {
                passed += upper;
                range = worse;
            }
        }
        range.first().copied()
    }
}

/// Softmax weight of a logit relative to the greatest one.
struct Weigh {
    max: f32,
    temperature: f32,
}

impl Weigh {
    /// In [0, 1]; NaN weighs nothing.
    fn of(&self, logit: f32) -> f32 {
        let weight = ((logit - self.max) / self.temperature).exp();
        if weight.is_nan() { 0.0 } else { weight }
    }

    /// The logit that weighs `weight`; -inf for 0.
    fn logit_at(&self, weight: f32) -> f32 {
        self.max + self.temperature * weight.ln()
    }
}

/// What the filters left of a row.
struct Kept {
    floor: f32,
    last: Option<Candidate>,
}

impl Kept {
    fn walk<'a>(&'a self, logits: &'a [f32]) -> impl Iterator<Item = (u32, f32)> + 'a {
        let rows = logits.iter().enumerate();
        rows.filter_map(move |(id, &logit)| {
            let id = id as u32;
            let kept = logit >= self.floor
                && self.last.is_none_or(|last| {
                    logit > last.logit || (logit == last.logit && id <= last.id)
                });
            kept.then_some((id, logit))
        })
    }
}

/// The first greatest logit; (0, -inf) where there is none.
fn maximum(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id as u32, logit);
        }
    }
    best
}

/// Leaves the `k` best of `logits` in `out`, in no order. Linear: once 2 k are
/// gathered the worse half goes and raises the bar for the rest.
fn keep_best(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if k == 0 {
        return;
    }
    let full = k.saturating_mul(2).max(k.saturating_add(64));
    let mut bar = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // A later id with the same logit loses against the one at the bar.
        if logit > bar {
            out.push(Candidate {
                logit,
                id: id as u32,
            });
            if out.len() == full {
                out.select_nth_unstable_by(k - 1, best_first);
                out.truncate(k);
                bar = out[k - 1].logit;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, best_first);
        out.truncate(k);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, so a seed is the
/// whole state and a sequence is the same on every machine and version.
#[derive(Debug, Default)]
struct Random(u64);

impl Random {
    /// A state from the keys the standard library draws for its hash maps.
    fn from_entropy() -> Self {
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u64(0);
        Random(hasher.finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "tests/sampler.rs"]
mod tests;
