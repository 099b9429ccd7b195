//! How fast this machine reads memory: what a token cannot be faster than.

use std::time::Instant;

use gptoss_onnx::kernels::reading;

/// Bytes that are read: far beyond any cache.
const BYTES: usize = 1 << 30;
/// The best of so many passes counts.
const PASSES: usize = 4;

/// Bytes per second that `threads` threads read together, each its own part of
/// a gigabyte, in order; 0 where there is no memory for it.
pub fn measure(threads: usize) -> f64 {
    let mut bytes: Vec<u8> = Vec::new();
    if bytes.try_reserve_exact(BYTES).is_err() {
        return 0.0;
    }
    // Not zero: pages of zeros may be one and the same.
    bytes.resize(BYTES, 1);
    let passes = (0..PASSES).map(|_| pass(&bytes, threads.max(1)));
    passes.fold(0.0, f64::max)
}

fn pass(bytes: &[u8], threads: usize) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in bytes.chunks(bytes.len().div_ceil(threads)) {
            scope.spawn(move || reading::read(part));
        }
    });
    bytes.len() as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_time_however_the_bytes_divide() {
        for threads in [1, 3, 7] {
            let speed = pass(&[1; 6400], threads);
            assert!(speed > 0.0 && speed.is_finite(), "{threads}");
        }
    }
}
