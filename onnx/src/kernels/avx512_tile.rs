//! AVX-512 with VNNI for many tokens: a tile of weights is unpacked once, into
//! the first-level cache, and meets all tokens of the expert there.
//!
//! Tiles of int8 (AMX) were tried in its place (Sapphire Rapids, two cores) and gained
//! nothing for the experts at 128 tokens, 0 to 11 % at 512: a block of 32 has its own
//! scales, so 16 by 16 sums must be stored, converted and scaled after a single
//! multiplication, and none of that overlaps with the next one. Tiles of bf16, which
//! sum over whole rows, gain: see [`super::amx_bf16`].

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{GROUP_BYTES, Int8Rows, block_offset};
use super::avx512::{decode, scale_values};
use super::mxfp4::{BLOCK_BYTES, Matrix};
use super::tile::{Ahead, Spare};

/// Weight rows of a vector: one a 32-bit lane.
const LANES: usize = 16;
/// Vectors of weight rows computed together.
const VECTORS: usize = 3;
/// Weight rows of a tile.
const TILE_ROWS: usize = VECTORS * LANES;
/// Blocks of a tile: 24 KiB of codes. More would leave the first-level cache,
/// fewer would load and store sums too often.
const TILE_BLOCKS: usize = 16;
/// Tokens computed together: with three vectors of weight rows, 12 integer and
/// 12 float sums stay in registers.
const TOKENS: usize = 4;
/// Steps of four elements in a block.
const STEPS: usize = 8;

/// An unpacked tile: codes `[block, step, vector, 64]`, scales `[block, vector, 16]`.
#[repr(align(64))]
struct Tile {
    codes: [u8; TILE_BLOCKS * STEPS * VECTORS * 64],
    scales: [f32; TILE_BLOCKS * VECTORS * LANES],
}

/// Many tokens. See [`super::KernelSet::int8`].
///
/// # Safety
/// The sizes have passed [`super::check`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn many(
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
    for first in rows.clone().step_by(TILE_ROWS) {
        let here = first..rows.end.min(first + TILE_ROWS);
        let column = first - rows.start;
        // SAFETY: `here` is part of `rows`; the caller's promise for the rest.
        unsafe {
            match here.len().div_ceil(LANES) {
                1 => tile_rows::<1>(w, here, x, tokens, out, rows.len(), column, tile),
                2 => tile_rows::<2>(w, here, x, tokens, out, rows.len(), column, tile),
                _ => tile_rows::<VECTORS>(w, here, x, tokens, out, rows.len(), column, tile),
            }
        }
    }
}

/// All tokens times `V` vectors of weight rows.
///
/// # Safety
/// As [`many`]; `rows` needs `V` vectors, `column + rows.len() <= width`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_rows<const V: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
    width: usize,
    column: usize,
    tile: *mut Tile,
) {
    let calls = w.row_blocks().div_ceil(TILE_BLOCKS) * tokens.len().div_ceil(TOKENS);
    let mut ahead = Ahead::new(w, &rows, calls);
    let row_blocks = w.row_blocks();
    for first in (0..row_blocks).step_by(TILE_BLOCKS) {
        let blocks = first..row_blocks.min(first + TILE_BLOCKS);
        // SAFETY: the caller's promise.
        unsafe { unpack::<V>(w, &rows, blocks.clone(), tile) };
        for (i, tokens) in tokens.chunks(TOKENS).enumerate() {
            ahead.fetch();
            let start = i * TOKENS * width + column;
            let end = start + (tokens.len() - 1) * width + rows.len();
            let out = &mut out[start..end];
            let len = rows.len();
            // SAFETY: the tile holds `blocks` of `V` vectors; the caller's
            // promise for the rest.
            unsafe {
                match tokens.len() {
                    1 => multiply::<1, V>(tile, &blocks, x, tokens, out, width, len),
                    2 => multiply::<2, V>(tile, &blocks, x, tokens, out, width, len),
                    3 => multiply::<3, V>(tile, &blocks, x, tokens, out, width, len),
                    _ => multiply::<TOKENS, V>(tile, &blocks, x, tokens, out, width, len),
                }
            }
        }
    }
}

/// Unpacks `blocks` of `rows` into `tile`. Lanes beyond `rows` hold zeros.
///
/// # Safety
/// `rows` and `blocks` are inside `w`, `rows` needs `V` vectors, `blocks` has
/// at most `TILE_BLOCKS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn unpack<const V: usize>(
    w: &Matrix<'_>,
    rows: &Range<usize>,
    blocks: Range<usize>,
    tile: *mut Tile,
) {
    let row_blocks = w.row_blocks();
    for v in 0..V {
        let first = rows.start + v * LANES;
        // SAFETY: 16 rows of `w`, or of `spare`, from a block on.
        unsafe {
            if first + LANES <= rows.end {
                let start = first * row_blocks + blocks.start;
                let codes = w.blocks().as_ptr().add(start * BLOCK_BYTES);
                let scales = w.scales().as_ptr().add(start);
                let len = blocks.len();
                unpack_vector::<V>(codes, scales, row_blocks, len, tile, v);
            } else {
                let spare = Spare::<LANES, TILE_BLOCKS>::new(w, first..rows.end, &blocks);
                let codes = (&raw const spare.codes).cast::<u8>();
                let scales = (&raw const spare.scales).cast::<u8>();
                unpack_vector::<V>(codes, scales, TILE_BLOCKS, blocks.len(), tile, v);
            }
        }
    }
}

/// Unpacks `len` blocks of 16 rows that are `row_blocks` blocks apart, as the
/// tile's vector `v` of `V`.
///
/// # Safety
/// These blocks and scales are readable; `len <= TILE_BLOCKS`, `v < V`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn unpack_vector<const V: usize>(
    codes: *const u8,
    scales: *const u8,
    row_blocks: usize,
    len: usize,
    tile: *mut Tile,
    v: usize,
) {
    // Four pointers and one stride: with a pointer for each row, compilers
    // keep them in memory.
    let quarters = |start: *const u8, stride: usize| -> [*const u8; 4] {
        std::array::from_fn(|i| start.wrapping_add(4 * i * stride))
    };
    let stride = row_blocks * BLOCK_BYTES;
    let rows = quarters(codes, stride);
    let scale_rows = quarters(scales, row_blocks);
    let mask = !0u16 >> (TILE_BLOCKS - len);
    // SAFETY: loads are of the caller's blocks, scales masked; each store is
    // one of the tile's places.
    unsafe {
        let codes = (&raw mut (*tile).codes).cast::<u8>();
        let scales = (&raw mut (*tile).scales).cast::<f32>();
        for block in 0..len {
            let quads = transpose(|lane| {
                let row = rows[lane / 4].add(lane % 4 * stride);
                _mm_loadu_si128(row.add(block * BLOCK_BYTES).cast())
            });
            for (step, quad) in quads.into_iter().enumerate() {
                let (low, high) = decode(quad);
                let place = codes.add(((block * STEPS + step) * V + v) * 64);
                _mm512_store_si512(place.cast(), low);
                _mm512_store_si512(place.add(STEPS / 2 * V * 64).cast(), high);
            }
        }
        let exponents = transpose(|lane| {
            let row = scale_rows[lane / 4].add(lane % 4 * row_blocks);
            _mm_maskz_loadu_epi8(mask, row.cast())
        });
        for block in 0..len {
            let shift = _mm512_set1_epi32(8 * (block % 4) as i32);
            let shifted = _mm512_srlv_epi32(exponents[block / 4], shift);
            let scale = scale_values(_mm512_and_si512(shifted, _mm512_set1_epi32(255)));
            _mm512_store_ps(scales.add((block * V + v) * LANES), scale);
        }
    }
}

/// 16 bytes of each of 16 rows as four vectors: dword `i` of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(load: impl Fn(usize) -> __m128i) -> [__m512i; 4] {
    // Rows i, 4 + i, 8 + i and 12 + i in the 128-bit lanes of vector i.
    let gather = |i: usize| {
        let v = _mm512_castsi128_si512(load(i));
        let v = _mm512_inserti32x4::<1>(v, load(4 + i));
        let v = _mm512_inserti32x4::<2>(v, load(8 + i));
        _mm512_inserti32x4::<3>(v, load(12 + i))
    };
    let (a, b, c, d) = (gather(0), gather(1), gather(2), gather(3));
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// `T` tokens times the tile's `V` vectors of weight rows: sets `out` for the
/// first blocks of the rows, adds to it for the others.
///
/// # Safety
/// The tile holds `blocks` of `V` vectors, of which `rows` lanes count; `out`
/// holds `(T - 1) * width + rows` elements; `tokens` are `T` rows of `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn multiply<const T: usize, const V: usize>(
    tile: *const Tile,
    blocks: &Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
    width: usize,
    rows: usize,
) {
    let tokens: [usize; T] = std::array::from_fn(|t| tokens[t] as usize);
    let data = tokens.map(|token| x.data(token).as_ptr());
    let half_scales = tokens.map(|token| x.half_scales(token).as_ptr());
    let corrections = tokens.map(|token| x.corrections(token).as_ptr());
    let masks: [__mmask16; V] = std::array::from_fn(|v| {
        let lanes = rows - (v * LANES).min(rows);
        if lanes >= LANES { !0 } else { (1 << lanes) - 1 }
    });
    let out = out.as_mut_ptr();
    // SAFETY: `blocks` are in the tile and in every row of `x`; masks keep
    // the accesses to `out` inside.
    unsafe {
        let codes = (&raw const (*tile).codes).cast::<u8>();
        let scales = (&raw const (*tile).scales).cast::<f32>();
        let mut sums = [[_mm512_setzero_ps(); V]; T];
        if blocks.start > 0 {
            for t in 0..T {
                for v in 0..V {
                    sums[t][v] = _mm512_maskz_loadu_ps(masks[v], out.add(t * width + v * LANES));
                }
            }
        }
        for block in blocks.clone() {
            let local = block - blocks.start;
            let mut products: [[__m512i; V]; T] =
                std::array::from_fn(|t| [_mm512_set1_epi32(*corrections[t].add(block)); V]);
            let weights = codes.add(local * STEPS * V * 64);
            let data = data.map(|data| data.add(block_offset(block)));
            if (T, V) == (4, 3) {
                let products = (&raw mut products).cast::<[[__m512i; 3]; 4]>();
                let data = (&raw const data).cast::<[*const i8; 4]>();
                // SAFETY: the types are the same, by the comparison.
                add_eight_steps::<true>(weights, &*data, &mut *products);
            } else {
                block_any(weights, &data, &mut products);
            }
            for v in 0..V {
                let scale = _mm512_load_ps(scales.add((local * V + v) * LANES));
                for t in 0..T {
                    let own = _mm512_set1_ps(*half_scales[t].add(block));
                    let factor = _mm512_mul_ps(scale, own);
                    sums[t][v] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[t][v]), factor, sums[t][v]);
                }
            }
        }
        for t in 0..T {
            for v in 0..V {
                _mm512_mask_storeu_ps(out.add(t * width + v * LANES), masks[v], sums[t][v]);
            }
        }
    }
}

/// Adds the products of one block: `STEPS` steps of four elements.
///
/// # Safety
/// `weights` are the block's `STEPS` by `V` vectors, aligned; `data` the
/// block's even elements of each token, the odd ones half a group behind.
#[inline(always)]
unsafe fn block_any<const T: usize, const V: usize>(
    weights: *const u8,
    data: &[*const i8; T],
    products: &mut [[__m512i; V]; T],
) {
    // SAFETY: the caller's promise, and it enables VNNI.
    unsafe {
        for step in 0..STEPS {
            let weights: [__m512i; V] =
                std::array::from_fn(|v| _mm512_load_si512(weights.add((step * V + v) * 64).cast()));
            let offset = step / (STEPS / 2) * (GROUP_BYTES / 2) + step % (STEPS / 2) * 4;
            for t in 0..T {
                let four = data[t].add(offset).cast::<i32>().read_unaligned();
                let four = _mm512_set1_epi32(four);
                for v in 0..V {
                    products[t][v] = _mm512_dpbusd_epi32(products[t][v], weights[v], four);
                }
            }
        }
    }
}

/// One step of [`add_eight_steps`]: four elements, at byte `$data` of each token.
macro_rules! step {
    ($weights:literal, $data:literal) => {
        concat!(
            "vmovdqa64 {w0}, zmmword ptr [{w} + 192 * ",
            $weights,
            "]\n",
            "vmovdqa64 {w1}, zmmword ptr [{w} + 192 * ",
            $weights,
            " + 64]\n",
            "vmovdqa64 {w2}, zmmword ptr [{w} + 192 * ",
            $weights,
            " + 128]\n",
            "vpbroadcastd {x}, dword ptr [{x0} + ",
            $data,
            "]\n",
            "vpdpbusd {a0}, {w0}, {x}\nvpdpbusd {a1}, {w1}, {x}\nvpdpbusd {a2}, {w2}, {x}\n",
            "vpbroadcastd {y}, dword ptr [{x1} + ",
            $data,
            "]\n",
            "vpdpbusd {b0}, {w0}, {y}\nvpdpbusd {b1}, {w1}, {y}\nvpdpbusd {b2}, {w2}, {y}\n",
            "vpbroadcastd {x}, dword ptr [{x2} + ",
            $data,
            "]\n",
            "vpdpbusd {c0}, {w0}, {x}\nvpdpbusd {c1}, {w1}, {x}\nvpdpbusd {c2}, {w2}, {x}\n",
            "vpbroadcastd {y}, dword ptr [{x3} + ",
            $data,
            "]\n",
            "vpdpbusd {d0}, {w0}, {y}\nvpdpbusd {d1}, {w1}, {y}\nvpdpbusd {d2}, {w2}, {y}\n",
        )
    };
}

/// Adds the products of four tokens and three vectors of weight rows over 32
/// elements, as assembly: compilers hoist the loads and then have no registers
/// left for the sums, which costs 40 % of the speed. The tokens' elements lie
/// as in an [`Int8Rows`] if `GROUPED`, else in order.
///
/// # Safety
/// `weights` are eight steps by three vectors, aligned; `data` the elements of
/// each token; the processor has AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn add_eight_steps<const GROUPED: bool>(
    weights: *const u8,
    data: &[*const i8; 4],
    products: &mut [[__m512i; 3]; 4],
) {
    let (_w0, _w1, _w2): (__m512i, __m512i, __m512i);
    let (_x, _y): (__m512i, __m512i);
    let [[a0, a1, a2], [b0, b1, b2], [c0, c1, c2], [d0, d1, d2]] = products;
    macro_rules! steps {
        ($($data:literal at $weights:literal),*) => {
            // SAFETY: reads only what the caller promises, writes registers only.
            unsafe {
                std::arch::asm!(
                    $(step!($weights, $data),)*
                    w = in(reg) weights,
                    x0 = in(reg) data[0],
                    x1 = in(reg) data[1],
                    x2 = in(reg) data[2],
                    x3 = in(reg) data[3],
                    a0 = inout(zmm_reg) *a0, a1 = inout(zmm_reg) *a1, a2 = inout(zmm_reg) *a2,
                    b0 = inout(zmm_reg) *b0, b1 = inout(zmm_reg) *b1, b2 = inout(zmm_reg) *b2,
                    c0 = inout(zmm_reg) *c0, c1 = inout(zmm_reg) *c1, c2 = inout(zmm_reg) *c2,
                    d0 = inout(zmm_reg) *d0, d1 = inout(zmm_reg) *d1, d2 = inout(zmm_reg) *d2,
                    w0 = out(zmm_reg) _w0, w1 = out(zmm_reg) _w1, w2 = out(zmm_reg) _w2,
                    x = out(zmm_reg) _x, y = out(zmm_reg) _y,
                    options(pure, readonly, nostack, preserves_flags)
                );
            }
        };
    }
    if GROUPED {
        steps!(0 at 0, 4 at 1, 8 at 2, 12 at 3, 64 at 4, 68 at 5, 72 at 6, 76 at 7);
    } else {
        steps!(0 at 0, 4 at 1, 8 at 2, 12 at 3, 16 at 4, 20 at 5, 24 at 6, 28 at 7);
    }
}
