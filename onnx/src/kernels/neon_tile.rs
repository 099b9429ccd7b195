//! NEON for many tokens: a tile of weights is unpacked once, with a weight row
//! in each 32-bit lane, and then meets all tokens.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::neon_dot::dot_lane;
use super::tile::Ahead;

/// Weight rows of a vector: one a 32-bit lane.
pub(super) const LANES: usize = 4;
/// Vectors of weight rows computed together.
pub(super) const VECTORS: usize = 4;
/// Weight rows of a tile.
const TILE_ROWS: usize = VECTORS * LANES;
/// Tokens computed together: with these, sums of integers and of floats, the
/// weights of a step and activations stay in 32 registers.
const TOKENS: usize = 2;
/// Elements of a tile's row.
const TILE_ELEMENTS: usize = 512;
/// Bytes of a vector, and elements of a row that meet one vector of activations.
pub(super) const BYTES: usize = 16;

/// An unpacked tile: codes `[element / 4, vector, 16]`, scales `[block, vector, 4]`.
#[repr(align(64))]
pub(super) struct Tile {
    codes: [i8; TILE_ELEMENTS * TILE_ROWS],
    scales: [f32; TILE_ELEMENTS / 32 * TILE_ROWS],
}

impl Tile {
    /// The place of four elements of vector `v`'s rows, from `element` of the
    /// tile on, a multiple of four.
    ///
    /// # Safety
    /// `tile` is a tile, and both numbers are inside it.
    #[inline(always)]
    pub(super) unsafe fn codes(tile: *mut Self, element: usize, v: usize) -> *mut i8 {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = (&raw mut (*tile).codes).cast::<i8>();
            codes.add((element / 4 * VECTORS + v) * BYTES)
        }
    }

    /// The place of the scales of a block of vector `v`'s rows.
    ///
    /// # Safety
    /// As [`codes`](Self::codes).
    #[inline(always)]
    pub(super) unsafe fn scales(tile: *mut Self, block: usize, v: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = (&raw mut (*tile).scales).cast::<f32>();
            scales.add((block * VECTORS + v) * LANES)
        }
    }
}

/// A token's activations.
#[derive(Clone, Copy)]
pub(super) struct Token {
    pub(super) data: *const i8,
    /// One a block.
    pub(super) scales: *const f32,
}

/// A product of rows of weights with tokens.
pub(super) trait Product {
    /// Elements that share a scale, at least 32.
    const BLOCK: usize;

    /// The place of 16 elements in a token's activations, those from `part` *
    /// 16 of a block on in the order of the tile.
    fn place(block: usize, part: usize) -> usize;

    /// The length of a row in blocks.
    fn row_blocks(&self) -> usize;

    /// The number of tokens.
    fn tokens(&self) -> usize;

    /// The activations of one of them, whole rows.
    fn token(&self, i: usize) -> Token;

    /// Unpacks `blocks` of `rows` as vector `v` of `tile`. There is at least
    /// one row; lanes without one may hold anything.
    ///
    /// # Safety
    /// `rows` and `blocks` are in range, and fit in a vector and a tile.
    unsafe fn unpack(&self, rows: Range<usize>, blocks: &Range<usize>, tile: *mut Tile, v: usize);

    /// Fetches the weights behind `rows` in so many calls.
    fn ahead(&self, rows: &Range<usize>, calls: usize) -> Ahead;
}

/// `out[t, r] = w[rows.start + r] . x[t]` for all tokens of `product`.
///
/// # Safety
/// `rows` are in range, and `out` is `[tokens, rows.len()]`.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn many<P: Product>(product: &P, rows: Range<usize>, out: &mut [f32]) {
    let mut memory = MaybeUninit::<Tile>::uninit();
    // SAFETY: `Tile` is made of numbers that `unpack` writes before `multiply`
    // reads them; it is only used through this pointer.
    let tile = memory.as_mut_ptr();
    let width = rows.len();
    let (row_blocks, tokens) = (product.row_blocks(), product.tokens());
    let tile_blocks = TILE_ELEMENTS / P::BLOCK;
    let calls = row_blocks.div_ceil(tile_blocks) * tokens.div_ceil(TOKENS);
    for first_row in rows.clone().step_by(TILE_ROWS) {
        let here = first_row..rows.end.min(first_row + TILE_ROWS);
        let mut ahead = product.ahead(&here, calls);
        for first in (0..row_blocks).step_by(tile_blocks) {
            let blocks = first..row_blocks.min(first + tile_blocks);
            for (v, first) in here.clone().step_by(LANES).enumerate() {
                let rows = first..here.end.min(first + LANES);
                // SAFETY: rows and blocks are in range and fit.
                unsafe { product.unpack(rows, &blocks, tile, v) };
            }
            let place = Place {
                blocks: &blocks,
                width,
                rows: here.len(),
            };
            for t in (0..tokens).step_by(TOKENS) {
                ahead.fetch();
                let out = &mut out[t * width + first_row - rows.start..];
                // SAFETY: the tile holds `blocks` of `here`, and tokens have
                // whole rows.
                unsafe {
                    if t + TOKENS <= tokens {
                        let x = [product.token(t), product.token(t + 1)];
                        multiply_any::<P, TOKENS>(tile, place, x, out);
                    } else {
                        multiply_any::<P, 1>(tile, place, [product.token(t)], out);
                    }
                }
            }
        }
    }
}

/// What of a product a tile holds, and where its results go.
#[derive(Clone, Copy)]
struct Place<'a> {
    blocks: &'a Range<usize>,
    /// Of a row of `out`.
    width: usize,
    rows: usize,
}

/// # Safety
/// As [`multiply`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn multiply_any<P: Product, const T: usize>(
    tile: *mut Tile,
    place: Place<'_>,
    x: [Token; T],
    out: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match place.rows.div_ceil(LANES) {
            1 => multiply::<P, 1, T>(tile, place, x, out),
            2 => multiply::<P, 2, T>(tile, place, x, out),
            3 => multiply::<P, 3, T>(tile, place, x, out),
            _ => multiply::<P, VECTORS, T>(tile, place, x, out),
        }
    }
}

/// `T` tokens times the tile's `V` vectors of weight rows: sets `out` for the
/// first blocks of the rows, adds to it for the others.
///
/// # Safety
/// The tile holds these blocks of `V` vectors, of which `place.rows` rows
/// count, and `x` whole rows of activations.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn multiply<P: Product, const V: usize, const T: usize>(
    tile: *mut Tile,
    place: Place<'_>,
    x: [Token; T],
    out: &mut [f32],
) {
    let first_block = place.blocks.start;
    let mut sums = [[vdupq_n_f32(0.0); T]; V];
    if first_block > 0 {
        for t in 0..T {
            let out = &out[t * place.width..][..place.rows];
            for (v, part) in out.chunks(LANES).take(V).enumerate() {
                sums[v][t] = load(part);
            }
        }
    }
    for block in place.blocks.clone() {
        let local = block - first_block;
        let mut products = [[vdupq_n_s32(0); T]; V];
        for part in 0..P::BLOCK / BYTES {
            // SAFETY: the caller's promise.
            unsafe {
                let codes = Tile::codes(tile, local * P::BLOCK + part * BYTES, 0);
                let at = P::place(block, part);
                let x: [_; T] = std::array::from_fn(|t| vld1q_s8(x[t].data.add(at)));
                add_step::<0, V, T>(codes, x, &mut products);
                add_step::<1, V, T>(codes, x, &mut products);
                add_step::<2, V, T>(codes, x, &mut products);
                add_step::<3, V, T>(codes, x, &mut products);
            }
        }
        // SAFETY: the caller's promise.
        let own: [f32; T] = std::array::from_fn(|t| unsafe { *x[t].scales.add(block) });
        for v in 0..V {
            // SAFETY: the caller's promise.
            let scale = unsafe { vld1q_f32(Tile::scales(tile, local, v)) };
            for t in 0..T {
                let factor = vmulq_n_f32(scale, own[t]);
                sums[v][t] = vfmaq_f32(sums[v][t], vcvtq_f32_s32(products[v][t]), factor);
            }
        }
    }
    for t in 0..T {
        let out = &mut out[t * place.width..][..place.rows];
        for (v, part) in out.chunks_mut(LANES).take(V).enumerate() {
            store(sums[v][t], part);
        }
    }
}

/// Adds the products of four elements, lane `STEP` of `x`.
///
/// # Safety
/// `codes` are in a tile, of which `V` vectors count.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_step<const STEP: usize, const V: usize, const T: usize>(
    codes: *const i8,
    x: [int8x16_t; T],
    products: &mut [[int32x4_t; T]; V],
) {
    for v in 0..V {
        // SAFETY: the caller's promise.
        let weights = unsafe { vld1q_s8(codes.add((STEP * VECTORS + v) * BYTES)) };
        for t in 0..T {
            products[v][t] = dot_lane::<STEP>(products[v][t], weights, x[t]);
        }
    }
}

/// Up to four numbers, zeros behind them.
#[inline]
#[target_feature(enable = "neon")]
fn load(from: &[f32]) -> float32x4_t {
    let mut lanes = [0.0; LANES];
    match from.first_chunk::<LANES>() {
        Some(all) => lanes = *all,
        None => lanes[..from.len()].copy_from_slice(from),
    }
    // SAFETY: four lanes.
    unsafe { vld1q_f32(lanes.as_ptr()) }
}

/// As many lanes as there is room for.
#[inline]
#[target_feature(enable = "neon")]
fn store(lanes: float32x4_t, into: &mut [f32]) {
    let mut all = [0.0; LANES];
    // SAFETY: four lanes.
    unsafe { vst1q_f32(all.as_mut_ptr(), lanes) };
    match into.first_chunk_mut::<LANES>() {
        Some(into) => *into = all,
        None => into.copy_from_slice(&all[..into.len()]),
    }
}
