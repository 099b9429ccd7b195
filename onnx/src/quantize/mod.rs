//! Quantizers: int8 blocks of float rows; MXFP4 and int4 blocks of the experts' float
//! matrices; int4 blocks of MXFP4 rows. All are symmetric. And MXFP4 with its rows as
//! columns.
//!
//! Every step is one IEEE operation on one value, so that the result is the
//! same on every machine, with any number of threads.

pub mod columns;
pub mod int4;
pub mod int4_wide;
pub mod int8;
pub mod mxfp4;
mod transposed;

use std::num::NonZero;

use crate::checkpoint::Float;

pub use transposed::Transposed;

/// A weight is infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite {
    /// Flat index of the first such element.
    pub index: usize,
}

/// What quantizing weights has cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SquaredError {
    /// Sum of the squared differences.
    pub error: f64,
    /// Sum of the squared weights.
    pub total: f64,
}

impl SquaredError {
    /// Root mean square of the differences, relative to that of the weights.
    pub fn relative_rms(self) -> f64 {
        match self.total {
            0.0 => 0.0,
            total => (self.error / total).sqrt(),
        }
    }
}

impl std::ops::AddAssign for SquaredError {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.total += other.total;
    }
}

/// Widens little-endian elements to float32.
///
/// # Errors
/// At the first infinity or NaN.
pub fn widen(float: Float, bytes: &[u8]) -> Result<Vec<f32>, NonFinite> {
    let mut values = vec![0.0; bytes.len() / float.size()];
    float.widen_into(bytes, &mut values);
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(index) => Err(NonFinite { index }),
    }
}

/// Looks for infinities and NaN in little-endian elements.
///
/// # Errors
/// At the first.
pub fn all_finite(float: Float, bytes: &[u8]) -> Result<(), NonFinite> {
    let mut elements = bytes.chunks_exact(float.size());
    match elements.position(|element| !float.is_finite(element)) {
        None => Ok(()),
        Some(index) => Err(NonFinite { index }),
    }
}

/// The bits of a float32 but its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;
/// Those of infinity; a NaN has larger ones.
const INFINITE: u32 = 0x7f80_0000;

/// The largest magnitude among finite values, as its bits.
///
/// None where a value is infinite or not a number.
fn largest_magnitude(values: &[f32]) -> Option<u32> {
    let largest = values.iter().fold(0, |m, v| m.max(v.to_bits() & MAGNITUDE));
    (largest < INFINITE).then_some(largest)
}

/// `floor(log2(x))` of a positive finite float32, by its bits.
fn floor_log2(bits: u32) -> i32 {
    match bits >> 23 {
        0 => 31 - bits.leading_zeros() as i32 - 149,
        exponent => exponent as i32 - 127,
    }
}

/// `2^exponent`, for -126 to 127.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// `4^exponent`, for -511 to 511.
fn power_of_four(exponent: i32) -> f64 {
    f64::from_bits(((2 * exponent + 1023) as u64) << 52)
}

/// Sums eight at a time, in an order that vectors have too.
fn sum(values: &[f32; transposed::BLOCK]) -> f32 {
    let mut sums = [0.0; 8];
    for part in values.as_chunks::<8>().0 {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// Every core of this machine.
fn all_cores() -> NonZero<usize> {
    std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

/// Runs `work(first_row, weights, scales)` on threads over disjoint runs of rows;
/// `weights` and `scales` are the output rows of that run. Their results, in order.
fn for_rows<S: Send, T: Send, E: Send>(
    threads: NonZero<usize>,
    (row_bytes, row_scales): (usize, usize),
    weights: &mut [u8],
    scales: &mut [S],
    work: impl Fn(usize, &mut [u8], &mut [S]) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let rows = weights.len() / row_bytes.max(1);
    let share = rows.div_ceil(threads.get()).max(1);
    std::thread::scope(|scope| {
        let runs = weights
            .chunks_mut(share * row_bytes)
            .zip(scales.chunks_mut(share * row_scales))
            .enumerate();
        let work = &work;
        let workers: Vec<_> = runs
            .map(|(i, (w, s))| scope.spawn(move || work(i * share, w, s)))
            .collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect()
    })
}

/// Quantizes a matrix `[inputs, outputs]` by its blocks of `B` along the inputs:
/// `quantize(block, bytes)` writes the bytes of a block, two weights each, and gives its
/// scale and what it cost, none where a value is not finite. `weights` u8
/// `[outputs, inputs/2]`, `scales` `[outputs, ceil(inputs/B)]`; of the last block there
/// are only the bytes that a row has.
fn quantize_blocks<const B: usize, S: Send>(
    threads: NonZero<usize>,
    matrix: Transposed<'_>,
    weights: &mut [u8],
    scales: &mut [S],
    quantize: impl Fn(&[f32; B], &mut [u8]) -> Option<(S, SquaredError)> + Sync,
) -> Result<SquaredError, NonFinite> {
    let row_blocks = matrix.inputs.div_ceil(B);
    let row_bytes = matrix.inputs / 2;
    let row = (row_bytes, row_blocks);
    let errors = for_rows(threads, row, weights, scales, |first, weights, scales| {
        let rows = scales.len() / row_blocks;
        let mut errors = vec![SquaredError::default(); rows];
        let mut finite = true;
        matrix.blocks::<B>(first..first + rows, |row, place, block| {
            let start = row * row_bytes + place * (B / 2);
            let end = (start + B / 2).min((row + 1) * row_bytes);
            match quantize(block, &mut weights[start..end]) {
                Some((scale, error)) => {
                    scales[row * row_blocks + place] = scale;
                    errors[row] += error;
                }
                None => finite = false,
            }
        });
        finite.then_some(errors).ok_or(())
    });
    match errors {
        Ok(errors) => {
            // Row by row, whoever computed them.
            let mut all = SquaredError::default();
            errors.into_iter().flatten().for_each(|row| all += row);
            Ok(all)
        }
        // The first of them, whoever met one.
        Err(()) => Err(all_finite(matrix.float, matrix.bytes)
            .err()
            .unwrap_or(NonFinite { index: 0 })),
    }
}
