//! NEON with dot products of bytes (`sdot`): four products a 32-bit lane.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

use half::bf16;

use super::activations::Int8Rows;
use super::dense::{self, DenseRows, Int8Matrix};
use super::mxfp4::{BLOCK, BLOCK_BYTES, Matrix, scale_value};
use super::neon_dot::decode;
use super::portable::SwiGlu;
use super::{Isa, KernelSet, attention, neon_dense, neon_experts, portable};

/// Runs on processors with dot products; NEON itself all of them have.
#[derive(Debug)]
pub struct Neon(());

impl Neon {
    /// The kernel, where this processor can run it.
    pub fn detect() -> Option<&'static Self> {
        is_aarch64_feature_detected!("dotprod").then_some(&Self(()))
    }
}

impl KernelSet for Neon {
    fn isa(&self) -> Isa {
        Isa::NeonDot
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
        // dot products; `check` has compared all sizes.
        unsafe { neon_experts::int8(w, rows, x, tokens, out) }
    }

    fn float32(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &[f32],
        tokens: &[u32],
        out: &mut [f32],
    ) {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { float32(w, rows, x, tokens, out) }
    }

    fn swiglu(&self, gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
        portable::swiglu::<true>(gate_up, bias, glu, out);
    }

    fn add_weighted(&self, x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
        portable::add_weighted::<true>(x, bias, weight, y);
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
        unsafe { neon_dense::int8(w, rows, x, tokens, out) }
    }

    fn attend(&self, part: &attention::Part<'_>, scratch: &mut [f32]) {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { attend(part, scratch) }
    }
}

#[target_feature(enable = "neon")]
fn attend(part: &attention::Part<'_>, scratch: &mut [f32]) {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { part.run::<[float32x4_t; 4], 4, 1>(scratch) }
}

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn dot_float32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 8];
    let (a, b) = (a.as_chunks::<BLOCK>().0, b.as_chunks::<BLOCK>().0);
    for (a, b) in a.iter().zip(b) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block has 32 elements.
            unsafe {
                let a = vld1q_f32(a.as_ptr().add(4 * i));
                *sum = vfmaq_f32(*sum, a, vld1q_f32(b.as_ptr().add(4 * i)));
            }
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let (low, high) = (
        vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)),
        vaddq_f32(vaddq_f32(e, f), vaddq_f32(g, h)),
    );
    vaddvq_f32(vaddq_f32(low, high))
}

/// See [`Matrix::dequantize_row`].
#[inline]
#[target_feature(enable = "neon")]
fn dequantize_row(w: &Matrix<'_>, row: usize, into: &mut [f32]) {
    let blocks = w.row_bytes(row).as_chunks::<BLOCK_BYTES>().0;
    let places = into.as_chunks_mut::<BLOCK>().0;
    for ((block, &scale), out) in blocks.iter().zip(w.row_scales(row)).zip(places) {
        // SAFETY: a block has 16 bytes, and `out` 32 elements.
        unsafe {
            let [even, odd] = decode(vld1q_u8(block.as_ptr()));
            let scale = vdupq_n_f32(scale_value(scale));
            for (i, half) in [vzip1q_s8(even, odd), vzip2q_s8(even, odd)]
                .into_iter()
                .enumerate()
            {
                let (low, high) = (vmovl_s8(vget_low_s8(half)), vmovl_high_s8(half));
                let fours = [
                    vmovl_s16(vget_low_s16(low)),
                    vmovl_high_s16(low),
                    vmovl_s16(vget_low_s16(high)),
                    vmovl_high_s16(high),
                ];
                for (j, four) in fours.into_iter().enumerate() {
                    // Codes are doubled: one bit behind the point.
                    let values = vmulq_f32(vcvtq_n_f32_s32::<1>(four), scale);
                    vst1q_f32(out.as_mut_ptr().add(16 * i + 4 * j), values);
                }
            }
        }
    }
}
