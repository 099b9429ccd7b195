//! The inner loops: some rows of queries against the keys and values of a head,
//! written once and compiled for each instruction set by inlining, see [`Lanes`].

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::lanes::{LANES, Lanes};
use super::super::portable::exp;
use super::source::{Ahead, Lined, Plain, Source, unpack};
use super::{BLOCK, Elements, KEY_GROUP, LINE_GROUP, Shape};

/// Some tokens' queries of the heads that share keys and values.
#[derive(Debug)]
pub struct Part<'a> {
    pub(super) shape: Shape,
    pub(super) kv_head: usize,
    /// The layer's whole pool.
    pub(super) cache: Elements<'a>,
    /// The sequence's blocks in it, from the `first_block`th of the sequence on.
    pub(super) blocks: &'a [i32],
    pub(super) first_block: usize,
    pub(super) queries: &'a [f32],
    pub(super) sinks: &'a [f32],
    /// Of the first token.
    pub(super) first_position: usize,
    pub(super) window: usize,
    /// Whether the sinks' scores count here.
    pub(super) with_sink: bool,
    /// What of the cache is looked at, from the start of a block on.
    pub(super) positions: Range<usize>,
}

impl Part<'_> {
    pub(super) fn rows(&self) -> usize {
        self.queries.len() / self.shape.head_dim
    }

    /// Floats that [`run`](Self::run) needs: results, queries, lines, keys, values,
    /// scores.
    pub(super) fn scratch_len(&self) -> usize {
        let dim = self.shape.head_dim;
        self.rows() * (2 * dim + 2) + (2 * dim + 4 * (dim / LINE_GROUP) + MOST_ROWS) * BLOCK
    }

    /// The positions of the block from `start` on that `token` sees, relative to it.
    #[inline(always)]
    fn seen(&self, token: usize, start: usize) -> Range<usize> {
        let position = self.first_position + token;
        let first = (position + 1).saturating_sub(self.window);
        let first = first.clamp(start, start + BLOCK);
        let end = (position + 1).min(self.positions.end).min(start + BLOCK);
        first - start..end.max(first) - start
    }

    /// The tokens of the rows from `first` on, at the price of one division.
    #[inline(always)]
    fn tokens(&self, first: usize) -> impl Iterator<Item = usize> {
        let group = self.shape.group();
        let (mut token, mut head) = (first / group, first % group);
        std::iter::repeat_with(move || {
            let of_row = token;
            head += 1;
            if head == group {
                (token, head) = (token + 1, 0);
            }
            of_row
        })
    }

    /// Computes the first `rows * (head_dim + 2)` floats of `scratch`: for each
    /// row the weighted sum of values, its largest score, and the sum of
    /// weights. `R` rows, at most `MOST_ROWS`, meet `V` vectors at a time: their
    /// `R * V` sums should fit the registers.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    pub(crate) unsafe fn run<L: Lanes, const R: usize, const V: usize>(&self, scratch: &mut [f32]) {
        let (dim, group) = (self.shape.head_dim, self.shape.group());
        let (results, scratch) = scratch.split_at_mut(self.rows() * (dim + 2));
        let (queries, scratch) = scratch.split_at_mut(self.rows() * dim);
        let (lines, scratch) = scratch.split_at_mut(4 * (dim / LINE_GROUP) * BLOCK);
        let (key_lines, value_lines) = lines.split_at_mut(lines.len() / 2);
        interleave::<R>(self.queries, dim, queries);
        for (row, result) in results.chunks_exact_mut(dim + 2).enumerate() {
            result[..dim].fill(0.0);
            let sink = self.sinks[row % group];
            (result[dim], result[dim + 1]) = match self.with_sink {
                true => (sink, 1.0),
                false => (f32::NEG_INFINITY, 0.0),
            };
        }
        let mut rows = Rows { queries, results };
        let values = dim / LANES;
        for start in self.positions.clone().step_by(BLOCK) {
            let place = self.place(start);
            let ahead = self.ahead(start);
            // SAFETY: the caller's promise.
            unsafe {
                match self.cache {
                    Elements::F16([key, value]) => {
                        let key = Plain::new(&key[place.clone()], dim);
                        let value = Plain::new(&value[place], values);
                        self.block::<L, R, V>(start, key, value, ahead, scratch, &mut rows);
                    }
                    Elements::F32([key, value]) => {
                        let key = Plain::new(&key[place.clone()], dim);
                        let value = Plain::new(&value[place], values);
                        self.block::<L, R, V>(start, key, value, ahead, scratch, &mut rows);
                    }
                    Elements::Int8([key, value]) => {
                        let (key, key_lines) = unpack(&key[place.clone()], dim, key_lines);
                        let (value, value_lines) = unpack(&value[place], dim, value_lines);
                        let key = Lined::<true>::new(key, key_lines, dim);
                        let value = Lined::<false>::new(value, value_lines, values);
                        self.block::<L, R, V>(start, key, value, ahead, scratch, &mut rows);
                    }
                }
            }
        }
    }

    /// Where the head's part of the block from position `start` on lies.
    #[inline(always)]
    fn place(&self, start: usize) -> Range<usize> {
        let block = self.blocks[start / BLOCK - self.first_block];
        let precision = self.cache.precision();
        let place = self.shape.head_start(precision, block, self.kv_head);
        place..place + BLOCK * precision.row_len(self.shape.head_dim)
    }

    /// What to fetch while the keys of the block from position `start` on are
    /// looked at, and while its values are: these values, then the next keys.
    #[inline(always)]
    fn ahead(&self, start: usize) -> [Ahead; 2] {
        let keys = match start + BLOCK {
            next if next < self.positions.end => self.cache.part(0, self.place(next)),
            _ => Ahead::NOTHING,
        };
        [self.cache.part(1, self.place(start)), keys]
    }

    /// The part of it that looks at the block from position `start` on.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    unsafe fn block<L: Lanes, const R: usize, const V: usize>(
        &self,
        start: usize,
        key: impl Source<L>,
        value: impl Source<L>,
        ahead: [Ahead; 2],
        scratch: &mut [f32],
        rows: &mut Rows<'_>,
    ) {
        let dim = self.shape.head_dim;
        let count = BLOCK.min(self.positions.end - start);
        let (keys, scratch) = scratch.split_at_mut(dim * BLOCK);
        let (values, scores) = scratch.split_at_mut(dim * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            if self.rows() <= 2 * R {
                // Widening again is less than storing and loading what was widened.
                return self.meet::<L, R, V>(start, key, value, ahead, scores, rows);
            }
            let keys = &mut keys[..count.next_multiple_of(KEY_GROUP) * dim];
            let values = &mut values[..count * dim];
            widen(key, dim, keys);
            widen(value, dim / LANES, values);
            let (keys, values) = (Plain::new(keys, dim), Plain::new(values, dim / LANES));
            let ahead = [Ahead::NOTHING; 2];
            self.meet::<L, R, V>(start, keys, values, ahead, scores, rows);
        }
    }

    /// All rows against the keys and values of a block.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    unsafe fn meet<L: Lanes, const R: usize, const V: usize>(
        &self,
        start: usize,
        key: impl Source<L>,
        value: impl Source<L>,
        ahead: [Ahead; 2],
        scores: &mut [f32],
        rows: &mut Rows<'_>,
    ) {
        let dim = self.shape.head_dim;
        let results = rows.results.chunks_mut(R * (dim + 2));
        for (i, (queries, results)) in rows.queries.chunks(R * dim).zip(results).enumerate() {
            // The first to look at a block is the one to wait for it.
            let [values_ahead, keys_ahead] = if i == 0 { ahead } else { [Ahead::NOTHING; 2] };
            let rows = queries.len() / dim;
            let tokens = self.tokens(i * R).take(rows);
            let all = tokens
                .map(|token| self.seen(token, start))
                .filter(|seen| !seen.is_empty())
                .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
                .unwrap_or_default();
            if all.is_empty() {
                continue;
            }
            let groups = all.start / KEY_GROUP..all.end.div_ceil(KEY_GROUP);
            // SAFETY: the caller's promise.
            unsafe {
                if rows == R {
                    let queries = queries.as_chunks().0;
                    score::<L, R, V>(queries, key, groups, scores, values_ahead);
                } else {
                    for (query, scores) in queries.chunks(dim).zip(scores.chunks_mut(BLOCK)) {
                        let (query, groups) = (query.as_chunks().0, groups.clone());
                        score::<L, 1, V>(query, key, groups, scores, Ahead::NOTHING);
                    }
                }
            }
            let weights = scores.as_chunks_mut::<BLOCK>().0;
            let of_tokens = self.tokens(i * R).map(|token| self.seen(token, start));
            let results_of = results.chunks_exact_mut(dim + 2);
            for ((scores, result), seen) in weights.iter_mut().zip(results_of).zip(of_tokens) {
                // SAFETY: the caller's promise.
                unsafe { soften::<L>(scores, seen, result) };
            }
            // SAFETY: the caller's promise.
            unsafe {
                if rows == R {
                    mix::<L, R, V>(scores, value, dim, all, results, keys_ahead);
                } else {
                    let scores = scores.chunks(BLOCK);
                    for (scores, result) in scores.zip(results.chunks_mut(dim + 2)) {
                        mix::<L, 1, V>(scores, value, dim, all.clone(), result, Ahead::NOTHING);
                    }
                }
            }
        }
    }
}

/// Most rows that are computed together.
pub const MOST_ROWS: usize = 8;

/// What there is of each row besides scores.
struct Rows<'a> {
    /// `R` rows' after another, [interleaved](interleave).
    queries: &'a [f32],
    /// `[rows, head_dim + 2]`, see [`Part::run`].
    results: &'a mut [f32],
}

/// Puts what `R` rows of `dim` have in the same place side by side, so that one
/// address leads to all of them: `[rows / R, dim, R]`, and what rows remain as they
/// are.
#[inline(always)]
fn interleave<const R: usize>(rows: &[f32], dim: usize, into: &mut [f32]) {
    for (rows, into) in rows.chunks(R * dim).zip(into.chunks_mut(R * dim)) {
        if rows.len() < R * dim {
            into.copy_from_slice(rows);
            continue;
        }
        for (i, into) in into.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            for (r, into) in into.iter_mut().enumerate() {
                *into = rows[r * dim + i];
            }
        }
    }
}

/// Stores the first vectors of `source`, `width` of them in a row.
///
/// # Safety
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn widen<L: Lanes>(source: impl Source<L>, width: usize, into: &mut [f32]) {
    let rows = into.as_chunks_mut::<LANES>().0.chunks_exact_mut(width);
    assert!(rows.len() <= source.rows());
    for (row, into) in rows.enumerate() {
        for (i, into) in into.iter_mut().enumerate() {
            // SAFETY: the caller's promise, and the source has this vector.
            unsafe { source.vector(row, i).store(into) };
        }
    }
}

/// `scores[r, key] = queries[r] . keys[key]` for whole groups of keys.
///
/// # Safety
/// The processor has what `L` stands for; a row of `keys` has as many vectors as
/// there are `queries`, interleaved.
#[inline(always)]
unsafe fn score<L: Lanes, const R: usize, const V: usize>(
    queries: &[[f32; R]],
    keys: impl Source<L>,
    groups: Range<usize>,
    scores: &mut [f32],
    ahead: Ahead,
) {
    let together = groups.len() / V * V;
    let rest = groups.start + together;
    // SAFETY: the caller's promise.
    unsafe {
        for group in (groups.start..rest).step_by(V) {
            score_groups::<L, R, V>(queries, keys, group, scores, ahead);
        }
        for group in rest..groups.end {
            score_groups::<L, R, 1>(queries, keys, group, scores, ahead);
        }
    }
}

/// The same for `V` groups from `group` on.
///
/// # Safety
/// That of [`score`].
#[inline(always)]
unsafe fn score_groups<L: Lanes, const R: usize, const V: usize>(
    queries: &[[f32; R]],
    keys: impl Source<L>,
    group: usize,
    scores: &mut [f32],
    ahead: Ahead,
) {
    assert!(group + V <= keys.rows());
    let dim = queries.len();
    // SAFETY: the caller's promise; there are `V` groups.
    let mut sums = unsafe { [[L::splat(0.0); V]; R] };
    for (chunk, queries) in queries.as_chunks::<STEPS>().0.iter().enumerate() {
        ahead.fetch((group * dim + chunk * STEPS * V) / 2, STEPS * V / 2);
        for i in 0..STEPS {
            // SAFETY: the same.
            unsafe {
                let mut vectors = [L::splat(0.0); V];
                for v in 0..V {
                    vectors[v] = keys.vector(group + v, chunk * STEPS + i);
                }
                for r in 0..R {
                    let query = L::splat(queries[i][r]);
                    for v in 0..V {
                        sums[r][v] = sums[r][v].plus_product(query, vectors[v]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        let scores = &mut scores[r * BLOCK + group * KEY_GROUP..].as_chunks_mut().0[..V];
        for v in 0..V {
            // SAFETY: the same.
            unsafe { sums[r][v].store(&mut scores[v]) };
        }
    }
}

/// Steps between two looks ahead.
const STEPS: usize = 4;

/// Turns the scores that are `seen` into weights against the largest so far, and
/// all others into zeros.
///
/// # Safety
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn soften<L: Lanes>(scores: &mut [f32; BLOCK], seen: Range<usize>, result: &mut [f32]) {
    let dim = result.len() - 2;
    // Vectors from here on: what is not seen gets the weight zero.
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let before = result[dim];
    // SAFETY: the caller's promise.
    let lanes = unsafe {
        let [a, b, c, d] = quarters::<L>(scores);
        a.larger(b).larger(c.larger(d))
    };
    let mut largest = before;
    // SAFETY: the same.
    let here = unsafe { halve(lanes, |a, b| if a > b { a } else { b }) };
    // Mostly it is not.
    if here > before {
        largest = here;
        let shrink = exp_of::<L>(before - largest);
        result[..dim].iter_mut().for_each(|x| *x *= shrink);
        (result[dim], result[dim + 1]) = (largest, result[dim + 1] * shrink);
    }
    for score in scores.iter_mut() {
        let weight = exp_of::<L>(*score - largest);
        let unseen = *score == f32::NEG_INFINITY;
        *score = if unseen { 0.0 } else { weight };
    }
    // SAFETY: the same.
    unsafe {
        let [a, b, c, d] = quarters::<L>(scores);
        result[dim + 1] += halve(a.plus(b).plus(c.plus(d)), |a, b| a + b);
    }
}

/// A row's scores in a block.
///
/// # Safety
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn quarters<L: Lanes>(scores: &[f32; BLOCK]) -> [L; BLOCK / LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut quarters = [L::splat(0.0); BLOCK / LANES];
        for (quarter, scores) in quarters.iter_mut().zip(scores.as_chunks().0) {
            *quarter = L::load(scores);
        }
        quarters
    }
}

/// One number of sixteen: eight of pairs, then four, two, one.
///
/// # Safety
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn halve<L: Lanes>(vector: L, of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller's promise.
    unsafe { vector.store(&mut lanes) };
    for i in 0..8 {
        lanes[i] = of(lanes[i], lanes[i + 8]);
    }
    for i in 0..4 {
        lanes[i] = of(lanes[i], lanes[i + 4]);
    }
    of(of(lanes[0], lanes[2]), of(lanes[1], lanes[3]))
}

#[inline(always)]
fn exp_of<L: Lanes>(x: f32) -> f32 {
    match L::FMA {
        true => exp::<true>(x),
        false => exp::<false>(x),
    }
}

/// `results[r] += weights[r] . values` over the keys of `range`.
///
/// # Safety
/// The processor has what `L` stands for; a row of `values` has `dim / LANES`
/// vectors.
#[inline(always)]
unsafe fn mix<L: Lanes, const R: usize, const V: usize>(
    weights: &[f32],
    values: impl Source<L>,
    dim: usize,
    range: Range<usize>,
    results: &mut [f32],
    ahead: Ahead,
) {
    let vectors = dim / LANES;
    let together = vectors / V * V;
    // SAFETY: the caller's promise.
    unsafe {
        for vector in (0..together).step_by(V) {
            mix_vectors::<L, R, V>(weights, values, vector, range.clone(), results, ahead);
        }
        for vector in together..vectors {
            mix_vectors::<L, R, 1>(weights, values, vector, range.clone(), results, ahead);
        }
    }
}

/// The same for `V` vectors from `vector` on.
///
/// # Safety
/// That of [`mix`], and there are such vectors.
#[inline(always)]
unsafe fn mix_vectors<L: Lanes, const R: usize, const V: usize>(
    weights: &[f32],
    values: impl Source<L>,
    vector: usize,
    range: Range<usize>,
    results: &mut [f32],
    ahead: Ahead,
) {
    assert!(weights.len() >= R * BLOCK && range.end <= BLOCK);
    assert!(range.end <= values.rows());
    // SAFETY: the caller's promise; `key` is below `BLOCK`, and there are `R` rows.
    let mut sums = unsafe { [[L::splat(0.0); V]; R] };
    let rest = range.end - range.len() % STEPS;
    for start in (range.start..rest).step_by(STEPS) {
        ahead.fetch((vector * BLOCK + start * V) / 2, STEPS * V / 2);
        for key in 0..STEPS {
            // SAFETY: the same.
            unsafe { mix_key(&mut sums, weights, values, vector, start + key) };
        }
    }
    for key in rest..range.end {
        // SAFETY: the same.
        unsafe { mix_key(&mut sums, weights, values, vector, key) };
    }
    let each = results.len() / R;
    for (sums, result) in sums.into_iter().zip(results.chunks_exact_mut(each)) {
        let result = &mut result[vector * LANES..].as_chunks_mut().0[..V];
        for (sum, result) in sums.into_iter().zip(result) {
            // SAFETY: the same.
            unsafe {
                sum.plus_product(L::load(result), L::splat(1.0))
                    .store(result)
            };
        }
    }
}

/// `sums[r, v] += weights[r, key] . values[key, vector + v]`.
///
/// # Safety
/// That of [`mix`], and there are such vectors, and `R` rows of weights.
#[inline(always)]
unsafe fn mix_key<L: Lanes, const R: usize, const V: usize>(
    sums: &mut [[L; V]; R],
    weights: &[f32],
    values: impl Source<L>,
    vector: usize,
    key: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut vectors = [L::splat(0.0); V];
        for v in 0..V {
            vectors[v] = values.vector(key, vector + v);
        }
        for r in 0..R {
            let weight = L::splat(*weights.get_unchecked(r * BLOCK + key));
            for v in 0..V {
                sums[r][v] = sums[r][v].plus_product(weight, vectors[v]);
            }
        }
    }
}
