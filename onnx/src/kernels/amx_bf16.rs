//! Many tokens by tiles of bf16: a panel of weights is unpacked once and meets all
//! tokens, and sums stay in tile registers.
//!
//! MXFP4 weights times their power of two are exact in bf16, so that no block needs
//! a sum of its own, as int8's does. A panel is 32 weight rows, and is unpacked in
//! chunks of their blocks: while one chunk meets the tokens, two tiles of 16 weight
//! rows by two of 16 tokens at a time, the next one is unpacked between the products,
//! which the processor computes beside it.
//!
//! Weights are the left operand, since a row of it is 32 neighbouring elements: one
//! block, as it lies in the file.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::amx::{self, Tiles};
use super::avx512_tile::transpose;
use super::bf16_tiles::{
    self, Bf16Products, Bf16Tiles, Bf16Writer, Order, TILE_BLOCK, TILE_LEN, TILE_TOKENS, TokensAt,
};
use super::dense::{self, Int8Matrix};
use super::mxfp4::Matrix;
use passes::{Job, Weights};

mod passes;

/// From how many tokens on these products are faster than int8's.
const EXPERTS_FROM: usize = 9;
const DENSE_FROM: usize = 32;
/// Weight rows of a tile.
const SIDE: usize = 16;
/// Weight rows of a panel: two tiles.
const PANEL: usize = 2 * SIDE;
/// Steps of 32 elements in a chunk, at most. More would leave the first-level
/// cache, fewer would load and store sums too often.
const CHUNK: usize = 6;
/// Steps that factors are made for at once: of several chunks.
const FACTORS: usize = 32;
/// Bytes of a tile.
const TILE_BYTES: usize = 1024;
/// Tiles of tokens that meet a panel, at most.
const MAX_TILES: usize = 16;

/// An unpacked chunk: bf16 `[step, half of the rows, row, 32]`.
#[repr(C, align(64))]
struct Chunk([u8; CHUNK * 2 * TILE_BYTES]);

/// What unpacking int8 weights needs to know of each 32 elements: `[row, step]`.
#[repr(C, align(64))]
struct Factors([[u32; FACTORS]; PANEL]);

/// What a call works in.
#[repr(C, align(64))]
struct Buffers {
    chunks: [Chunk; 2],
    factors: Factors,
    /// `[tile of tokens, row, token]`.
    sums: [[[f32; TILE_TOKENS]; PANEL]; MAX_TILES],
}

/// The kernel, where this processor can run it and the system lets it.
pub(super) fn detect() -> Option<&'static dyn Bf16Products> {
    let supported = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("fma")
        && amx::is_permitted();
    supported.then_some(&AmxBf16(()) as _)
}

/// Runs on processors with AVX-512 F, BW, VL, VBMI and BF16, and tiles of bf16.
struct AmxBf16(());

impl Bf16Products for AmxBf16 {
    fn experts_from(&self) -> usize {
        EXPERTS_FROM
    }

    fn dense_from(&self) -> usize {
        DENSE_FROM
    }

    fn experts(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &Bf16Tiles,
        at: TokensAt,
        out: &mut [f32],
    ) {
        bf16_tiles::check((w.rows(), w.k(), Order::Nibbles), &rows, x, at, out);
        // SAFETY: `detect` is the only source of `self`; sizes are checked.
        unsafe { multiply(w, rows, x, at, out) }
    }

    fn dense(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &Bf16Tiles,
        at: TokensAt,
        out: &mut [f32],
    ) {
        let k = w.row_blocks() * dense::BLOCK;
        bf16_tiles::check((w.rows(), k, Order::Natural), &rows, x, at, out);
        // SAFETY: `detect` is the only source of `self`; sizes are checked.
        unsafe { multiply(w, rows, x, at, out) }
    }

    unsafe fn pack(
        &self,
        rows: &[&[f32]],
        into: &Bf16Writer<'_>,
        tile: usize,
        blocks: Range<usize>,
    ) {
        // SAFETY: `detect` is the only source of `self`, and the caller's promise.
        unsafe { pack(rows, into, tile, blocks) }
    }
}

/// A chunk of a panel.
#[derive(Clone)]
struct Piece {
    first_row: usize,
    steps: Range<usize>,
}

/// `out[t, r]` for all tokens and `rows`, `[tokens, rows.len()]`.
///
/// # Safety
/// The processor has all that [`AmxBf16`] names, and the sizes have passed
/// [`bf16_tiles::check`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn multiply<W: Weights>(
    w: &W,
    rows: Range<usize>,
    x: &Bf16Tiles,
    at: TokensAt,
    out: &mut [f32],
) {
    let width = rows.len();
    let in_float32 = |rows: Range<usize>, out: &mut [f32]| {
        bf16_tiles::multiply(|row, into| w.dequantize(row, into), rows, x, at, out, width);
    };
    if w.rows() < PANEL || at.len > MAX_TILES * TILE_TOKENS {
        return in_float32(rows, out);
    }
    let steps = w.steps();
    let chunk = steps.div_ceil(steps.div_ceil(CHUNK));
    let chunks = steps.div_ceil(chunk);
    let pieces = width.div_ceil(PANEL) * chunks;
    // Of `count` chunks from a panel's chunk on.
    let piece = |i: usize, count: usize| Piece {
        // The last panel reaches back to have all its rows.
        first_row: (rows.start + i / chunks * PANEL).min(w.rows() - PANEL),
        steps: i % chunks * chunk..steps.min((i % chunks + count) * chunk),
    };
    let mut memory = MaybeUninit::<Buffers>::uninit();
    let buffers = memory.as_mut_ptr();
    // Whether the weights of a panel and of the next one fit into tiles.
    let mut fit = [true; 2];
    // SAFETY: the caller's promise; pieces are inside `w`. A chunk is unpacked before
    // it is multiplied, and sums are set by the first chunk of a panel.
    unsafe {
        let shape = Tiles::new();
        for i in 0..=pieces {
            // The chunk of this turn was unpacked in the last one, the next one is now.
            let next = (i < pieces).then(|| piece(i, 1));
            let at_once = FACTORS / chunk;
            if let Some(next) = &next {
                if next.steps.start == 0 {
                    fit[i / chunks % 2] = w.fit(next.first_row);
                }
                if (i % chunks).is_multiple_of(at_once) {
                    w.factors(&piece(i, at_once), &raw mut (*buffers).factors);
                }
            }
            let next = next.map(|piece| Unpacking {
                factor: piece.steps.start % (at_once * chunk),
                to: &raw mut (*buffers).chunks[i % 2],
                piece,
            });
            let Some(last) = i.checked_sub(1) else {
                if let Some(next) = &next {
                    let job = Job::new(w, next, buffers, 0, 0);
                    W::run::<0, 2>(&mut job.steps(0, next.piece.steps.len()));
                }
                continue;
            };
            let here = piece(last, 1);
            meet(w, &here, last % 2, next.as_ref(), x, at, buffers);
            if here.steps.end == steps {
                let panel = last / chunks;
                let first = rows.start + panel * PANEL;
                let wanted = first..rows.end.min(first + PANEL);
                let out = &mut out[first - rows.start..];
                if fit[panel % 2] {
                    let skipped = first - here.first_row;
                    store(&(*buffers).sums, skipped, wanted.len(), at.len, out, width);
                } else {
                    in_float32(wanted, out);
                }
            }
        }
        drop(shape);
    }
}

/// A chunk that is unpacked next.
struct Unpacking {
    piece: Piece,
    /// Which of the factors is its first step's.
    factor: usize,
    to: *mut Chunk,
}

/// All tokens times a chunk, while the next one is unpacked.
///
/// # Safety
/// As [`multiply`]; this thread has [`Tiles`], `chunk` is unpacked and the next one's
/// factors are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn meet<W: Weights>(
    w: &W,
    here: &Piece,
    chunk: usize,
    next: Option<&Unpacking>,
    x: &Bf16Tiles,
    at: TokensAt,
    buffers: *mut Buffers,
) {
    let tiles = at.len.div_ceil(TILE_TOKENS);
    let passes = tiles.div_ceil(2);
    let (steps, next_steps) = (
        here.steps.len(),
        next.map_or(0, |next| next.piece.steps.len()),
    );
    for pass in 0..passes {
        // The first two passes unpack a half each, or the only one both.
        let half = pass % 2;
        let wanted = if pass < 2 { next_steps } else { 0 };
        let unpacking = wanted.min(steps);
        // SAFETY: all places are inside what they belong to; the caller's promise.
        unsafe {
            let nothing = Unpacking {
                piece: here.clone(),
                factor: 0,
                to: &raw mut (*buffers).chunks[1 - chunk],
            };
            let next = next.unwrap_or(&nothing);
            let mut job = Job::new(w, next, buffers, half, 0);
            job.is_first = here.steps.start == 0;
            job.weights = (&raw const (*buffers).chunks[chunk]).cast();
            job.sums = (&raw mut (*buffers).sums[2 * pass]).cast();
            let block = here.steps.start * TILE_LEN;
            let first = at.tile + 2 * pass;
            let last = at.tile + tiles - 1;
            job.tokens = [first, last.min(first + 1)].map(|tile| x.data(tile)[block..].as_ptr());
            let mut job = job.steps(steps - unpacking, unpacking);
            match (tiles - 2 * pass, passes) {
                (1, 1) => W::run::<1, 2>(&mut job),
                (_, 1) => W::run::<2, 2>(&mut job),
                (1, _) => W::run::<1, 1>(&mut job),
                (_, _) => W::run::<2, 1>(&mut job),
            }
            if wanted > unpacking {
                let job = Job::new(w, next, buffers, half, unpacking);
                let mut job = job.steps(0, wanted - unpacking);
                if passes == 1 {
                    W::run::<0, 2>(&mut job);
                } else {
                    W::run::<0, 1>(&mut job);
                }
            }
        }
    }
}

impl Job {
    /// Unpacks steps of `next` from the `skipped`th on, from a half of its rows on.
    ///
    /// # Safety
    /// The piece is inside `w`, and the places are there.
    unsafe fn new<W: Weights>(
        w: &W,
        next: &Unpacking,
        buffers: *mut Buffers,
        half: usize,
        skipped: usize,
    ) -> Self {
        let piece = &next.piece;
        let stride = w.steps() * W::STEP_BYTES;
        let first_row = piece.first_row + half * SIDE;
        let step = piece.steps.start + skipped;
        // As far behind the panel as what is unpacked is from its begin.
        let ahead = (piece.first_row + PANEL) * stride
            + (step * PANEL + half * SIDE * (piece.steps.len() - skipped)) * W::STEP_BYTES;
        // SAFETY: the caller's promise.
        unsafe {
            let made = (&raw const (*buffers).factors.0[half * SIDE]).cast::<u32>();
            let (factors, factor_stride) =
                w.factor(first_row, step, made.add(next.factor + skipped));
            Self {
                unpacking: 0,
                plain: 0,
                is_first: true,
                weights: std::ptr::null(),
                tokens: [std::ptr::null(); 2],
                sums: std::ptr::null_mut(),
                source: w.bytes().add(first_row * stride + step * W::STEP_BYTES),
                stride,
                factors,
                factor_stride,
                span: 0,
                factor_span: 0,
                unpacked: next.to.cast::<u8>().add((2 * skipped + half) * TILE_BYTES),
                ahead: w.bytes().wrapping_add(ahead),
            }
        }
    }

    /// The same with so many steps.
    fn steps(self, plain: usize, unpacking: usize) -> Self {
        Self {
            plain,
            unpacking,
            ..self
        }
    }
}

/// Writes sums of a panel's `len` rows behind the `skipped` first ones to
/// `out[token * width..]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store(
    sums: &[[[f32; TILE_TOKENS]; PANEL]; MAX_TILES],
    skipped: usize,
    len: usize,
    tokens: usize,
    out: &mut [f32],
    width: usize,
) {
    for (tile, sums) in sums[..tokens.div_ceil(TILE_TOKENS)].iter().enumerate() {
        for quad in (0..TILE_TOKENS).step_by(4) {
            for half in (0..PANEL).step_by(SIDE) {
                // SAFETY: a row has 16 sums.
                let columns = transpose(|lane| unsafe {
                    _mm_loadu_si128(sums[half + lane].as_ptr().add(quad).cast())
                });
                for (i, column) in columns.into_iter().enumerate() {
                    let token = tile * TILE_TOKENS + quad + i;
                    if token >= tokens {
                        break;
                    }
                    // Rows of this half among the wanted ones.
                    let begin = skipped.max(half);
                    let end = (skipped + len).min(half + SIDE);
                    if begin >= end {
                        continue;
                    }
                    let mask = (!0u16 >> (SIDE - (end - begin))) << (begin - half);
                    let out = &mut out[token * width + begin - skipped..][..end - begin];
                    let place = out.as_mut_ptr().wrapping_sub(begin - half);
                    // SAFETY: the mask keeps the store inside.
                    unsafe {
                        _mm512_mask_storeu_ps(place, mask, _mm512_castsi512_ps(column));
                    }
                }
            }
        }
    }
}

/// See [`bf16_tiles::pack`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn pack(rows: &[&[f32]], into: &Bf16Writer<'_>, tile: usize, blocks: Range<usize>) {
    let len = bf16_tiles::check_rows(rows, &blocks);
    let elements = into.order().elements();
    let mut block_rows = [_mm512_setzero_si512(); TILE_TOKENS];
    // SAFETY: 32 places.
    let order = unsafe { _mm512_loadu_si512(elements.as_ptr().cast()) };
    for (i, block) in blocks.enumerate() {
        let start = len.min(i * TILE_BLOCK);
        let left = (len - start).min(TILE_BLOCK);
        let mask = ((1u64 << left) - 1) as u32;
        for (row, place) in rows.iter().zip(&mut block_rows) {
            // SAFETY: the masks keep the loads inside; both types are 64 bytes.
            unsafe {
                let at = row.as_ptr().add(start);
                let low = _mm512_maskz_loadu_ps(mask as u16, at);
                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16));
                let words: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                *place = _mm512_permutexvar_epi16(order, words);
            }
        }
        // SAFETY: the caller's promise; loads are of the rows above, stores of a block.
        unsafe {
            let out = into.block(tile, block).as_mut_ptr();
            let from = block_rows.as_ptr().cast::<u8>();
            for quad in 0..4 {
                let pairs =
                    transpose(|lane| _mm_loadu_si128(from.add(64 * lane + 16 * quad).cast()));
                for (i, pair) in pairs.into_iter().enumerate() {
                    _mm512_store_si512(out.add((4 * quad + i) * 2 * TILE_TOKENS).cast(), pair);
                }
            }
        }
    }
}
