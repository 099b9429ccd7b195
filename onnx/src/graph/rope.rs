//! YaRN's cosines and sines (arXiv 2309.00071), as `GroupQueryAttention`
//! wants them: float32 `[positions, head_dim / 2]`, the concentration
//! multiplied in.
//!
//! Computed in float64 with libm's portable functions, so that the table is
//! the same on every machine.

use std::f64::consts::PI;

use crate::checkpoint::Rope;

/// Cosines or sines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `cos(position · frequency) · concentration`
    Cos,
    /// `sin(position · frequency) · concentration`
    Sin,
}

/// Angle a position adds, for each of the `head_dim / 2` rotated pairs.
pub fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f64> {
    let dim = head_dim as f64;
    let original = rope.original_max_position_embeddings as f64;
    // The pair that rotates so many times over the original context.
    let pair_of = |rotations: f64| {
        dim * libm::log(original / (rotations * 2.0 * PI)) / (2.0 * libm::log(rope.theta))
    };
    let (mut low, mut high) = (pair_of(rope.beta_fast), pair_of(rope.beta_slow));
    if rope.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let pairs = (0..head_dim / 2).map(|pair| {
        let pair = pair as f64;
        let extrapolated = libm::pow(rope.theta, -2.0 * pair / dim);
        let interpolated = extrapolated / rope.factor;
        let ramp = ((pair - low) / (high - low)).clamp(0.0, 1.0);
        interpolated * ramp + extrapolated * (1.0 - ramp)
    });
    pairs.collect()
}

/// What cosines and sines are multiplied with, so that attention keeps its
/// temperature: `0.1 · ln(factor) + 1`.
pub fn concentration(rope: &Rope) -> f64 {
    0.1 * libm::log(rope.factor) + 1.0
}

/// Row `position` of the table.
pub fn row(table: Table, frequencies: &[f64], concentration: f64, position: usize) -> Vec<f32> {
    let angles = frequencies.iter().map(|f| f * position as f64);
    let function = match table {
        Table::Cos => libm::cos,
        Table::Sin => libm::sin,
    };
    angles
        .map(|angle| (function(angle) * concentration) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Rope {
        Rope {
            theta: 150_000.0,
            factor: 32.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
        }
    }

    #[test]
    fn published_concentration() {
        assert!((concentration(&published()) - 1.346_573_590_279_972_7).abs() < 1e-15);
    }

    #[test]
    fn ends_of_the_ramp_are_untouched_and_fully_interpolated() {
        let found = frequencies(&published(), 64);
        assert_eq!(found.len(), 32);
        assert_eq!(found[0], 1.0);
        // Pairs below 8.09 rotate more than 32 times in 4096 positions.
        let plain = |pair: f64| 150_000f64.powf(-pair / 32.0);
        assert!((found[8] / plain(8.0) - 1.0).abs() < 1e-12);
        assert!(found[9] < plain(9.0) * 0.999);
        assert!((found[31] * 32.0 / plain(31.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn truncation_widens_the_ramp() {
        let mut rope = published();
        rope.truncate = true;
        assert!(frequencies(&rope, 64)[12] != frequencies(&published(), 64)[12]);
    }
}
