//! Whole mixtures against float64.

use std::sync::OnceLock;

use super::*;
use crate::kernels::parallel::{Serial, Threads};
use crate::kernels::tests::Random;
use crate::kernels::{Isa, kernel};
use proptest::prelude::*;

/// A layer with random weights, and its float64 meaning.
struct Random64 {
    experts: usize,
    hidden: usize,
    inner: usize,
    gate_up: (Vec<u8>, Vec<u8>),
    down: (Vec<u8>, Vec<u8>),
    gate_up_bias: Vec<bf16>,
    down_bias: Vec<bf16>,
}

impl Random64 {
    fn new(experts: usize, hidden: usize, inner: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut matrix = |rows: usize, k: usize| {
            let blocks = experts * rows * k / BLOCK;
            let scales = (0..blocks).map(|_| 118 + random.below(8) as u8).collect();
            (random.bytes(blocks * 16), scales)
        };
        let (gate_up, down) = (matrix(2 * inner, hidden), matrix(hidden, inner));
        let mut bias = |len| random.floats(len).into_iter().map(bf16::from_f32).collect();
        Self {
            experts,
            hidden,
            inner,
            gate_up,
            down,
            gate_up_bias: bias(experts * 2 * inner),
            down_bias: bias(experts * hidden),
        }
    }

    fn layer(&self) -> Layer<'_> {
        let matrices = |(blocks, scales): &'_ (Vec<u8>, Vec<u8>), rows, k| {
            // Lifetimes of closures: leaking test data is simplest.
            let blocks: &'static [u8] = blocks.clone().leak();
            let scales: &'static [u8] = scales.clone().leak();
            ExpertMatrices::new(blocks, scales, self.experts, rows, k).unwrap()
        };
        let gate_up = matrices(&self.gate_up, 2 * self.inner, self.hidden);
        let down = matrices(&self.down, self.hidden, self.inner);
        Layer::new(gate_up, &self.gate_up_bias, down, &self.down_bias).unwrap()
    }

    /// One token in float64, straight from the definition.
    fn exact(&self, x: &[f32], logits: &[f32], k: usize, glu: SwiGlu) -> Vec<f64> {
        let layer = self.layer();
        let mut order: Vec<usize> = (0..self.experts).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let shares: Vec<f64> = order[..k]
            .iter()
            .map(|&e| f64::from(logits[e]).exp())
            .collect();
        let total: f64 = shares.iter().sum();
        let (alpha, limit) = (f64::from(glu.alpha), f64::from(glu.limit));
        let mut y = vec![0.0; self.hidden];
        for (&e, share) in order.iter().zip(shares) {
            let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let bias = &self.gate_up_bias[e * 2 * self.inner..][..2 * self.inner];
            let gate_up = product(&layer.gate_up.expert(e), &x, bias);
            let hidden: Vec<f64> = gate_up
                .chunks_exact(2)
                .map(|pair| (pair[0].min(limit), pair[1].clamp(-limit, limit)))
                .map(|(gate, up)| (up + 1.0) * gate / (1.0 + (-alpha * gate).exp()))
                .collect();
            let bias = &self.down_bias[e * self.hidden..][..self.hidden];
            let down = product(&layer.down.expert(e), &hidden, bias);
            for (y, down) in y.iter_mut().zip(down) {
                *y += share / total * down;
            }
        }
        y
    }
}

fn product(w: &crate::kernels::mxfp4::Matrix<'_>, x: &[f64], bias: &[bf16]) -> Vec<f64> {
    let mut row = vec![0.0; w.k()];
    (0..w.rows())
        .map(|r| {
            w.dequantize_row(r, &mut row);
            let sum: f64 = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * x).sum();
            sum + bias[r].to_f64()
        })
        .collect()
}

fn relative_error(got: &[f32], exact: &[f64]) -> f64 {
    let error: f64 = got
        .iter()
        .zip(exact)
        .map(|(&g, e)| (f64::from(g) - e).powi(2))
        .sum();
    let norm: f64 = exact.iter().map(|e| e * e).sum();
    (error / norm).sqrt()
}

fn run(
    kernel: &dyn KernelSet,
    layer: &Layer<'_>,
    options: &Options,
    x: &[f32],
    logits: &[f32],
    workspace: &mut Workspace,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    let cancel = AtomicBool::new(false);
    static POOL: OnceLock<Threads> = OnceLock::new();
    let pool = POOL.get_or_init(|| Threads::new(3));
    mixture(
        kernel, layer, options, x, logits, &mut y, workspace, pool, &cancel,
    )
    .unwrap();
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn mixtures_agree_with_float64(
        experts in 1usize..9, hidden in 1usize..8, inner in 1usize..8,
        tokens in 1usize..40, seed in any::<u64>()
    ) {
        let (hidden, inner) = (hidden * 32, inner * 32);
        let model = Random64::new(experts, hidden, inner, seed);
        let mut random = Random(seed ^ 1);
        let x = random.floats(tokens * hidden);
        let logits = random.floats(tokens * experts);
        let k = experts.min(1 + random.below(4));
        let glu = SwiGlu { limit: 2.0, ..SwiGlu::default() };
        let exact: Vec<f64> = (0..tokens)
            .flat_map(|t| model.exact(&x[t * hidden..][..hidden], &logits[t * experts..][..experts], k, glu))
            .collect();
        let layer = model.layer();
        let mut workspace = Workspace::default();
        for kernel in Isa::ALL.into_iter().filter_map(kernel) {
            let mut options = Options { experts_per_token: k, glu, activations: Activations::Float32 };
            let y = run(kernel, &layer, &options, &x, &logits, &mut workspace);
            prop_assert!(relative_error(&y, &exact) < 2e-6);
            options.activations = Activations::Int8;
            let y = run(kernel, &layer, &options, &x, &logits, &mut workspace);
            let error = relative_error(&y, &exact);
            prop_assert!(error < 0.03, "{} {error}", kernel.isa().name());
        }
    }
}

#[test]
fn long_inputs_are_the_same_in_pieces() {
    let model = Random64::new(4, 64, 32, 9);
    let layer = model.layer();
    let mut random = Random(10);
    let tokens = MAX_TOKENS + 300;
    let x = random.floats(tokens * 64);
    // Nearly all tokens to one expert, so that its group is cut too.
    let logits: Vec<f32> = random
        .floats(tokens * 4)
        .chunks(4)
        .flat_map(|l| [l[0], l[1], l[2] + 3.0, l[3]])
        .collect();
    let options = Options {
        experts_per_token: 2,
        glu: SwiGlu::default(),
        activations: Activations::Int8,
    };
    for kernel in Isa::ALL.into_iter().filter_map(kernel) {
        let mut workspace = Workspace::default();
        let together = run(kernel, &layer, &options, &x, &logits, &mut workspace);
        let apart: Vec<f32> = (0..tokens)
            .flat_map(|t| {
                run(
                    kernel,
                    &layer,
                    &options,
                    &x[t * 64..][..64],
                    &logits[t * 4..][..4],
                    &mut workspace,
                )
            })
            .collect();
        if kernel.bf16().is_none() {
            for (a, b) in together.iter().zip(&apart) {
                assert!(
                    (a - b).abs() < 1e-5 * b.abs().max(1.0),
                    "{}",
                    kernel.isa().name()
                );
            }
            continue;
        }
        // Large groups are computed by bf16, which is nearer to what is meant.
        let exact: Vec<f64> = x
            .chunks(64)
            .zip(logits.chunks(4))
            .flat_map(|(x, logits)| model.exact(x, logits, 2, options.glu))
            .collect();
        let errors = [together, apart].map(|y| relative_error(&y, &exact));
        println!("{}: {errors:?}", kernel.isa().name());
        assert!(errors[0] < 0.5 * errors[1], "{errors:?}");
    }
}

#[test]
fn a_set_cancel_flag_is_an_error() {
    let model = Random64::new(2, 32, 32, 1);
    let options = Options {
        experts_per_token: 1,
        glu: SwiGlu::default(),
        activations: Activations::Int8,
    };
    let (x, mut y) = ([0.5; 32], [0.0; 32]);
    let kernel = kernel(Isa::Scalar).unwrap();
    let result = mixture(
        kernel,
        &model.layer(),
        &options,
        &x,
        &[0.0, 1.0],
        &mut y,
        &mut Workspace::default(),
        &Serial,
        &AtomicBool::new(true),
    );
    assert!(matches!(result, Err(KernelError::Cancelled)));
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let model = Random64::new(2, 32, 32, 1);
    let layer = model.layer();
    let kernel = kernel(Isa::Scalar).unwrap();
    let cancel = AtomicBool::new(false);
    let attempt = |k, x: &[f32], logits: &[f32]| {
        let options = Options {
            experts_per_token: k,
            glu: SwiGlu::default(),
            activations: Activations::Int8,
        };
        let mut y = vec![0.0; x.len()];
        mixture(
            kernel,
            &layer,
            &options,
            x,
            logits,
            &mut y,
            &mut Workspace::default(),
            &Serial,
            &cancel,
        )
    };
    assert!(attempt(1, &[0.0; 32], &[0.0; 2]).is_ok());
    assert!(attempt(1, &[], &[]).is_ok());
    assert!(attempt(3, &[0.0; 32], &[0.0; 2]).is_err());
    assert!(attempt(0, &[0.0; 32], &[0.0; 2]).is_err());
    assert!(attempt(1, &[0.0; 33], &[0.0; 2]).is_err());
    assert!(attempt(1, &[0.0; 32], &[0.0; 3]).is_err());
}

/// Supplies experts one by one, the last first, from copies.
struct Backwards<'a>(&'a Random64);

impl Supply for Backwards<'_> {
    fn supply(
        &self,
        wanted: &[Wanted],
        _cancel: &AtomicBool,
        compute: &mut crate::kernels::supply::Compute<'_>,
    ) -> Result<(), KernelError> {
        let model = self.0;
        for wanted in wanted.iter().rev() {
            let copy = |bytes: &Vec<u8>| {
                let each = bytes.len() / model.experts;
                bytes[wanted.expert * each..][..each].to_vec()
            };
            let [up, up_scales] = [copy(&model.gate_up.0), copy(&model.gate_up.1)];
            let [down, down_scales] = [copy(&model.down.0), copy(&model.down.1)];
            let expert = Expert {
                index: wanted.expert,
                gate_up: Matrix::new(&up, &up_scales, 2 * model.inner, model.hidden)?,
                down: Matrix::new(&down, &down_scales, model.hidden, model.inner)?,
            };
            compute(&[expert])?;
        }
        Ok(())
    }
}

#[test]
fn supplied_experts_give_the_same_bits() {
    let model = Random64::new(6, 96, 64, 3);
    let layer = model.layer();
    let supply = Backwards(&model);
    let mut random = Random(4);
    // One window of tokens and a part of another; groups of several sizes.
    for tokens in [1, 7, MAX_TOKENS + 40] {
        let x = random.floats(tokens * 96);
        let logits: Vec<f32> = random
            .floats(tokens * 6)
            .chunks(6)
            .flat_map(|l| [l[0] + 1.0, l[1], l[2], l[3] + 2.0, l[4], l[5] - 1.0])
            .collect();
        for kernel in Isa::ALL.into_iter().filter_map(kernel) {
            for activations in [Activations::Int8, Activations::Float32] {
                let options = Options {
                    experts_per_token: 3,
                    glu: SwiGlu::default(),
                    activations,
                };
                let mut in_place = Workspace::default();
                let expected = run(kernel, &layer, &options, &x, &logits, &mut in_place);
                let mut workspace = Workspace::default();
                let supplied = layer.supplied_by(&supply);
                let got = run(kernel, &supplied, &options, &x, &logits, &mut workspace);
                let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&expected), "{}", kernel.isa().name());
                assert_eq!(workspace.experts_read(), in_place.experts_read());
            }
        }
    }
}
