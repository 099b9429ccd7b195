//! A token's attention in gpt-oss-20b's full layers, deep in a context: 64 heads
//! of 64 elements on 8 heads of keys and values.
//!
//! Keys and values are random, the blocks of the cache in no order, as they are
//! after a while. Every timed call is preceded by an untimed plain read of another
//! layer's whole cache by the same threads; the summary compares medians.
//!
//! `GPTOSS_BENCH_LAYERS` (default 4; a layer of 32 768 positions has 67 MB) and
//! `GPTOSS_BENCH_THREADS` (default: all processors) change the scale.

mod paired;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Throughput};
use gptoss_onnx::kernels::KernelSet;
use gptoss_onnx::kernels::attention::{
    BLOCK, Cache, Inputs, Precision, Sequence, Shape, Workspace, attention,
};
use gptoss_onnx::kernels::parallel::{Parallel, Threads};
use gptoss_onnx::kernels::reading::read;
use half::f16;
use memmap2::{Advice, MmapMut};
use paired::{Pairs, Random, begin, scale};

const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
/// Layers without a window in gpt-oss-20b.
const MODEL_LAYERS: f64 = 12.0;

/// The cache of some layers, filled up to a depth.
struct Bench {
    shape: Shape,
    depth: usize,
    precision: Precision,
    /// Keys, then values, of each layer.
    layers: Vec<[MmapMut; 2]>,
    blocks: Vec<i32>,
    qkv: Vec<f32>,
    rotation: [Vec<f32>; 2],
    pool: Threads,
    workspace: Workspace,
    turn: usize,
}

impl Bench {
    fn new(depth: usize, precision: Precision, (layers, threads): (usize, usize)) -> Self {
        let shape = Shape {
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            blocks: depth.div_ceil(BLOCK),
        };
        let mut random = Random::default();
        let mut blocks: Vec<i32> = (0..shape.blocks as i32).collect();
        for i in (1..blocks.len()).rev() {
            blocks.swap(i, random.next() as usize % (i + 1));
        }
        let len = shape.cache_len(precision) * precision.bytes();
        let mut side = || {
            let mut side = MmapMut::map_anon(len).expect("there is memory");
            // As the daemon does.
            side.advise(Advice::HugePage)
                .expect("the system knows them");
            // Exponents of small numbers, in half precision and in lines of int8.
            side.copy_from_slice(&random.bytes(len));
            side.iter_mut().skip(1).step_by(2).for_each(|x| *x = 0x34);
            side
        };
        Self {
            shape,
            depth,
            precision,
            layers: (0..layers.max(2)).map(|_| [side(), side()]).collect(),
            blocks,
            qkv: random.floats(shape.qkv_width()),
            rotation: [1.0, 0.0].map(|x| vec![x; depth * HEAD_DIM / 2]),
            pool: Threads::new(threads),
            workspace: Workspace::default(),
            turn: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.layers[0].iter().map(|side| side.len()).sum()
    }

    /// One pair of a read and a call: returns the call's time.
    fn pair(&mut self, kernel: &dyn KernelSet, pairs: &mut Pairs) -> Duration {
        self.turn = (self.turn + 1) % self.layers.len();
        let start = Instant::now();
        for side in &self.layers[self.turn] {
            let part = side.len().div_ceil(256);
            let parts: Vec<_> = side.chunks(part).collect();
            let task = |index: usize| read(parts[index]);
            self.pool.run(parts.len(), &task).expect("the pool runs");
        }
        pairs.read.push(start.elapsed().as_secs_f64());

        self.turn = (self.turn + 1) % self.layers.len();
        let [keys, values] = &mut self.layers[self.turn];
        let cache = match self.precision {
            Precision::F16 => Cache::F16([keys, values].map(|side| {
                // SAFETY: any two bytes are a number in half precision.
                unsafe { side.align_to_mut::<f16>().1 }
            })),
            _ => Cache::Int8([keys, values].map(|side| &mut side[..])),
        };
        let inputs = Inputs {
            qkv: &self.qkv,
            sequences: &[Sequence {
                tokens: 1,
                past: self.depth - 1,
                blocks: &self.blocks,
            }],
            cos: &self.rotation[0],
            sin: &self.rotation[1],
            sinks: &[0.0; HEADS],
            scale: 0.125,
            window: self.depth,
        };
        let mut y = [0.0; HEADS * HEAD_DIM];
        let start = Instant::now();
        attention(
            kernel,
            self.shape,
            &inputs,
            cache,
            &mut y,
            &mut self.workspace,
            &self.pool,
            &AtomicBool::new(false),
        )
        .expect("sizes fit");
        let time = start.elapsed();
        assert!(y.iter().all(|x| x.is_finite()));
        pairs.ours.push(time.as_secs_f64());
        time
    }
}

fn main() {
    let Some((mut criterion, kernels)) = begin() else {
        return;
    };
    let scale = scale(4);
    let mut summary = Vec::new();
    for (depth, precision) in [
        (8192, Precision::F16),
        (32_768, Precision::F16),
        (32_768, Precision::Int8),
    ] {
        let mut bench = Bench::new(depth, precision, scale);
        let bytes = bench.bytes();
        let mut group = criterion.benchmark_group(format!("{} {depth}", precision.name()));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(4))
            .throughput(Throughput::Bytes(bytes as u64));
        for &kernel in &kernels {
            let mut pairs = Pairs::default();
            group.bench_function(BenchmarkId::from_parameter(kernel.isa().name()), |b| {
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| bench.pair(kernel, &mut pairs))
                        .sum()
                });
            });
            if !pairs.ours.is_empty() {
                summary.push(format!(
                    "{} {depth}, {}: {}, {:.2} us a position of {MODEL_LAYERS} layers",
                    precision.name(),
                    kernel.isa().name(),
                    pairs.summary(bytes),
                    pairs.median() * MODEL_LAYERS / depth as f64 * 1e6,
                ));
            }
        }
        group.finish();
    }
    criterion.final_summary();
    summary.iter().for_each(|line| println!("{line}"));
}
