//! Elementwise loops written once, without intrinsics, and compiled for each
//! instruction set by inlining into functions that enable it.

use std::ops::Range;

use half::bf16;

use super::activations::{Int8Block, Int8Writer};
use super::mxfp4::{BLOCK, Matrix};

/// The gated activation's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGlu {
    /// Slope of the sigmoid's argument.
    pub alpha: f32,
    /// Gates are clamped to at most this, ups to its negative and positive.
    pub limit: f32,
}

impl Default for SwiGlu {
    fn default() -> Self {
        Self {
            alpha: 1.702,
            limit: 7.0,
        }
    }
}

/// `e^x` to about 1e-7, for `x` clamped to -87..=88; NaN stays NaN.
///
/// Source: argument reduction by ln 2 in two parts and the degree-6 Taylor
/// polynomial on |r| <= ln(2) / 2.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: rounds, and holds an integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = mul_add::<FMA>(r, p, c);
    }
    let exponent = shifted
        .to_bits()
        .wrapping_sub(SHIFT.to_bits())
        .wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

/// `a * b + c`, fused only where that is an instruction, never a library call.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `out[i] = (up + 1) * gate * sigmoid(alpha * gate)` over interleaved
/// `gate_up` `[2 * out.len()]` plus `bias` of the same length.
#[inline(always)]
pub fn swiglu<const FMA: bool>(gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
    let pairs = gate_up.as_chunks::<2>().0;
    let biases = bias.as_chunks::<2>().0;
    for ((out, pair), bias) in out.iter_mut().zip(pairs).zip(biases) {
        // Comparisons, not min and max: these would turn NaN into a number.
        let gate = pair[0] + widen(bias[0]);
        let gate = if gate > glu.limit { glu.limit } else { gate };
        let up = pair[1] + widen(bias[1]);
        let up = if up > glu.limit { glu.limit } else { up };
        let up = if up < -glu.limit { -glu.limit } else { up };
        *out = (up + 1.0) * (gate / (1.0 + exp::<FMA>(-glu.alpha * gate)));
    }
}

/// `y += weight * (x + bias)`.
#[inline(always)]
pub fn add_weighted<const FMA: bool>(x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
    for ((y, &x), &bias) in y.iter_mut().zip(x).zip(bias) {
        *y = mul_add::<FMA>(weight, x + widen(bias), *y);
    }
}

#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Products in float32 of `rows` of `w` with the chosen rows of `x`
/// `[.., k]`: `out[t, r] = w[rows.start + r] . x[tokens[t]]`, from the two
/// functions that do the work.
#[inline(always)]
pub fn float32(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &[f32],
    tokens: &[u32],
    out: &mut [f32],
    dequantize_row: impl Fn(&Matrix<'_>, usize, &mut [f32]),
    dot: impl Fn(&[f32], &[f32]) -> f32,
) {
    let k = w.k();
    let width = rows.len();
    let mut weights = vec![0.0; k];
    for (column, row) in rows.enumerate() {
        dequantize_row(w, row, &mut weights);
        for (t, &token) in tokens.iter().enumerate() {
            let x = &x[token as usize * k..][..k];
            out[t * width + column] = dot(&weights, x);
        }
    }
}

/// Quantizes `x` (whole blocks) into `row` from `first_block` on.
///
/// # Safety
/// No other thread writes the same blocks meanwhile.
#[inline(always)]
pub unsafe fn quantize(x: &[f32], into: &Int8Writer<'_>, row: usize, first_block: usize) {
    for (i, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { into.write(row, first_block + i, &Int8Block::quantize(x)) };
    }
}

/// A dot product in eight sums, of whole blocks.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exp_is_close(x in -86.9f32..88.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp::<false>(x)) / exact - 1.0).abs() < 4e-7);
        }

        #[test]
        fn swiglu_is_close(gate in -40f32..40.0, up in -12f32..12.0, bias in -2f32..2.0) {
            let bias = bf16::from_f32(bias);
            let mut out = [0.0];
            swiglu::<false>(&[gate, up], &[bias; 2], SwiGlu::default(), &mut out);
            let g = f64::from(gate + bias.to_f32()).min(7.0);
            let u = f64::from(up + bias.to_f32()).clamp(-7.0, 7.0);
            let exact = (u + 1.0) * g / (1.0 + (-1.702 * g).exp());
            prop_assert!((f64::from(out[0]) - exact).abs() <= 8e-6 * exact.abs().max(1e-6));
        }
    }

    #[test]
    fn nan_is_never_hidden() {
        let zero = [bf16::ZERO; 2];
        for pair in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let mut out = [0.0];
            swiglu::<false>(&pair, &zero, SwiGlu::default(), &mut out);
            assert!(out[0].is_nan());
        }
    }
}
