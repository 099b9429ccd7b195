//! int4 from MXFP4 and from floats, for stock operators:
//! `weight ≈ (nibble - 8) · scale`, one scale for each block of 32, the checkpoint's own
//! where it has any.
//!
//! An MXFP4 block holds 16 different codes at most, so the squared error of a
//! candidate scale follows from how often each code occurs, whatever the
//! block's exponent. The candidate with the least error wins, the first among
//! equals. Blocks whose values int4 can hold, such as `{0, m}`, are exact. Floats are
//! tried with the same candidates.

use std::num::NonZero;

use super::{
    NonFinite, SquaredError, Transposed, all_cores, floor_log2, for_rows, largest_magnitude, power,
    power_of_four, quantize_blocks, sum,
};

/// Weights sharing a scale.
pub const BLOCK: usize = 32;
/// Bytes of a block, in MXFP4 and in int4 alike: two weights each.
pub const BLOCK_BYTES: usize = BLOCK / 2;

/// Values of the E2M1 codes, the sign in bit 3.
pub const CODES: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Largest magnitude in a block divided by its scale: what candidates try. A
/// negative one puts the largest positive value on -8.
pub(super) const RATIOS: [f32; 14] = [
    7.0, 4.0, 6.0, 8.0, -8.0, 7.5, -7.5, 7.25, 6.75, 6.5, 6.25, 5.75, 5.5, 5.0,
];

/// One way to map the 16 codes to int4.
#[derive(Clone, Copy)]
struct Candidate {
    /// Step, in units of the block's exponent.
    step: f32,
    /// Nibble of each code.
    nibbles: [u8; 16],
    /// Squared error of each code.
    errors: [f32; 16],
}

/// The candidates for each largest code (index 1 to 7).
pub struct Tables {
    candidates: [[Candidate; RATIOS.len()]; 8],
}

impl Default for Tables {
    fn default() -> Self {
        let of_largest = |largest: usize| RATIOS.map(|ratio| candidate(CODES[largest] / ratio));
        Self {
            candidates: std::array::from_fn(of_largest),
        }
    }
}

fn candidate(step: f32) -> Candidate {
    let mut made = Candidate {
        step,
        nibbles: [8; 16],
        errors: [0.0; 16],
    };
    if step == 0.0 {
        return made;
    }
    for (code, value) in CODES.iter().enumerate() {
        let level = (value / step).round_ties_even().clamp(-8.0, 7.0);
        let error = f64::from(level) * f64::from(step) - f64::from(*value);
        made.nibbles[code] = (level as i8 + 8) as u8;
        // Rounding noise of an exact level must not count.
        made.errors[code] = if error.abs() < 1e-6 {
            0.0
        } else {
            (error * error) as f32
        };
    }
    made
}

/// Quantizes rows of MXFP4 blocks (16 bytes and one E8M0 scale each) into
/// int4 blocks of the same size and order, with float32 scales, on all cores.
///
/// `blocks` and `weights`: u8 `[rows, K/32, 16]`; `exponents` and `scales`:
/// `[rows, K/32]`, flat; `row_blocks` is K/32.
pub fn quantize(
    tables: &Tables,
    row_blocks: usize,
    blocks: &[u8],
    exponents: &[u8],
    weights: &mut [u8],
    scales: &mut [f32],
) {
    let row_bytes = row_blocks * BLOCK_BYTES;
    let row = (row_bytes, row_blocks);
    let done = for_rows(all_cores(), row, weights, scales, |first, w, s| {
        let each = blocks
            .chunks_exact(BLOCK_BYTES)
            .zip(exponents)
            .skip(first * row_blocks)
            .zip(w.chunks_exact_mut(BLOCK_BYTES))
            .zip(s);
        for (((block, exponent), weights), scale) in each {
            *scale = quantize_block(tables, block, *exponent, weights);
        }
        Ok::<(), std::convert::Infallible>(())
    });
    match done {
        Ok(_) => {}
        Err(never) => match never {},
    }
}

/// Quantizes a float matrix `[inputs, outputs]` into int4 rows of outputs, on all cores:
/// `weights` u8 `[outputs, inputs/2]`, `scales` `[outputs, inputs/32]`.
///
/// # Errors
/// At an infinity or NaN, with its index.
pub fn quantize_floats(
    matrix: Transposed<'_>,
    weights: &mut [u8],
    scales: &mut [f32],
) -> Result<SquaredError, NonFinite> {
    quantize_floats_on(all_cores(), matrix, weights, scales)
}

fn quantize_floats_on(
    threads: NonZero<usize>,
    matrix: Transposed<'_>,
    weights: &mut [u8],
    scales: &mut [f32],
) -> Result<SquaredError, NonFinite> {
    quantize_blocks(threads, matrix, weights, scales, quantize_float_block)
}

/// Writes a block's nibbles; its scale and error, none where a value is not finite.
fn quantize_float_block(values: &[f32; BLOCK], weights: &mut [u8]) -> Option<(f32, SquaredError)> {
    let largest = largest_magnitude(values)?;
    // All below 4 in this unit, so that squares neither overflow nor vanish.
    let exponent = floor_log2(largest).clamp(-126, 126);
    let values = values.map(|v| v * power(-exponent));
    let largest = f32::from_bits(largest) * power(-exponent);
    let (mut best, mut levels, mut least) = (0.0, [0.0; BLOCK], f32::INFINITY);
    if largest > 0.0 {
        for ratio in RATIOS {
            let step = largest / ratio;
            let (tried, error) = levels_of(&values, step, largest);
            if error < least {
                (best, levels, least) = (step, tried, error);
            }
        }
    } else {
        least = 0.0;
    }
    pack(&levels, weights);
    let unit = power_of_four(exponent);
    Some((
        best * power(exponent),
        SquaredError {
            error: f64::from(least) * unit,
            total: f64::from(sum(&values.map(|v| v * v))) * unit,
        },
    ))
}

/// The nearest levels at a step, and their squared error.
pub(super) fn levels_of<const N: usize>(
    values: &[f32; N],
    step: f32,
    largest: f32,
) -> ([f32; N], f32) {
    /// Adding 1.5 · 2^23 leaves an integer, ties to even, on every CPU.
    const MAGIC: f32 = 12_582_912.0;
    // Rounding noise of an exact level must not count.
    let noise = 1e-6 * largest;
    let mut levels = [0.0; N];
    let mut squares = [0.0; N];
    for i in 0..N {
        let level = (values[i] / step + MAGIC) - MAGIC;
        levels[i] = level.clamp(-8.0, 7.0);
        let error = levels[i] * step - values[i];
        let error = if error.abs() < noise { 0.0 } else { error };
        squares[i] = error * error;
    }
    (levels, sum_of_blocks(&squares))
}

/// Sums blocks of 32 one after the other, each as [`sum`] does.
pub(super) fn sum_of_blocks(values: &[f32]) -> f32 {
    values.as_chunks().0.iter().map(sum).sum()
}

/// Writes levels, two a byte, the even one low, as many as there is room for.
pub(super) fn pack(levels: &[f32], weights: &mut [u8]) {
    let nibble = |level: f32| (level as i8 + 8) as u8;
    for (weight, pair) in weights.iter_mut().zip(levels.as_chunks::<2>().0) {
        *weight = nibble(pair[0]) | nibble(pair[1]) << 4;
    }
}

fn quantize_block(tables: &Tables, block: &[u8], exponent: u8, weights: &mut [u8]) -> f32 {
    let mut counts = [0u8; 16];
    for byte in block {
        counts[usize::from(byte & 15)] += 1;
        counts[usize::from(byte >> 4)] += 1;
    }
    let counts = counts.map(f32::from);
    let occurs = |code: &usize| counts[*code] + counts[*code + 8] > 0.0;
    let largest = (1..8).rev().find(occurs).unwrap_or(0);
    let best = best_candidate(&tables.candidates[largest], &counts);
    for (weight, byte) in weights.iter_mut().zip(block) {
        let low = best.nibbles[usize::from(byte & 15)];
        let high = best.nibbles[usize::from(byte >> 4)];
        *weight = low | high << 4;
    }
    best.step * exponent_value(exponent)
}

fn best_candidate<'a>(candidates: &'a [Candidate], counts: &[f32; 16]) -> &'a Candidate {
    let mut best = &candidates[0];
    let mut least = f32::INFINITY;
    for candidate in candidates {
        let products = counts.iter().zip(&candidate.errors);
        let error = products.fold(0.0, |sum, (count, error)| sum + count * error);
        if error < least {
            (best, least) = (candidate, error);
        }
    }
    best
}

/// `2^(exponent - 127)`; 0 is the subnormal `2^-127`.
fn exponent_value(exponent: u8) -> f32 {
    match exponent {
        0 => f32::from_bits(1 << 22),
        e => f32::from_bits(u32::from(e) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(codes: &[u8]) -> Vec<u8> {
        codes.chunks_exact(2).map(|c| c[0] | c[1] << 4).collect()
    }

    /// Relative RMS error, and the largest absolute one.
    fn error(codes: &[u8], exponent: u8) -> (f64, f64) {
        let blocks = pack(codes);
        let mut weights = vec![0; blocks.len()];
        let mut scales = vec![0.0; codes.len() / BLOCK];
        let exponents = vec![exponent; scales.len()];
        let tables = Tables::default();
        quantize(
            &tables,
            scales.len(),
            &blocks,
            &exponents,
            &mut weights,
            &mut scales,
        );
        let unit = 2f64.powi(i32::from(exponent) - 127);
        let (mut squares, mut total, mut largest) = (0.0, 0.0, 0f64);
        for (i, code) in codes.iter().enumerate() {
            let nibble = weights[i / 2] >> (4 * (i % 2)) & 15;
            let back = (f64::from(nibble) - 8.0) * f64::from(scales[i / BLOCK]);
            let value = f64::from(CODES[usize::from(*code)]) * unit;
            squares += (back - value).powi(2);
            total += value.powi(2);
            largest = largest.max((back - value).abs());
        }
        ((squares / total).sqrt(), largest)
    }

    #[test]
    fn a_sound_error_on_normal_weights() {
        // Codes as a rounded normal distribution has them.
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        let codes: Vec<u8> = (0..32 * 512)
            .map(|_| {
                let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                let nearest = |c: &u8| (f64::from(CODES[usize::from(*c)]) - 2.4 * normal).abs();
                (0..16)
                    .min_by(|a, b| nearest(a).total_cmp(&nearest(b)))
                    .unwrap_or(0)
            })
            .collect();
        let (relative, _) = error(&codes, 120);
        assert!(relative < 0.075, "{relative}");
    }

    #[test]
    fn exact_where_int4_can_hold_the_block() {
        let mut codes = [0u8; 32];
        for (i, code) in codes.iter_mut().enumerate() {
            *code = [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13][i % 11];
        }
        let (_, largest) = error(&codes, 127);
        assert_eq!(largest, 0.0);
    }

    /// The codes of one block as floats, quantized directly.
    fn of_floats(codes: &[u8; BLOCK], exponent: u8) -> ([u8; BLOCK_BYTES], f32, SquaredError) {
        let unit = exponent_value(exponent);
        let values = codes.map(|code| CODES[usize::from(code)] * unit);
        let mut weights = [0; BLOCK_BYTES];
        let (scale, error) = quantize_float_block(&values, &mut weights).expect("finite");
        (weights, scale, error)
    }

    #[test]
    fn zeros_have_no_scale() {
        assert_eq!(of_floats(&[0; BLOCK], 127).0, [0x88; BLOCK_BYTES]);
        assert_eq!(of_floats(&[0; BLOCK], 127).1, 0.0);
    }

    #[test]
    fn infinities_and_nan_are_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.5; 64 * 3];
            values[3 * 40 + 2] = bad;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let matrix = Transposed {
                bytes: &bytes,
                float: crate::checkpoint::Float::F32,
                inputs: 64,
                outputs: 3,
            };
            let (mut weights, mut scales) = ([0; 96], [0.0; 6]);
            for threads in [1, 2] {
                let threads = NonZero::new(threads).expect("some");
                let error = quantize_floats_on(threads, matrix, &mut weights, &mut scales);
                assert_eq!(error, Err(NonFinite { index: 122 }));
            }
        }
    }

    proptest! {
        /// Floats that came from MXFP4 lose as little as MXFP4 itself does, and blocks
        /// that int4 can hold are the same to the bit.
        #[test]
        fn floats_are_quantized_as_well(codes in prop::array::uniform32(0u8..16), exponent in 20u8..230) {
            let mut blocks = [0; BLOCK_BYTES];
            let mut scale = [0.0];
            quantize(&Tables::default(), 1, &pack(&codes), &[exponent], &mut blocks, &mut scale);
            let unit = exponent_value(exponent);
            let loss = |nibbles: &[u8], scale: f32| -> f64 {
                let squared = |(i, code): (usize, &u8)| {
                    let level = f64::from(nibbles[i / 2] >> (4 * (i % 2)) & 15) - 8.0;
                    let back = level * f64::from(scale) / f64::from(unit);
                    (back - f64::from(CODES[usize::from(*code)])).powi(2)
                };
                codes.iter().enumerate().map(squared).sum()
            };
            let (of_floats, float_scale, error) = of_floats(&codes, exponent);
            let (from_codes, from_floats) = (loss(&blocks, scale[0]), loss(&of_floats, float_scale));
            prop_assert!((from_codes - from_floats).abs() <= 1e-4 * from_codes + 1e-9);
            let told = error.error / f64::from(unit).powi(2);
            prop_assert!((told - from_floats).abs() <= 1e-4 * from_floats + 1e-9, "{told} {from_floats}");
            if error.error == 0.0 {
                prop_assert_eq!((of_floats, float_scale), (blocks, scale[0]));
            }
        }

        #[test]
        fn two_valued_blocks_are_exact(code in 1u8..16, bits in any::<[bool; 32]>(), exponent in 1u8..250) {
            let codes = bits.map(|b| if b { code } else { 0 });
            let (_, largest) = error(&codes, exponent);
            prop_assert!(largest <= 1e-6 * 2f64.powi(i32::from(exponent) - 127));
        }

        #[test]
        fn no_code_is_off_by_more_than_a_step(codes in prop::collection::vec(0u8..16, 64), exponent in 1u8..250) {
            let (_, largest) = error(&codes, exponent);
            prop_assert!(largest <= 1.21 * 2f64.powi(i32::from(exponent) - 127));
        }
    }
}
