//! Every kernel's products against float64.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::super::Isa;
use super::super::parallel::{Serial, Threads};
use super::super::tests::{Random, bf16_kernels, kernels};
use super::*;

/// A product and what it is exactly.
struct Case {
    rows: usize,
    k: usize,
    tokens: usize,
    /// Begins with `skew` bytes that are not part of the matrix, and ends exactly.
    weights: Vec<u8>,
    skew: usize,
    scales: Vec<f32>,
    bias: Vec<f32>,
    x: Vec<f32>,
}

impl Case {
    fn new(rows: usize, k: usize, tokens: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let blocks = k.div_ceil(BLOCK);
        let skew = random.below(64);
        let mut weights = random.bytes(skew + rows * blocks * BLOCK);
        if random.below(3) == 0 {
            // What saturates when pairs are added in 16 bits.
            weights[skew..][..blocks * BLOCK].fill([0, 1, 255][random.below(3)]);
        }
        let mut x = random.floats(tokens * k);
        for x in x.chunks_mut(BLOCK) {
            match random.below(12) {
                0 => x.fill(0.0),
                1 => x.fill(-1.0),
                2 => x[0] = 1000.0,
                _ => {}
            }
        }
        Self {
            rows,
            k,
            tokens,
            weights,
            skew,
            scales: random
                .floats(rows * blocks)
                .iter()
                .map(|s| s * 0.01)
                .collect(),
            bias: random.floats(rows),
            x,
        }
    }

    fn matrix(&self) -> Int8Matrix<'_> {
        let blocks = self.k.div_ceil(BLOCK);
        Int8Matrix::new(&self.weights[self.skew..], &self.scales, self.rows, blocks).unwrap()
    }

    fn linear(&self, kernel: &dyn KernelSet, activations: Activations) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.tokens * self.rows];
        linear(
            kernel,
            &self.matrix(),
            Some(&self.bias),
            activations,
            &self.x,
            self.k,
            &mut y,
            &mut Workspace::default(),
            &Threads::new(2),
            &AtomicBool::new(false),
        )
        .unwrap();
        y
    }

    /// Sums and, for their rounding, sums of magnitudes, with `x` as `value` gives it.
    fn exact(&self, value: impl Fn(usize, usize) -> f64) -> Vec<(f64, f64)> {
        self.sums(|weight| weight, value)
    }

    /// The same with weights and `x` rounded to bf16.
    fn exact_bf16(&self) -> Vec<(f64, f64)> {
        let round = |value: f32| bf16::from_f32(value).to_f64();
        self.sums(
            |weight| round(weight as f32),
            |token, i| round(self.x[token * self.k + i]),
        )
    }

    fn sums(
        &self,
        round: impl Fn(f64) -> f64,
        value: impl Fn(usize, usize) -> f64,
    ) -> Vec<(f64, f64)> {
        let w = self.matrix();
        let mut sums = Vec::new();
        for token in 0..self.tokens {
            for row in 0..self.rows {
                let bias = f64::from(self.bias[row]);
                let (mut sum, mut magnitude) = (bias, bias.abs());
                for i in 0..self.k {
                    let weight = f64::from(i32::from(w.row_weights(row)[i]) - 128)
                        * f64::from(w.row_scales(row)[i / BLOCK]);
                    let weight = round(weight);
                    sum += weight * value(token, i);
                    magnitude += (weight * value(token, i)).abs();
                }
                sums.push((sum, magnitude));
            }
        }
        sums
    }
}

fn assert_close(ours: &[f32], exact: &[(f64, f64)], what: &str) {
    assert_within(2e-6, ours, exact, what);
}

fn assert_within(limit: f64, ours: &[f32], exact: &[(f64, f64)], what: &str) {
    assert_eq!(ours.len(), exact.len());
    for (i, (ours, (sum, magnitude))) in ours.iter().zip(exact).enumerate() {
        let error = (f64::from(*ours) - sum).abs();
        assert!(
            error <= limit * magnitude + 1e-30,
            "{what} at {i}: {ours} for {sum}, off by {error:e} of {magnitude:e}"
        );
    }
}

fn compare(case: &Case) {
    let mut rows = DenseRows::default();
    rows.reset(case.tokens, case.k);
    let writer = rows.writer();
    for (row, x) in case.x.chunks_exact(case.k).enumerate() {
        // SAFETY: one thread writes.
        unsafe { quantize(x, &writer, row) };
    }
    let int8 = case.exact(|token, i| {
        f64::from(rows.data(token)[i]) * f64::from(rows.scales(token)[i / BLOCK])
    });
    let float32 = case.exact(|token, i| f64::from(case.x[token * case.k + i]));
    for kernel in kernels() {
        let name = kernel.isa().name();
        let ours = case.linear(kernel, Activations::Int8);
        if kernel
            .bf16()
            .is_some_and(|bf16| case.tokens >= bf16.dense_from())
        {
            assert_within(2e-5, &ours, &case.exact_bf16(), &format!("{name} bf16"));
        } else {
            assert_close(&ours, &int8, &format!("{name} int8"));
        }
        let ours = case.linear(kernel, Activations::Float32);
        assert_close(&ours, &float32, &format!("{name} float32"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_agree_with_float64(
        rows in 1usize..220, k in 1usize..600, tokens in 1usize..14, seed in any::<u64>()
    ) {
        compare(&Case::new(rows, k, tokens, seed));
    }

    #[test]
    fn a_block_comes_back_within_half_a_step(
        x in proptest::collection::vec(-1e4f32..1e4, 1..200), exponent in -20i32..20
    ) {
        let x: Vec<f32> = x.into_iter().map(|v| v * 2f32.powi(exponent)).collect();
        let mut rows = DenseRows::default();
        rows.reset(1, x.len());
        let writer = rows.writer();
        // SAFETY: one thread writes.
        unsafe { quantize(&x, &writer, 0) };
        for (i, &value) in x.iter().enumerate() {
            let step = rows.scales(0)[i / BLOCK];
            let back = f32::from(rows.data(0)[i]) * step;
            prop_assert!((back - value).abs() <= step * 0.5001);
        }
        prop_assert!(rows.data(0)[x.len()..].iter().all(|&q| q == 0));
        for block in 0..rows.row_blocks() {
            let sum: i32 = rows.data(0)[block * BLOCK..][..BLOCK].iter().map(|&q| i32::from(q)).sum();
            prop_assert_eq!(rows.corrections(0)[block], -128 * sum);
            let lanes = &rows.lane_corrections(0)[block * LANES..][..LANES];
            prop_assert_eq!(lanes.iter().sum::<i32>(), -128 * sum);
        }
    }
}

fn compare_bf16(case: &Case) {
    let rows: Vec<&[f32]> = case.x.chunks_exact(case.k).collect();
    let exact = case.exact_bf16();
    for (name, kernel) in bf16_kernels() {
        let mut x = Bf16Tiles::default();
        let k = case.k.next_multiple_of(BLOCK);
        x.reset(rows.len().div_ceil(TILE_TOKENS), k, Order::Natural);
        let (blocks, writer) = (x.blocks(), x.writer());
        for (tile, rows) in rows.chunks(TILE_TOKENS).enumerate() {
            // SAFETY: one thread writes.
            unsafe { kernel.pack(rows, &writer, tile, 0..blocks) };
        }
        let mut out = vec![f32::NAN; rows.len() * case.rows];
        let at = TokensAt {
            tile: 0,
            len: rows.len(),
        };
        kernel.dense(&case.matrix(), 0..case.rows, &x, at, &mut out);
        for out in out.chunks_exact_mut(case.rows) {
            out.iter_mut().zip(&case.bias).for_each(|(y, b)| *y += b);
        }
        // Tiles add the terms one after another.
        assert_within(2e-5, &out, &exact, name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bf16_agrees_with_float64(
        rows in 1usize..150, k in 1usize..900, tokens in 1usize..70, seed in any::<u64>()
    ) {
        compare_bf16(&Case::new(rows, k, tokens, seed));
    }
}

/// Rounding weights as well costs less than rounding activations to int8.
#[test]
fn bf16_is_nearer_than_int8() {
    let case = Case::new(64, 2880, 64, 6);
    let exact = case.exact(|token, i| f64::from(case.x[token * case.k + i]));
    let error = |y: &[f32]| {
        let squares = y.iter().zip(&exact);
        let squares = squares.map(|(&y, (exact, _))| (f64::from(y) - exact).powi(2));
        squares.sum::<f64>().sqrt()
    };
    for kernel in kernels().filter(|kernel| kernel.bf16().is_some()) {
        let ours = error(&case.linear(kernel, Activations::Int8));
        let scalar = super::super::kernel(Isa::Scalar).unwrap();
        let int8 = error(&case.linear(scalar, Activations::Int8));
        println!("{}: {ours:.3e}, int8 {int8:.3e}", kernel.isa().name());
        assert!(ours < 0.6 * int8, "{ours} beside {int8}");
    }
}

#[test]
fn real_widths_and_many_tokens_agree() {
    compare(&Case::new(50, 2880, 1, 1));
    compare(&Case::new(97, 4096, 9, 2));
    compare(&Case::new(20, 128, 2 * MAX_GROUP + 3, 3));
}

#[test]
fn kernels_quantize_alike() {
    let case = Case::new(1, 333, 5, 9);
    let quantized = |kernel: &dyn KernelSet| {
        let mut rows = DenseRows::default();
        rows.reset(case.tokens, case.k);
        let writer = rows.writer();
        for (row, x) in case.x.chunks_exact(case.k).enumerate() {
            // SAFETY: one thread writes.
            unsafe { kernel.dense_quantize(x, &writer, row) };
        }
        (0..case.tokens)
            .map(|row| (rows.data(row).to_vec(), rows.scales(row).to_vec()))
            .collect::<Vec<_>>()
    };
    let all: Vec<_> = kernels().map(quantized).collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn nan_is_never_hidden() {
    for tokens in [1, 9, 40] {
        let mut case = Case::new(40, 200, tokens, 5);
        case.x[70] = f32::NAN;
        for kernel in kernels() {
            for activations in [Activations::Int8, Activations::Float32] {
                let y = case.linear(kernel, activations);
                assert!(y[..case.rows].iter().all(|y| y.is_nan()));
                assert!(y[case.rows..].iter().all(|y| y.is_finite()));
            }
        }
    }
}

#[test]
fn no_tokens_give_no_rows() {
    let case = Case::new(7, 64, 0, 1);
    assert!(case.linear(best(), Activations::Int8).is_empty());
}

fn best() -> &'static dyn KernelSet {
    super::super::best_kernel()
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let case = Case::new(5, 100, 2, 1);
    let call = |x: &[f32], k: usize, bias: &[f32], len: usize, cancel: bool| {
        linear(
            best(),
            &case.matrix(),
            Some(bias),
            Activations::Int8,
            x,
            k,
            &mut vec![0.0; len],
            &mut Workspace::default(),
            &Serial,
            &AtomicBool::new(cancel),
        )
    };
    assert!(call(&case.x, 100, &case.bias, 10, false).is_ok());
    for result in [
        call(&case.x, 64, &case.bias, 10, false),
        call(&case.x[1..], 100, &case.bias, 10, false),
        call(&case.x, 100, &case.bias[1..], 10, false),
        call(&case.x, 100, &case.bias, 9, false),
        call(&case.x, 0, &case.bias, 0, false),
    ] {
        assert!(matches!(result, Err(KernelError::Shape(_))), "{result:?}");
    }
    let cancelled = call(&case.x, 100, &case.bias, 10, true);
    assert!(matches!(cancelled, Err(KernelError::Cancelled)));
    assert!(Int8Matrix::new(&[0; 64], &[0.0; 2], 1, 1).is_err());
    assert!(Int8Matrix::new(&[], &[], usize::MAX, 2).is_err());
}
