//! Every kernel's attention against float64.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::super::parallel::{Serial, Threads};
use super::super::tests::{Random, kernels};
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
            positions: tokens.next_multiple_of(KEY_BLOCK),
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

    /// Feeds slices of so many tokens; what lies behind them in the cache is
    /// not a number.
    fn attend(&self, kernel: &dyn KernelSet, half: bool, slice: usize) -> Vec<f32> {
        let len = self.shape.cache_len();
        let mut f32s = [vec![f32::NAN; len], vec![f32::NAN; len]];
        let mut f16s = [vec![f16::NAN; len], vec![f16::NAN; len]];
        let mut workspace = Workspace::default();
        let (width, mut y) = (self.shape.qkv_width(), Vec::new());
        for (i, qkv) in self.qkv.chunks(slice * width).enumerate() {
            let tokens = qkv.len() / width;
            let mut part = vec![f32::NAN; tokens * self.shape.heads * self.shape.head_dim];
            let inputs = Inputs {
                qkv,
                cos: &self.cos,
                sin: &self.sin,
                sinks: &self.sinks,
                scale: SCALE,
                window: self.window,
                past: i * slice,
            };
            let cache = match half {
                true => {
                    let [key, value] = &mut f16s;
                    Cache::F16 { key, value }
                }
                false => {
                    let [key, value] = &mut f32s;
                    Cache::F32 { key, value }
                }
            };
            let cancel = AtomicBool::new(false);
            let pool = Threads::new(2);
            attention(
                kernel,
                self.shape,
                &inputs,
                cache,
                &mut part,
                &mut workspace,
                &pool,
                &cancel,
            )
            .unwrap();
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
            for (half, limit) in [(false, 3e-6), (true, 2e-3)] {
                for &slice in slices {
                    let y = self.attend(kernel, half, slice);
                    assert_eq!(y.len(), exact.len());
                    for (i, (y, exact)) in y.iter().zip(&exact).enumerate() {
                        let error = (f64::from(*y) - exact).abs();
                        let what = (kernel.isa().name(), half, slice, self.shape, self.window);
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
        let y = long.attend(kernel, false, 1);
        let worst = y.iter().zip(&exact).map(|(y, e)| (f64::from(*y) - e).abs());
        assert!(worst.fold(0.0, f64::max) < 3e-6);
    }
}

#[test]
fn the_cut_of_a_prompt_changes_nothing() {
    let case = Case::new((8, 1), 64, 100, 40, 7);
    for kernel in kernels() {
        let whole = case.attend(kernel, true, 100);
        for slice in [1, 7, 64] {
            assert!(whole == case.attend(kernel, true, slice));
        }
    }
}

#[test]
fn nan_is_never_hidden() {
    let mut case = Case::new((2, 1), 16, 70, usize::MAX, 1);
    let width = case.shape.qkv_width();
    case.qkv[65 * width + 2 * 16] = f32::NAN;
    for kernel in kernels() {
        for half in [false, true] {
            let y = case.attend(kernel, half, 70);
            assert!(y[..65 * 32].iter().all(|y| y.is_finite()));
            assert!(y[65 * 32..].iter().all(|y| y.is_nan()));
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let case = Case::new((2, 1), 16, 20, usize::MAX, 1);
    let good = Inputs {
        qkv: &case.qkv,
        cos: &case.cos,
        sin: &case.sin,
        sinks: &case.sinks,
        scale: SCALE,
        window: 9,
        past: 0,
    };
    let call = |shape: Shape, inputs: Inputs<'_>, cancel: bool| {
        let len = case.shape.cache_len();
        let (key, value) = (&mut vec![0.0; len][..], &mut vec![0.0; len][..]);
        let mut y = vec![0.0; 20 * 32];
        let (kernel, cancel) = (super::super::best_kernel(), AtomicBool::new(cancel));
        let cache = Cache::F32 { key, value };
        let mut workspace = Workspace::default();
        attention(
            kernel,
            shape,
            &inputs,
            cache,
            &mut y,
            &mut workspace,
            &Serial,
            &cancel,
        )
    };
    assert!(call(case.shape, good, false).is_ok());
    assert!(matches!(
        call(case.shape, good, true),
        Err(KernelError::Cancelled)
    ));
    let shapes = [
        Shape {
            heads: 3,
            ..case.shape
        },
        Shape {
            kv_heads: 0,
            ..case.shape
        },
        Shape {
            head_dim: 8,
            ..case.shape
        },
        Shape {
            positions: 17,
            ..case.shape
        },
        Shape {
            positions: 16,
            ..case.shape
        },
        Shape {
            positions: 48,
            ..case.shape
        },
    ];
    for shape in shapes {
        assert!(
            matches!(call(shape, good, false), Err(KernelError::Shape(_))),
            "{shape:?}"
        );
    }
    let inputs = [
        Inputs { past: 13, ..good },
        Inputs {
            past: usize::MAX,
            ..good
        },
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
        assert!(matches!(
            call(case.shape, inputs, false),
            Err(KernelError::Shape(_))
        ));
    }
}
