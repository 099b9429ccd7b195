//! Quantizers: int8 blocks of bfloat16 rows, int4 blocks of MXFP4 rows, both
//! symmetric.
//!
//! Every step is one IEEE operation on one value, so that the result is the
//! same on every machine, with any number of threads.

pub mod int4;
pub mod int8;

use std::num::NonZero;

/// A bfloat16 weight is infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite {
    /// Flat index of the first such element.
    pub index: usize,
}

/// Widens little-endian bfloat16 to float32.
///
/// # Errors
/// At the first infinity or NaN.
pub fn widen(bytes: &[u8]) -> Result<Vec<f32>, NonFinite> {
    all_finite(bytes)?;
    let wide = |word| f32::from_bits(u32::from(word) << 16);
    Ok(words(bytes).map(wide).collect())
}

/// Looks for infinities and NaN in little-endian bfloat16.
///
/// # Errors
/// At the first.
pub fn all_finite(bytes: &[u8]) -> Result<(), NonFinite> {
    match words(bytes).position(|word| word & EXPONENT == EXPONENT) {
        None => Ok(()),
        Some(index) => Err(NonFinite { index }),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes
        .chunks_exact(2)
        .map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// The exponent's bits in a bfloat16; all set in infinities and NaN.
const EXPONENT: u16 = 0x7f80;

/// Runs `work(first_row, weights, scales)` on every core over disjoint runs of
/// rows; `weights` and `scales` are the output rows of that run.
fn for_rows<E: Send>(
    row_bytes: usize,
    row_scales: usize,
    weights: &mut [u8],
    scales: &mut [f32],
    work: impl Fn(usize, &mut [u8], &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let rows = weights.len() / row_bytes.max(1);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let runs = weights
            .chunks_mut(share * row_bytes)
            .zip(scales.chunks_mut(share * row_scales))
            .enumerate();
        let work = &work;
        let workers: Vec<_> = runs
            .map(|(i, (w, s))| scope.spawn(move || work(i * share, w, s)))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}
