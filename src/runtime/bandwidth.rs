//! How fast this machine reads memory: what a token cannot be faster than.

use std::hint::black_box;
use std::time::Instant;

/// Bytes that are read: far beyond any cache.
const BYTES: usize = 1 << 30;
/// The best of so many passes counts.
const PASSES: usize = 4;

/// Bytes per second that `threads` threads read together, each its own part of
/// a gigabyte, in order; 0 where there is no memory for it.
pub fn measure(threads: usize) -> f64 {
    let mut words: Vec<u64> = Vec::new();
    if words.try_reserve_exact(BYTES / 8).is_err() {
        return 0.0;
    }
    // Not zero: pages of zeros may be one and the same.
    words.resize(BYTES / 8, 0x0101_0101_0101_0101);
    let passes = (0..PASSES).map(|_| pass(&words, threads.max(1)));
    passes.fold(0.0, f64::max)
}

fn pass(words: &[u64], threads: usize) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in words.chunks(words.len().div_ceil(threads)) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
    size_of_val(words) as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

/// In several sums, so that additions do not wait for one another.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for block in words.as_chunks::<32>().0 {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read() {
        let words: Vec<u64> = (0..6400).collect();
        assert_eq!(sum(&words), 6399 * 6400 / 2);
        assert!(pass(&words, 3) > 0.0);
    }
}
