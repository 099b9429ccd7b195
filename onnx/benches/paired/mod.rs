//! Times of calls beside those of plain reads, and what calls are made on.

use criterion::Criterion;
use gptoss_onnx::kernels::{Isa, KernelSet, kernel};

/// Numbers without a pattern (xorshift).
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(88_172_645_463_325_252)
    }
}

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| (self.next() >> 40) as f32 / 8_388_608.0 - 1.0)
            .collect()
    }
}

/// Times of calls, each beside that of a read of the same bytes.
#[derive(Default)]
pub struct Pairs {
    pub ours: Vec<f64>,
    pub read: Vec<f64>,
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Pairs {
    /// Seconds of a call.
    pub fn median(&mut self) -> f64 {
        median(&mut self.ours)
    }

    /// What both came to; each of them takes so many bytes.
    pub fn summary(&mut self, bytes: usize) -> String {
        let (ours, read) = (median(&mut self.ours), median(&mut self.read));
        format!(
            "{:.2} ms a layer, {:.1} GB/s ({:.0} % of plain reading at {:.1} GB/s)",
            ours * 1e3,
            bytes as f64 / ours / 1e9,
            100.0 * read / ours,
            bytes as f64 / read / 1e9,
        )
    }
}

/// Layers, of `layers` where nothing else is said, and threads: both see the same.
pub fn scale(layers: usize) -> (usize, usize) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let layers = number("GPTOSS_BENCH_LAYERS").unwrap_or(layers).max(1);
    let threads = number("GPTOSS_BENCH_THREADS")
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    println!("{layers} layers, {threads} threads");
    (layers, threads)
}

/// What to measure with, and all kernels that this processor has but the scalar one;
/// `None` where this runs among the tests.
pub fn begin() -> Option<(Criterion, Vec<&'static dyn KernelSet>)> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: too large for a test, run it with cargo bench");
        return None;
    }
    let vector = Isa::ALL.into_iter().filter(|&isa| isa != Isa::Scalar);
    let kernels = vector.filter_map(kernel).collect();
    Some((Criterion::default().configure_from_args(), kernels))
}
