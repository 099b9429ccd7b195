//! AVX-512 with VNNI for [`super::dense`]: a block of 64 weights an instruction.
//!
//! `vpdpbusd` takes the weights as they are stored, unsigned, and the signed
//! activations; starting from `-128 * sum(activations)` cancels the zero point.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512_tile::{add_eight_steps, transpose};
use super::dense::{self, BLOCK, DenseRows, DenseWriter, FEW_TOKENS, Int8Matrix};
use super::tile::prefetch;

/// How far ahead of their use weights are fetched, in bytes, in address order
/// across the rows computed together; and scales.
const PREFETCH: usize = 8192;
const PREFETCH_SCALES: usize = 512;

/// See [`super::KernelSet::dense_int8`].
///
/// # Safety
/// The sizes have passed [`dense::check`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn int8<const LEVEL: usize>(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if tokens.len() <= FEW_TOKENS {
            few::<LEVEL>(w, rows, x, tokens, out);
        } else {
            many(w, rows, x, tokens, out);
        }
    }
}

/// See [`super::KernelSet::dense_float32`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) fn float32(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &[f32],
    k: usize,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    dense::float32(w, rows, x, k, tokens, out);
}

/// See [`super::KernelSet::dense_quantize`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn quantize(x: &[f32], into: &DenseWriter<'_>, row: usize) {
    // SAFETY: the caller's promise.
    unsafe { dense::quantize(x, into, row) };
}

/// Few tokens: two weight rows at once, read front to back.
///
/// # Safety
/// As [`int8`]; at most `FEW_TOKENS` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn few<const LEVEL: usize>(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let first = tokens.start;
    let mut row = rows.start;
    while row < rows.end {
        let pair = rows.end - row >= 2;
        let place = (row - rows.start, rows.len());
        // SAFETY: the caller's promise; row + R <= rows.end.
        unsafe {
            match (pair, tokens.len()) {
                (_, 0) => {}
                (true, 1) => dot::<2, 1, LEVEL>(w, row, x, first, place, out),
                (true, 2) => dot::<2, 2, LEVEL>(w, row, x, first, place, out),
                (true, 3) => dot::<2, 3, LEVEL>(w, row, x, first, place, out),
                (true, _) => dot::<2, FEW_TOKENS, LEVEL>(w, row, x, first, place, out),
                (false, 1) => dot::<1, 1, LEVEL>(w, row, x, first, place, out),
                (false, 2) => dot::<1, 2, LEVEL>(w, row, x, first, place, out),
                (false, 3) => dot::<1, 3, LEVEL>(w, row, x, first, place, out),
                (false, _) => dot::<1, FEW_TOKENS, LEVEL>(w, row, x, first, place, out),
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

/// `R` rows times `T` tokens from `token` on; `(column, width)` of `out`.
///
/// # Safety
/// `row + R <= w.rows()`, `token + T <= x.rows()`, rows are equally long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn dot<const R: usize, const T: usize, const LEVEL: usize>(
    w: &Int8Matrix<'_>,
    row: usize,
    x: &DenseRows,
    token: usize,
    (column, width): (usize, usize),
    out: &mut [f32],
) {
    let weights: [*const u8; R] = std::array::from_fn(|r| w.row_weights(row + r).as_ptr());
    let scales: [*const f32; R] = std::array::from_fn(|r| w.row_scales(row + r).as_ptr());
    let data: [*const i8; T] = std::array::from_fn(|t| x.data(token + t).as_ptr());
    let own: [*const f32; T] = std::array::from_fn(|t| x.scales(token + t).as_ptr());
    let starts: [*const i32; T] = std::array::from_fn(|t| x.lane_corrections(token + t).as_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    for block in 0..w.row_blocks() {
        // SAFETY: every row has this block: 64 bytes, one scale, 16
        // corrections, activations aligned to 64 bytes. Prefetches may point
        // anywhere.
        unsafe {
            let mut values = [_mm512_setzero_si512(); R];
            for r in 0..R {
                let ahead = weights[0].wrapping_add(PREFETCH + (block * R + r) * BLOCK);
                prefetch::<LEVEL>(ahead.cast());
                values[r] = _mm512_loadu_si512(weights[r].add(block * BLOCK).cast());
            }
            if block % 8 == 0 {
                let ahead = scales[0].wrapping_add(PREFETCH_SCALES / 4 + block * R);
                prefetch::<LEVEL>(ahead.cast());
            }
            for t in 0..T {
                let q = _mm512_load_si512(data[t].add(block * BLOCK).cast());
                let start = _mm512_load_si512(starts[t].add(block * dense::LANES).cast());
                let scale = _mm512_set1_ps(*own[t].add(block));
                for r in 0..R {
                    let sum = _mm512_dpbusd_epi32(start, values[r], q);
                    let factor = _mm512_mul_ps(_mm512_set1_ps(*scales[r].add(block)), scale);
                    sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, sums[r][t]);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            out[t * width + column + r] = _mm512_reduce_add_ps(sums[r][t]);
        }
    }
}

/// Weight rows of a vector: one a 32-bit lane.
const LANES: usize = 16;
/// Vectors of weight rows computed together.
const VECTORS: usize = 3;
/// Weight rows of a tile.
const TILE_ROWS: usize = VECTORS * LANES;
/// Blocks of a tile: 24 KiB of weights, which stay in the first-level cache.
const TILE_BLOCKS: usize = 8;
/// Steps of four elements in a block.
const STEPS: usize = BLOCK / 4;
/// Tokens computed together.
const TOKENS: usize = 4;

/// A tile: weights `[block, step, vector, 16 rows, 4]`, scales `[block, vector, 16]`.
#[repr(align(64))]
struct Tile {
    weights: [u8; TILE_BLOCKS * STEPS * TILE_ROWS * 4],
    scales: [f32; TILE_BLOCKS * TILE_ROWS],
}

/// Many tokens: a tile of weights is transposed once, into the first-level
/// cache, and meets all tokens there.
///
/// # Safety
/// As [`int8`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn many(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let mut memory = MaybeUninit::<Tile>::uninit();
    // SAFETY: `Tile` is made of numbers that `transpose_tile` writes before
    // `multiply` reads them; it is only used through this pointer.
    let tile = memory.as_mut_ptr();
    let width = rows.len();
    for first_row in rows.clone().step_by(TILE_ROWS) {
        let here = first_row..rows.end.min(first_row + TILE_ROWS);
        let column = first_row - rows.start;
        for first_block in (0..w.row_blocks()).step_by(TILE_BLOCKS) {
            let blocks = first_block..w.row_blocks().min(first_block + TILE_BLOCKS);
            // SAFETY: rows and blocks are inside `w` and `x`.
            unsafe { transpose_tile(w, &here, &blocks, tile) };
            for first in tokens.clone().step_by(TOKENS) {
                let start = (first - tokens.start) * width + column;
                let out = &mut out[start..];
                let tile: *const Tile = tile;
                let to = (out, width, here.len());
                // SAFETY: as above; `out` begins at the first row of the first token.
                unsafe {
                    match tokens.end - first {
                        1 => multiply::<1>(tile, &blocks, x, first, to),
                        2 => multiply::<2>(tile, &blocks, x, first, to),
                        3 => multiply::<3>(tile, &blocks, x, first, to),
                        _ => multiply::<TOKENS>(tile, &blocks, x, first, to),
                    }
                }
            }
        }
    }
}

/// Fills `tile` with `blocks` of `rows`, at most `TILE_ROWS`. Lanes beyond
/// repeat the last row.
///
/// # Safety
/// `rows`, at least one, and `blocks` are inside `w`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transpose_tile(
    w: &Int8Matrix<'_>,
    rows: &Range<usize>,
    blocks: &Range<usize>,
    tile: *mut Tile,
) {
    for v in 0..VECTORS {
        let row = |lane: usize| (rows.start + v * LANES + lane).min(rows.end - 1);
        let weights: [*const u8; LANES] =
            std::array::from_fn(|lane| w.row_weights(row(lane)).as_ptr());
        let scales: [&[f32]; LANES] = std::array::from_fn(|lane| w.row_scales(row(lane)));
        for (local, block) in blocks.clone().enumerate() {
            // SAFETY: loads are of the caller's blocks, stores inside the tile.
            unsafe {
                for quarter in 0..4 {
                    let quads = transpose(|lane| {
                        let at = weights[lane].add(block * BLOCK + quarter * 16);
                        _mm_loadu_si128(at.cast())
                    });
                    for (i, quad) in quads.into_iter().enumerate() {
                        let step = local * STEPS + quarter * 4 + i;
                        let at = (&raw mut (*tile).weights).cast::<u8>();
                        _mm512_store_si512(at.add((step * VECTORS + v) * 64).cast(), quad);
                    }
                }
                for lane in 0..LANES {
                    (*tile).scales[(local * VECTORS + v) * LANES + lane] = scales[lane][block];
                }
            }
        }
    }
}

/// `T` tokens from `first` on times the tile: sets `out` for the first blocks
/// of the rows, adds to it for the others. `to` is `out` from the tile's first
/// row on, its width, and how many rows of the tile count.
///
/// # Safety
/// The tile holds `blocks`; `out` holds `(T - 1) * width + rows` elements;
/// `first + T <= x.rows()`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn multiply<const T: usize>(
    tile: *const Tile,
    blocks: &Range<usize>,
    x: &DenseRows,
    first: usize,
    (out, width, rows): (&mut [f32], usize, usize),
) {
    assert!(out.len() >= (T - 1) * width + rows);
    let data: [*const i8; T] = std::array::from_fn(|t| x.data(first + t).as_ptr());
    let own: [*const f32; T] = std::array::from_fn(|t| x.scales(first + t).as_ptr());
    let starts: [*const i32; T] = std::array::from_fn(|t| x.corrections(first + t).as_ptr());
    let masks: [__mmask16; VECTORS] = std::array::from_fn(|v| {
        let lanes = rows - (v * LANES).min(rows);
        if lanes >= LANES { !0 } else { (1 << lanes) - 1 }
    });
    let out = out.as_mut_ptr();
    // SAFETY: `blocks` are in the tile and in every row of `x`; masks keep the
    // accesses to `out` inside.
    unsafe {
        let weights = (&raw const (*tile).weights).cast::<u8>();
        let scales = (&raw const (*tile).scales).cast::<f32>();
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; T];
        if blocks.start > 0 {
            for t in 0..T {
                for v in 0..VECTORS {
                    let at = out.wrapping_add(t * width + v * LANES);
                    sums[t][v] = _mm512_maskz_loadu_ps(masks[v], at);
                }
            }
        }
        for (local, block) in blocks.clone().enumerate() {
            let mut products: [[__m512i; VECTORS]; T] =
                std::array::from_fn(|t| [_mm512_set1_epi32(*starts[t].add(block)); VECTORS]);
            let data = data.map(|data| data.add(block * BLOCK));
            let weights = weights.add(local * STEPS * VECTORS * 64);
            if T == TOKENS {
                let products = &mut *(&raw mut products).cast::<[[__m512i; VECTORS]; TOKENS]>();
                let data = &*(&raw const data).cast::<[*const i8; TOKENS]>();
                add_eight_steps::<false>(weights, data, products);
                let data = data.map(|data| data.add(BLOCK / 2));
                add_eight_steps::<false>(weights.add(STEPS / 2 * VECTORS * 64), &data, products);
            } else {
                for step in 0..STEPS {
                    for t in 0..T {
                        let four = data[t].add(4 * step).cast::<i32>().read_unaligned();
                        let four = _mm512_set1_epi32(four);
                        for v in 0..VECTORS {
                            let at = weights.add((step * VECTORS + v) * 64);
                            let w = _mm512_load_si512(at.cast());
                            products[t][v] = _mm512_dpbusd_epi32(products[t][v], w, four);
                        }
                    }
                }
            }
            for v in 0..VECTORS {
                let scale = _mm512_load_ps(scales.add((local * VECTORS + v) * LANES));
                for t in 0..T {
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(*own[t].add(block)));
                    let product = _mm512_cvtepi32_ps(products[t][v]);
                    sums[t][v] = _mm512_fmadd_ps(product, factor, sums[t][v]);
                }
            }
        }
        for t in 0..T {
            for v in 0..VECTORS {
                let at = out.wrapping_add(t * width + v * LANES);
                _mm512_mask_storeu_ps(at, masks[v], sums[t][v]);
            }
        }
    }
}
