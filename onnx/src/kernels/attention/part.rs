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

    /// Floats that [`run`](Self::run) needs: results, keys, values, lines, scores.
    pub(super) fn scratch_len(&self) -> usize {
        let dim = self.shape.head_dim;
        self.rows() * (dim + 2) + (2 * dim + 4 * (dim / LINE_GROUP) + MOST_ROWS) * BLOCK
    }

    /// The positions of the block from `start` on that `row` sees, relative to it.
    #[inline(always)]
    fn seen(&self, row: usize, start: usize) -> Range<usize> {
        let position = self.first_position + row / self.shape.group();
        let first = (position + 1).saturating_sub(self.window).max(start);
        let end = (position + 1).min(self.positions.end).min(start + BLOCK);
        first - start..end.max(first) - start
    }

    /// Computes the first `rows * (head_dim + 2)` floats of `scratch`: for each
    /// row the weighted sum of values, its largest score, and the sum of
    /// weights. `R` rows, at most `MOST_ROWS`, are computed together.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    pub(crate) unsafe fn run<L: Lanes, const R: usize>(&self, scratch: &mut [f32]) {
        let (dim, group) = (self.shape.head_dim, self.shape.group());
        let (results, scratch) = scratch.split_at_mut(self.rows() * (dim + 2));
        let (lines, scratch) = scratch.split_at_mut(4 * (dim / LINE_GROUP) * BLOCK);
        let (key_lines, value_lines) = lines.split_at_mut(lines.len() / 2);
        for (row, result) in results.chunks_exact_mut(dim + 2).enumerate() {
            result[..dim].fill(0.0);
            let sink = self.sinks[row % group];
            (result[dim], result[dim + 1]) = match self.with_sink {
                true => (sink, 1.0),
                false => (f32::NEG_INFINITY, 0.0),
            };
        }
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
                        self.block::<L, R>(start, key, value, ahead, scratch, results);
                    }
                    Elements::F32([key, value]) => {
                        let key = Plain::new(&key[place.clone()], dim);
                        let value = Plain::new(&value[place], values);
                        self.block::<L, R>(start, key, value, ahead, scratch, results);
                    }
                    Elements::Int8([key, value]) => {
                        let (key, key_lines) = unpack(&key[place.clone()], dim, key_lines);
                        let (value, value_lines) = unpack(&value[place], dim, value_lines);
                        let key = Lined::<true>::new(key, key_lines, dim);
                        let value = Lined::<false>::new(value, value_lines, values);
                        self.block::<L, R>(start, key, value, ahead, scratch, results);
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
    unsafe fn block<L: Lanes, const R: usize>(
        &self,
        start: usize,
        key: impl Source<L>,
        value: impl Source<L>,
        ahead: [Ahead; 2],
        scratch: &mut [f32],
        results: &mut [f32],
    ) {
        let dim = self.shape.head_dim;
        let count = BLOCK.min(self.positions.end - start);
        let (keys, scratch) = scratch.split_at_mut(dim * BLOCK);
        let (values, scores) = scratch.split_at_mut(dim * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            if self.rows() == R {
                // All rows meet a vector while it is in a register.
                return self.meet::<L, R>(start, key, value, ahead, scores, results);
            }
            let keys = &mut keys[..count.next_multiple_of(KEY_GROUP) * dim];
            let values = &mut values[..count * dim];
            widen(key, dim, keys);
            widen(value, dim / LANES, values);
            let (keys, values) = (Plain::new(keys, dim), Plain::new(values, dim / LANES));
            let ahead = [Ahead::NOTHING; 2];
            self.meet::<L, R>(start, keys, values, ahead, scores, results);
        }
    }

    /// All rows against the keys and values of a block.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    unsafe fn meet<L: Lanes, const R: usize>(
        &self,
        start: usize,
        key: impl Source<L>,
        value: impl Source<L>,
        [values_ahead, keys_ahead]: [Ahead; 2],
        scores: &mut [f32],
        results: &mut [f32],
    ) {
        let dim = self.shape.head_dim;
        let queries = self.queries.chunks(R * dim);
        for (i, (queries, results)) in queries.zip(results.chunks_mut(R * (dim + 2))).enumerate() {
            let rows = queries.len() / dim;
            let seen = (0..rows).map(|r| self.seen(i * R + r, start));
            let all = seen
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
                    score::<L, R>(queries, key, dim, groups, scores, values_ahead);
                } else {
                    for (query, scores) in queries.chunks(dim).zip(scores.chunks_mut(BLOCK)) {
                        let ahead = Ahead::NOTHING;
                        score::<L, 1>(query, key, dim, groups.clone(), scores, ahead);
                    }
                }
            }
            for (r, result) in results.chunks_exact_mut(dim + 2).enumerate() {
                let scores = &mut scores[r * BLOCK..][..BLOCK];
                soften::<L>(scores, self.seen(i * R + r, start), &all, result);
            }
            // SAFETY: the caller's promise.
            unsafe {
                if rows == R {
                    mix::<L, R>(scores, value, dim, all, results, keys_ahead);
                } else {
                    let scores = scores.chunks(BLOCK);
                    for (scores, result) in scores.zip(results.chunks_mut(dim + 2)) {
                        let ahead = Ahead::NOTHING;
                        mix::<L, 1>(scores, value, dim, all.clone(), result, ahead);
                    }
                }
            }
        }
    }
}

/// Most rows that are computed together.
pub const MOST_ROWS: usize = 8;

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
/// The processor has what `L` stands for; a row of `keys` has `dim` vectors.
#[inline(always)]
unsafe fn score<L: Lanes, const R: usize>(
    queries: &[f32],
    keys: impl Source<L>,
    dim: usize,
    groups: Range<usize>,
    scores: &mut [f32],
    ahead: Ahead,
) {
    assert!(queries.len() >= R * dim && groups.end <= keys.rows());
    for group in groups {
        // SAFETY: the caller's promise; `i` is below `dim`, and there are `R` rows.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            for i in 0..dim {
                let keys = keys.vector(group, i);
                ahead.fetch(group * dim + i);
                for r in 0..R {
                    let q = L::splat(*queries.get_unchecked(r * dim + i));
                    sums[r] = sums[r].plus_product(q, keys);
                }
            }
            for r in 0..R {
                let scores = &mut scores[r * BLOCK + group * KEY_GROUP..];
                if let Some(scores) = scores.first_chunk_mut() {
                    sums[r].store(scores);
                }
            }
        }
    }
}

/// Turns the scores that are `seen` into weights against the largest so far,
/// and those of `all` that are not into zeros.
#[inline(always)]
fn soften<L: Lanes>(
    scores: &mut [f32],
    seen: Range<usize>,
    all: &Range<usize>,
    result: &mut [f32],
) {
    let dim = result.len() - 2;
    if seen.is_empty() {
        scores[all.clone()].fill(0.0);
        return;
    }
    // Whole vectors from here on: what is not seen gets the weight zero.
    let first = all.start / KEY_GROUP * KEY_GROUP;
    let scores = &mut scores[first..all.end.next_multiple_of(KEY_GROUP)];
    scores[..seen.start - first].fill(f32::NEG_INFINITY);
    scores[seen.end - first..].fill(f32::NEG_INFINITY);
    let blocks = scores.as_chunks_mut::<KEY_GROUP>().0;
    let before = result[dim];
    let mut lanes = [before; KEY_GROUP];
    for block in blocks.iter() {
        for (largest, &score) in lanes.iter_mut().zip(block) {
            *largest = if *largest > score { *largest } else { score };
        }
    }
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let largest = lanes.into_iter().fold(before, larger);
    let mut sums = [0.0; KEY_GROUP];
    for block in blocks.iter_mut() {
        for (score, sum) in block.iter_mut().zip(&mut sums) {
            let weight = exp_of::<L>(*score - largest);
            let unseen = *score == f32::NEG_INFINITY;
            *score = if unseen { 0.0 } else { weight };
            *sum += *score;
        }
    }
    let sum: f32 = sums.iter().sum();
    let shrink = exp_of::<L>(before - largest);
    result[dim] = largest;
    result[dim + 1] = result[dim + 1] * shrink + sum;
    if before != largest {
        result[..dim].iter_mut().for_each(|x| *x *= shrink);
    }
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
unsafe fn mix<L: Lanes, const R: usize>(
    weights: &[f32],
    values: impl Source<L>,
    dim: usize,
    range: Range<usize>,
    results: &mut [f32],
    ahead: Ahead,
) {
    assert!(weights.len() >= R * BLOCK && range.end <= BLOCK);
    assert!(range.end <= values.rows());
    for vector in 0..dim / LANES {
        // SAFETY: the caller's promise; `key` is below `BLOCK`, and there are
        // `R` rows.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            for key in range.clone() {
                let value = values.vector(key, vector);
                ahead.fetch(vector * BLOCK + key);
                for r in 0..R {
                    let weight = L::splat(*weights.get_unchecked(r * BLOCK + key));
                    sums[r] = sums[r].plus_product(weight, value);
                }
            }
            for r in 0..R {
                let result = &mut results[r * (dim + 2) + vector * LANES..];
                if let Some(result) = result.first_chunk_mut() {
                    let one = L::splat(1.0);
                    sums[r].plus_product(L::load(result), one).store(result);
                }
            }
        }
    }
}
