//! The inner loops: some rows of queries against the keys and values of a head,
//! written once and compiled for each instruction set by inlining, see [`Lanes`].

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::lanes::{LANES, Lanes};
use super::super::portable::exp;
use super::{BLOCK, Elements, KEY_GROUP, LINE_GROUP, Precision, Shape};

/// Some tokens' queries of the heads that share keys and values.
#[derive(Debug)]
pub struct Part<'a> {
    pub(super) shape: Shape,
    pub(super) kv_head: usize,
    /// The layer's whole pool.
    pub(super) key: Elements<'a>,
    pub(super) value: Elements<'a>,
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
        self.rows() * (dim + 2) + (2 * dim + 2 * (dim / LINE_GROUP) + MOST_ROWS) * BLOCK
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
        let (keys, scratch) = scratch.split_at_mut(dim * BLOCK);
        let (values, scratch) = scratch.split_at_mut(dim * BLOCK);
        let (lines, scores) = scratch.split_at_mut(dim / LINE_GROUP * 2 * BLOCK);
        let lines = lines.as_chunks_mut().0.as_chunks_mut().0;
        for (row, result) in results.chunks_exact_mut(dim + 2).enumerate() {
            result[..dim].fill(0.0);
            let sink = self.sinks[row % group];
            (result[dim], result[dim + 1]) = match self.with_sink {
                true => (sink, 1.0),
                false => (f32::NEG_INFINITY, 0.0),
            };
        }
        for start in self.positions.clone().step_by(BLOCK) {
            let count = BLOCK.min(self.positions.end - start);
            let block = self.blocks[start / BLOCK - self.first_block];
            let groups = count.div_ceil(KEY_GROUP);
            // SAFETY: the caller's promise.
            unsafe {
                let keys_line = |lines: &[[[f32; BLOCK]; 2]], vector: usize| {
                    let (keys, element) = (vector / dim, vector % dim);
                    let line = &lines[element / LINE_GROUP];
                    line.each_ref().map(|n| L::load(&n.as_chunks().0[keys]))
                };
                let keys = &mut keys[..groups * KEY_GROUP * dim];
                self.load(self.key, block, keys_line, lines, keys);
                let value_line = |lines: &[[[f32; BLOCK]; 2]], vector: usize| {
                    let (value, elements) = (vector / (dim / LANES), vector % (dim / LANES));
                    lines[elements].map(|n| L::splat(n[value]))
                };
                let values = &mut values[..count * dim];
                self.load(self.value, block, value_line, lines, values);
            }
            let queries = self.queries.chunks(R * dim);
            for (i, (queries, results)) in
                queries.zip(results.chunks_mut(R * (dim + 2))).enumerate()
            {
                let rows = queries.len() / dim;
                let seen = (0..rows).map(|r| self.seen(i * R + r, start));
                let all = seen
                    .filter(|seen| !seen.is_empty())
                    .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
                    .unwrap_or_default();
                if all.is_empty() {
                    continue;
                }
                let blocks = all.start / KEY_GROUP..all.end.div_ceil(KEY_GROUP);
                // SAFETY: the caller's promise.
                unsafe {
                    if rows == R {
                        score::<L, R>(queries, keys, dim, blocks, scores);
                    } else {
                        for (query, scores) in queries.chunks(dim).zip(scores.chunks_mut(BLOCK)) {
                            score::<L, 1>(query, keys, dim, blocks.clone(), scores);
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
                        mix::<L, R>(scores, values, dim, all, results);
                    } else {
                        let scores = scores.chunks(BLOCK);
                        for (scores, result) in scores.zip(results.chunks_mut(dim + 2)) {
                            mix::<L, 1>(scores, values, dim, all.clone(), result);
                        }
                    }
                }
            }
        }
    }

    /// Widens the first elements of the head's part of a block. A vector of
    /// int8 elements gets what `line` makes of the block's lines and of the
    /// vector's index: scales, least values.
    ///
    /// # Safety
    /// The processor has what `L` stands for.
    #[inline(always)]
    unsafe fn load<L: Lanes>(
        &self,
        side: Elements<'_>,
        block: i32,
        line: impl Fn(&[[[f32; BLOCK]; 2]], usize) -> [L; 2],
        lines: &mut [[[f32; BLOCK]; 2]],
        into: &mut [f32],
    ) {
        let dim = self.shape.head_dim;
        let start = |precision| self.shape.head_start(precision, block, self.kv_head);
        let vectors = into.as_chunks_mut::<LANES>().0;
        match side {
            Elements::F16(all) => {
                let all = all[start(Precision::F16)..].as_chunks().0;
                for (from, into) in all.iter().zip(vectors) {
                    // SAFETY: the caller's promise.
                    unsafe { L::widen(from).store(into) };
                }
            }
            Elements::F32(all) => into.copy_from_slice(&all[start(Precision::F32)..][..into.len()]),
            Elements::Int8(all) => {
                let (all, after) = all[start(Precision::Int8)..].split_at(BLOCK * dim);
                let numbers = lines.as_flattened_mut().as_flattened_mut();
                for (number, bytes) in numbers.iter_mut().zip(after.as_chunks().0) {
                    *number = f32::from_bits(u32::from(u16::from_ne_bytes(*bytes)) << 16);
                }
                for (i, (from, into)) in all.as_chunks().0.iter().zip(vectors).enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let [scale, least] = line(lines, i);
                        least.plus_product(scale, L::widen_uint8(from)).store(into);
                    }
                }
            }
        }
    }
}

/// Most rows that are computed together.
pub const MOST_ROWS: usize = 8;

/// `scores[r, key] = queries[r] . keys[key]` for whole groups of keys.
///
/// # Safety
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn score<L: Lanes, const R: usize>(
    queries: &[f32],
    keys: &[f32],
    dim: usize,
    groups: Range<usize>,
    scores: &mut [f32],
) {
    assert!(queries.len() >= R * dim);
    for group in groups {
        let keys = &keys[group * KEY_GROUP * dim..][..KEY_GROUP * dim];
        // SAFETY: the caller's promise; `i` is below `dim`, and there are `R` rows.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            for (i, keys) in keys.as_chunks().0.iter().enumerate() {
                let keys = L::load(keys);
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
/// The processor has what `L` stands for.
#[inline(always)]
unsafe fn mix<L: Lanes, const R: usize>(
    weights: &[f32],
    values: &[f32],
    dim: usize,
    range: Range<usize>,
    results: &mut [f32],
) {
    assert!(weights.len() >= R * BLOCK && range.end <= BLOCK);
    assert!(dim.is_multiple_of(LANES) && values.len() >= range.end * dim);
    for first in (0..dim).step_by(LANES) {
        // SAFETY: the caller's promise; `key` is below `BLOCK`, there are `R`
        // rows, and a key's value has `dim` elements, whole vectors.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            for key in range.clone() {
                let value = values.as_ptr().add(key * dim + first);
                let value = L::load(&*value.cast());
                for r in 0..R {
                    let weight = L::splat(*weights.get_unchecked(r * BLOCK + key));
                    sums[r] = sums[r].plus_product(weight, value);
                }
            }
            for r in 0..R {
                let result = &mut results[r * (dim + 2) + first..];
                if let Some(result) = result.first_chunk_mut() {
                    let one = L::splat(1.0);
                    sums[r].plus_product(L::load(result), one).store(result);
                }
            }
        }
    }
}
