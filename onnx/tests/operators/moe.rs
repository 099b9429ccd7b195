//! `gptoss:MoE` against the kernels it is made of, its errors, and its
//! cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gptoss_onnx::kernels::experts::{Activations, Layer, Options, Workspace, mixture};
use gptoss_onnx::kernels::mxfp4::ExpertMatrices;
use gptoss_onnx::kernels::parallel::Serial;
use gptoss_onnx::kernels::portable::SwiGlu;
use gptoss_onnx::kernels::{Isa, best_kernel, kernel};
use gptoss_onnx::operators::Control;
use half::bf16;
use ort::session::Session;
use ort::value::Tensor;

use crate::model::{self, BFLOAT16, FLOAT, UINT8};
use crate::{assert_close, open};

/// Rounding to int8 may fall differently where sums differ in the last bit.
const ROUNDING: f32 = 2e-3;

const NAMES: [&str; 8] = [
    "x",
    "router_logits",
    "gate_up_blocks",
    "gate_up_scales",
    "gate_up_bias",
    "down_blocks",
    "down_scales",
    "down_bias",
];

/// Everything the operator takes.
#[derive(Clone)]
struct Inputs {
    shapes: [Vec<i64>; 8],
    x: Vec<f32>,
    router_logits: Vec<f32>,
    bytes: [Vec<u8>; 4],
    biases: [Vec<bf16>; 2],
}

impl Inputs {
    fn new(tokens: usize, experts: usize, hidden: usize, inner: usize) -> Self {
        let mut state = 17u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut floats = |len: usize| -> Vec<f32> {
            (0..len)
                .map(|_| next() as f32 / 8_388_608.0 - 1.0)
                .collect()
        };
        let (s, e, h, i) = (tokens as i64, experts as i64, hidden as i64, inner as i64);
        let x = floats(tokens * hidden);
        let router_logits = floats(tokens * experts);
        let mut bias =
            |len: usize| -> Vec<bf16> { floats(len).into_iter().map(bf16::from_f32).collect() };
        let biases = [bias(experts * 2 * inner), bias(experts * hidden)];
        let mut bytes = |len: usize, first: u32, count: u32| -> Vec<u8> {
            (0..len)
                .map(|_| (first + (floats(1)[0].to_bits() >> 3) % count) as u8)
                .collect()
        };
        let (up, down) = (experts * 2 * inner * hidden, experts * hidden * inner);
        Self {
            shapes: [
                vec![1, s, h],
                vec![s, e],
                vec![e, 2 * i, h / 32, 16],
                vec![e, 2 * i, h / 32],
                vec![e, 2 * i],
                vec![e, h, i / 32, 16],
                vec![e, h, i / 32],
                vec![e, h],
            ],
            x,
            router_logits,
            bytes: [
                bytes(up / 2, 0, 256),
                bytes(up / 32, 118, 6),
                bytes(down / 2, 0, 256),
                bytes(down / 32, 118, 6),
            ],
            biases,
        }
    }

    fn run(&self, session: &mut Session) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        let shape = |i: usize| self.shapes[i].clone();
        let outputs = session.run(ort::inputs![
            NAMES[0] => Tensor::from_array((shape(0), self.x.clone()))?,
            NAMES[1] => Tensor::from_array((shape(1), self.router_logits.clone()))?,
            NAMES[2] => Tensor::from_array((shape(2), self.bytes[0].clone()))?,
            NAMES[3] => Tensor::from_array((shape(3), self.bytes[1].clone()))?,
            NAMES[4] => Tensor::from_array((shape(4), self.biases[0].clone()))?,
            NAMES[5] => Tensor::from_array((shape(5), self.bytes[2].clone()))?,
            NAMES[6] => Tensor::from_array((shape(6), self.bytes[3].clone()))?,
            NAMES[7] => Tensor::from_array((shape(7), self.biases[1].clone()))?,
        ])?;
        let (shape, y) = outputs["y"].try_extract_tensor::<f32>()?;
        Ok((shape.to_vec(), y.to_vec()))
    }

    /// What the scalar kernel makes of them, without ONNX Runtime.
    fn expected(&self, k: usize, glu: SwiGlu, activations: Activations) -> Vec<f32> {
        let size = |i: usize, d: usize| self.shapes[i][d] as usize;
        let (e, h, i) = (size(2, 0), size(5, 1), size(2, 1) / 2);
        let gate_up = ExpertMatrices::new(&self.bytes[0], &self.bytes[1], e, 2 * i, h).unwrap();
        let down = ExpertMatrices::new(&self.bytes[2], &self.bytes[3], e, h, i).unwrap();
        let layer = Layer::new(gate_up, &self.biases[0], down, &self.biases[1]).unwrap();
        let options = Options {
            experts_per_token: k,
            glu,
            activations,
        };
        // Where the operator rounds to bf16, int8 would be other numbers.
        let scalar = kernel(Isa::Scalar).unwrap();
        let kernel = Some(best_kernel()).filter(|best| best.bf16().is_some());
        let mut y = vec![0.0; self.x.len()];
        mixture(
            kernel.unwrap_or(scalar),
            &layer,
            &options,
            &self.x,
            &self.router_logits,
            &mut y,
            &mut Workspace::default(),
            &Serial,
            &AtomicBool::new(false),
        )
        .unwrap();
        y
    }
}

/// A session of one node `gptoss:MoE`.
fn session(
    inputs: &Inputs,
    control: &Arc<Control>,
    attributes: &[Vec<u8>],
) -> Result<Session, Box<dyn std::error::Error>> {
    let elements = [FLOAT, FLOAT, UINT8, UINT8, BFLOAT16, UINT8, UINT8, BFLOAT16];
    let described: [_; 8] =
        std::array::from_fn(|i| (NAMES[i], elements[i], inputs.shapes[i].len()));
    open(&model::node("MoE", &described, attributes), control)
}

#[test]
fn the_operator_computes_what_its_kernels_do() {
    for (tokens, hidden, inner) in [(1, 64, 96), (7, 160, 32), (70, 96, 64)] {
        let inputs = Inputs::new(tokens, 8, hidden, inner);
        for (name, form) in [
            ("int8", Activations::Int8),
            ("float32", Activations::Float32),
        ] {
            let attributes = vec![
                model::int("k", 4),
                model::real("limit", 3.0),
                model::real("alpha", 1.5),
                model::string("activations", name),
            ];
            let mut session = session(&inputs, &Arc::default(), &attributes).unwrap();
            let (shape, y) = inputs.run(&mut session).unwrap();
            assert_eq!(shape, inputs.shapes[0]);
            let glu = SwiGlu {
                alpha: 1.5,
                limit: 3.0,
            };
            assert_close(&y, &inputs.expected(4, glu, form), ROUNDING);
        }
    }
}

#[test]
fn attributes_have_defaults() {
    let inputs = Inputs::new(3, 4, 64, 64);
    let attributes = vec![model::int("k", 2)];
    let mut session = session(&inputs, &Arc::default(), &attributes).unwrap();
    let (_, y) = inputs.run(&mut session).unwrap();
    let expected = inputs.expected(2, SwiGlu::default(), Activations::Int8);
    assert_close(&y, &expected, ROUNDING);
}

#[test]
fn wrong_attributes_are_refused() {
    let inputs = Inputs::new(1, 4, 32, 32);
    let k = || model::int("k", 2);
    for (attributes, part) in [
        (vec![], "attribute k"),
        (vec![model::int("k", -1)], "attribute k"),
        (vec![k(), model::real("limit", f32::NAN)], "limit"),
        (vec![k(), model::string("activations", "int4")], "int4"),
    ] {
        let error =
            session(&inputs, &Arc::default(), &attributes).expect_err("a session must not be made");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let good = Inputs::new(3, 4, 64, 32);
    let attributes = vec![model::int("k", 2)];
    let mut session = session(&good, &Arc::default(), &attributes).unwrap();

    let mut short = good.clone();
    short.router_logits.truncate(2 * 4);
    short.shapes[1] = vec![2, 4];
    let mut swapped = good.clone();
    swapped.shapes[2] = vec![4, 2, 64, 16];
    let mut blocks = good.clone();
    blocks.shapes[5] = vec![4, 64, 2, 8];
    let mut bias = good.clone();
    bias.shapes[7] = vec![2, 128];
    for wrong in [short, swapped, blocks, bias] {
        let error = wrong.run(&mut session).expect_err("sizes differ");
        assert!(error.to_string().contains("gptoss:MoE"), "{error}");
    }
    good.run(&mut session)
        .expect("the session works after errors");

    let mut none = good.clone();
    none.x.clear();
    none.router_logits.clear();
    (none.shapes[0], none.shapes[1]) = (vec![1, 0, 64], vec![0, 4]);
    let (shape, y) = none.run(&mut session).unwrap();
    assert_eq!((shape, y.len()), (vec![1, 0, 64], 0));
}

#[test]
fn a_cancelled_run_fails_and_the_next_one_works() {
    let inputs = Inputs::new(5, 4, 64, 64);
    let control = Arc::new(Control::default());
    control.cancel.store(true, Ordering::Relaxed);
    let attributes = vec![model::int("k", 2)];
    let mut session = session(&inputs, &control, &attributes).unwrap();
    let error = inputs.run(&mut session).expect_err("the flag is set");
    assert!(error.to_string().contains("cancelled"), "{error}");
    control.cancel.store(false, Ordering::Relaxed);
    inputs.run(&mut session).unwrap();
}
