//! AVX2 for many tokens, like [`super::avx512_tile`] with eight lanes.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{GROUP_BYTES, Int8Rows, block_offset};
use super::avx2::{decode, load_scales, scale_values};
use super::avx2_products::Products;
use super::mxfp4::{BLOCK_BYTES, Matrix};
use super::tile::{Ahead, Spare};

/// Weight rows of a vector: one a 32-bit lane.
const LANES: usize = 8;
/// Vectors of weight rows computed together: with one token, their sums of
/// three kinds stay in 16 registers.
const VECTORS: usize = 4;
/// Weight rows of a tile.
const TILE_ROWS: usize = VECTORS * LANES;
/// Blocks of a tile: 16 KiB of codes.
const TILE_BLOCKS: usize = 16;
/// Steps of four elements in a block.
const STEPS: usize = 8;
/// Bytes of a vector.
const BYTES: usize = 32;

/// An unpacked tile: codes `[block, step, vector, 32]`, scales `[block, vector, 8]`.
#[repr(align(64))]
struct Tile {
    codes: [u8; VECTORS * TILE_BLOCKS * STEPS * BYTES],
    scales: [f32; VECTORS * TILE_BLOCKS * LANES],
}

/// Many tokens. See [`super::KernelSet::int8`].
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
        let calls = row_blocks.div_ceil(TILE_BLOCKS) * tokens.len();
        let mut ahead = Ahead::new(w, &here, calls);
        for first in (0..row_blocks).step_by(TILE_BLOCKS) {
            let blocks = first..row_blocks.min(first + TILE_BLOCKS);
            // SAFETY: `here` and `blocks` are in range and fit in the tile.
            unsafe { unpack(w, &here, &blocks, tile) };
            for (i, &token) in tokens.iter().enumerate() {
                ahead.fetch();
                let out = &mut out[i * width + first_row - rows.start..][..here.len()];
                let x = (x, token as usize);
                // SAFETY: the tile holds `blocks` of `here`.
                unsafe {
                    match here.len().div_ceil(LANES) {
                        1 => multiply::<P, 1>(tile, &blocks, x, out),
                        2 => multiply::<P, 2>(tile, &blocks, x, out),
                        3 => multiply::<P, 3>(tile, &blocks, x, out),
                        _ => multiply::<P, VECTORS>(tile, &blocks, x, out),
                    }
                }
            }
        }
    }
}

/// Unpacks `blocks` of `rows` into `tile`. Lanes beyond `rows` hold zeros.
///
/// # Safety
/// `rows` and `blocks` are inside `w`, and fit in the tile.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack(w: &Matrix<'_>, rows: &Range<usize>, blocks: &Range<usize>, tile: *mut Tile) {
    let row_blocks = w.row_blocks();
    for v in 0..rows.len().div_ceil(LANES) {
        let first = rows.start + v * LANES;
        // SAFETY: eight rows of `w`, or of `spare`, from a block on.
        unsafe {
            if first + LANES <= rows.end {
                let start = first * row_blocks + blocks.start;
                let codes = w.blocks().as_ptr().add(start * BLOCK_BYTES);
                let scales = w.scales().as_ptr().add(start);
                unpack_vector(codes, scales, row_blocks, blocks.len(), tile, v);
            } else {
                let spare = Spare::<LANES, TILE_BLOCKS>::new(w, first..rows.end, blocks);
                let codes = (&raw const spare.codes).cast::<u8>();
                let scales = (&raw const spare.scales).cast::<u8>();
                unpack_vector(codes, scales, TILE_BLOCKS, blocks.len(), tile, v);
            }
        }
    }
}

/// Unpacks `len` blocks of eight rows that are `row_blocks` blocks apart, as
/// the tile's vector `v`.
///
/// # Safety
/// These blocks and scales are readable; `len <= TILE_BLOCKS`, `v < VECTORS`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack_vector(
    codes: *const u8,
    scales: *const u8,
    row_blocks: usize,
    len: usize,
    tile: *mut Tile,
    v: usize,
) {
    let stride = row_blocks * BLOCK_BYTES;
    // SAFETY: loads are of the caller's blocks and scales; each store is one
    // of the tile's places.
    unsafe {
        let place = (&raw mut (*tile).codes).cast::<u8>();
        for block in 0..len {
            let start = codes.add(block * BLOCK_BYTES);
            let (low_rows, high_rows) = (start, start.add(4 * stride));
            let quads = transpose(|i| {
                let low = _mm_loadu_si128(low_rows.add(i * stride).cast());
                let high = _mm_loadu_si128(high_rows.add(i * stride).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
            });
            for (step, quad) in quads.into_iter().enumerate() {
                let (low, high) = decode(quad);
                let place = place.add(((block * STEPS + step) * VECTORS + v) * BYTES);
                _mm256_store_si256(place.cast(), low);
                _mm256_store_si256(place.add(STEPS / 2 * VECTORS * BYTES).cast(), high);
            }
        }
        let place = (&raw mut (*tile).scales).cast::<f32>();
        for first in (0..len).step_by(8) {
            let scales = scales.add(first);
            let load = |lane| load_scales(scales.add(lane * row_blocks), len - first);
            let exponents = transpose_bytes(load);
            for (block, exponents) in (first..len).zip(exponents) {
                let place = place.add((block * VECTORS + v) * LANES);
                _mm256_store_ps(place, scale_values(exponents));
            }
        }
    }
}

/// 16 bytes of each of eight rows as four vectors: dword `i` of each row.
/// `load(i)` gives rows `i` and `4 + i` in its halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(load: impl Fn(usize) -> __m256i) -> [__m256i; 4] {
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Eight bytes of each of eight rows as eight words: byte `i` of each row.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_bytes(load: impl Fn(usize) -> u64) -> [u64; 8] {
    let pair = |i: usize| {
        let (a, b) = (load(i) as i64, load(i + 1) as i64);
        _mm_unpacklo_epi8(_mm_cvtsi64_si128(a), _mm_cvtsi64_si128(b))
    };
    let (a, b, c, d) = (pair(0), pair(2), pair(4), pair(6));
    let (ab, cd) = (_mm_unpacklo_epi16(a, b), _mm_unpacklo_epi16(c, d));
    let (ab_high, cd_high) = (_mm_unpackhi_epi16(a, b), _mm_unpackhi_epi16(c, d));
    let words = |v| {
        [
            _mm_cvtsi128_si64(v) as u64,
            _mm_extract_epi64::<1>(v) as u64,
        ]
    };
    let [x0, x1] = words(_mm_unpacklo_epi32(ab, cd));
    let [x2, x3] = words(_mm_unpackhi_epi32(ab, cd));
    let [x4, x5] = words(_mm_unpacklo_epi32(ab_high, cd_high));
    let [x6, x7] = words(_mm_unpackhi_epi32(ab_high, cd_high));
    [x0, x1, x2, x3, x4, x5, x6, x7]
}

/// One token times the tile's `V` vectors of weight rows: sets `out` for the
/// first blocks of the rows, adds to it for the others.
///
/// # Safety
/// The tile holds `blocks` of `V` vectors, of which the lanes of `out` count;
/// `token` is a row of `x`; the processor has what `P` wants.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<P: Products, const V: usize>(
    tile: *const Tile,
    blocks: &Range<usize>,
    (x, token): (&Int8Rows, usize),
    out: &mut [f32],
) {
    let data = x.data(token).as_ptr();
    let masks: [__m256i; V] = std::array::from_fn(|v| {
        let left = out.len() - (v * LANES).min(out.len());
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(left as i32), lane)
    });
    let out = out.as_mut_ptr();
    // SAFETY: `blocks` are in the tile and in the row of `x`; masks keep the
    // accesses to `out` inside.
    unsafe {
        let codes = (&raw const (*tile).codes).cast::<u8>();
        let scales = (&raw const (*tile).scales).cast::<f32>();
        let mut sums = [_mm256_setzero_ps(); V];
        if blocks.start > 0 {
            sums = std::array::from_fn(|v| _mm256_maskload_ps(out.add(v * LANES), masks[v]));
        }
        for block in blocks.clone() {
            let local = block - blocks.start;
            let mut products = [_mm256_set1_epi32(x.corrections(token)[block]); V];
            let weights = codes.add(local * STEPS * VECTORS * BYTES);
            P::add_block(weights, data.add(block_offset(block)), &mut products);
            let own = _mm256_set1_ps(x.half_scales(token)[block]);
            for v in 0..V {
                let scale = _mm256_load_ps(scales.add((local * VECTORS + v) * LANES));
                let factor = _mm256_mul_ps(scale, own);
                sums[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[v]), factor, sums[v]);
            }
        }
        for v in 0..V {
            _mm256_maskstore_ps(out.add(v * LANES), masks[v], sums[v]);
        }
    }
}

/// Adds the products of one block of a tile, eight steps of four elements.
///
/// # Safety
/// `weights` are the block's `STEPS` by `VECTORS` vectors, aligned, of which `V`
/// count; `data` the block's even elements, the odd ones half a group behind;
/// the processor has what `P` wants.
#[inline(always)]
pub(super) unsafe fn add_block_any<P: Products, const V: usize>(
    weights: *const u8,
    data: *const i8,
    products: &mut [__m256i; V],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            let mut partial = [_mm256_setzero_si256(); V];
            for step in 0..STEPS / 2 {
                let offset = half * (GROUP_BYTES / 2) + step * 4;
                let four = data.add(offset).cast::<i32>().read_unaligned();
                let four = _mm256_set1_epi32(four);
                for v in 0..V {
                    let step = half * (STEPS / 2) + step;
                    let place = weights.add((step * VECTORS + v) * BYTES);
                    partial[v] = P::add(partial[v], _mm256_load_si256(place.cast()), four);
                }
            }
            for v in 0..V {
                products[v] = _mm256_add_epi32(products[v], P::widen(partial[v]));
            }
        }
    }
}

/// [`add_block_any`] by `vpmaddubsw` for four vectors, as assembly: compilers
/// hoist the loads and then have no registers left for the sums.
///
/// # Safety
/// As [`add_block_any`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_block_maddubs(
    weights: *const u8,
    data: *const i8,
    products: &mut [__m256i; 4],
) {
    macro_rules! step {
        (first $weights:literal, $data:literal) => {
            concat!(
                "vpbroadcastd {x}, dword ptr [{d} + ",
                $data,
                "]\n",
                "vmovdqa {p0}, ymmword ptr [{w} + 128 * ",
                $weights,
                "]\n",
                "vmovdqa {p1}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 32]\n",
                "vmovdqa {p2}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 64]\n",
                "vmovdqa {p3}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 96]\n",
                "vpmaddubsw {p0}, {p0}, {x}\nvpmaddubsw {p1}, {p1}, {x}\n",
                "vpmaddubsw {p2}, {p2}, {x}\nvpmaddubsw {p3}, {p3}, {x}\n",
            )
        };
        ($weights:literal, $data:literal) => {
            concat!(
                "vpbroadcastd {x}, dword ptr [{d} + ",
                $data,
                "]\n",
                "vmovdqa {t}, ymmword ptr [{w} + 128 * ",
                $weights,
                "]\n",
                "vmovdqa {u}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 32]\n",
                "vpmaddubsw {t}, {t}, {x}\nvpmaddubsw {u}, {u}, {x}\n",
                "vpaddw {p0}, {p0}, {t}\nvpaddw {p1}, {p1}, {u}\n",
                "vmovdqa {t}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 64]\n",
                "vmovdqa {u}, ymmword ptr [{w} + 128 * ",
                $weights,
                " + 96]\n",
                "vpmaddubsw {t}, {t}, {x}\nvpmaddubsw {u}, {u}, {x}\n",
                "vpaddw {p2}, {p2}, {t}\nvpaddw {p3}, {p3}, {u}\n",
            )
        };
    }
    macro_rules! widen {
        () => {
            concat!(
                "vpmaddwd {p0}, {p0}, {o}\nvpmaddwd {p1}, {p1}, {o}\n",
                "vpmaddwd {p2}, {p2}, {o}\nvpmaddwd {p3}, {p3}, {o}\n",
                "vpaddd {q0}, {q0}, {p0}\nvpaddd {q1}, {q1}, {p1}\n",
                "vpaddd {q2}, {q2}, {p2}\nvpaddd {q3}, {q3}, {p3}\n",
            )
        };
    }
    let (_p0, _p1, _p2, _p3): (__m256i, __m256i, __m256i, __m256i);
    let (_t, _u, _x): (__m256i, __m256i, __m256i);
    let [q0, q1, q2, q3] = products;
    // SAFETY: reads only what the caller promises, writes registers only.
    unsafe {
        std::arch::asm!(
            step!(first 0, 0),
            step!(1, 4),
            step!(2, 8),
            step!(3, 12),
            widen!(),
            step!(first 4, 64),
            step!(5, 68),
            step!(6, 72),
            step!(7, 76),
            widen!(),
            w = in(reg) weights,
            d = in(reg) data,
            o = in(ymm_reg) _mm256_set1_epi16(1),
            q0 = inout(ymm_reg) *q0, q1 = inout(ymm_reg) *q1,
            q2 = inout(ymm_reg) *q2, q3 = inout(ymm_reg) *q3,
            p0 = out(ymm_reg) _p0, p1 = out(ymm_reg) _p1,
            p2 = out(ymm_reg) _p2, p3 = out(ymm_reg) _p3,
            t = out(ymm_reg) _t, u = out(ymm_reg) _u, x = out(ymm_reg) _x,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
}
