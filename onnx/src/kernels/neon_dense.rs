//! NEON for [`super::dense`]: a quarter of a block of 64 weights an instruction.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::ops::Range;

use super::dense::{BLOCK, DenseRows, FEW_TOKENS, Int8Matrix, ZERO_POINT};
use super::neon_dot::{dot, transpose};
use super::neon_tile::{BYTES, LANES, Product, Tile, Token, many};
use super::tile::{Ahead, prefetch};

/// How far ahead of their use weights are fetched, in bytes.
const PREFETCH: usize = 8192;
/// Vectors of a block.
const PARTS: usize = BLOCK / BYTES;

/// See [`super::KernelSet::dense_int8`].
///
/// # Safety
/// The sizes have passed [`super::dense::check`].
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn int8(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match tokens.len() {
            0 => {}
            1 => few::<1>(w, rows, x, tokens.start, out),
            2 => few::<2>(w, rows, x, tokens.start, out),
            3 => few::<3>(w, rows, x, tokens.start, out),
            4 => few::<4>(w, rows, x, tokens.start, out),
            _ => many(&Dense { w, x, tokens }, rows, out),
        }
    }
}

const _: () = assert!(FEW_TOKENS == 4, "few tokens are one pass over the weights");

/// `T` tokens from `token` on: two weight rows at once, read front to back.
///
/// # Safety
/// The sizes have passed [`super::dense::check`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn few<const T: usize>(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    token: usize,
    out: &mut [f32],
) {
    let width = rows.len();
    let mut row = rows.start;
    while row < rows.end {
        let out = &mut out[row - rows.start..];
        let pair = rows.end - row >= 2;
        // SAFETY: the caller's promise; row + R <= rows.end.
        unsafe {
            if pair {
                rows_times_tokens::<2, T>(w, row, x, token, out, width);
            } else {
                rows_times_tokens::<1, T>(w, row, x, token, out, width);
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

/// `R` rows times `T` tokens from `token` on, to `out[t * width + r]`.
///
/// # Safety
/// `row + R <= w.rows()`, `token + T <= x.rows()`, and rows are equally long.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn rows_times_tokens<const R: usize, const T: usize>(
    w: &Int8Matrix<'_>,
    row: usize,
    x: &DenseRows,
    token: usize,
    out: &mut [f32],
    width: usize,
) {
    let weights: [_; R] = std::array::from_fn(|r| w.row_weights(row + r).as_ptr());
    let scales: [_; R] = std::array::from_fn(|r| w.row_scales(row + r).as_ptr());
    let data: [_; T] = std::array::from_fn(|t| x.data(token + t).as_ptr());
    let own: [_; T] = std::array::from_fn(|t| x.scales(token + t).as_ptr());
    let mut sums = [[vdupq_n_f32(0.0); T]; R];
    for block in 0..w.row_blocks() {
        let mut products = [[vdupq_n_s32(0); T]; R];
        // SAFETY: every row has this block: 64 bytes and one scale. Prefetches
        // may point anywhere.
        unsafe {
            for r in 0..R {
                prefetch::<1>(weights[0].wrapping_add(PREFETCH + (block * R + r) * BLOCK));
            }
            for part in 0..PARTS {
                let at = block * BLOCK + part * BYTES;
                let w: [_; R] = std::array::from_fn(|r| signed(vld1q_u8(weights[r].add(at))));
                for t in 0..T {
                    let q = vld1q_s8(data[t].add(at));
                    for r in 0..R {
                        products[r][t] = dot(products[r][t], w[r], q);
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    let factor = *scales[r].add(block) * *own[t].add(block);
                    let products = vcvtq_f32_s32(products[r][t]);
                    sums[r][t] = vfmaq_n_f32(sums[r][t], products, factor);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            out[t * width + r] = vaddvq_f32(sums[r][t]);
        }
    }
}

/// Bytes around 128 as bytes around zero.
#[inline]
#[target_feature(enable = "neon")]
fn signed(bytes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(ZERO_POINT)))
}

/// A product for [`many`].
struct Dense<'a> {
    w: &'a Int8Matrix<'a>,
    x: &'a DenseRows,
    tokens: Range<usize>,
}

impl Product for Dense<'_> {
    const BLOCK: usize = BLOCK;

    #[inline(always)]
    fn place(block: usize, part: usize) -> usize {
        block * BLOCK + part * BYTES
    }

    fn row_blocks(&self) -> usize {
        self.w.row_blocks()
    }

    fn tokens(&self) -> usize {
        self.tokens.len()
    }

    #[inline(always)]
    fn token(&self, i: usize) -> Token {
        let token = self.tokens.start + i;
        Token {
            data: self.x.data(token).as_ptr(),
            scales: self.x.scales(token).as_ptr(),
        }
    }

    #[inline(always)]
    unsafe fn unpack(&self, rows: Range<usize>, blocks: &Range<usize>, tile: *mut Tile, v: usize) {
        // Lanes without a row take the last one.
        let row = |lane: usize| rows.end.min(rows.start + lane + 1) - 1;
        let weights: [_; LANES] =
            std::array::from_fn(|lane| self.w.row_weights(row(lane)).as_ptr());
        let scales: [_; LANES] = std::array::from_fn(|lane| self.w.row_scales(row(lane)).as_ptr());
        for (local, block) in blocks.clone().enumerate() {
            // SAFETY: loads are of this block of these rows; stores are to
            // places of the tile.
            unsafe {
                for part in 0..PARTS {
                    let at = block * BLOCK + part * BYTES;
                    let steps = transpose(weights.map(|row| vld1q_u8(row.add(at))));
                    for (step, bytes) in steps.into_iter().enumerate() {
                        let element = local * BLOCK + part * BYTES + step * 4;
                        vst1q_s8(Tile::codes(tile, element, v), signed(bytes));
                    }
                }
                let scales = scales.map(|row| *row.add(block));
                vst1q_f32(Tile::scales(tile, local, v), vld1q_f32(scales.as_ptr()));
            }
        }
    }

    fn ahead(&self, rows: &Range<usize>, calls: usize) -> Ahead {
        let bytes = rows.len() * self.w.row_blocks() * BLOCK;
        let last = rows.end - 1;
        Ahead::from(
            self.w.row_weights(last).as_ptr_range().end,
            self.w.row_scales(last).as_ptr_range().end.cast(),
            bytes,
            calls,
        )
    }
}
