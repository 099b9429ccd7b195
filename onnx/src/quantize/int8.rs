//! int8: a block of weights shares one scale, `weight ≈ (byte - 128) · scale`,
//! `scale = max|weight| / 127`. Rows of `{0, m}` come back exactly, up to
//! float32 rounding.
//!
//! Where scales are float16, for graphs that compute in it, the rounded scale is what
//! weights are divided by, and of `max|weight|` at 127 and at 64 steps that with the
//! least squared error is taken: a 64th of a bfloat16 is a float16, so that rows of
//! `{0, m}` are exact again.

use half::f16;

use super::{NonFinite, all_cores, for_rows, largest_magnitude, sum, transposed};
use crate::checkpoint::Float;

/// Weights sharing a scale in matrix products.
pub const MATMUL_BLOCK: usize = 64;
/// Weights sharing a scale in the embedding; divides every hidden size.
pub const EMBEDDING_BLOCK: usize = 32;
/// The byte that stands for zero.
pub const ZERO_POINT: u8 = 128;

/// Weights sharing a scale where scales are float16.
pub const HALF_BLOCK: usize = transposed::BLOCK;

/// What scales are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// Nothing coarser than float32.
    Float32,
    /// Values that float16 holds; blocks of [`HALF_BLOCK`] only.
    Float16,
}

/// How a matrix's rows are laid out once quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Weights of a row in the checkpoint.
    pub columns: usize,
    /// Weights sharing a scale.
    pub block: usize,
    /// Whether the last block of a row is filled up with zeros.
    pub padded: bool,
    /// What the scales are rounded to.
    pub scales: Scales,
}

impl Layout {
    /// Layout of `MatMulNBits`: u8 `[N, ceil(K/64), 64]`, f32 `[N, ceil(K/64)]`.
    pub fn matmul(columns: usize) -> Self {
        Self {
            columns,
            block: MATMUL_BLOCK,
            padded: true,
            scales: Scales::Float32,
        }
    }

    /// Layout of `MatMulNBits` where CUDA's own kernels for it begin: blocks of 32,
    /// u8 `[N, ceil(K/32), 32]`, f16 `[N, ceil(K/32)]`.
    pub fn half_matmul(columns: usize) -> Self {
        Self {
            columns,
            block: HALF_BLOCK,
            padded: true,
            scales: Scales::Float16,
        }
    }

    /// Layout of `GatherBlockQuantized`: u8 `[V, H]`, f32 `[V, H/32]`.
    pub fn embedding(columns: usize) -> Self {
        Self {
            columns,
            block: EMBEDDING_BLOCK,
            padded: false,
            scales: Scales::Float32,
        }
    }

    /// The same with float16 scales.
    pub fn half_embedding(columns: usize) -> Self {
        Self {
            scales: Scales::Float16,
            ..Self::embedding(columns)
        }
    }

    /// Scales of one row.
    pub fn row_scales(self) -> usize {
        self.columns.div_ceil(self.block)
    }

    /// Whether a magnitude, given by its bits, is finite and its block can have a scale.
    fn holds(self, magnitude: u32) -> bool {
        let largest = match self.scales {
            Scales::Float32 => f32::MAX,
            Scales::Float16 => 127.0 * f16::MAX.to_f32(),
        };
        f32::from_bits(magnitude) <= largest
    }

    /// Bytes of one quantized row.
    pub fn row_bytes(self) -> usize {
        if self.padded {
            self.row_scales() * self.block
        } else {
            self.columns
        }
    }
}

/// Quantizes rows of little-endian floats (`columns` each) into `weights`
/// (`row_bytes` each) and `scales` (`row_scales` each), on all cores.
///
/// # Errors
/// At an infinity or NaN, with its index from the start of `source`.
pub fn quantize(
    layout: Layout,
    float: Float,
    source: &[u8],
    weights: &mut [u8],
    scales: &mut [f32],
) -> Result<(), NonFinite> {
    let (row_bytes, row_scales) = (layout.row_bytes(), layout.row_scales());
    let row = (row_bytes, row_scales);
    for_rows(all_cores(), row, weights, scales, |first, w, s| {
        let rows = source
            .chunks_exact(float.size() * layout.columns)
            .skip(first)
            .zip(w.chunks_exact_mut(row_bytes))
            .zip(s.chunks_exact_mut(row_scales));
        let mut values = vec![0.0; layout.columns];
        for (row, ((source, weights), scales)) in rows.enumerate() {
            float.widen_into(source, &mut values);
            quantize_row(layout, &values, weights, scales).map_err(|e| NonFinite {
                index: (first + row) * layout.columns + e.index,
            })?;
        }
        Ok(())
    })?;
    Ok(())
}

fn quantize_row(
    layout: Layout,
    values: &[f32],
    weights: &mut [u8],
    scales: &mut [f32],
) -> Result<(), NonFinite> {
    let blocks = values
        .chunks(layout.block)
        .zip(weights.chunks_mut(layout.block))
        .zip(scales);
    for (index, ((values, weights), scale)) in blocks.enumerate() {
        let Some(largest) = largest_magnitude(values).filter(|largest| layout.holds(*largest))
        else {
            let beyond = |v: &f32| !layout.holds(v.abs().to_bits());
            let within = values.iter().position(beyond).unwrap_or(0);
            return Err(NonFinite {
                index: index * layout.block + within,
            });
        };
        if layout.scales == Scales::Float16 {
            *scale = half_block(values, f32::from_bits(largest), weights);
            continue;
        }
        *scale = f32::from_bits(largest) / 127.0;
        let inverse = 1.0 / *scale;
        weights.fill(ZERO_POINT);
        if !inverse.is_finite() {
            // Nothing but zeros, or weights below 2^-121: as good as zero.
            *scale = 0.0;
            continue;
        }
        for (weight, value) in weights.iter_mut().zip(values) {
            *weight = round_to_byte(value * inverse);
        }
    }
    Ok(())
}

/// Quantizes a block of at most [`HALF_BLOCK`] weights, of which `largest` is the
/// largest magnitude, with a float16 scale; gives that.
fn half_block(values: &[f32], largest: f32, weights: &mut [u8]) -> f32 {
    let mut block = [0.0; HALF_BLOCK];
    block[..values.len()].copy_from_slice(values);
    // Rounding noise of an exact level must not count.
    let noise = 1e-6 * largest;
    let (mut best, mut least) = (0.0, f32::INFINITY);
    let mut levels = [0.0; HALF_BLOCK];
    for steps in [127.0, 64.0] {
        let scale = f16::from_f32(largest / steps).to_f32();
        if scale == 0.0 || scale.is_infinite() {
            continue;
        }
        let inverse = 1.0 / scale;
        let tried = block.map(|v| round(v * inverse).clamp(-127.0, 127.0));
        let mut squares = [0.0; HALF_BLOCK];
        for i in 0..HALF_BLOCK {
            let error = tried[i] * scale - block[i];
            squares[i] = if error.abs() < noise {
                0.0
            } else {
                error * error
            };
        }
        let error = sum(&squares);
        if error < least {
            (best, least, levels) = (scale, error, tried);
        }
    }
    weights.fill(ZERO_POINT);
    for (weight, level) in weights.iter_mut().zip(levels) {
        *weight = round_to_byte(level);
    }
    best
}

/// Rounds to the nearest integer, ties to even, where `|x| < 2^22`.
fn round(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// Rounds `-127.5 < x < 127.5` to the nearest integer, ties to even, and adds
/// [`ZERO_POINT`]. Adding 1.5 · 2^23 leaves the integer in the low bits, which
/// vectorises on every CPU, as `round` does not.
fn round_to_byte(x: f32) -> u8 {
    const MAGIC: f32 = 12_582_912.0;
    ((x + MAGIC).to_bits() as u8).wrapping_add(ZERO_POINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn run(layout: Layout, values: &[f32]) -> Result<(Vec<u8>, Vec<f32>), NonFinite> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        let rows = values.len() / layout.columns;
        let mut weights = vec![0; rows * layout.row_bytes()];
        let mut scales = vec![0.0; rows * layout.row_scales()];
        quantize(layout, Float::Bf16, &bytes, &mut weights, &mut scales)?;
        Ok((weights, scales))
    }

    #[test]
    fn rounds_ties_to_even_around_the_zero_point() {
        for (x, byte) in [
            (0.0, 128),
            (-127.0, 1),
            (127.0, 255),
            (0.5, 128),
            (1.5, 130),
            (-0.5, 128),
            (-1.5, 126),
        ] {
            assert_eq!(round_to_byte(x), byte, "{x}");
        }
    }

    #[test]
    fn the_last_block_is_padded_with_zeros() {
        let (weights, scales) = run(Layout::matmul(96), &[1.0; 96]).expect("finite");
        assert_eq!((weights.len(), scales.len()), (128, 2));
        assert!(weights[..96].iter().all(|w| *w == 255));
        assert!(weights[96..].iter().all(|w| *w == ZERO_POINT));
    }

    #[test]
    fn infinities_and_nan_are_found() {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut values = vec![0.25; 3 * 96];
            values[96 + 70] = bad;
            let error = run(Layout::matmul(96), &values).expect_err("not finite");
            assert_eq!(error.index, 96 + 70);
        }
    }

    #[test]
    fn weights_beyond_half_scales_are_found() {
        let mut values = vec![0.25; 2 * 96];
        values[96 + 33] = -127.0 * 65536.0;
        assert!(run(Layout::matmul(96), &values).is_ok());
        let error = run(Layout::half_matmul(96), &values).expect_err("too large");
        assert_eq!(error.index, 96 + 33);
        values[96 + 33] = 127.0 * 65024.0;
        let (_, scales) = run(Layout::half_matmul(96), &values).expect("small enough");
        assert_eq!(scales[4], 65024.0);
    }

    #[test]
    fn zeros_and_subnormals_become_zero() {
        for tiny in [0.0, 1e-39] {
            let (weights, scales) = run(Layout::matmul(64), &[tiny; 64]).expect("finite");
            assert!(weights.iter().all(|w| *w == ZERO_POINT));
            assert_eq!(scales, [0.0]);
        }
    }

    proptest! {
        #[test]
        fn error_is_at_most_half_a_step(
            columns in 1usize..200,
            seed in prop::collection::vec(-3.0f32..3.0, 600),
            padded in any::<bool>(),
        ) {
            let layout = Layout { columns, block: 64, padded, scales: Scales::Float32 };
            let rows = 600 / columns;
            let values: Vec<f32> = seed[..rows * columns]
                .iter()
                .map(|v| bf16::from_f32(*v).to_f32())
                .collect();
            let (weights, scales) = run(layout, &values).expect("finite");
            for (i, value) in values.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let scale = scales[row * layout.row_scales() + column / 64];
                let byte = weights[row * layout.row_bytes() + column];
                let back = (f32::from(byte) - 128.0) * scale;
                prop_assert!((back - value).abs() <= 0.5001 * scale, "{value} {back} {scale}");
            }
        }

        /// As well as a float16 scale allows.
        #[test]
        fn half_scales_cost_little(seed in prop::collection::vec(-3.0f32..3.0, 192), exponent in -8i32..8) {
            let unit = 2f32.powi(exponent);
            let values: Vec<f32> = seed.iter().map(|v| bf16::from_f32(v * unit).to_f32()).collect();
            let (weights, scales) = run(Layout::half_matmul(96), &values).expect("finite");
            for (i, value) in values.iter().enumerate() {
                let scale = scales[i / 32];
                prop_assert_eq!(f16::from_f32(scale).to_f32(), scale);
                let back = (f32::from(weights[i]) - 128.0) * scale;
                // Half a step, and what the scale was rounded by.
                let bound = scale * (0.501 + 127.0 / 2048.0) + 2f32.powi(-24);
                prop_assert!((back - value).abs() <= bound, "{value} {back} {scale}");
            }
        }

        #[test]
        fn two_valued_rows_are_exact_with_half_scales(m in 0.01f32..1000.0, bits in any::<[bool; 96]>()) {
            let m = bf16::from_f32(m).to_f32();
            let values = bits.map(|b| if b { -m } else { 0.0 });
            let (weights, scales) = run(Layout::half_matmul(96), &values).expect("finite");
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!((f32::from(weights[i]) - 128.0) * scales[i / 32], *value);
            }
        }

        #[test]
        fn two_valued_rows_are_exact(m in -1000.0f32..1000.0, bits in any::<[bool; 96]>()) {
            let m = bf16::from_f32(m).to_f32();
            let values = bits.map(|b| if b { m } else { 0.0 });
            let layout = Layout::matmul(96);
            let (weights, scales) = run(layout, &values).expect("finite");
            for (i, value) in values.iter().enumerate() {
                let back = (f32::from(weights[i]) - 128.0) * scales[i / 64];
                prop_assert!((back - value).abs() <= value.abs() * 3e-7);
            }
        }
    }
}
