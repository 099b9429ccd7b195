//! Reading memory as fast as it comes: the limit of every kernel that reads weights.

use std::hint::black_box;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::tile::prefetch;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Lines that are added up independently, so that no addition waits for another.
const SUMS: usize = 4;
/// How far ahead lines are fetched, in bytes; as far as kernels do.
const AHEAD: usize = 8192;

/// Reads all bytes, and nothing comes of it.
pub fn read(bytes: &[u8]) {
    black_box(sum(bytes));
}

/// The sum of all 64-bit words and of the bytes behind them, in the widest registers
/// that this processor has: narrow loads do not keep enough lines on the way.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has what the function needs.
        return unsafe { sum_avx512(bytes) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return unsafe { sum_avx2(bytes) };
    }
    sum_lines(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8]) -> u64 {
    sum_lines(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_lines(bytes)
}

#[inline(always)]
fn sum_lines(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; SUMS * LINE / 8];
    let (groups, rest) = bytes.as_chunks::<{ SUMS * LINE }>();
    for group in groups {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        for line in 0..SUMS {
            prefetch::<2>(group.as_ptr().wrapping_add(AHEAD + line * LINE));
        }
        for (sum, word) in sums.iter_mut().zip(group.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    let (words, bytes) = rest.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    let all = sums.into_iter().chain(words);
    let all = all.chain(bytes.iter().map(|&byte| u64::from(byte)));
    all.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_once() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        for len in [0, 1, 7, 8, 255, 256, 257, 4999] {
            let (words, rest) = bytes[..len].as_chunks::<8>();
            let words = words.iter().map(|word| u64::from_ne_bytes(*word));
            let expected = words.chain(rest.iter().map(|&byte| u64::from(byte)));
            assert_eq!(
                sum(&bytes[..len]),
                expected.fold(0, u64::wrapping_add),
                "{len}"
            );
            assert_eq!(sum_lines(&bytes[..len]), sum(&bytes[..len]), "{len}");
        }
    }
}
