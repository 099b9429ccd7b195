//! MXFP4 with its rows as columns, as CUDA's `QMoE` takes it.
//!
//! ```text
//! published   u8 [N, K/2]   two elements of a row a byte, the even one low
//! columns     u8 [K, N/2]   two elements of a column a byte, the even row's low
//! ```
//!
//! The codes are the same, and so are the scales, which stay `[N, K/32]`.
//!
//! Source: ONNX Runtime, `docs/contrib_ops/cuda/moe_qmoe.md`, section 6.5, and the
//! kernel that unpacks it where the GPU has no MXFP4 of its own.

use std::convert::Infallible;
use std::num::NonZero;

use super::{all_cores, for_rows};

/// Bytes of a column written at a time: a cache line, made of one of each of 128 rows.
const STRIP: usize = 64;

/// Writes the rows of a matrix, u8 `[outputs, inputs/2]`, as columns, u8
/// `[inputs, outputs/2]`, on all cores. Both numbers are even.
pub fn from_rows(rows: &[u8], inputs: usize, outputs: usize, columns: &mut [u8]) {
    from_rows_on(all_cores(), rows, inputs, outputs, columns);
}

fn from_rows_on(
    threads: NonZero<usize>,
    rows: &[u8],
    inputs: usize,
    outputs: usize,
    columns: &mut [u8],
) {
    let (row_bytes, column_bytes) = (inputs / 2, outputs / 2);
    // for_rows splits weights and scales; here are none of these.
    let mut no_scales = vec![(); inputs];
    let row = (column_bytes, 1);
    let done = for_rows(
        threads,
        row,
        columns,
        &mut no_scales,
        |first, columns, _| {
            for start in (0..column_bytes).step_by(STRIP) {
                let strip = STRIP.min(column_bytes - start);
                for (i, column) in columns.chunks_exact_mut(column_bytes).enumerate() {
                    let (byte, shift) = ((first + i) / 2, (first + i) % 2 * 4);
                    for (at, pair) in column[start..start + strip].iter_mut().enumerate() {
                        let even = 2 * (start + at) * row_bytes + byte;
                        let (low, high) = (
                            rows[even] >> shift & 15,
                            rows[even + row_bytes] >> shift & 15,
                        );
                        *pair = low | high << 4;
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(packed: &[u8], width: usize, row: usize, column: usize) -> u8 {
        packed[row * width / 2 + column / 2] >> (column % 2 * 4) & 15
    }

    proptest! {
        #[test]
        fn every_code_is_at_its_place(
            inputs in (1usize..80).prop_map(|n| 2 * n),
            outputs in (1usize..200).prop_map(|n| 2 * n),
            threads in 1usize..4,
            seed in any::<u64>(),
        ) {
            let mut state = seed;
            let rows: Vec<u8> = (0..inputs * outputs / 2)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            let mut columns = vec![0; rows.len()];
            let threads = NonZero::new(threads).expect("some");
            from_rows_on(threads, &rows, inputs, outputs, &mut columns);
            for input in 0..inputs {
                for output in 0..outputs {
                    let there = code(&columns, outputs, input, output);
                    prop_assert_eq!(there, code(&rows, inputs, output, input));
                }
            }
        }
    }
}
