//! Products with int8 weights: attention's projections and the output head.
//!
//! Weights are bytes around 128, in blocks of 64 that share a float32 scale,
//! read in place as they lie in the exported file (`MatMulNBits`' layout). In
//! mode int8, activations are quantized likewise, one dynamic scale per block
//! of 64; sums within a block are exact integers.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use half::bf16;

use super::activations::{Int8Block, round};
use super::aligned::{Aligned, with_scratch};
use super::bf16_tiles::{Bf16Tiles, Order, TILE_TOKENS, TokensAt};
use super::disjoint::Disjoint;
use super::experts::Activations;
use super::parallel::{Parallel, run_parts};
use super::{KernelError, KernelSet};

/// Weights, and activations, that share a scale; the byte that stands for zero.
pub use crate::quantize::int8::{MATMUL_BLOCK as BLOCK, ZERO_POINT};

/// Tokens up to this many are bound by reading weights, more by arithmetic.
pub(super) const FEW_TOKENS: usize = 4;
/// Weight rows of a part, see [`super::experts`].
const RUN_FEW: usize = 128;
const RUN_MANY: usize = 192;
/// Tokens of a part: their activations stay in a core's second-level cache.
const MAX_GROUP: usize = 256;
/// The same in bf16: twice the bytes.
const MAX_BF16_GROUP: usize = 128;
const _: () = assert!(MAX_BF16_GROUP.is_multiple_of(TILE_TOKENS));
/// Tokens of a part where the work is per token.
const TOKEN_RUN: usize = 8;

/// Weights `[rows, row_blocks * 64]`, borrowed:
/// `weight = (byte - 128) * scale[row, column / 64]`.
#[derive(Clone, Copy, Debug)]
pub struct Int8Matrix<'a> {
    weights: &'a [u8],
    scales: &'a [f32],
    rows: usize,
    blocks: usize,
}

impl<'a> Int8Matrix<'a> {
    /// Puts together `weights` u8 `[rows, blocks, 64]` and `scales` `[rows, blocks]`.
    ///
    /// # Errors
    /// The lengths do not fit.
    pub fn new(
        weights: &'a [u8],
        scales: &'a [f32],
        rows: usize,
        blocks: usize,
    ) -> Result<Self, KernelError> {
        let all = rows.checked_mul(blocks);
        let bytes = all.and_then(|all| all.checked_mul(BLOCK));
        if bytes != Some(weights.len()) || all != Some(scales.len()) || blocks == 0 {
            return Err(KernelError::Shape(format!(
                "{} weights and {} scales are not {rows} rows of {blocks} blocks of {BLOCK}",
                weights.len(),
                scales.len()
            )));
        }
        Ok(Self {
            weights,
            scales,
            rows,
            blocks,
        })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of a row in blocks.
    pub fn row_blocks(&self) -> usize {
        self.blocks
    }

    /// The bytes of `row`.
    pub fn row_weights(&self, row: usize) -> &'a [u8] {
        &self.weights[row * self.blocks * BLOCK..][..self.blocks * BLOCK]
    }

    /// The scales of `row`.
    pub fn row_scales(&self, row: usize) -> &'a [f32] {
        &self.scales[row * self.blocks..][..self.blocks]
    }
}

/// Rows of int8 activations, padded with zeros to whole blocks:
/// `x = q * scale[row, column / 64]`.
#[derive(Debug, Default)]
pub struct DenseRows {
    rows: usize,
    blocks: usize,
    data: Aligned<i8>,
    scales: Aligned<f32>,
    corrections: Aligned<i32>,
    lane_corrections: Aligned<i32>,
}

/// 32-bit lanes of a block, four elements each.
pub(super) const LANES: usize = BLOCK / 4;

impl DenseRows {
    /// Room for `rows` rows of `k` elements, with any content; memory is reused.
    pub fn reset(&mut self, rows: usize, k: usize) {
        self.rows = rows;
        self.blocks = k.div_ceil(BLOCK);
        let blocks = rows * self.blocks;
        self.data.resize(blocks * BLOCK);
        self.scales.resize(blocks);
        self.corrections.resize(blocks);
        self.lane_corrections.resize(blocks * LANES);
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of a row in blocks.
    pub fn row_blocks(&self) -> usize {
        self.blocks
    }

    /// The elements of `row`, whole blocks.
    #[inline(always)]
    pub fn data(&self, row: usize) -> &[i8] {
        &self.data.as_slice()[row * self.blocks * BLOCK..][..self.blocks * BLOCK]
    }

    /// The scales of `row`.
    #[inline(always)]
    pub fn scales(&self, row: usize) -> &[f32] {
        &self.scales.as_slice()[row * self.blocks..][..self.blocks]
    }

    /// `-128 * sum(q)` of each block of `row`: what cancels the zero point of
    /// unsigned weights.
    #[inline(always)]
    pub fn corrections(&self, row: usize) -> &[i32] {
        &self.corrections.as_slice()[row * self.blocks..][..self.blocks]
    }

    /// The same of each four elements: 16 a block.
    #[inline(always)]
    pub fn lane_corrections(&self, row: usize) -> &[i32] {
        &self.lane_corrections.as_slice()[row * self.blocks * LANES..][..self.blocks * LANES]
    }

    /// A handle through which several threads fill different rows.
    pub fn writer(&mut self) -> DenseWriter<'_> {
        DenseWriter {
            blocks: self.blocks,
            data: Disjoint::new(self.data.as_mut_slice()),
            scales: Disjoint::new(self.scales.as_mut_slice()),
            corrections: Disjoint::new(self.corrections.as_mut_slice()),
            lane_corrections: Disjoint::new(self.lane_corrections.as_mut_slice()),
        }
    }
}

/// Writes rows of a [`DenseRows`] from several threads.
pub struct DenseWriter<'a> {
    blocks: usize,
    data: Disjoint<'a, i8>,
    scales: Disjoint<'a, f32>,
    corrections: Disjoint<'a, i32>,
    lane_corrections: Disjoint<'a, i32>,
}

/// Quantizes `x` into `row`, symmetrically to -127..=127. A block with an
/// infinity or a NaN gets a NaN scale, so it is not lost.
///
/// # Safety
/// No other thread writes the same row meanwhile.
///
/// # Panics
/// The row is out of range, or `x` longer than a row.
#[inline(always)]
pub unsafe fn quantize(x: &[f32], into: &DenseWriter<'_>, row: usize) {
    let blocks = into.blocks;
    assert_eq!(x.len().div_ceil(BLOCK), blocks);
    let range = |each: usize| row * blocks * each..(row + 1) * blocks * each;
    // SAFETY: rows are disjoint, and this one is the caller's alone.
    let (data, scales, corrections, lanes) = unsafe {
        (
            into.data.slice(range(BLOCK)),
            into.scales.slice(range(1)),
            into.corrections.slice(range(1)),
            into.lane_corrections.slice(range(LANES)),
        )
    };
    let data = data.as_chunks_mut::<BLOCK>().0;
    let lanes = lanes.as_chunks_mut::<LANES>().0;
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let (data, lanes) = (&mut data[block], &mut lanes[block]);
        scales[block] = match x.first_chunk::<BLOCK>() {
            Some(x) => quantize_block(x, data, lanes),
            None => {
                let mut padded = [0.0; BLOCK];
                padded[..x.len()].copy_from_slice(x);
                quantize_block(&padded, data, lanes)
            }
        };
        corrections[block] = lanes.iter().sum();
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], data: &mut [i8; BLOCK], corrections: &mut [i32; LANES]) -> f32 {
    // Bits of an absolute value order like the value, NaN above all.
    let mut largest = 0u32;
    for value in x {
        largest = largest.max(value.to_bits() & 0x7fff_ffff);
    }
    let (inverse, half_scale) = Int8Block::scales(f32::from_bits(largest));
    for (q, x) in data.iter_mut().zip(x) {
        *q = round(x * inverse);
    }
    for (correction, four) in corrections.iter_mut().zip(data.as_chunks::<4>().0) {
        let sum: i32 = four.iter().map(|&q| i32::from(q)).sum();
        *correction = -i32::from(ZERO_POINT) * sum;
    }
    2.0 * half_scale
}

/// Panics unless everything that pointers are made from is in range.
pub(super) fn check(
    w: &Int8Matrix<'_>,
    rows: &Range<usize>,
    x: &DenseRows,
    tokens: &Range<usize>,
    out: &[f32],
) {
    assert!(rows.start <= rows.end && rows.end <= w.rows());
    assert!(tokens.start <= tokens.end && tokens.end <= x.rows());
    assert_eq!(x.row_blocks(), w.row_blocks());
    assert_eq!(out.len(), tokens.len() * rows.len());
}

/// The reference: see [`KernelSet::dense_int8`].
pub(super) fn int8(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let width = rows.len();
    for (column, row) in rows.enumerate() {
        let (weights, scales) = (w.row_weights(row).as_chunks::<BLOCK>().0, w.row_scales(row));
        for (t, token) in tokens.clone().enumerate() {
            let data = x.data(token).as_chunks::<BLOCK>().0;
            let mut sum = 0.0;
            for (block, (weights, data)) in weights.iter().zip(data).enumerate() {
                let products = weights.iter().zip(data);
                let dot: i32 = products
                    .map(|(&w, &q)| (i32::from(w) - i32::from(ZERO_POINT)) * i32::from(q))
                    .sum();
                sum += dot as f32 * (scales[block] * x.scales(token)[block]);
            }
            out[t * width + column] = sum;
        }
    }
}

/// A row in float32, each weight rounded to bf16.
pub(super) fn round_row(w: &Int8Matrix<'_>, row: usize, into: &mut [f32]) {
    let blocks = w.row_weights(row).as_chunks::<BLOCK>().0;
    let places = into.as_chunks_mut::<BLOCK>().0.iter_mut();
    for ((into, bytes), scale) in places.zip(blocks).zip(w.row_scales(row)) {
        for (weight, &byte) in into.iter_mut().zip(bytes) {
            let exact = (f32::from(byte) - f32::from(ZERO_POINT)) * scale;
            *weight = bf16::from_f32(exact).to_f32();
        }
    }
}

/// See [`KernelSet::dense_float32`].
#[inline(always)]
pub(super) fn float32(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &[f32],
    k: usize,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let width = rows.len();
    let mut weights = vec![0.0f32; w.row_blocks() * BLOCK];
    for (column, row) in rows.enumerate() {
        let blocks = w.row_weights(row).as_chunks::<BLOCK>().0;
        let places = weights.as_chunks_mut::<BLOCK>().0.iter_mut();
        for ((into, bytes), scale) in places.zip(blocks).zip(w.row_scales(row)) {
            for (weight, &byte) in into.iter_mut().zip(bytes) {
                *weight = (f32::from(byte) - f32::from(ZERO_POINT)) * scale;
            }
        }
        for (t, token) in tokens.clone().enumerate() {
            out[t * width + column] = dot(&weights[..k], &x[token * k..][..k]);
        }
    }
}

/// A dot product in 32 sums.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const WIDE: usize = 32;
    let mut sums = [0.0f32; WIDE];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..WIDE {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Memory that calls of [`linear`] reuse.
#[derive(Debug, Default)]
pub struct Workspace {
    x: DenseRows,
    tiles: Bf16Tiles,
}

/// `y[t] = w · x[t] + bias` for `x` `[tokens, k]` and `y` `[tokens, w.rows()]`.
///
/// # Errors
/// Sizes that do not fit, `cancel` set meanwhile, or a failure of the pool;
/// `y` then holds nothing of use.
#[allow(clippy::too_many_arguments)] // each is of a different kind and lifetime
pub fn linear(
    kernel: &dyn KernelSet,
    w: &Int8Matrix<'_>,
    bias: Option<&[f32]>,
    activations: Activations,
    x: &[f32],
    k: usize,
    y: &mut [f32],
    workspace: &mut Workspace,
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    let rows = w.rows();
    let tokens = x.len().checked_div(k).unwrap_or(0);
    let fits = k.div_ceil(BLOCK) == w.row_blocks()
        && x.len() == tokens * k
        && y.len() == tokens * rows
        && bias.is_none_or(|bias| bias.len() == rows);
    if !fits {
        return Err(KernelError::Shape(format!(
            "x has {} elements in rows of {k}, y {} and the bias {:?}: they need \
             [tokens, up to {}], [tokens, {rows}] and [{rows}]",
            x.len(),
            y.len(),
            bias.map(<[f32]>::len),
            w.row_blocks() * BLOCK
        )));
    }
    let (quantized, tiles) = (&mut workspace.x, &mut workspace.tiles);
    let bf16 = match activations {
        Activations::Int8 => kernel.bf16().filter(|bf16| tokens >= bf16.dense_from()),
        Activations::Float32 => None,
    };
    if let Some(bf16) = bf16 {
        let count = tokens.div_ceil(TILE_TOKENS);
        tiles.reset(count, w.row_blocks() * BLOCK, Order::Natural);
        let blocks = tiles.blocks();
        let writer = tiles.writer();
        run_parts(pool, cancel, count, |tile| {
            let first = tile * TILE_TOKENS * k;
            let rows = x[first..].chunks_exact(k).take(TILE_TOKENS);
            let rows: Vec<&[f32]> = rows.collect();
            // SAFETY: each tile is one part.
            unsafe { bf16.pack(&rows, &writer, tile, 0..blocks) };
        })?;
    } else if activations == Activations::Int8 {
        quantized.reset(tokens, k);
        let writer = quantized.writer();
        run_parts(pool, cancel, tokens.div_ceil(TOKEN_RUN), |part| {
            let first = part * TOKEN_RUN;
            for token in first..tokens.min(first + TOKEN_RUN) {
                // SAFETY: each token belongs to one part.
                unsafe { kernel.dense_quantize(&x[token * k..][..k], &writer, token) };
            }
        })?;
    }
    let run = if tokens <= FEW_TOKENS {
        RUN_FEW
    } else {
        RUN_MANY
    };
    let most = if bf16.is_some() {
        MAX_BF16_GROUP
    } else {
        MAX_GROUP
    };
    let groups = tokens.div_ceil(most);
    let y = Disjoint::new(y);
    run_parts(pool, cancel, rows.div_ceil(run) * groups, |part| {
        // All groups of a run follow each other: it is read from memory once.
        let first_row = part / groups * run;
        let first_token = part % groups * most;
        let here = first_row..rows.min(first_row + run);
        let tokens = first_token..tokens.min(first_token + most);
        with_scratch(here.len() * tokens.len(), |out| {
            match (activations, bf16) {
                (_, Some(bf16)) => {
                    let at = TokensAt {
                        tile: tokens.start / TILE_TOKENS,
                        len: tokens.len(),
                    };
                    bf16.dense(w, here.clone(), tiles, at, out);
                }
                (Activations::Int8, _) => {
                    kernel.dense_int8(w, here.clone(), quantized, tokens.clone(), out);
                }
                (Activations::Float32, _) => {
                    kernel.dense_float32(w, here.clone(), x, k, tokens.clone(), out);
                }
            }
            for (token, out) in tokens.zip(out.chunks_exact(here.len())) {
                let start = token * rows;
                // SAFETY: parts differ in rows or in tokens.
                let y = unsafe { y.slice(start + here.start..start + here.end) };
                y.copy_from_slice(out);
                if let Some(bias) = bias {
                    for (y, bias) in y.iter_mut().zip(&bias[here.clone()]) {
                        *y += bias;
                    }
                }
            }
        });
    })
}

#[cfg(test)]
mod tests;
