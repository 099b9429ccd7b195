//! The reference kernel: plain loops, the meaning every other kernel is tested against.

use std::ops::Range;

use super::activations::{Int8Rows, block_offset};
use super::mxfp4::{BLOCK_BYTES, DOUBLED_CODES, Matrix, scale_value};
use super::{Isa, KernelSet, portable};

/// Runs on any processor.
#[derive(Debug)]
pub struct Scalar;

impl KernelSet for Scalar {
    fn isa(&self) -> Isa {
        Isa::Scalar
    }

    fn int8(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &Int8Rows,
        tokens: &[u32],
        out: &mut [f32],
    ) {
        let width = rows.len();
        for (column, row) in rows.enumerate() {
            for (t, &token) in tokens.iter().enumerate() {
                out[t * width + column] = dot(w, row, x, token as usize);
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
        let dequantize_row = |w: &Matrix<'_>, row, into: &mut [f32]| w.dequantize_row(row, into);
        portable::float32(w, rows, x, tokens, out, dequantize_row, portable::dot);
    }
}

/// One dot product: integers within a block, float32 across blocks.
fn dot(w: &Matrix<'_>, row: usize, x: &Int8Rows, token: usize) -> f32 {
    let codes = w.row_bytes(row).as_chunks::<BLOCK_BYTES>().0;
    let data = x.data(token);
    let mut sum = 0.0;
    for (block, ((codes, &scale), &half_scale)) in codes
        .iter()
        .zip(w.row_scales(row))
        .zip(x.half_scales(token))
        .enumerate()
    {
        let even = &data[block_offset(block)..];
        let odd = &even[64..];
        let mut products = 0i32;
        for (i, &byte) in codes.iter().enumerate() {
            let low = DOUBLED_CODES[usize::from(byte & 15)];
            let high = DOUBLED_CODES[usize::from(byte >> 4)];
            products += i32::from(low) * i32::from(even[i]) + i32::from(high) * i32::from(odd[i]);
        }
        sum += products as f32 * (scale_value(scale) * half_scale);
    }
    sum
}
