//! AVX2: 32 bytes of weights (two blocks) an instruction, and the same with
//! AVX-VNNI's 256-bit integer dot products.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::activations::{GROUP_BYTES, Int8Rows, Int8Writer, block_offset};
use super::avx2_products::Products;
use super::dense::{self, DenseRows, DenseWriter, Int8Matrix};
use super::mxfp4::{BLOCK, BLOCK_BYTES, DOUBLED_CODES, Matrix, OFFSET_CODES};
use super::portable::SwiGlu;
use super::tile::prefetch;
use super::{Isa, KernelSet, portable, prefetch_level};
use super::{attention, avx2_dense, avx2_tile};

/// How far ahead of their use weights and scales are fetched, in bytes.
const PREFETCH: usize = 8192;
const PREFETCH_SCALES: usize = 1024;
/// Blocks of a step: as many scales as a vector holds.
const STEP: usize = 8;
/// Tokens that share one decoding of the weights; more are faster in tiles.
const TOKENS: usize = 2;

/// The kernel, where this processor can run it.
pub fn detect<P: Products>() -> Option<&'static dyn KernelSet> {
    match prefetch_level() {
        2 => Avx2::<P, 2>::detect().map(|kernel| kernel as _),
        _ => Avx2::<P, 1>::detect().map(|kernel| kernel as _),
    }
}

/// Runs on processors with AVX2 and FMA, and what `P` wants. Weights are fetched
/// into the cache of this `LEVEL`: see [`prefetch_level`].
#[derive(Debug)]
pub struct Avx2<P, const LEVEL: usize>(std::marker::PhantomData<P>);

impl<P: Products, const LEVEL: usize> Avx2<P, LEVEL> {
    fn detect() -> Option<&'static Self> {
        let supported = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && P::detect();
        supported.then_some(&Self(std::marker::PhantomData))
    }
}

impl<P: Products, const LEVEL: usize> KernelSet for Avx2<P, LEVEL> {
    fn isa(&self) -> Isa {
        P::ISA
    }

    fn int8(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &Int8Rows,
        tokens: &[u32],
        out: &mut [f32],
    ) {
        super::check(w, &rows, x, tokens, out);
        // SAFETY: `detect` is the only source of `self`, so the processor has
        // the features; `check` has compared all sizes.
        unsafe {
            if tokens.len() <= TOKENS {
                few::<P, LEVEL>(w, rows, x, tokens, out);
            } else {
                avx2_tile::many::<P>(w, rows, x, tokens, out);
            }
        }
    }

    fn float32(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &[f32],
        tokens: &[u32],
        out: &mut [f32],
    ) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { float32(w, rows, x, tokens, out) }
    }

    fn swiglu(&self, gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { swiglu(gate_up, bias, glu, out) }
    }

    fn add_weighted(&self, x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { add_weighted(x, bias, weight, y) }
    }

    unsafe fn quantize(&self, x: &[f32], into: &Int8Writer<'_>, row: usize, first_block: usize) {
        // SAFETY: `detect` is the only source of `self`, and the caller's promise.
        unsafe { quantize(x, into, row, first_block) }
    }

    fn dense_int8(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &DenseRows,
        tokens: Range<usize>,
        out: &mut [f32],
    ) {
        dense::check(w, &rows, x, &tokens, out);
        // SAFETY: `detect` is the only source of `self`; sizes are checked.
        unsafe { avx2_dense::int8::<P, LEVEL>(w, rows, x, tokens, out) }
    }

    fn dense_float32(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &[f32],
        k: usize,
        tokens: Range<usize>,
        out: &mut [f32],
    ) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { avx2_dense::float32(w, rows, x, k, tokens, out) }
    }

    unsafe fn dense_quantize(&self, x: &[f32], into: &DenseWriter<'_>, row: usize) {
        // SAFETY: `detect` is the only source of `self`, and the caller's promise.
        unsafe { avx2_dense::quantize(x, into, row) }
    }

    fn attend(&self, part: &attention::Part<'_>, scratch: &mut [f32]) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { attend(part, scratch) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn attend(part: &attention::Part<'_>, scratch: &mut [f32]) {
    // SAFETY: this function has the features that these lanes stand for.
    unsafe { part.run::<[__m256; 2], 4, 1>(scratch) }
}

/// Low and high nibbles of 32 bytes as offset codes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn decode(packed: __m256i) -> (__m256i, __m256i) {
    // SAFETY: the table has 16 bytes.
    let table =
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(OFFSET_CODES.as_ptr().cast()) });
    let nibble = _mm256_set1_epi8(15);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble);
    (
        _mm256_shuffle_epi8(table, _mm256_and_si256(packed, nibble)),
        _mm256_shuffle_epi8(table, high),
    )
}

/// Few tokens: two weight rows at once, read front to back.
///
/// # Safety
/// The sizes have passed [`super::check`], and the processor has what `P` wants.
#[target_feature(enable = "avx2,fma")]
unsafe fn few<P: Products, const LEVEL: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
) {
    let width = rows.len();
    let mut row = rows.start;
    while row < rows.end {
        let pair = rows.end - row >= 2;
        for (i, tokens) in tokens.chunks(TOKENS).enumerate() {
            let out = &mut out[i * TOKENS * width + row - rows.start..];
            // SAFETY: the caller's promise; row + R <= rows.end <= w.rows().
            unsafe {
                match (pair, tokens.len()) {
                    (true, 1) => dot::<P, 2, 1, LEVEL>(w, row, x, tokens, out, width),
                    (true, _) => dot::<P, 2, TOKENS, LEVEL>(w, row, x, tokens, out, width),
                    (false, 1) => dot::<P, 1, 1, LEVEL>(w, row, x, tokens, out, width),
                    (false, _) => dot::<P, 1, TOKENS, LEVEL>(w, row, x, tokens, out, width),
                }
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

/// `R` rows times `T` tokens, into rows of `out` that are `width` apart.
///
/// # Safety
/// `row + R <= w.rows()`, `x` has `w`'s row length, `tokens` are `T` rows of
/// `x`, and the processor has what `P` wants.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot<P: Products, const R: usize, const T: usize, const LEVEL: usize>(
    w: &Matrix<'_>,
    row: usize,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
    width: usize,
) {
    let blocks = w.row_blocks();
    let whole = blocks - blocks % STEP;
    let operands = Operands::<R, T>::new(w, row, x, tokens);
    // SAFETY: the steps cover each row once and do not leave it.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; R];
        for block in (0..whole).step_by(STEP) {
            add_step::<P, R, T, LEVEL>(&operands, block, STEP, &mut sums);
        }
        if whole < blocks {
            add_step::<P, R, T, LEVEL>(&operands, whole, blocks - whole, &mut sums);
        }
        for t in 0..T {
            for r in 0..R {
                out[t * width + r] = total(sums[r][t]);
            }
        }
    }
}

/// Where the rows of a product begin.
struct Operands<const R: usize, const T: usize> {
    weights: [*const u8; R],
    scales: [*const u8; R],
    data: [*const i8; T],
    half_scales: [*const f32; T],
    corrections: [*const i32; T],
}

impl<const R: usize, const T: usize> Operands<R, T> {
    #[inline(always)]
    fn new(w: &Matrix<'_>, row: usize, x: &Int8Rows, tokens: &[u32]) -> Self {
        let tokens: [usize; T] = std::array::from_fn(|t| tokens[t] as usize);
        Self {
            weights: std::array::from_fn(|r| w.row_bytes(row + r).as_ptr()),
            scales: std::array::from_fn(|r| w.row_scales(row + r).as_ptr()),
            data: tokens.map(|token| x.data(token).as_ptr()),
            half_scales: tokens.map(|token| x.half_scales(token).as_ptr()),
            corrections: tokens.map(|token| x.lane_corrections(token).as_ptr()),
        }
    }
}

/// Adds the products of `len` blocks from `block` on, at most `STEP`.
///
/// # Safety
/// The caller enables AVX2 and FMA, and the processor has what `P` wants; the
/// blocks are inside the rows; `block` is a multiple of `STEP`. Activations are
/// padded to whole groups and scales to whole steps. Prefetches may point anywhere.
#[inline(always)]
unsafe fn add_step<P: Products, const R: usize, const T: usize, const LEVEL: usize>(
    operands: &Operands<R, T>,
    block: usize,
    len: usize,
    sums: &mut [[__m256; T]; R],
) {
    // SAFETY: the caller's promise; fewer blocks than a vector are loaded one by one.
    unsafe {
        let mut factors = [[_mm256_setzero_ps(); T]; R];
        for r in 0..R {
            let scale = scale_values(load_scales(operands.scales[r].add(block), len));
            for t in 0..T {
                let own = _mm256_load_ps(operands.half_scales[t].add(block));
                factors[r][t] = _mm256_mul_ps(scale, own);
            }
        }
        let ahead = operands.scales[0].wrapping_add(PREFETCH_SCALES + block * R);
        prefetch::<LEVEL>(ahead);
        for pair in 0..STEP / 2 {
            let first = pair * 2;
            if first >= len {
                break;
            }
            let at = block + first;
            let mut values = [[_mm256_setzero_si256(); 2]; R];
            for r in 0..R {
                if pair % 2 == 0 {
                    let line = at * BLOCK_BYTES * R + r * 64;
                    let ahead = operands.weights[0].wrapping_add(PREFETCH + line);
                    prefetch::<LEVEL>(ahead);
                }
                let codes = operands.weights[r].add(at * BLOCK_BYTES);
                let (low, high) = decode(load_blocks(codes, len - first));
                values[r] = [low, high];
            }
            let lane = first as i32;
            let spread = _mm256_setr_epi32(
                lane,
                lane,
                lane,
                lane,
                lane + 1,
                lane + 1,
                lane + 1,
                lane + 1,
            );
            for t in 0..T {
                let even = operands.data[t].add(block_offset(at));
                let odd = _mm256_load_si256(even.add(GROUP_BYTES / 2).cast());
                let even = _mm256_load_si256(even.cast());
                let correction = _mm256_load_si256(operands.corrections[t].add(at * 4).cast());
                for r in 0..R {
                    let sum = P::add(_mm256_setzero_si256(), values[r][0], even);
                    let sum = P::widen(P::add(sum, values[r][1], odd));
                    let sum = _mm256_add_epi32(sum, correction);
                    let factor = _mm256_permutevar8x32_ps(factors[r][t], spread);
                    sums[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), factor, sums[r][t]);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn total(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}

/// Up to two blocks, zeros behind them.
///
/// # Safety
/// `left` blocks, or two if there are more, are readable at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_blocks(at: *const u8, left: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= 2 {
            _mm256_loadu_si256(at.cast())
        } else {
            _mm256_zextsi128_si256(_mm_loadu_si128(at.cast()))
        }
    }
}

/// Up to eight bytes, zeros behind them.
///
/// # Safety
/// `left` bytes, or eight if there are more, are readable at `at`.
#[inline(always)]
pub(super) unsafe fn load_scales(at: *const u8, left: usize) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= STEP {
            return at.cast::<u64>().read_unaligned();
        }
        let mut word = 0;
        for i in 0..left {
            word |= u64::from(*at.add(i)) << (8 * i);
        }
        word
    }
}

/// Eight E8M0 exponents, lowest byte first, as numbers; see
/// [`super::mxfp4::scale_value`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scale_values(exponents: u64) -> __m256 {
    let exponents = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(exponents as i64));
    // Exponent 0 is the subnormal 2^-127, below which no other one comes.
    let bits = _mm256_max_epi32(
        _mm256_slli_epi32::<23>(exponents),
        _mm256_set1_epi32(0x0040_0000),
    );
    let nan = _mm256_cmpeq_epi32(exponents, _mm256_set1_epi32(255));
    _mm256_castsi256_ps(_mm256_or_si256(bits, nan))
}

#[target_feature(enable = "avx2,fma")]
fn float32(w: &Matrix<'_>, rows: Range<usize>, x: &[f32], tokens: &[u32], out: &mut [f32]) {
    portable::float32(
        w,
        rows,
        x,
        tokens,
        out,
        |w, row, into| dequantize_row(w, row, into),
        |a, b| dot_float32(a, b),
    );
}

/// A dot product of whole blocks.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot_float32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    let (a, b) = (a.as_chunks::<BLOCK>().0, b.as_chunks::<BLOCK>().0);
    for (a, b) in a.iter().zip(b) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block has 32 elements.
            unsafe {
                let a = _mm256_loadu_ps(a.as_ptr().add(8 * i));
                let b = _mm256_loadu_ps(b.as_ptr().add(8 * i));
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
    }
    let low = _mm256_add_ps(sums[0], sums[1]);
    total(_mm256_add_ps(low, _mm256_add_ps(sums[2], sums[3])))
}

/// See [`Matrix::dequantize_row`].
#[inline]
#[target_feature(enable = "avx2")]
fn dequantize_row(w: &Matrix<'_>, row: usize, into: &mut [f32]) {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { _mm_loadu_si128(DOUBLED_CODES.as_ptr().cast()) };
    let nibble = _mm_set1_epi8(15);
    let blocks = w.row_bytes(row).as_chunks::<BLOCK_BYTES>().0;
    for ((block, &scale), out) in blocks
        .iter()
        .zip(w.row_scales(row))
        .zip(into.as_chunks_mut::<BLOCK>().0)
    {
        let scale = _mm256_set1_ps(super::mxfp4::scale_value(scale));
        let half = _mm256_set1_ps(0.5);
        // SAFETY: a block has 16 bytes, and `out` 32 elements.
        unsafe {
            let packed = _mm_loadu_si128(block.as_ptr().cast());
            let even = _mm_shuffle_epi8(table, _mm_and_si128(packed, nibble));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble);
            let odd = _mm_shuffle_epi8(table, high);
            let (low, high) = (_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd));
            let eights = [
                low,
                _mm_srli_si128::<8>(low),
                high,
                _mm_srli_si128::<8>(high),
            ];
            for (i, eight) in eights.into_iter().enumerate() {
                let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
                let values = _mm256_mul_ps(_mm256_mul_ps(codes, half), scale);
                _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), values);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn swiglu(gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
    portable::swiglu::<true>(gate_up, bias, glu, out);
}

#[target_feature(enable = "avx2,fma")]
fn add_weighted(x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
    portable::add_weighted::<true>(x, bias, weight, y);
}

/// # Safety
/// As [`KernelSet::quantize`].
#[target_feature(enable = "avx2,fma")]
unsafe fn quantize(x: &[f32], into: &Int8Writer<'_>, row: usize, first_block: usize) {
    // SAFETY: the caller's promise.
    unsafe { portable::quantize(x, into, row, first_block) }
}
