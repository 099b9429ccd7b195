//! AVX-512 with VNNI: 64 bytes of weights (four blocks) an instruction.
//!
//! Nibbles become bytes through a table of `2 * value + 12`, unsigned, and
//! `vpdpbusd` multiplies them with signed activations, starting from
//! `-12 * sum(activations)`. The table is read by `vpermb` where the processor
//! has VBMI, which ignores what is above a nibble, else by `vpshufb`.

// Indexes run over registers that several arrays share.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::activations::{GROUP_BLOCKS, GROUP_BYTES, Int8Block, Int8Rows, Int8Writer};
use super::bf16_tiles::Bf16Products;
use super::dense::{self, DenseRows, DenseWriter, Int8Matrix};
use super::mxfp4::{BLOCK, BLOCK_BYTES, CODE_OFFSET, Matrix, OFFSET_CODES};
use super::portable::SwiGlu;
use super::tile::prefetch;
use super::{Isa, KernelSet, portable, prefetch_level};
use super::{amx_bf16, attention, avx512_dense, avx512_tile};

/// How far ahead of their use weights are fetched, in bytes. Lines are fetched
/// in address order across the rows computed together.
const PREFETCH: usize = 8192;
/// The same for scales, of which there are 16 times fewer.
const PREFETCH_SCALES: usize = 1024;
/// Blocks of a step: as many scales as a vector holds.
const STEP: usize = 16;
/// Tokens that share one decoding of the weights; more are faster in tiles.
const TOKENS: usize = 4;

/// The kernel, where this processor can run it.
pub fn detect<const VBMI: bool>() -> Option<&'static dyn KernelSet> {
    match prefetch_level() {
        2 => Avx512::<VBMI, false, 2>::detect().map(|kernel| kernel as _),
        _ => Avx512::<VBMI, false, 1>::detect().map(|kernel| kernel as _),
    }
}

/// The kernel with VBMI and tiles of bf16, where this processor and system let it run.
pub fn detect_amx() -> Option<&'static dyn KernelSet> {
    Avx512::<true, true, 2>::detect().map(|kernel| kernel as _)
}

/// Runs on processors with AVX-512 F, BW, VL and VNNI; `VBMI` wants that too, and `AMX`
/// tiles of bf16, by which it multiplies many tokens. Weights are fetched into the cache
/// of this `LEVEL`: see [`prefetch_level`].
#[derive(Debug)]
pub struct Avx512<const VBMI: bool, const AMX: bool, const LEVEL: usize>(());

impl<const VBMI: bool, const AMX: bool, const LEVEL: usize> Avx512<VBMI, AMX, LEVEL> {
    fn detect() -> Option<&'static Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma")
            && (!VBMI || is_x86_feature_detected!("avx512vbmi"))
            && (!AMX || amx_bf16::detect().is_some());
        supported.then_some(&Self(()))
    }
}

impl<const VBMI: bool, const AMX: bool, const LEVEL: usize> KernelSet for Avx512<VBMI, AMX, LEVEL> {
    fn isa(&self) -> Isa {
        match (AMX, VBMI) {
            (true, _) => Isa::AmxBf16,
            (false, true) => Isa::Avx512Vbmi,
            (false, false) => Isa::Avx512Vnni,
        }
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
            match (tokens.len() <= TOKENS, VBMI) {
                (true, true) => few_vbmi::<LEVEL>(w, rows, x, tokens, out),
                (true, false) => few_vnni::<LEVEL>(w, rows, x, tokens, out),
                (false, _) => avx512_tile::many(w, rows, x, tokens, out),
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

    fn bf16(&self) -> Option<&'static dyn Bf16Products> {
        if AMX { amx_bf16::detect() } else { None }
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
        unsafe { avx512_dense::int8::<LEVEL>(w, rows, x, tokens, out) }
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
        unsafe { avx512_dense::float32(w, rows, x, k, tokens, out) }
    }

    unsafe fn dense_quantize(&self, x: &[f32], into: &DenseWriter<'_>, row: usize) {
        // SAFETY: `detect` is the only source of `self`, and the caller's promise.
        unsafe { avx512_dense::quantize(x, into, row) }
    }

    fn attend(&self, part: &attention::Part<'_>, scratch: &mut [f32]) {
        // SAFETY: `detect` is the only source of `self`.
        unsafe { attend(part, scratch) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn attend(part: &attention::Part<'_>, scratch: &mut [f32]) {
    // SAFETY: this function has the features that these lanes stand for.
    unsafe { part.run::<__m512, { attention::MOST_ROWS }, 2>(scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma")]
fn few_vbmi<const LEVEL: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
) {
    // SAFETY: a table of 64 bytes for `vpermb`, that repeats every 16.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(OFFSET_CODES.as_ptr().cast()) });
    let decode = |packed| {
        let high = _mm512_srli_epi16::<4>(packed);
        (
            _mm512_permutexvar_epi8(packed, table),
            _mm512_permutexvar_epi8(high, table),
        )
    };
    // SAFETY: the features are enabled here.
    unsafe { few::<LEVEL>(w, rows, x, tokens, out, decode) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
fn few_vnni<const LEVEL: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
) {
    // SAFETY: the features are enabled here.
    unsafe { few::<LEVEL>(w, rows, x, tokens, out, |packed| decode(packed)) }
}

/// Low and high nibbles of 64 bytes as offset codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn decode(packed: __m512i) -> (__m512i, __m512i) {
    // SAFETY: the table has 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(OFFSET_CODES.as_ptr().cast()) });
    let nibble = _mm512_set1_epi8(15);
    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), nibble);
    (
        _mm512_shuffle_epi8(table, _mm512_and_si512(packed, nibble)),
        _mm512_shuffle_epi8(table, high),
    )
}

/// Few tokens: two weight rows at once, read front to back.
///
/// # Safety
/// The caller enables AVX-512 F, BW, VL, VNNI, and has called [`super::check`];
/// there are at most `TOKENS` tokens.
#[inline(always)]
unsafe fn few<const LEVEL: usize>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Int8Rows,
    tokens: &[u32],
    out: &mut [f32],
    decode: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    let width = rows.len();
    let mut row = rows.start;
    while row < rows.end {
        let pair = rows.end - row >= 2;
        let place = Place {
            row,
            column: row - rows.start,
            width,
        };
        // SAFETY: the caller's promise; row + R <= rows.end <= w.rows().
        unsafe {
            match (pair, tokens.len()) {
                (_, 0) => {}
                (true, 1) => dot::<2, 1, LEVEL>(w, x, tokens, place, out, decode),
                (true, 2) => dot::<2, 2, LEVEL>(w, x, tokens, place, out, decode),
                (true, 3) => dot::<2, 3, LEVEL>(w, x, tokens, place, out, decode),
                (true, _) => dot::<2, TOKENS, LEVEL>(w, x, tokens, place, out, decode),
                (false, 1) => dot::<1, 1, LEVEL>(w, x, tokens, place, out, decode),
                (false, 2) => dot::<1, 2, LEVEL>(w, x, tokens, place, out, decode),
                (false, 3) => dot::<1, 3, LEVEL>(w, x, tokens, place, out, decode),
                (false, _) => dot::<1, TOKENS, LEVEL>(w, x, tokens, place, out, decode),
            }
        }
        row += if pair { 2 } else { 1 };
    }
}

/// Where [`dot`] reads and writes.
#[derive(Clone, Copy)]
struct Place {
    /// First weight row.
    row: usize,
    /// First column of `out`.
    column: usize,
    /// Columns of `out`.
    width: usize,
}

/// `R` rows times `T` tokens.
///
/// # Safety
/// The caller enables AVX-512 F, BW, VL and VNNI; `place.row + R <= w.rows()`,
/// `x` has `w`'s row length, `tokens[..T]` are rows of `x`.
#[inline(always)]
unsafe fn dot<const R: usize, const T: usize, const LEVEL: usize>(
    w: &Matrix<'_>,
    x: &Int8Rows,
    tokens: &[u32],
    place: Place,
    out: &mut [f32],
    decode: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    let blocks = w.row_blocks();
    let whole = blocks - blocks % STEP;
    let operands = Operands::<R, T>::new(w, place.row, x, tokens);
    // SAFETY: the steps cover each row once and do not leave it.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        for block in (0..whole).step_by(STEP) {
            add_step::<R, T, LEVEL>(&operands, block, STEP, &mut sums, decode);
        }
        if whole < blocks {
            add_step::<R, T, LEVEL>(&operands, whole, blocks - whole, &mut sums, decode);
        }
        for t in 0..T {
            for r in 0..R {
                out[t * place.width + place.column + r] = _mm512_reduce_add_ps(sums[r][t]);
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
/// The caller enables AVX-512 F, BW, VL and VNNI; the blocks are inside the
/// rows; `block` is a multiple of `STEP`. Activations are padded to whole
/// groups and scales to whole steps. Prefetches may point anywhere.
#[inline(always)]
unsafe fn add_step<const R: usize, const T: usize, const LEVEL: usize>(
    operands: &Operands<R, T>,
    block: usize,
    len: usize,
    sums: &mut [[__m512; T]; R],
    decode: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    // SAFETY: the caller's promise; masks where fewer than a vector is left.
    unsafe {
        let mut factors = [[_mm512_setzero_ps(); T]; R];
        for r in 0..R {
            let scale = load_scales(operands.scales[r].add(block), len);
            for t in 0..T {
                let own = _mm512_load_ps(operands.half_scales[t].add(block));
                factors[r][t] = _mm512_mul_ps(scale, own);
            }
        }
        let ahead = operands.scales[0].wrapping_add(PREFETCH_SCALES + block * R);
        prefetch::<LEVEL>(ahead);
        for group in 0..STEP / GROUP_BLOCKS {
            let first = group * GROUP_BLOCKS;
            if first >= len {
                break;
            }
            let at = block + first;
            let mut values = [[_mm512_setzero_si512(); 2]; R];
            for r in 0..R {
                let line = at * BLOCK_BYTES * R + r * 64;
                let ahead = operands.weights[0].wrapping_add(PREFETCH + line);
                prefetch::<LEVEL>(ahead);
                let codes = operands.weights[r].add(at * BLOCK_BYTES);
                let (low, high) = decode(load_blocks(codes, len - first));
                values[r] = [low, high];
            }
            let spread = lanes(group);
            for t in 0..T {
                let even = operands.data[t].add(at / GROUP_BLOCKS * GROUP_BYTES);
                let odd = _mm512_load_si512(even.add(GROUP_BYTES / 2).cast());
                let even = _mm512_load_si512(even.cast());
                let start = _mm512_load_si512(operands.corrections[t].add(at * 4).cast());
                for r in 0..R {
                    let sum = _mm512_dpbusd_epi32(start, values[r][0], even);
                    let sum = _mm512_dpbusd_epi32(sum, values[r][1], odd);
                    let factor = _mm512_permutexvar_ps(spread, factors[r][t]);
                    sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, sums[r][t]);
                }
            }
        }
    }
}

/// Spreads scales `4 * group ..` of a vector over the four lanes of each block.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(group: usize) -> __m512i {
    let one = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    _mm512_add_epi32(one, _mm512_set1_epi32(4 * group as i32))
}

/// Up to four blocks, zeros behind them.
///
/// # Safety
/// `left` blocks, or four if there are more, are readable at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_blocks(at: *const u8, left: usize) -> __m512i {
    // SAFETY: the mask keeps the load inside.
    unsafe {
        if left >= 4 {
            _mm512_loadu_si512(at.cast())
        } else {
            _mm512_maskz_loadu_epi8((1 << (left * BLOCK_BYTES)) - 1, at.cast())
        }
    }
}

/// Up to 16 exponents as numbers.
///
/// # Safety
/// `left` bytes, or 16 if there are more, are readable at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_scales(at: *const u8, left: usize) -> __m512 {
    // SAFETY: the mask keeps the load inside.
    let bytes = unsafe {
        if left >= STEP {
            _mm_loadu_si128(at.cast())
        } else {
            _mm_maskz_loadu_epi8((1 << left) - 1, at.cast())
        }
    };
    scale_values(_mm512_cvtepu8_epi32(bytes))
}

/// E8M0 exponents as numbers; see [`super::mxfp4::scale_value`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn scale_values(exponents: __m512i) -> __m512 {
    // Exponent 0 is the subnormal 2^-127, below which no other one comes.
    let bits = _mm512_max_epi32(
        _mm512_slli_epi32::<23>(exponents),
        _mm512_set1_epi32(0x0040_0000),
    );
    let nan = _mm512_cmpeq_epi32_mask(exponents, _mm512_set1_epi32(255));
    _mm512_castsi512_ps(_mm512_mask_set1_epi32(bits, nan, 0x7fc0_0000))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn dot_float32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut add = |a: &[f32; BLOCK], b: &[f32; BLOCK], first: usize| {
        for (i, sum) in sums[first..first + 2].iter_mut().enumerate() {
            // SAFETY: a block has 32 elements.
            unsafe {
                let a = _mm512_loadu_ps(a.as_ptr().add(16 * i));
                let b = _mm512_loadu_ps(b.as_ptr().add(16 * i));
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
    };
    let (a, b) = (a.as_chunks::<BLOCK>().0, b.as_chunks::<BLOCK>().0);
    let (a_pairs, b_pairs) = (a.as_chunks::<2>(), b.as_chunks::<2>());
    for (a, b) in a_pairs.0.iter().zip(b_pairs.0) {
        add(&a[0], &b[0], 0);
        add(&a[1], &b[1], 2);
    }
    for (a, b) in a_pairs.1.iter().zip(b_pairs.1) {
        add(a, b, 0);
    }
    let low = _mm512_add_ps(sums[0], sums[1]);
    _mm512_reduce_add_ps(_mm512_add_ps(low, _mm512_add_ps(sums[2], sums[3])))
}

/// See [`Matrix::dequantize_row`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn dequantize_row(w: &Matrix<'_>, row: usize, into: &mut [f32]) {
    let halves = super::mxfp4::DOUBLED_CODES.map(|code| f32::from(code) * 0.5);
    // SAFETY: the table has 16 elements.
    let table = unsafe { _mm512_loadu_ps(halves.as_ptr()) };
    let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    let blocks = w.row_bytes(row).as_chunks::<BLOCK_BYTES>().0;
    for ((block, &scale), out) in blocks
        .iter()
        .zip(w.row_scales(row))
        .zip(into.as_chunks_mut::<BLOCK>().0)
    {
        let scale = _mm512_set1_ps(super::mxfp4::scale_value(scale));
        // SAFETY: a block has 16 bytes, and `out` 32 elements.
        unsafe {
            // The permutation looks at the low four bits of each index alone.
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.as_ptr().cast()));
            let even = _mm512_permutexvar_ps(codes, table);
            let odd = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table);
            let (even, odd) = (_mm512_mul_ps(even, scale), _mm512_mul_ps(odd, scale));
            let out = out.as_mut_ptr();
            _mm512_storeu_ps(out, _mm512_permutex2var_ps(even, first, odd));
            _mm512_storeu_ps(out.add(16), _mm512_permutex2var_ps(even, second, odd));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn swiglu(gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
    portable::swiglu::<true>(gate_up, bias, glu, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn add_weighted(x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
    portable::add_weighted::<true>(x, bias, weight, y);
}

/// # Safety
/// As [`KernelSet::quantize`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn quantize(x: &[f32], into: &Int8Writer<'_>, row: usize, first_block: usize) {
    for (i, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { into.write(row, first_block + i, &quantize_block(x)) };
    }
}

/// See [`Int8Block::quantize`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
fn quantize_block(x: &[f32; BLOCK]) -> Int8Block {
    // SAFETY: a block has 32 elements.
    let (a, b) = unsafe {
        (
            _mm512_loadu_ps(x.as_ptr()),
            _mm512_loadu_ps(x.as_ptr().add(16)),
        )
    };
    // Magnitudes order like their bits, NaN above all.
    let magnitude = |v| _mm512_castps_si512(_mm512_abs_ps(v));
    let largest = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude(a), magnitude(b)));
    let (inverse, half_scale) = Int8Block::scales(f32::from_bits(largest as u32));
    let inverse = _mm512_set1_ps(inverse);
    // Eight even elements, then eight odd ones, of each half.
    let split = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    let round = |v| {
        let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
        _mm_shuffle_epi8(_mm512_cvtepi32_epi8(rounded), split)
    };
    let (a, b) = (round(a), round(b));
    let (even, odd) = (_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
    let offset = _mm_set1_epi8(CODE_OFFSET);
    let sum = _mm_dpbusd_epi32(_mm_setzero_si128(), offset, even);
    let sum = _mm_dpbusd_epi32(sum, offset, odd);
    let mut block = Int8Block {
        even: [0; 16],
        odd: [0; 16],
        half_scale,
        corrections: [0; 4],
    };
    // SAFETY: each place has 16 bytes.
    unsafe {
        _mm_storeu_si128(block.even.as_mut_ptr().cast(), even);
        _mm_storeu_si128(block.odd.as_mut_ptr().cast(), odd);
        let corrections = _mm_sub_epi32(_mm_setzero_si128(), sum);
        _mm_storeu_si128(block.corrections.as_mut_ptr().cast(), corrections);
    }
    block
}
