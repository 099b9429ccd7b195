//! AVX2 for [`super::dense`]: half a block of 64 weights an instruction, and
//! the same with AVX-VNNI's integer dot products.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2_products::Products;
use super::dense::{self, BLOCK, DenseRows, DenseWriter, FEW_TOKENS, Int8Matrix, ZERO_POINT};
use super::tile::prefetch;

/// How far ahead of their use weights are fetched, in bytes.
const PREFETCH: usize = 8192;
/// Tokens computed together.
const TOKENS: usize = 4;

/// See [`super::KernelSet::dense_float32`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn quantize(x: &[f32], into: &DenseWriter<'_>, row: usize) {
    // SAFETY: the caller's promise.
    unsafe { dense::quantize(x, into, row) };
}

/// See [`super::KernelSet::dense_int8`]: two weight rows at once, read front to
/// back, meet all tokens.
///
/// # Safety
/// The sizes have passed [`dense::check`], and the processor has what `P` wants.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn int8<P: Products, const LEVEL: usize>(
    w: &Int8Matrix<'_>,
    rows: Range<usize>,
    x: &DenseRows,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let width = rows.len();
    let mut row = rows.start;
    while row < rows.end {
        let pair = rows.end - row >= 2;
        for first in tokens.clone().step_by(TOKENS) {
            let start = (first - tokens.start) * width + row - rows.start;
            let out = &mut out[start..];
            // SAFETY: the caller's promise; row + R <= rows.end, and
            // first + T <= tokens.end.
            unsafe {
                match (pair, tokens.end - first) {
                    (true, 1) => dot::<P, 2, 1, LEVEL>(w, row, x, first, width, out),
                    (true, 2) => dot::<P, 2, 2, LEVEL>(w, row, x, first, width, out),
                    (true, 3) => dot::<P, 2, 3, LEVEL>(w, row, x, first, width, out),
                    (true, _) => dot::<P, 2, TOKENS, LEVEL>(w, row, x, first, width, out),
                    (false, 1) => dot::<P, 1, 1, LEVEL>(w, row, x, first, width, out),
                    (false, 2) => dot::<P, 1, 2, LEVEL>(w, row, x, first, width, out),
                    (false, 3) => dot::<P, 1, 3, LEVEL>(w, row, x, first, width, out),
                    (false, _) => dot::<P, 1, TOKENS, LEVEL>(w, row, x, first, width, out),
                }
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

const _: () = assert!(
    FEW_TOKENS == TOKENS,
    "few tokens are one pass over the weights"
);

/// `R` rows times `T` tokens from `token` on, to `out[t * width + r]`.
///
/// # Safety
/// `row + R <= w.rows()`, `token + T <= x.rows()`, rows are equally long, and
/// the processor has what `P` wants.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot<P: Products, const R: usize, const T: usize, const LEVEL: usize>(
    w: &Int8Matrix<'_>,
    row: usize,
    x: &DenseRows,
    token: usize,
    width: usize,
    out: &mut [f32],
) {
    let weights: [*const u8; R] = std::array::from_fn(|r| w.row_weights(row + r).as_ptr());
    let scales: [*const f32; R] = std::array::from_fn(|r| w.row_scales(row + r).as_ptr());
    let data: [*const i8; T] = std::array::from_fn(|t| x.data(token + t).as_ptr());
    let own: [*const f32; T] = std::array::from_fn(|t| x.scales(token + t).as_ptr());
    let starts: [*const i32; T] = std::array::from_fn(|t| x.lane_corrections(token + t).as_ptr());
    let mut sums = [[_mm256_setzero_ps(); T]; R];
    for block in 0..w.row_blocks() {
        // SAFETY: every row has this block: 64 bytes, one scale, 16
        // corrections. Prefetches may point anywhere.
        unsafe {
            let mut values = [[_mm256_setzero_si256(); 2]; R];
            for r in 0..R {
                let ahead = weights[0].wrapping_add(PREFETCH + (block * R + r) * BLOCK);
                prefetch::<LEVEL>(ahead);
                for half in 0..2 {
                    let at = weights[r].add(block * BLOCK + half * 32);
                    values[r][half] = _mm256_loadu_si256(at.cast());
                }
            }
            for t in 0..T {
                let load = |half: usize| {
                    let at = data[t].add(block * BLOCK + half * 32);
                    _mm256_loadu_si256(at.cast())
                };
                let q = [load(0), load(1)];
                let start = |half: usize| {
                    let at = starts[t].add(block * dense::LANES + half * 8);
                    _mm256_loadu_si256(at.cast())
                };
                let scale = _mm256_set1_ps(*own[t].add(block));
                for r in 0..R {
                    let low = P::add_bytes(values[r][0], q[0], || start(0));
                    let high = P::add_bytes(values[r][1], q[1], || start(1));
                    let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
                    let factor = _mm256_mul_ps(_mm256_set1_ps(*scales[r].add(block)), scale);
                    sums[r][t] = _mm256_fmadd_ps(sum, factor, sums[r][t]);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            let mut lanes = [0.0f32; 8];
            // SAFETY: eight lanes.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums[r][t]) };
            out[t * width + r] = lanes.iter().sum();
        }
    }
}

/// Sums of four products of weights around 128 and activations, without a dot
/// product instruction. Signed weights are at least -128, so that two products
/// never leave 16 bits: 2 * 128 * 127 = 32512.
///
/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_bytes_maddubs(weights: __m256i, q: __m256i) -> __m256i {
    let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(ZERO_POINT as i8));
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(q, signed));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}
