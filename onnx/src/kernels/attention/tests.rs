//! Every kernel's attention against float64.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::super::parallel::{Serial, Threads};
use super::super::tests::{Random, kernels};
use super::plan::SPLIT;
use super::*;

/// A sequence, and how its tokens are fed.
struct Case {
    shape: Shape,
    tokens: usize,
    window: usize,
    qkv: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    sinks: Vec<f32>,
}

const SCALE: f32 = 0.25;

/// A cache that holds nothing that is a number.
enum Memory {
    F16([Vec<f16>; 2]),
    F32([Vec<f32>; 2]),
    Int8([Vec<u8>; 2]),
}

impl Memory {
    fn new(shape: Shape, precision: Precision) -> Self {
        let len = shape.cache_len(precision);
        match precision {
            Precision::F16 => Self::F16([0, 1].map(|_| vec![f16::NAN; len])),
            Precision::F32 => Self::F32([0, 1].map(|_| vec![f32::NAN; len])),
            // In lines, all bits set are no number either.
            Precision::Int8 => Self::Int8([0, 1].map(|_| vec![255; len])),
        }
    }

    fn cache(&mut self) -> Cache<'_> {
        match self {
            Self::F16(sides) => Cache::F16(sides.each_mut().map(Vec::as_mut_slice)),
            Self::F32(sides) => Cache::F32(sides.each_mut().map(Vec::as_mut_slice)),
            Self::Int8(sides) => Cache::Int8(sides.each_mut().map(Vec::as_mut_slice)),
        }
    }
}

/// A call on two threads.
fn call(
    kernel: &dyn KernelSet,
    shape: Shape,
    inputs: &Inputs<'_>,
    cache: Cache<'_>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let mut workspace = Workspace::default();
    let (pool, cancel) = (Threads::new(2), AtomicBool::new(false));
    attention(
        kernel,
        shape,
        inputs,
        cache,
        y,
        &mut workspace,
        &pool,
        &cancel,
    )
}

impl Case {
    fn new(
        heads: (usize, usize),
        head_dim: usize,
        tokens: usize,
        window: usize,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let shape = Shape {
            heads: heads.0 * heads.1,
            kv_heads: heads.1,
            head_dim,
            blocks: tokens.div_ceil(BLOCK) + 2,
        };
        let angles: Vec<f32> = random.floats(tokens * head_dim / 2);
        Self {
            qkv: random.floats(tokens * shape.qkv_width()),
            cos: angles.iter().map(|a| (3.0 * a).cos()).collect(),
            sin: angles.iter().map(|a| (3.0 * a).sin()).collect(),
            sinks: random.floats(shape.heads),
            shape,
            tokens,
            window,
        }
    }

    /// Where the sequence's blocks lie: backwards, from the pool's last but one.
    fn table(&self) -> Vec<i32> {
        let last = self.shape.blocks as i32 - 2;
        (0..self.tokens.div_ceil(BLOCK) as i32)
            .map(|i| last - i)
            .collect()
    }

    /// The tokens of a slice, which is fed after `past` others.
    fn inputs<'a>(&'a self, past: usize, sequences: &'a [Sequence<'a>]) -> Inputs<'a> {
        let width = self.shape.qkv_width();
        let tokens: usize = sequences.iter().map(|s| s.tokens).sum();
        Inputs {
            qkv: &self.qkv[past * width..(past + tokens) * width],
            sequences,
            cos: &self.cos,
            sin: &self.sin,
            sinks: &self.sinks,
            scale: SCALE,
            window: self.window,
        }
    }

    /// Feeds slices of so many tokens; what else there is in the cache is not a
    /// number.
    fn attend(&self, kernel: &dyn KernelSet, precision: Precision, slice: usize) -> Vec<f32> {
        let mut memory = Memory::new(self.shape, precision);
        let (table, mut y) = (self.table(), Vec::new());
        for past in (0..self.tokens).step_by(slice) {
            let tokens = slice.min(self.tokens - past);
            let mut part = vec![f32::NAN; tokens * self.shape.heads * self.shape.head_dim];
            let sequence = Sequence {
                tokens,
                past,
                blocks: &table[first_seen(past, self.window) / BLOCK..],
            };
            let sequences = [sequence];
            let inputs = self.inputs(past, &sequences);
            call(kernel, self.shape, &inputs, memory.cache(), &mut part).unwrap();
            y.extend(part);
        }
        y
    }

    /// Head `head` of `token`, rotated if it is a query or a key.
    fn head(&self, token: usize, head: usize) -> Vec<f64> {
        let dim = self.shape.head_dim;
        let x = &self.qkv[token * self.shape.qkv_width() + head * dim..][..dim];
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        if head >= self.shape.heads + self.shape.kv_heads {
            return x;
        }
        let half = dim / 2;
        let factor = |table: &[f32], i: usize| f64::from(table[token * half + i % half]);
        (0..dim)
            .map(|i| {
                let other = if i < half { -x[i + half] } else { x[i - half] };
                x[i] * factor(&self.cos, i) + other * factor(&self.sin, i)
            })
            .collect()
    }

    fn exact(&self) -> Vec<f64> {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let mut y = Vec::new();
        let keys: Vec<Vec<Vec<f64>>> = (0..self.tokens)
            .map(|t| (0..2 * kv_heads).map(|h| self.head(t, heads + h)).collect())
            .collect();
        for token in 0..self.tokens {
            for head in 0..heads {
                let query = self.head(token, head);
                let kv_head = head / (heads / kv_heads);
                let first = (token + 1).saturating_sub(self.window);
                let weights: Vec<f64> = (first..=token)
                    .map(|p| {
                        let products = query.iter().zip(&keys[p][kv_head]).map(|(a, b)| a * b);
                        (products.sum::<f64>() * f64::from(SCALE)).exp()
                    })
                    .collect();
                let total = weights.iter().sum::<f64>() + f64::from(self.sinks[head]).exp();
                for i in 0..head_dim {
                    let values = keys[first..=token]
                        .iter()
                        .map(|key| key[kv_heads + kv_head][i]);
                    y.push(values.zip(&weights).map(|(v, w)| v * w).sum::<f64>() / total);
                }
            }
        }
        y
    }

    fn compare(&self, slices: &[usize]) {
        let exact = self.exact();
        for kernel in kernels() {
            let limits = [
                (Precision::F32, 3e-6),
                (Precision::F16, 2e-3),
                (Precision::Int8, 1.2e-2),
            ];
            for (precision, limit) in limits {
                for &slice in slices {
                    let y = self.attend(kernel, precision, slice);
                    assert_eq!(y.len(), exact.len());
                    for (i, (y, exact)) in y.iter().zip(&exact).enumerate() {
                        let error = (f64::from(*y) - exact).abs();
                        let what = (
                            kernel.isa().name(),
                            precision,
                            slice,
                            self.shape,
                            self.window,
                        );
                        assert!(error <= limit, "{what:?} at {i}: {y} for {exact}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape_agrees_with_float64(
        group in 1usize..10, kv_heads in 1usize..4, dim in 1usize..5, tokens in 1usize..150,
        window in prop_oneof![Just(usize::MAX), 1usize..100], slice in 1usize..60, seed in any::<u64>()
    ) {
        Case::new((group, kv_heads), 16 * dim, tokens, window, seed).compare(&[tokens, slice]);
    }
}

/// Long enough for a single token's positions to be split.
#[test]
fn splits_agree_with_float64() {
    let long = Case::new((2, 1), 16, 2 * SPLIT + 90, usize::MAX, 3);
    let exact = long.exact();
    for kernel in kernels() {
        let y = long.attend(kernel, Precision::F32, 1);
        let worst = y.iter().zip(&exact).map(|(y, e)| (f64::from(*y) - e).abs());
        assert!(worst.fold(0.0, f64::max) < 3e-6);
    }
}

#[test]
fn the_cut_of_a_prompt_changes_nothing() {
    let case = Case::new((8, 1), 64, 100, 40, 7);
    for kernel in kernels() {
        for precision in Precision::ALL {
            let whole = case.attend(kernel, precision, 100);
            for slice in [1, 7, 64] {
                assert!(whole == case.attend(kernel, precision, slice));
            }
        }
    }
}

#[test]
fn nan_is_never_hidden() {
    let mut case = Case::new((2, 1), 16, 70, usize::MAX, 1);
    let width = case.shape.qkv_width();
    case.qkv[65 * width + 2 * 16] = f32::NAN;
    for kernel in kernels() {
        for precision in Precision::ALL {
            let y = case.attend(kernel, precision, 70);
            assert!(y[..65 * 32].iter().all(|y| y.is_finite()));
            assert!(y[65 * 32..].iter().all(|y| y.is_nan()));
        }
    }
}

/// Sequences of different lengths, fed together, each to its own blocks.
#[test]
fn sequences_do_not_see_each_other() {
    for window in [usize::MAX, 40] {
        let case = Case::new((4, 2), 32, 4 * BLOCK, window, 11);
        let (shape, width) = (case.shape, case.shape.qkv_width());
        let row = shape.heads * shape.head_dim;
        // The tokens 0..256 of the case are those of three sequences.
        let (lengths, starts) = ([130, 25, 101], [0, 130, 155]);
        let shape = Shape { blocks: 9, ..shape };
        let tables: [&[i32]; 3] = [&[7, 0, 4], &[3], &[8, 1]];
        let each = |kernel| Precision::ALL.map(|precision| (kernel, precision));
        for (kernel, precision) in kernels().flat_map(each) {
            let mut memory = Memory::new(shape, precision);
            let mut feed = |past: [usize; 3], tokens: [usize; 3]| {
                let (mut qkv, mut sequences) = (Vec::new(), Vec::new());
                for i in (0..3).filter(|&i| tokens[i] > 0) {
                    let first = (starts[i] + past[i]) * width;
                    qkv.extend_from_slice(&case.qkv[first..][..tokens[i] * width]);
                    sequences.push(Sequence {
                        tokens: tokens[i],
                        past: past[i],
                        blocks: &tables[i][first_seen(past[i], window) / BLOCK..],
                    });
                }
                let mut y = vec![f32::NAN; tokens.iter().sum::<usize>() * row];
                let inputs = Inputs {
                    qkv: &qkv,
                    ..case.inputs(0, &sequences)
                };
                call(kernel, shape, &inputs, memory.cache(), &mut y).unwrap();
                y
            };
            let whole = feed([0, 0, 0], lengths);
            // Again, in pieces and in turns.
            let mut pieces = [Vec::new(), Vec::new(), Vec::new()];
            let mut past = [0; 3];
            for step in [[64, 0, 1], [1, 24, 99], [64, 1, 0], [1, 0, 1]] {
                let mut y = feed(past, step);
                for i in 0..3 {
                    let rest = y.split_off(step[i] * row);
                    pieces[i].extend(std::mem::replace(&mut y, rest));
                    past[i] += step[i];
                }
            }
            assert_eq!(past, lengths);
            assert!(whole == pieces.concat());
            for (i, length) in lengths.into_iter().enumerate() {
                let alone = Case {
                    tokens: length,
                    qkv: case.qkv[starts[i] * width..][..length * width].to_vec(),
                    cos: case.cos.clone(),
                    sin: case.sin.clone(),
                    sinks: case.sinks.clone(),
                    ..case
                };
                assert!(pieces[i] == alone.attend(kernel, precision, length));
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new((2, 1), 16, 80, usize::MAX, 1);
    let table = case.table();
    let sequence = Sequence {
        tokens: 80,
        past: 0,
        blocks: &table,
    };
    let sequences = [sequence];
    let good = case.inputs(0, &sequences);
    let call = |shape: Shape, inputs: Inputs<'_>| {
        let mut y = vec![0.0; 80 * 32];
        let kernel = super::super::best_kernel();
        let results = Precision::ALL.map(|precision| {
            let mut memory = Memory::new(case.shape, precision);
            call(kernel, shape, &inputs, memory.cache(), &mut y)
        });
        assert!(results.iter().all(|r| r.is_ok() == results[0].is_ok()));
        let [result, ..] = results;
        result
    };
    assert!(call(case.shape, good).is_ok());
    let change = |change: &dyn Fn(&mut Shape)| {
        let mut shape = case.shape;
        change(&mut shape);
        shape
    };
    let shapes = [
        change(&|shape| shape.heads = 3),
        change(&|shape| shape.kv_heads = 0),
        change(&|shape| shape.head_dim = 8),
        change(&|shape| shape.blocks += 1),
        change(&|shape| shape.blocks -= 1),
    ];
    for shape in shapes {
        let refused = call(shape, good);
        assert!(matches!(refused, Err(KernelError::Shape(_))), "{shape:?}");
    }
    let tables: [&[i32]; 5] = [&[], &[1], &[1, 1], &[0, 4], &[-1, 0]];
    let sequences = tables
        .map(|blocks| vec![Sequence { blocks, ..sequence }])
        .into_iter()
        .chain([
            vec![Sequence {
                past: 1,
                ..sequence
            }],
            vec![Sequence {
                past: usize::MAX,
                ..sequence
            }],
            vec![Sequence {
                tokens: 79,
                ..sequence
            }],
            vec![
                Sequence {
                    tokens: 0,
                    ..sequence
                },
                sequence,
            ],
            // Two that write the same block.
            vec![
                Sequence {
                    tokens: 40,
                    ..sequence
                };
                2
            ],
        ]);
    for sequences in sequences {
        let refused = call(
            case.shape,
            Inputs {
                sequences: &sequences,
                ..good
            },
        );
        assert!(
            matches!(refused, Err(KernelError::Shape(_))),
            "{sequences:?}"
        );
    }
    let inputs = [
        Inputs { window: 0, ..good },
        Inputs {
            sinks: &case.sinks[1..],
            ..good
        },
        Inputs {
            cos: &case.cos[8..],
            ..good
        },
        Inputs {
            qkv: &case.qkv[1..],
            ..good
        },
    ];
    for inputs in inputs {
        let refused = call(case.shape, inputs);
        assert!(matches!(refused, Err(KernelError::Shape(_))), "{inputs:?}");
    }
}

#[test]
fn a_cancelled_call_stops() {
    let case = Case::new((2, 1), 16, 20, usize::MAX, 1);
    let table = case.table();
    let sequence = Sequence {
        tokens: 20,
        past: 0,
        blocks: &table,
    };
    let stopped = attention(
        super::super::best_kernel(),
        case.shape,
        &case.inputs(0, &[sequence]),
        Memory::new(case.shape, Precision::F16).cache(),
        &mut vec![0.0; 20 * 32],
        &mut Workspace::default(),
        &Serial,
        &AtomicBool::new(true),
    );
    assert!(matches!(stopped, Err(KernelError::Cancelled)));
}
