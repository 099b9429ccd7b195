//! Shapes that have no reference, judged by the float64 oracle. All matrices
//! are lossless under quantization, so the exact mode must equal it.

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::Target;
use gptoss_onnx::graph::{self, CudaExperts, Floats};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::host::{Feed, Host, Mode};
use crate::judge::Judge;
use crate::oracle::Oracle;
use crate::synthetic::{Random, Shape, make};

/// Choices of experts closer than this, in router logits of order one, are
/// left to rounding: float32 sums of some hundred terms are off by 1e-6.
const TIE: f64 = 2e-5;

/// A random checkpoint, random tokens, and what the oracle makes of them.
struct Case {
    shape: Shape,
    dir: TempDir,
    ids: Vec<u32>,
    positions: Vec<usize>,
    expected: Vec<Vec<f64>>,
    /// Whether two experts are as good as equal for some token.
    ties: bool,
}

impl Case {
    fn new(shape: Shape, length: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        make(&shape, dir.path());
        let mut random = Random::new(shape.seed ^ 0x7e57);
        let ids: Vec<u32> = (0..length)
            .map(|_| (random.word() % shape.vocab as u64) as u32)
            .collect();
        let mut positions: Vec<usize> = (0..6).map(|i| i * (length - 1) / 5).collect();
        positions.dedup();
        let oracle = Oracle::open(dir.path());
        Self {
            expected: oracle.logits(&ids, &positions),
            ties: oracle.narrowest_choice() < TIE,
            shape,
            dir,
            ids,
            positions,
        }
    }

    /// Feeds the tokens in every way given and compares some rows.
    fn compare(&self, target: Target, feeds: &[Feed]) {
        let length = self.ids.len();
        let mut host = Host::export(self.dir.path(), target, Mode::Exact, length + 3);
        self.judge(&mut host, target, feeds);
    }

    /// The same of the graph for CUDA, in float32.
    fn compare_cuda(&self, feeds: &[Feed]) {
        let checkpoint = Checkpoint::open(self.dir.path()).expect("sound");
        let (config, experts) = (checkpoint.config(), checkpoint.experts());
        let plan = graph::cuda(config, experts, Floats::Single, CudaExperts::Int4);
        let (target, window) = (Target::CudaInt4, self.ids.len() + 3);
        let mut host = Host::of_plan(&checkpoint, target, plan, Mode::Exact, window);
        self.judge(&mut host, target, feeds);
    }

    fn judge(&self, host: &mut Host, target: Target, feeds: &[Feed]) {
        let length = self.ids.len();
        for feed in feeds {
            let mut judge = Judge::default();
            let rows = host.logits(&self.ids, &self.positions, *feed);
            for (reference, row) in self.expected.iter().zip(rows) {
                judge.row(reference, &row);
            }
            judge.figures().assert_exact(&format!(
                "{target}, {feed:?}, {length} tokens, {:?}",
                self.shape
            ));
        }
    }
}

fn any_shape() -> impl Strategy<Value = (Shape, usize)> {
    let blocks = prop_oneof![4 => 2usize..9, 1 => 9usize..24];
    let heads = prop_oneof![
        Just((2, 1)),
        Just((4, 2)),
        Just((6, 2)),
        Just((8, 8)),
        Just((3, 3))
    ];
    let widths = (
        blocks.clone(),
        blocks,
        prop_oneof![Just(16usize), Just(32), Just(64)],
    );
    let experts = (4usize..40, prop_oneof![Just(2usize), Just(4)]);
    let rest = (
        1usize..4,
        1usize..=5,
        40usize..200,
        any::<u64>(),
        1usize..160,
    );
    (widths, heads, experts, rest).prop_map(
        |((hidden, inner, head_dim), (heads, kv_heads), (experts, top), rest)| {
            let (layers, shards, vocab, seed, length) = rest;
            let shape = Shape {
                hidden: 32 * hidden,
                intermediate: 32 * inner,
                layers,
                heads,
                kv_heads,
                head_dim,
                experts,
                top,
                vocab,
                window: if seed & 1 == 0 { 128 } else { 16 },
                positions: 256,
                shards,
                grid: true,
                seed,
                aligned: seed & 2 == 0,
            };
            (shape, length)
        },
    )
}

const FEEDS: [Feed; 2] = [Feed::Whole, Feed::Chunks(23)];

fn property(cases: u32, compare: impl Fn(&Case)) {
    let config = Config {
        cases,
        // The shape and its seed say enough, and each step takes seconds.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&any_shape(), |(shape, length)| {
            let case = Case::new(shape, length);
            prop_assume!(!case.ties);
            compare(&case);
            Ok(())
        })
        .expect("every shape is exact");
}

#[test]
fn cpu_is_exact_at_any_shape() {
    property(24, |case| case.compare(Target::Cpu, &FEEDS));
}

#[test]
fn portable_is_exact_at_any_shape() {
    property(24, |case| case.compare(Target::Portable, &FEEDS));
}

#[test]
fn the_graph_for_cuda_is_exact_at_any_shape() {
    property(12, |case| case.compare_cuda(&FEEDS));
}

/// Compares one shape on every target.
fn fixed(shape: Shape, length: usize, feeds: &[Feed]) {
    let case = Case::new(shape, length);
    for target in [Target::Cpu, Target::Portable] {
        case.compare(target, feeds);
    }
}

#[test]
fn all_128_experts() {
    let shape = Shape {
        hidden: 96,
        intermediate: 160,
        experts: 128,
        top: 4,
        shards: 5,
        ..Shape::default()
    };
    fixed(shape, 150, &[Feed::Whole, Feed::Chunks(1)]);
}

#[test]
fn long_contexts() {
    let shape = Shape {
        positions: 8192,
        ..Shape::default()
    };
    fixed(shape, 5100, &[Feed::Chunks(256)]);
}

#[test]
fn one_layer_at_real_width() {
    let shape = Shape {
        hidden: 2880,
        intermediate: 2880,
        layers: 1,
        heads: 64,
        kv_heads: 8,
        head_dim: 64,
        experts: 6,
        top: 4,
        vocab: 512,
        ..Shape::default()
    };
    fixed(shape, 5, &[Feed::Whole, Feed::Chunks(1)]);
}
