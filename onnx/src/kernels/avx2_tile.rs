//! AVX2 for many tokens, like [`super::avx512_tile`] with eight lanes.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{GROUP_BYTES, Int8Rows, block_offset};
use super::avx2::{Products, decode, scale_values};
use super::mxfp4::{BLOCK_BYTES, Matrix};

/// Weight rows of a vector: one a 32-bit lane.
const LANES: usize = 8;
/// Vectors of weight rows computed together.
const VECTORS: usize = 2;
/// Vectors of weight rows of a tile.
const TILE_VECTORS: usize = 6;
/// Weight rows of a tile.
const TILE_ROWS: usize = TILE_VECTORS * LANES;
/// Blocks of a tile: 12 KiB of codes.
const TILE_BLOCKS: usize = 8;
/// Tokens computed together, as many as the registers allow.
const TOKENS: usize = 2;
/// Steps of four elements in a block.
const STEPS: usize = 8;
/// Bytes of a vector.
const BYTES: usize = 32;

/// An unpacked tile: codes `[vector, block, step, 32]`, scales `[vector, block, 8]`.
#[repr(align(64))]
struct Tile {
    codes: [u8; TILE_VECTORS * TILE_BLOCKS * STEPS * BYTES],
    scales: [f32; TILE_VECTORS * TILE_BLOCKS * LANES],
}

/// Many tokens. See [`super::ExpertKernel::int8`].
///
/// # Safety
/// The sizes have passed [`super::check`], and the processor has what `P` wants.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn many<P: Products>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
) {
    let mut memory = MaybeUninit::<Tile>::uninit();
    // SAFETY: `Tile` is made of numbers that `unpack` writes before `multiply`
    // reads them; it is only used through this pointer.
    let tile = memory.as_mut_ptr();
    let (width, row_blocks) = (rows.len(), w.row_blocks());
    for first_row in rows.clone().step_by(TILE_ROWS) {
        let here = first_row..rows.end.min(first_row + TILE_ROWS);
        for first in (0..row_blocks).step_by(TILE_BLOCKS) {
            let blocks = first..row_blocks.min(first + TILE_BLOCKS);
            // SAFETY: `here` and `blocks` are in range and fit in the tile.
            unsafe { unpack(w, &here, blocks.clone(), tile) };
            for (i, tokens) in tokens.chunks(TOKENS).enumerate() {
                for v in (0..here.len().div_ceil(LANES)).step_by(VECTORS) {
                    let lanes = (here.len() - v * LANES).min(VECTORS * LANES);
                    let column = first_row - rows.start + v * LANES;
                    let start = i * TOKENS * width + column;
                    let end = start + (tokens.len() - 1) * width + lanes;
                    let out = &mut out[start..end];
                    // SAFETY: the tile holds `blocks` of the vectors of `here`.
                    unsafe {
                        match (tokens.len(), lanes > LANES) {
                            (1, false) => {
                                multiply::<P, 1, 1>(tile, v, &blocks, x, tokens, out, width, lanes)
                            }
                            (1, true) => {
                                multiply::<P, 1, 2>(tile, v, &blocks, x, tokens, out, width, lanes)
                            }
                            (_, false) => multiply::<P, TOKENS, 1>(
                                tile, v, &blocks, x, tokens, out, width, lanes,
                            ),
                            (_, true) => multiply::<P, TOKENS, 2>(
                                tile, v, &blocks, x, tokens, out, width, lanes,
                            ),
                        }
                    }
                }
            }
        }
    }
}

/// Unpacks `blocks` of `rows` into `tile`. Lanes beyond `rows` repeat the last
/// row; nobody uses their sums.
///
/// # Safety
/// `rows` and `blocks` are inside `w`, not empty, and fit in the tile.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack(w: &Matrix<'_>, rows: &Range<usize>, blocks: Range<usize>, tile: *mut Tile) {
    // SAFETY: rows are clamped to `rows`, so that each load of 16 bytes is a
    // block of the matrix; each store is one of `tile`'s places.
    unsafe {
        let codes = (&raw mut (*tile).codes).cast::<u8>();
        let scales = (&raw mut (*tile).scales).cast::<f32>();
        let row_bytes = w.row_blocks() * BLOCK_BYTES;
        for v in 0..rows.len().div_ceil(LANES) {
            let row = |lane: usize| (rows.start + v * LANES + lane).min(rows.end - 1);
            let starts: [*const u8; LANES] = std::array::from_fn(|lane| {
                w.blocks()
                    .as_ptr()
                    .add(row(lane) * row_bytes + blocks.start * BLOCK_BYTES)
            });
            let exponents: [&[u8]; LANES] =
                std::array::from_fn(|lane| &w.row_scales(row(lane))[blocks.clone()]);
            for block in 0..blocks.len() {
                let first = v * TILE_BLOCKS + block;
                let quads = transpose(&starts, block * BLOCK_BYTES);
                for (step, quad) in quads.into_iter().enumerate() {
                    let (low, high) = decode(quad);
                    let place = codes.add((first * STEPS + step) * BYTES);
                    _mm256_store_si256(place.cast(), low);
                    _mm256_store_si256(place.add(STEPS / 2 * BYTES).cast(), high);
                }
                let bytes = u64::from_le_bytes(exponents.map(|row| row[block]));
                _mm256_store_ps(scales.add(first * LANES), scale_values(bytes));
            }
        }
    }
}

/// The 16 bytes at `offset` of eight rows as four vectors: dword `i` of each row.
///
/// # Safety
/// 16 bytes are readable at `offset` of each pointer.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose(rows: &[*const u8; LANES], offset: usize) -> [__m256i; 4] {
    let gather = |i: usize| {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm_loadu_si128(rows[i].add(offset).cast());
            let high = _mm_loadu_si128(rows[4 + i].add(offset).cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
        }
    };
    let (a, b, c, d) = (gather(0), gather(1), gather(2), gather(3));
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// `T` tokens times `V` vectors of weight rows from `vector` on: sets `out` for
/// the first blocks of the rows, adds to it for the others.
///
/// # Safety
/// The tile holds `blocks` of these vectors, of which `lanes` lanes count;
/// `out` holds `(T - 1) * width + lanes` elements; `tokens` are `T` rows of
/// `x`; the processor has what `P` wants.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::too_many_arguments)]
unsafe fn multiply<P: Products, const T: usize, const V: usize>(
    tile: *const Tile,
    vector: usize,
    blocks: &Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
    width: usize,
    lanes: usize,
) {
    let tokens: [usize; T] = std::array::from_fn(|t| tokens[t] as usize);
    let data = tokens.map(|token| x.data(token).as_ptr());
    let half_scales = tokens.map(|token| x.half_scales(token).as_ptr());
    let corrections = tokens.map(|token| x.corrections(token).as_ptr());
    let masks: [__m256i; V] = std::array::from_fn(|v| {
        let left = lanes - (v * LANES).min(lanes);
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(left as i32), lane)
    });
    let out = out.as_mut_ptr();
    // SAFETY: `blocks` are in the tile and in every row of `x`; masks keep
    // the accesses to `out` inside.
    unsafe {
        let codes = (&raw const (*tile).codes).cast::<u8>();
        let scales = (&raw const (*tile).scales).cast::<f32>();
        let mut sums = [[_mm256_setzero_ps(); V]; T];
        if blocks.start > 0 {
            for t in 0..T {
                for v in 0..V {
                    sums[t][v] = _mm256_maskload_ps(out.add(t * width + v * LANES), masks[v]);
                }
            }
        }
        for block in blocks.clone() {
            let local = block - blocks.start;
            let mut products: [[__m256i; V]; T] =
                std::array::from_fn(|t| [_mm256_set1_epi32(*corrections[t].add(block)); V]);
            for half in 0..2 {
                let mut partial = [[_mm256_setzero_si256(); V]; T];
                for step in 0..STEPS / 2 {
                    let offset = block_offset(block) + half * (GROUP_BYTES / 2) + step * 4;
                    let four: [__m256i; T] = std::array::from_fn(|t| {
                        _mm256_set1_epi32(data[t].add(offset).cast::<i32>().read_unaligned())
                    });
                    for v in 0..V {
                        let first = (vector + v) * TILE_BLOCKS + local;
                        let place = (first * STEPS + half * (STEPS / 2) + step) * BYTES;
                        let weights = _mm256_load_si256(codes.add(place).cast());
                        for t in 0..T {
                            partial[t][v] = P::add(partial[t][v], weights, four[t]);
                        }
                    }
                }
                for t in 0..T {
                    for v in 0..V {
                        products[t][v] = _mm256_add_epi32(products[t][v], P::widen(partial[t][v]));
                    }
                }
            }
            for v in 0..V {
                let place = ((vector + v) * TILE_BLOCKS + local) * LANES;
                let scale = _mm256_load_ps(scales.add(place));
                for t in 0..T {
                    let own = _mm256_set1_ps(*half_scales[t].add(block));
                    let factor = _mm256_mul_ps(scale, own);
                    sums[t][v] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[t][v]), factor, sums[t][v]);
                }
            }
        }
        for t in 0..T {
            for v in 0..V {
                _mm256_maskstore_ps(out.add(t * width + v * LANES), masks[v], sums[t][v]);
            }
        }
    }
}
