//! AVX-512 with VNNI for many tokens: a tile of weights is unpacked once, into
//! the first-level cache, and meets all tokens of the expert there.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{GROUP_BYTES, Int8Rows, block_offset};
use super::avx512::{decode, scale_values};
use super::mxfp4::{BLOCK_BYTES, Matrix};

/// Weight rows of a vector: one a 32-bit lane.
const LANES: usize = 16;
/// Vectors of weight rows computed together.
const VECTORS: usize = 3;
/// Weight rows of a tile.
const TILE_ROWS: usize = VECTORS * LANES;
/// Blocks of a tile: 12 KiB of codes, so that tokens and sums have room beside.
const TILE_BLOCKS: usize = 8;
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

/// Many tokens. See [`super::ExpertKernel::int8`].
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
    let mut ahead = Ahead::behind(w, &rows, tokens.len());
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

/// Fetches the weights behind a tile while that one is being computed, a few
/// lines at a time so that they do not queue up.
struct Ahead {
    blocks: *const u8,
    scales: *const u8,
    lines: usize,
    each: usize,
    next: usize,
}

impl Ahead {
    fn behind(w: &Matrix<'_>, rows: &Range<usize>, tokens: usize) -> Self {
        let calls = w.row_blocks().div_ceil(TILE_BLOCKS) * tokens.div_ceil(TOKENS);
        let end = rows.end * w.row_blocks();
        let lines = (rows.len() * w.row_blocks() * BLOCK_BYTES).div_ceil(64);
        Self {
            blocks: w.blocks().as_ptr().wrapping_add(end * BLOCK_BYTES),
            scales: w.scales().as_ptr().wrapping_add(end),
            lines,
            each: lines.div_ceil(calls.max(1)),
            next: 0,
        }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        let end = self.lines.min(self.next + self.each);
        for line in self.next..end {
            // SAFETY: a prefetch may point anywhere.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(self.blocks.wrapping_add(line * 64).cast());
                if line % 16 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(self.scales.wrapping_add(line * 4).cast());
                }
            }
        }
        self.next = end;
    }
}

/// Unpacks `blocks` of `rows` into `tile`. Lanes beyond `rows` repeat the last
/// row; nobody uses their sums.
///
/// # Safety
/// `rows` and `blocks` are inside `w`, `rows` is not empty and needs `V`
/// vectors, `blocks` has at most `TILE_BLOCKS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn unpack<const V: usize>(
    w: &Matrix<'_>,
    rows: &Range<usize>,
    blocks: Range<usize>,
    tile: *mut Tile,
) {
    // SAFETY: rows are clamped to `rows`, so that each load of 16 bytes is a
    // block of the matrix; each store is one of `tile`'s places.
    unsafe {
        let codes = (&raw mut (*tile).codes).cast::<u8>();
        let scales = (&raw mut (*tile).scales).cast::<f32>();
        let row_bytes = w.row_blocks() * BLOCK_BYTES;
        for v in 0..V {
            let row = |lane: usize| (rows.start + v * LANES + lane).min(rows.end - 1);
            let starts: [*const u8; LANES] = std::array::from_fn(|lane| {
                w.blocks()
                    .as_ptr()
                    .add(row(lane) * row_bytes + blocks.start * BLOCK_BYTES)
            });
            for block in 0..blocks.len() {
                let quads = transpose(&starts, block * BLOCK_BYTES);
                for (step, quad) in quads.into_iter().enumerate() {
                    let (low, high) = decode(quad);
                    let place = codes.add(((block * STEPS + step) * V + v) * 64);
                    _mm512_store_si512(place.cast(), low);
                    _mm512_store_si512(place.add(STEPS / 2 * V * 64).cast(), high);
                }
            }
            for quad in 0..blocks.len().div_ceil(4) {
                let first = blocks.start + quad * 4;
                let packed: [u32; LANES] = std::array::from_fn(|lane| {
                    four_bytes(&w.row_scales(row(lane))[first..blocks.end])
                });
                let packed = _mm512_loadu_si512(packed.as_ptr().cast());
                for i in 0..4.min(blocks.end - first) {
                    let shifted = _mm512_srlv_epi32(packed, _mm512_set1_epi32(8 * i as i32));
                    let exponents = _mm512_and_si512(shifted, _mm512_set1_epi32(255));
                    let place = scales.add(((quad * 4 + i) * V + v) * LANES);
                    _mm512_store_ps(place, scale_values(exponents));
                }
            }
        }
    }
}

/// Up to four bytes as a little-endian word.
#[inline(always)]
fn four_bytes(bytes: &[u8]) -> u32 {
    match bytes.first_chunk::<4>() {
        Some(&bytes) => u32::from_le_bytes(bytes),
        None => {
            let mut word = 0;
            for (i, &byte) in bytes.iter().enumerate() {
                word |= u32::from(byte) << (8 * i);
            }
            word
        }
    }
}

/// The 16 bytes at `offset` of 16 rows as four vectors: dword `i` of each row.
///
/// # Safety
/// 16 bytes are readable at `offset` of each pointer.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(rows: &[*const u8; LANES], offset: usize) -> [__m512i; 4] {
    let load = |lane: usize| {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadu_si128(rows[lane].add(offset).cast()) }
    };
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
            for step in 0..STEPS {
                let place = codes.add((local * STEPS + step) * V * 64);
                let weights: [__m512i; V] =
                    std::array::from_fn(|v| _mm512_load_si512(place.add(v * 64).cast()));
                let odd = step / (STEPS / 2) * (GROUP_BYTES / 2);
                let offset = block_offset(block) + odd + step % (STEPS / 2) * 4;
                for t in 0..T {
                    let four = data[t].add(offset).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    for v in 0..V {
                        products[t][v] = _mm512_dpbusd_epi32(products[t][v], weights[v], four);
                    }
                }
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
