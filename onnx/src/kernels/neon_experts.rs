//! NEON for [`super::mxfp4`]: a block of 16 bytes an instruction.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::ops::Range;

use super::activations::{GROUP_BLOCKS, GROUP_BYTES, Int8Rows, block_offset};
use super::mxfp4::{BLOCK, BLOCK_BYTES, Matrix};
use super::neon_dot::{decode, dot, load_bytes, scale_values, transpose};
use super::neon_tile::{BYTES, LANES, Product, Tile, Token, many};
use super::tile::{Ahead, prefetch};

/// How far ahead of their use weights and scales are fetched, in bytes.
const PREFETCH: usize = 8192;
const PREFETCH_SCALES: usize = 1024;
/// Blocks of a step: as many exponents as a vector holds.
const STEP: usize = 16;
/// Groups of blocks of a step.
const GROUPS: usize = STEP / GROUP_BLOCKS;
/// Tokens that share one decoding of the weights; more are faster in tiles.
const TOKENS: usize = 2;

/// See [`super::KernelSet::int8`].
///
/// # Safety
/// The sizes have passed [`super::check`].
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn int8(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match *tokens {
            [token] => few(w, rows, x, [token], out),
            [first, second] => few(w, rows, x, [first, second], out),
            _ => many(&Experts { w, x, tokens }, rows, out),
        }
    }
}

const _: () = assert!(TOKENS == 2, "`int8` knows");

/// `T` tokens: two weight rows at once, read front to back.
///
/// # Safety
/// The sizes have passed [`super::check`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn few<const T: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: [u32; T],
    out: &mut [f32],
) {
    let width = rows.len();
    let mut row = rows.start;
    while row < rows.end {
        let out = &mut out[row - rows.start..];
        let pair = rows.end - row >= 2;
        // SAFETY: the caller's promise; row + R <= rows.end <= w.rows().
        unsafe {
            if pair {
                rows_times_tokens::<2, T>(w, row, x, tokens, out, width);
            } else {
                rows_times_tokens::<1, T>(w, row, x, tokens, out, width);
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

/// Where the rows of a product begin.
struct Operands<const R: usize, const T: usize> {
    weights: [*const u8; R],
    scales: [*const u8; R],
    data: [*const i8; T],
    half_scales: [*const f32; T],
}

/// Sums of products, four lanes each.
type Sums<const R: usize, const T: usize> = [[float32x4_t; T]; R];

/// `R` rows times `T` tokens, into rows of `out` that are `width` apart.
///
/// # Safety
/// `row + R <= w.rows()`, `x` has `w`'s row length, and `tokens` are rows of `x`.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn rows_times_tokens<const R: usize, const T: usize>(
    w: &Matrix<'_>,
    row: usize,
    x: &Int8Rows,
    tokens: [u32; T],
    out: &mut [f32],
    width: usize,
) {
    let operands = Operands::<R, T> {
        weights: std::array::from_fn(|r| w.row_bytes(row + r).as_ptr()),
        scales: std::array::from_fn(|r| w.row_scales(row + r).as_ptr()),
        data: tokens.map(|token| x.data(token as usize).as_ptr()),
        half_scales: tokens.map(|token| x.half_scales(token as usize).as_ptr()),
    };
    let blocks = w.row_blocks();
    let mut sums = [[vdupq_n_f32(0.0); T]; R];
    for block in (0..blocks).step_by(STEP) {
        // SAFETY: the steps cover each row once and do not leave it.
        unsafe { add_step(&operands, block, STEP.min(blocks - block), &mut sums) };
    }
    for t in 0..T {
        for r in 0..R {
            out[t * width + r] = vaddvq_f32(sums[r][t]);
        }
    }
}

/// Adds the products of `len` blocks from `block` on, at most `STEP`.
///
/// # Safety
/// The blocks are inside the rows, and `block` is a multiple of `STEP`.
/// Activations are padded to whole groups and their scales to whole steps.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_step<const R: usize, const T: usize>(
    operands: &Operands<R, T>,
    block: usize,
    len: usize,
    sums: &mut Sums<R, T>,
) {
    // SAFETY: the caller's promise; a group that is not whole is copied first.
    // Prefetches may point anywhere.
    unsafe {
        prefetch::<1>(operands.scales[0].wrapping_add(PREFETCH_SCALES + block * R));
        let scales: [_; R] =
            std::array::from_fn(|r| scale_values(load_bytes(operands.scales[r].add(block), len)));
        for group in 0..GROUPS {
            let first = group * GROUP_BLOCKS;
            if first >= len {
                break;
            }
            let at = block + first;
            let mut factors = [[vdupq_n_f32(0.0); T]; R];
            for t in 0..T {
                let own = vld1q_f32(operands.half_scales[t].add(at));
                for r in 0..R {
                    factors[r][t] = vmulq_f32(scales[r][group], own);
                }
            }
            for r in 0..R {
                let line = at * BLOCK_BYTES * R + r * GROUP_BLOCKS * BLOCK_BYTES;
                prefetch::<1>(operands.weights[0].wrapping_add(PREFETCH + line));
            }
            let mut codes = operands.weights.map(|row| row.add(at * BLOCK_BYTES));
            let mut copies = [[0u8; GROUP_BLOCKS * BLOCK_BYTES]; R];
            if len - first < GROUP_BLOCKS {
                for r in 0..R {
                    let copy = copies[r].as_mut_ptr();
                    codes[r].copy_to_nonoverlapping(copy, (len - first) * BLOCK_BYTES);
                    codes[r] = copy;
                }
            }
            let data = operands.data.map(|data| data.add(block_offset(at)));
            add_group(codes, data, &factors, sums);
        }
    }
}

/// Adds the products of four blocks, each lane of `factors` for one.
///
/// # Safety
/// All four blocks of weights and of activations are readable.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_group<const R: usize, const T: usize>(
    codes: [*const u8; R],
    data: [*const i8; T],
    factors: &Sums<R, T>,
    sums: &mut Sums<R, T>,
) {
    let zero = vdupq_n_s32(0);
    let mut products = [[[zero; GROUP_BLOCKS]; T]; R];
    for block in 0..GROUP_BLOCKS {
        // SAFETY: the caller's promise.
        unsafe {
            let even: [_; T] = std::array::from_fn(|t| vld1q_s8(data[t].add(block * BYTES)));
            let odd: [_; T] =
                std::array::from_fn(|t| vld1q_s8(data[t].add(block * BYTES + GROUP_BYTES / 2)));
            for r in 0..R {
                let [low, high] = decode(vld1q_u8(codes[r].add(block * BLOCK_BYTES)));
                for t in 0..T {
                    products[r][t][block] = dot(dot(zero, low, even[t]), high, odd[t]);
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            let [a, b, c, d] = products[r][t];
            let blocks = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            sums[r][t] = vfmaq_f32(sums[r][t], vcvtq_f32_s32(blocks), factors[r][t]);
        }
    }
}

/// A product for [`many`]: first the even, then the odd elements of a block.
struct Experts<'a> {
    w: &'a Matrix<'a>,
    x: &'a Int8Rows,
    tokens: &'a [u32],
}

impl Product for Experts<'_> {
    const BLOCK: usize = BLOCK;

    #[inline(always)]
    fn place(block: usize, part: usize) -> usize {
        block_offset(block) + part * (GROUP_BYTES / 2)
    }

    fn row_blocks(&self) -> usize {
        self.w.row_blocks()
    }

    fn tokens(&self) -> usize {
        self.tokens.len()
    }

    #[inline(always)]
    fn token(&self, i: usize) -> Token {
        let token = self.tokens[i] as usize;
        Token {
            data: self.x.data(token).as_ptr(),
            scales: self.x.half_scales(token).as_ptr(),
        }
    }

    #[inline(always)]
    unsafe fn unpack(&self, rows: Range<usize>, blocks: &Range<usize>, tile: *mut Tile, v: usize) {
        // Lanes without a row take the last one.
        let row = |lane: usize| rows.end.min(rows.start + lane + 1) - 1;
        let codes: [_; LANES] = std::array::from_fn(|lane| self.w.row_bytes(row(lane)).as_ptr());
        let scales: [_; LANES] = std::array::from_fn(|lane| self.w.row_scales(row(lane)).as_ptr());
        // SAFETY: loads are of these blocks; stores are to places of the tile,
        // which has room for 16 scales of a row.
        unsafe {
            for (local, block) in blocks.clone().enumerate() {
                let at = block * BLOCK_BYTES;
                let steps = transpose(codes.map(|row| vld1q_u8(row.add(at))));
                for (step, packed) in steps.into_iter().enumerate() {
                    let element = local * BLOCK + step * 4;
                    let [low, high] = decode(packed);
                    vst1q_s8(Tile::codes(tile, element, v), low);
                    vst1q_s8(Tile::codes(tile, element + BLOCK / 2, v), high);
                }
            }
            let exponents = scales.map(|row| load_bytes(row.add(blocks.start), blocks.len()));
            for (i, four) in interleave(exponents).into_iter().enumerate() {
                for (j, scale) in scale_values(four).into_iter().enumerate() {
                    vst1q_f32(Tile::scales(tile, i * 4 + j, v), scale);
                }
            }
        }
    }

    fn ahead(&self, rows: &Range<usize>, calls: usize) -> Ahead {
        Ahead::new(self.w, rows, calls)
    }
}

/// Four rows of 16 bytes as byte 0 of each row, then byte 1 of each, and so on.
#[inline]
#[target_feature(enable = "neon")]
fn interleave([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let (ac, bd) = (vzip1q_u8(a, c), vzip1q_u8(b, d));
    let (ac_high, bd_high) = (vzip2q_u8(a, c), vzip2q_u8(b, d));
    [
        vzip1q_u8(ac, bd),
        vzip2q_u8(ac, bd),
        vzip1q_u8(ac_high, bd_high),
        vzip2q_u8(ac_high, bd_high),
    ]
}
