//! MXFP4 from floats, for checkpoints whose experts are not published in it.
//!
//! A block of 32 weights shares a power of two; each is rounded to the nearest of the
//! E2M1 values 0, ½, 1, 1½, 2, 3, 4 and 6, ties to the even code, as in the OCP
//! Microscaling Formats (MX) specification 1.0. The sign of a zero is kept.
//!
//! # The scale
//! The specification's own conversion (section 6.3) takes the exponent
//! `floor(log2(max|w|)) - 2`, which puts the largest weight at 4 to 8 steps and cuts it
//! to 6. Here the exponent with the least squared error wins, that one among equals.
//! No others than it and its two neighbours can have the least:
//! - One above it nothing is cut, and up to 6 the grid of a larger exponent is a part
//!   of that of a smaller one: two above is never nearer.
//! - Two below it, the largest weight, of 4 steps or more, is cut to 1½: at least 6¼
//!   squared steps lost. Weights up to 1½ gain at most 1/16 each, 31 of them less than
//!   2; larger ones are cut too.
//!
//! # Weights that came from MXFP4
//! They come back exactly: the largest weight of such a block is 4 or 6 steps at the
//! specification's exponent, which is then not above the one it was stored with, and on
//! the finer grid is whatever was on the coarser one up to there. That exponent has no
//! error, and is tried first.
//!
//! The bytes are the stored ones too where the block's largest code was 4 or 6. A block
//! stored with a larger exponent than it needs is stored with the needed one; one of
//! zeros gets the scale byte 0, as Triton's `downcast_to_mxfp_torch` does it.
//!
//! [`crate::kernels::mxfp4`] says how the bytes lie.

use std::num::NonZero;

use super::{
    NonFinite, SquaredError, Transposed, all_cores, floor_log2, largest_magnitude, power,
    power_of_four, quantize_blocks, sum,
};
use crate::kernels::mxfp4::BLOCK;

/// The least exponent: E8M0's.
const LOWEST: i32 = -127;
/// The largest: 6 times it is still a finite float32 and bfloat16.
const HIGHEST: i32 = 125;
/// What E8M0 adds to an exponent.
const BIAS: i32 = 127;
/// The largest value of the grid.
const LARGEST: f32 = 6.0;

/// Quantizes a matrix `[inputs, outputs]` into MXFP4 rows of outputs, on all cores:
/// `blocks` u8 `[outputs, inputs/32, 16]` and `scales` u8 `[outputs, inputs/32]`.
///
/// # Errors
/// At an infinity or NaN, with its index.
pub fn quantize(
    matrix: Transposed<'_>,
    blocks: &mut [u8],
    scales: &mut [u8],
) -> Result<SquaredError, NonFinite> {
    quantize_on(all_cores(), matrix, blocks, scales)
}

/// [`quantize`] on a number of threads, which does not change the result.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_on(
    threads: NonZero<usize>,
    matrix: Transposed<'_>,
    blocks: &mut [u8],
    scales: &mut [u8],
) -> Result<SquaredError, NonFinite> {
    quantize_blocks(threads, matrix, blocks, scales, quantize_block)
}

/// A block's weights on the grid of one exponent.
struct Candidate {
    exponent: i32,
    /// Magnitudes, in units of `2^exponent`.
    magnitudes: [f32; BLOCK],
    /// Squared error, in the same units.
    error: f32,
}

impl Candidate {
    fn new(values: &[f32; BLOCK], exponent: i32) -> Self {
        let inverse = power(-exponent);
        let mut magnitudes = [0.0; BLOCK];
        let mut squares = [0.0; BLOCK];
        for i in 0..BLOCK {
            let magnitude = values[i].abs() * inverse;
            let rounded = round(magnitude);
            magnitudes[i] = rounded;
            squares[i] = (magnitude - rounded) * (magnitude - rounded);
        }
        Self {
            exponent,
            magnitudes,
            error: sum(&squares),
        }
    }
}

/// The nearest value of the grid, ties to the even code. Adding 1.5 · 2^23 steps leaves a
/// multiple of the step, which vectorises on every CPU, as `round` does not.
#[inline(always)]
fn round(magnitude: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let offset = if magnitude < 2.0 {
        0.5 * MAGIC
    } else if magnitude < 4.0 {
        MAGIC
    } else {
        2.0 * MAGIC
    };
    ((magnitude + offset) - offset).min(LARGEST)
}

/// Writes a block's codes; its scale and error, none where a value is not finite.
fn quantize_block(values: &[f32; BLOCK], bytes: &mut [u8]) -> Option<(u8, SquaredError)> {
    let largest = largest_magnitude(values)?;
    let specified = match largest {
        0 => LOWEST,
        bits => (floor_log2(bits) - 2).clamp(LOWEST, HIGHEST),
    };
    let mut best = Candidate::new(values, specified);
    // In units of the specified exponent.
    let mut least = best.error;
    if least > 0.0 && specified < HIGHEST {
        let above = Candidate::new(values, specified + 1);
        if 4.0 * above.error < least {
            least = 4.0 * above.error;
            best = above;
        }
    }
    // What the largest weight alone loses below it.
    let cut = (f32::from_bits(largest) * power(-specified) - LARGEST / 2.0).max(0.0);
    if least > cut * cut && specified > LOWEST {
        let below = Candidate::new(values, specified - 1);
        if 0.25 * below.error < least {
            least = 0.25 * below.error;
            best = below;
        }
    }
    pack(values, &best.magnitudes, bytes);
    let unit = power_of_four(specified);
    let scaled = values.map(|v| v * power(-specified));
    Some((
        (best.exponent + BIAS) as u8,
        SquaredError {
            error: f64::from(least) * unit,
            total: f64::from(sum(&scaled.map(|v| v * v))) * unit,
        },
    ))
}

/// Two codes a byte, the even element low, signs in bit 3.
fn pack(values: &[f32; BLOCK], magnitudes: &[f32; BLOCK], bytes: &mut [u8]) {
    let mut codes = [0u32; BLOCK];
    for i in 0..BLOCK {
        // From 1 on, a code is the last bit of the exponent above that of ½ and the
        // first of the mantissa; ½ itself is the grid's one subnormal.
        let magnitude = magnitudes[i];
        let normal = (magnitude.to_bits() >> 22).saturating_sub(0xfc);
        let code = normal + u32::from(magnitude == 0.5);
        codes[i] = code | values[i].to_bits() >> 31 << 3;
    }
    for (byte, pair) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (pair[0] | pair[1] << 4) as u8;
    }
}

#[cfg(test)]
mod tests;
