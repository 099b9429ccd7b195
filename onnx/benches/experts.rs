//! The experts of gpt-oss-20b at real width: 32 experts of 2880 x 2880, top-4.
//!
//! Weights are random, in several layers that together exceed any cache. Every
//! timed call is preceded by an untimed plain read of as many bytes, in the same
//! order by the same threads, so that both see the same machine; the summary at
//! the end compares medians.
//!
//! `GPTOSS_BENCH_LAYERS` (default 4, 0.42 GB each) and `GPTOSS_BENCH_THREADS`
//! (default: all processors) change the scale.

mod paired;

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Throughput};
use gptoss_onnx::kernels::KernelSet;
use gptoss_onnx::kernels::experts::{Activations, Layer, Options, Workspace, mixture};
use gptoss_onnx::kernels::mxfp4::ExpertMatrices;
use gptoss_onnx::kernels::parallel::{Parallel, Threads};
use gptoss_onnx::kernels::portable::SwiGlu;
use gptoss_onnx::kernels::reading::read;
use half::bf16;
use paired::{Pairs, Random, begin, scale};

const WIDTH: usize = 2880;
const EXPERTS: usize = 32;
const TOP: usize = 4;
const MODEL_LAYERS: f64 = 24.0;
/// Bytes of one expert: three matrices, 17 bytes a block of 32.
const EXPERT_BYTES: usize = 3 * WIDTH * WIDTH / 32 * 17;

fn scales(random: &mut Random, len: usize) -> Vec<u8> {
    let mut scales = random.bytes(len);
    scales
        .iter_mut()
        .for_each(|scale| *scale = 118 + *scale % 8);
    scales
}

/// The owned weights of a layer.
struct Weights {
    gate_up: (Vec<u8>, Vec<u8>),
    down: (Vec<u8>, Vec<u8>),
    gate_up_bias: Vec<bf16>,
    down_bias: Vec<bf16>,
}

impl Weights {
    fn new(random: &mut Random) -> Self {
        let blocks = EXPERTS * WIDTH * WIDTH / 32;
        Self {
            gate_up: (random.bytes(2 * blocks * 16), scales(random, 2 * blocks)),
            down: (random.bytes(blocks * 16), scales(random, blocks)),
            gate_up_bias: vec![bf16::from_f32(0.1); EXPERTS * 2 * WIDTH],
            down_bias: vec![bf16::from_f32(0.1); EXPERTS * WIDTH],
        }
    }

    fn layer(&self) -> Layer<'_> {
        let ((gate_up, gate_up_scales), (down, down_scales)) = (&self.gate_up, &self.down);
        let gate_up = ExpertMatrices::new(gate_up, gate_up_scales, EXPERTS, 2 * WIDTH, WIDTH);
        let down = ExpertMatrices::new(down, down_scales, EXPERTS, WIDTH, WIDTH);
        Layer::new(
            gate_up.expect("sizes fit"),
            &self.gate_up_bias,
            down.expect("sizes fit"),
            &self.down_bias,
        )
        .expect("sizes fit")
    }

    /// Reads the experts, in runs of rows like the kernels.
    fn read(&self, experts: &[usize], pool: &dyn Parallel) {
        let ((gate_up, gate_up_scales), (down, down_scales)) = (&self.gate_up, &self.down);
        for (bytes, scales, runs) in [(gate_up, gate_up_scales, 45), (down, down_scales, 23)] {
            let part = |bytes: &[u8], index: usize| {
                let each = bytes.len() / EXPERTS;
                let run = each.div_ceil(runs);
                let begin = (index % runs) * run;
                let end = each.min(begin + run);
                let start = experts[index / runs] * each;
                read(&bytes[start + begin..start + end]);
            };
            let task = |index: usize| {
                part(bytes, index);
                part(scales, index);
            };
            pool.run(experts.len() * runs, &task)
                .expect("the pool runs");
        }
    }
}

fn print(pairs: &mut Pairs, name: &str, tokens: usize, bytes: usize) {
    println!(
        "{name}: {}, {:.1} tokens/s for the experts of {MODEL_LAYERS} layers",
        pairs.summary(bytes),
        tokens as f64 / pairs.median() / MODEL_LAYERS,
    );
}

struct Bench {
    layers: Vec<Weights>,
    pool: Threads,
    random: Random,
    workspace: Workspace,
    turn: usize,
}

impl Bench {
    fn new() -> Self {
        let (layers, threads) = scale(4);
        let mut random = Random::default();
        Self {
            layers: (0..layers).map(|_| Weights::new(&mut random)).collect(),
            pool: Threads::new(threads),
            random,
            workspace: Workspace::default(),
            turn: 0,
        }
    }

    /// Router logits that choose `TOP` random experts: the same for all tokens
    /// of a step, or others for each token of a prompt.
    fn logits(&mut self, tokens: usize, same: bool) -> (Vec<f32>, Vec<usize>) {
        if same {
            let row = self.random.floats(EXPERTS);
            let mut order: Vec<usize> = (0..EXPERTS).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order.truncate(TOP);
            order.sort_unstable();
            (row.repeat(tokens), order)
        } else {
            (self.random.floats(tokens * EXPERTS), (0..EXPERTS).collect())
        }
    }

    /// One pair of a read and a call: returns the call's time.
    fn pair(
        &mut self,
        kernel: &dyn KernelSet,
        tokens: usize,
        same: bool,
        pairs: &mut Pairs,
    ) -> Duration {
        self.turn = (self.turn + 1) % self.layers.len();
        let read_layer = self.turn;
        let (_, experts) = self.logits(tokens, same);
        let start = Instant::now();
        self.layers[read_layer].read(&experts, &self.pool);
        pairs.read.push(start.elapsed().as_secs_f64());

        let (logits, _) = self.logits(tokens, same);
        let x = self.random.floats(tokens * WIDTH);
        let mut y = vec![0.0; x.len()];
        self.turn = (self.turn + 1) % self.layers.len();
        let options = Options {
            experts_per_token: TOP,
            glu: SwiGlu::default(),
            activations: Activations::Int8,
        };
        let layer = self.layers[self.turn].layer();
        let start = Instant::now();
        mixture(
            kernel,
            &layer,
            &options,
            &x,
            &logits,
            &mut y,
            &mut self.workspace,
            &self.pool,
            &AtomicBool::new(false),
        )
        .expect("sizes fit");
        let time = start.elapsed();
        black_box(y);
        pairs.ours.push(time.as_secs_f64());
        time
    }
}

fn main() {
    let Some((mut criterion, kernels)) = begin() else {
        return;
    };
    let mut bench = Bench::new();
    let summary = Mutex::new(Vec::new());
    for (name, tokens, same, samples) in [
        ("decode", 1, true, 50),
        ("decode together", 4, true, 30),
        ("prefill", 128, false, 10),
        ("prefill", 512, false, 10),
    ] {
        let mut group = criterion.benchmark_group(name);
        let experts = if same { TOP } else { EXPERTS };
        let bytes = experts * EXPERT_BYTES;
        group
            .sample_size(samples)
            .measurement_time(Duration::from_secs(8));
        group.throughput(Throughput::Bytes(bytes as u64));
        for &kernel in &kernels {
            let mut pairs = Pairs::default();
            let id = BenchmarkId::new(kernel.isa().name(), tokens);
            group.bench_function(id, |b| {
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| bench.pair(kernel, tokens, same, &mut pairs))
                        .sum()
                });
            });
            if !pairs.ours.is_empty() {
                let name = format!("{name} {tokens}, {}", kernel.isa().name());
                summary
                    .lock()
                    .expect("no panics")
                    .push((name, tokens, bytes, pairs));
            }
        }
        group.finish();
    }
    criterion.final_summary();
    for (name, tokens, bytes, mut pairs) in summary.into_inner().expect("no panics") {
        print(&mut pairs, &name, tokens, bytes);
    }
}
