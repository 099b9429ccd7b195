//! int4 as CUDA's `QMoE` takes it: `weight ≈ (nibble - 8) · scale`, one scale for each
//! block of 64, which float16 holds.
//!
//! The scales that [`int4`](super::int4) tries are tried here too, each rounded to
//! float16 first, on the values themselves: two MXFP4 blocks with exponents of their own
//! share one. The least squared error wins, the first among equals.
//!
//! The bytes lie as the operator's schema says, `[E, N, K/2]`, the even element low;
//! ONNX Runtime brings them into the order of its kernels while it opens the model
//! (`weights_prepacked` 0).
//!
//! Source: ONNX Runtime, `docs/contrib_ops/cuda/moe_qmoe.md`, sections 5.1 and 6.1.

use std::convert::Infallible;

use half::f16;

use super::int4::{CODES, RATIOS, levels_of, pack, sum_of_blocks};
use super::{
    NonFinite, SquaredError, Transposed, all_cores, floor_log2, for_rows, largest_magnitude, power,
    power_of_four, quantize_blocks, widen,
};
use crate::kernels::mxfp4::{self, scale_value};

/// Weights sharing a scale.
pub const BLOCK: usize = 64;

/// Quantizes rows of `inputs` MXFP4 weights into int4 rows, on all cores.
///
/// `blocks` u8 `[rows, inputs/32, 16]` and `exponents` `[rows, inputs/32]`; `weights` u8
/// `[rows, inputs/2]` and `scales` `[rows, ceil(inputs/64)]`, NaN where a weight is beyond
/// float16.
pub fn quantize(
    inputs: usize,
    blocks: &[u8],
    exponents: &[u8],
    weights: &mut [u8],
    scales: &mut [f32],
) {
    let (row_bytes, row_exponents) = (inputs / 2, inputs / mxfp4::BLOCK);
    let row = (row_bytes, inputs.div_ceil(BLOCK));
    let done = for_rows(
        all_cores(),
        row,
        weights,
        scales,
        |first, weights, scales| {
            let rows = weights
                .chunks_exact_mut(row_bytes)
                .zip(scales.chunks_exact_mut(row.1))
                .zip(blocks.chunks_exact(row_bytes).skip(first))
                .zip(exponents.chunks_exact(row_exponents).skip(first));
            for (((weights, scales), blocks), exponents) in rows {
                let each = weights
                    .chunks_mut(BLOCK / 2)
                    .zip(scales)
                    .zip(blocks.chunks(BLOCK / 2))
                    .zip(exponents.chunks(BLOCK / mxfp4::BLOCK));
                for (((weights, scale), blocks), exponents) in each {
                    let values = values_of(blocks, exponents);
                    // Whoever writes the scales refuses a NaN.
                    *scale = quantize_block(&values, weights).map_or(f32::NAN, |(scale, _)| scale);
                }
            }
            Ok::<(), Infallible>(())
        },
    );
    match done {
        Ok(_) => {}
        Err(never) => match never {},
    }
}

/// What up to two MXFP4 blocks hold; the rest is zero.
fn values_of(blocks: &[u8], exponents: &[u8]) -> [f32; BLOCK] {
    let mut values = [0.0; BLOCK];
    for (pair, (byte, at)) in values
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(blocks.iter().zip(0..))
    {
        let unit: f32 = scale_value(exponents[at / mxfp4::BLOCK_BYTES]);
        pair[0] = CODES[usize::from(byte & 15)] * unit;
        pair[1] = CODES[usize::from(byte >> 4)] * unit;
    }
    values
}

/// Quantizes a float matrix `[inputs, outputs]` into int4 rows of outputs, on all cores:
/// `weights` u8 `[outputs, inputs/2]`, `scales` `[outputs, ceil(inputs/64)]`.
///
/// # Errors
/// At an infinity, a NaN or what is infinite in float16, with its index.
pub fn quantize_floats(
    matrix: Transposed<'_>,
    weights: &mut [u8],
    scales: &mut [f32],
) -> Result<SquaredError, NonFinite> {
    let done = quantize_blocks(all_cores(), matrix, weights, scales, quantize_block);
    done.map_err(|_| first_beyond(matrix))
}

fn first_beyond(matrix: Transposed<'_>) -> NonFinite {
    let beyond = |values: Vec<f32>| values.iter().position(|v| !is_held(*v));
    match widen(matrix.float, matrix.bytes) {
        Ok(values) => NonFinite {
            index: beyond(values).unwrap_or(0),
        },
        Err(error) => error,
    }
}

/// Whether float16 has a finite number for it. The provider's kernels multiply levels and
/// scales in that, and a scale for larger ones need not be one.
fn is_held(value: f32) -> bool {
    f16::from_f32(value).is_finite()
}

/// Writes a block's nibbles, as many as there is room for; its scale and error, none
/// where a value is not finite in float16.
fn quantize_block(values: &[f32; BLOCK], weights: &mut [u8]) -> Option<(f32, SquaredError)> {
    let largest = largest_magnitude(values)?;
    let true_largest = f32::from_bits(largest);
    if !is_held(true_largest) {
        return None;
    }
    // All below 2 in this unit, so that squares neither overflow nor vanish.
    let exponent = floor_log2(largest).clamp(-126, 126);
    let values = values.map(|v| v * power(-exponent));
    let largest = true_largest * power(-exponent);
    let total = sum_of_blocks(&values.map(|v| v * v));
    // What nothing but zeros costs.
    let (mut best, mut levels, mut least) = (0.0, [0.0; BLOCK], total);
    for ratio in RATIOS {
        let scale = f16::from_f32(true_largest / ratio).to_f32();
        // Of the tiniest weights float16 has none: they become zero.
        if scale == 0.0 {
            continue;
        }
        let (tried, error) = levels_of(&values, scale * power(-exponent), largest);
        if error < least {
            (best, levels, least) = (scale, tried, error);
        }
    }
    pack(&levels, weights);
    let unit = power_of_four(exponent);
    Some((
        best,
        SquaredError {
            error: f64::from(least) * unit,
            total: f64::from(total) * unit,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Float;
    use proptest::prelude::*;

    fn pack(codes: &[u8]) -> Vec<u8> {
        codes.chunks_exact(2).map(|c| c[0] | c[1] << 4).collect()
    }

    /// One row: nibbles, scales, and what they stand for.
    fn row(codes: &[u8], exponents: &[u8]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let inputs = codes.len();
        let mut weights = vec![0; inputs / 2];
        let mut scales = vec![0.0; inputs.div_ceil(BLOCK)];
        quantize(inputs, &pack(codes), exponents, &mut weights, &mut scales);
        let nibble = |i: usize| f32::from(weights[i / 2] >> (i % 2 * 4) & 15) - 8.0;
        let back = (0..inputs).map(|i| nibble(i) * scales[i / BLOCK]).collect();
        (weights, scales, back)
    }

    fn values(codes: &[u8], exponents: &[u8]) -> Vec<f32> {
        let value =
            |(i, code): (usize, &u8)| CODES[usize::from(*code)] * scale_value(exponents[i / 32]);
        codes.iter().enumerate().map(value).collect()
    }

    #[test]
    fn zeros_have_no_scale() {
        let (weights, scales, _) = row(&[0; 96], &[120; 3]);
        assert!(weights.iter().all(|w| *w == 0x88));
        assert_eq!(scales, [0.0, 0.0]);
    }

    #[test]
    fn infinities_and_nan_are_found() {
        // The last is halfway to what would be the next float16.
        for bad in [f32::NAN, f32::INFINITY, -1e30, 65520.0] {
            let mut values = vec![0.5f32; 96 * 3];
            values[3 * 70 + 2] = bad;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let matrix = Transposed {
                bytes: &bytes,
                float: Float::F32,
                inputs: 96,
                outputs: 3,
            };
            let error = quantize_floats(matrix, &mut [0; 144], &mut [0.0; 6]);
            assert_eq!(error, Err(NonFinite { index: 212 }));
        }
    }

    #[test]
    fn the_largest_and_the_smallest_float16_have_a_scale() {
        let one = |value: f32| {
            let mut weights = [0; BLOCK / 2];
            let mut values = [0.0; BLOCK];
            (values[0], values[1]) = (value, -value / 2.0);
            let (scale, error) = quantize_block(&values, &mut weights).expect("finite");
            let level = f32::from(weights[0] & 15) - 8.0;
            (level * scale, error.relative_rms())
        };
        assert_eq!(one(65504.0), (65504.0, 0.0));
        assert_eq!(one(2f32.powi(-22)), (2f32.powi(-22), 0.0));
        let (back, error) = one(2f32.powi(-40));
        assert_eq!((back, error), (0.0, 1.0));
    }

    #[test]
    fn codes_beyond_float16_have_no_scale() {
        let exponent = 127 + 14;
        let (mut codes, mut weights, mut scales) = ([0; 128], vec![0; 64], vec![0.0; 2]);
        // 4 times 2^14 is 65536, 3 times is held.
        (codes[3], codes[70]) = (5, 6);
        quantize(
            128,
            &pack(&codes),
            &[exponent; 4],
            &mut weights,
            &mut scales,
        );
        assert!(scales[0].is_finite() && scales[1].is_nan(), "{scales:?}");
    }

    proptest! {
        /// Blocks that int4 can hold with one scale are exact, though it is a float16.
        #[test]
        fn two_valued_rows_are_exact(code in 1u8..16, bits in any::<[bool; 96]>(), exponent in 112u8..140) {
            let codes = bits.map(|b| if b { code } else { 0 });
            let exponents = [exponent; 3];
            let (_, _, back) = row(&codes, &exponents);
            for (back, value) in back.iter().zip(values(&codes, &exponents)) {
                prop_assert_eq!(*back, value);
            }
        }

        /// No weight is off by more than a step of the larger of the block's exponents.
        #[test]
        fn no_code_is_off_by_more_than_a_step(
            codes in prop::collection::vec(0u8..16, 192),
            exponents in prop::collection::vec(110u8..130, 6),
        ) {
            let (_, scales, back) = row(&codes, &exponents);
            prop_assert!(scales.iter().all(|s| f16::from_f32(*s).to_f32() == *s));
            let values = values(&codes, &exponents);
            for (i, (back, value)) in back.iter().zip(&values).enumerate() {
                let at = i / BLOCK * 2;
                let unit = exponents[at..at + 2].iter().copied().map(scale_value).fold(0.0, f32::max);
                prop_assert!((back - value).abs() <= 1.21 * unit, "{back} {value} {unit}");
            }
        }

        /// No other of the scales that are tried has a smaller error.
        #[test]
        fn the_error_is_the_least_of_those_tried(
            codes in prop::collection::vec(0u8..16, 64),
            exponents in prop::collection::vec(116u8..120, 2),
        ) {
            let (_, _, back) = row(&codes, &exponents);
            let values = values(&codes, &exponents);
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            prop_assume!(largest > 0.0);
            let squared = |a: f64, b: f32| (a - f64::from(b)).powi(2);
            let found: f64 = back.iter().zip(&values).map(|(b, v)| squared(f64::from(*b), *v)).sum();
            for ratio in RATIOS {
                let step = f64::from(f16::from_f32(largest / ratio).to_f32());
                let level = |v: f32| (f64::from(v) / step).round_ties_even().clamp(-8.0, 7.0);
                let error: f64 = values.iter().map(|v| squared(level(*v) * step, *v)).sum();
                // The quantizer sums in float32, and takes tiny errors for none.
                let noise = 64.0 * (2e-6 * f64::from(largest)).powi(2);
                prop_assert!(found <= error * (1.0 + 1e-5) + noise, "{ratio}: {found} {error}");
            }
        }

        /// A float matrix gives what its rows give by themselves.
        #[test]
        fn floats_are_quantized_alike(
            codes in prop::collection::vec(0u8..16, 96 * 2),
            exponent in 112u8..130,
        ) {
            let exponents = [exponent; 3];
            let rows: Vec<_> = codes.chunks(96).map(|codes| row(codes, &exponents)).collect();
            let by_row: Vec<_> = codes.chunks(96).map(|codes| values(codes, &exponents)).collect();
            let bytes: Vec<u8> = (0..96)
                .flat_map(|i| by_row.iter().flat_map(move |row| row[i].to_le_bytes()))
                .collect();
            let matrix = Transposed { bytes: &bytes, float: Float::F32, inputs: 96, outputs: 2 };
            let (mut weights, mut scales) = (vec![0; 96], vec![0.0; 4]);
            quantize_floats(matrix, &mut weights, &mut scales).expect("finite");
            for (i, (row_weights, row_scales, _)) in rows.iter().enumerate() {
                prop_assert_eq!(&weights[i * 48..(i + 1) * 48], row_weights.as_slice());
                prop_assert_eq!(&scales[i * 2..(i + 1) * 2], row_scales.as_slice());
            }
        }
    }
}
