//! Chooses a token from a row of logits.
//!
//! Order of the filters, each on what the one before left, as in the reference
//! implementation: temperature, top-k, top-p, min-p. Ties are broken by the
//! lower token id. A published vocabulary has 201 088 entries, so nothing here
//! sorts a row: the k best are kept in a buffer of 2 k entries, the nucleus is
//! found by buckets and quickselect, and the choice walks the row in id order,
//! by sums of [`CHUNK`] entries first. The passes over a whole row are written
//! so that the compiler makes vector code of them. After the first token of a
//! given size nothing is allocated, log-probabilities where asked excepted.

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
    weight: f32,
}

impl Candidate {
    /// Worse than every token, so that all are kept up to it.
    const WORST: Self = Self {
        logit: f32::NEG_INFINITY,
        id: u32::MAX,
        weight: 0.0,
    };
}

/// Best first: higher logit, then lower id. Candidates are never NaN.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    let logits = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
    logits.then(a.id.cmp(&b.id))
}

/// Entries of a row that are summed in single precision, and then walked to
/// find the choice.
const CHUNK: usize = 256;

/// The sampler of one sequence at a time, with its scratch memory.
#[derive(Debug, Default)]
pub struct Sampler {
    settings: Sampling,
    random: Random,
    candidates: Vec<Candidate>,
    /// Softmax weight of each token relative to the greatest, 0 where filtered.
    weights: Vec<f32>,
    /// Their sums, one a chunk.
    sums: Vec<f32>,
    /// Their sums by distance from the greatest logit.
    masses: Vec<f64>,
    /// A row without what is not allowed.
    allowed: Vec<f32>,
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
        let max = maximum(logits);
        if !max.is_finite() {
            return Err(NotFinite);
        }
        if self.settings.temperature <= 0.0 {
            let best = logits.iter().position(|l| *l == max);
            return Ok(best.unwrap_or(0) as u32);
        }
        let top_k = self.settings.top_k as usize;
        let mut last = Candidate::WORST;
        if top_k > 0 && top_k < logits.len() {
            keep_best(logits, top_k, &mut self.candidates);
            let worst = self.candidates.iter().copied().max_by(best_first);
            last = worst.unwrap_or(last);
        }
        self.weigh(logits, max, last);
        let (top_p, min_p) = (self.settings.top_p, self.settings.min_p);
        if top_p < 1.0 {
            last = self.nucleus(logits, max).unwrap_or(last);
        }
        if top_p < 1.0 || min_p > 0.0 {
            self.restrict(logits, last, min_p);
        }
        Ok(self.draw())
    }

    /// The same, of the tokens in `allowed` alone: bit `id % 32` of word `id / 32`.
    ///
    /// # Errors
    /// [`NotFinite`], also where none is allowed.
    pub fn sample_of(&mut self, logits: &[f32], allowed: &[u32]) -> Result<u32, NotFinite> {
        let mut row = std::mem::take(&mut self.allowed);
        row.clear();
        row.resize(logits.len(), f32::NEG_INFINITY);
        let words = logits.chunks(32).zip(row.chunks_mut(32)).zip(allowed);
        for ((logits, row), word) in words.filter(|(_, word)| **word != 0) {
            for (bit, (logit, kept)) in logits.iter().zip(row).enumerate() {
                if word >> bit & 1 == 1 {
                    *kept = *logit;
                }
            }
        }
        let chosen = self.sample(&row);
        self.allowed = row;
        chosen
    }

    /// Fills weights and sums; what is worse than `last` weighs nothing.
    fn weigh(&mut self, logits: &[f32], max: f32, last: Candidate) {
        let scale = 1.0 / self.settings.temperature;
        // A temperature next to 0 must not make NaN of the greatest logit.
        let scale = scale.min(f32::MAX);
        self.weights.resize(logits.len(), 0.0);
        self.sums.clear();
        let chunks = logits.chunks(CHUNK).zip(self.weights.chunks_mut(CHUNK));
        for (index, (logits, weights)) in chunks.enumerate() {
            let first = (index * CHUNK) as u32;
            for (i, (logit, weight)) in logits.iter().zip(weights.iter_mut()).enumerate() {
                let kept = is_kept(*logit, first + i as u32, last);
                let value = exp_of_negative((logit - max) * scale);
                *weight = if kept { value } else { 0.0 };
            }
            self.sums.push(sum(weights));
        }
    }

    /// Takes the weight from what is worse than `last` or weighs below `least`.
    fn restrict(&mut self, logits: &[f32], last: Candidate, least: f32) {
        self.sums.clear();
        let chunks = logits.chunks(CHUNK).zip(self.weights.chunks_mut(CHUNK));
        for (index, (logits, weights)) in chunks.enumerate() {
            let first = (index * CHUNK) as u32;
            for (i, (logit, weight)) in logits.iter().zip(weights.iter_mut()).enumerate() {
                let kept = is_kept(*logit, first + i as u32, last) & (*weight >= least);
                *weight = if kept { *weight } else { 0.0 };
            }
            self.sums.push(sum(weights));
        }
    }

    fn mass(&self) -> f64 {
        self.sums.iter().map(|s| f64::from(*s)).sum()
    }

    /// The last token, best first, of the smallest set that has `top_p` of the
    /// mass. The mass is gathered by distance from the greatest logit; only the
    /// bucket in which the set ends is looked into.
    fn nucleus(&mut self, logits: &[f32], max: f32) -> Option<Candidate> {
        self.masses.clear();
        self.masses.resize(BUCKETS, 0.0);
        let (mass, top_p) = (self.mass(), f64::from(self.settings.top_p));
        // Tokens below `(1 - top_p) · mass / n` weigh less than `(1 - top_p) ·
        // mass` together, so the set is complete before the first of them. A
        // little lower, for the rounding of the sums.
        let floor = ((1.0 - top_p) * mass / logits.len() as f64 * 0.99) as f32;
        for (logit, weight) in logits.iter().zip(&self.weights) {
            if *weight < floor {
                continue;
            }
            if let Some(mass) = self.masses.get_mut(bucket(max, *logit)) {
                *mass += f64::from(*weight);
            }
        }
        let target = top_p * mass;
        let mut passed = 0.0;
        let mut end = 0;
        for (index, mass) in self.masses.iter().enumerate().filter(|(_, m)| **m > 0.0) {
            end = index;
            if passed + mass >= target {
                break;
            }
            passed += mass;
        }
        let tokens = logits.iter().zip(&self.weights).zip(0u32..);
        let inside = |logit, weight| (bucket(max, logit) == end) & (weight > 0.0);
        let inside = tokens.filter(|((logit, weight), _)| inside(**logit, **weight));
        self.candidates.clear();
        self.candidates
            .extend(inside.map(|((&logit, &weight), id)| Candidate { logit, id, weight }));

        // Quickselect by mass.
        let mut range = self.candidates.as_mut_slice();
        while range.len() > 1 {
            let middle = range.len() / 2;
            range.select_nth_unstable_by(middle, best_first);
            let (better, worse) = range.split_at_mut(middle);
            let upper: f64 = better.iter().map(|c| f64::from(c.weight)).sum();
            if passed + upper >= target {
                range = better;
            } else {
                passed += upper;
                range = worse;
            }
        }
        range.first().copied()
    }

    /// A token by its weight: the chunk it falls into, then the token there.
    fn draw(&mut self) -> u32 {
        let mut left = self.random.unit() * self.mass();
        let mut chunk = 0;
        for (index, sum) in self.sums.iter().enumerate() {
            if *sum > 0.0 {
                chunk = index;
                if left < f64::from(*sum) {
                    break;
                }
                left -= f64::from(*sum);
            }
        }
        let first = chunk * CHUNK;
        let weights = self.weights.iter().skip(first).take(CHUNK);
        let mut choice = first;
        for (id, weight) in weights.enumerate().map(|(i, w)| (first + i, *w)) {
            // Sums and weights round differently: what is left at the end of a
            // chunk falls to its last token.
            if weight > 0.0 {
                choice = id;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        choice as u32
    }

    /// Log-probabilities of `chosen` and of the best alternatives, where the
    /// sequence asked for them.
    pub fn logprobs(&mut self, logits: &[f32], chosen: u32) -> Option<Box<TokenLogprobs>> {
        let count = self.settings.logprobs?;
        let max = maximum(logits);
        let mass: f64 = logits
            .chunks(CHUNK)
            .map(|chunk| {
                let weights = chunk.iter().map(|l| exp_of_negative(l - max));
                f64::from(weights.sum::<f32>())
            })
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
}

/// Whether a token is not worse than `last`. Without branches, for the passes
/// over a row; false for NaN.
fn is_kept(logit: f32, id: u32, last: Candidate) -> bool {
    (logit > last.logit) | ((logit == last.logit) & (id <= last.id))
}

/// Buckets of [`bucket`].
const BUCKETS: usize = 1 << 13;

/// Sorts a logit by its distance from the greatest: exponent and five bits of
/// the mantissa, so that better logits never stand in later buckets.
fn bucket(max: f32, logit: f32) -> usize {
    ((max - logit).to_bits() >> 18) as usize & (BUCKETS - 1)
}

/// Lanes that a pass keeps apart, so that it can run in vector registers.
const LANES: usize = 8;

/// The sum of a chunk.
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The greatest value, NaN left out; -inf where there is none.
fn maximum(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, *value);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, greater)
}

/// `exp(x)` for x ≤ 0 within 3e-7 of its value; 0 below -87, where it leaves
/// single precision, and for NaN. The library's is a call for each value; this
/// one is arithmetic alone: x = n · ln 2 + r, and a polynomial for exp(r).
fn exp_of_negative(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor's, |r| ≤ ln 2 / 2: the next term is below 1.2e-7.
    let terms = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let p = terms.iter().fold(0.0, |p, term| p * r + term) * r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let value = p * f32::from_bits(exponent);
    if x >= -87.0 { value } else { 0.0 }
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
                weight: 0.0,
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
