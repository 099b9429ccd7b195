//! `gptoss:MoE` inside ONNX Runtime: the operator against the kernels it is
//! made of, its errors, and its cancellation.
//!
//! Needs the runtime's library, named by `ORT_DYLIB_PATH`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use gptoss_onnx::kernels::experts::{Activations, Layer, Options, Workspace, mixture};
use gptoss_onnx::kernels::mxfp4::ExpertMatrices;
use gptoss_onnx::kernels::parallel::Serial;
use gptoss_onnx::kernels::portable::SwiGlu;
use gptoss_onnx::kernels::{Isa, kernel};
use gptoss_onnx::operators;
use half::bf16;
use ort::session::Session;
use ort::value::Tensor;

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
        let mut y = vec![0.0; self.x.len()];
        mixture(
            kernel(Isa::Scalar).unwrap(),
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

fn environment() -> &'static ort::environment::Environment {
    static ENVIRONMENT: OnceLock<ort::environment::Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let path = std::env::var_os("ORT_DYLIB_PATH")
            .expect("set ORT_DYLIB_PATH to the ONNX Runtime library to run these tests");
        ort::init_from(path)
            .unwrap()
            .with_telemetry(false)
            .build()
            .unwrap()
    })
}

/// The few ONNX messages of a one-node model, encoded by hand: each helper
/// returns a field with its number and content.
mod model {
    pub fn number(field: u64, value: i64) -> Vec<u8> {
        [varint(field << 3), varint(value as u64)].concat()
    }

    pub fn float(field: u64, value: f32) -> Vec<u8> {
        [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
    }

    pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        let len = varint(content.len() as u64);
        [varint(field << 3 | 2), len, content.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 128 {
            out.push(value as u8 | 128);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    /// AttributeProto: name 1, the value, type 20.
    pub fn attribute(name: &str, value: Vec<u8>, kind: i64) -> Vec<u8> {
        bytes(5, [bytes(1, name), value, number(20, kind)].concat())
    }

    pub fn int(name: &str, value: i64) -> Vec<u8> {
        attribute(name, number(3, value), 2)
    }

    pub fn real(name: &str, value: f32) -> Vec<u8> {
        attribute(name, float(2, value), 1)
    }

    pub fn string(name: &str, value: &str) -> Vec<u8> {
        attribute(name, bytes(4, value), 3)
    }

    /// ValueInfoProto of a tensor with unknown sizes.
    fn tensor(field: u64, name: &str, element: i64, dimensions: usize) -> Vec<u8> {
        let sizes: Vec<u8> = (0..dimensions)
            .flat_map(|i| bytes(1, bytes(2, format!("{name}_{i}"))))
            .collect();
        let tensor = [number(1, element), bytes(2, sizes)].concat();
        bytes(field, [bytes(1, name), bytes(2, bytes(1, tensor))].concat())
    }

    /// ModelProto of one node `gptoss:MoE` whose inputs are all fed at run time.
    pub fn moe(names: &[&str; 8], dimensions: [usize; 8], attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut node: Vec<u8> = names.iter().flat_map(|name| bytes(1, name)).collect();
        for (field, text) in [(2, "y"), (3, "experts"), (4, "MoE"), (7, "gptoss")] {
            node.extend(bytes(field, text));
        }
        node.extend(attributes.concat());
        let mut graph = [bytes(1, node), bytes(2, "test")].concat();
        // FLOAT 1, UINT8 2, BFLOAT16 16.
        for (i, element) in [1, 1, 2, 2, 16, 2, 2, 16].into_iter().enumerate() {
            graph.extend(tensor(11, names[i], element, dimensions[i]));
        }
        graph.extend(tensor(12, "y", 1, dimensions[0]));
        let opset = |domain, version| bytes(8, [bytes(1, domain), number(2, version)].concat());
        let opsets = [opset("", 21), opset("gptoss", 1)].concat();
        [number(1, 10), bytes(7, graph), opsets].concat()
    }
}

/// A session of one node whose inputs are all fed at run time.
fn session(
    inputs: &Inputs,
    cancel: &Arc<AtomicBool>,
    attributes: &[Vec<u8>],
) -> Result<Session, Box<dyn std::error::Error>> {
    let dimensions = std::array::from_fn(|i| inputs.shapes[i].len());
    let model = model::moe(&NAMES, dimensions, attributes);
    let _opening = operators::opening();
    let mut builder = Session::builder(environment())?
        .with_intra_threads(2)?
        .with_operators(operators::domain(Arc::clone(cancel))?)?;
    Ok(builder.commit_from_memory(&model)?)
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let norm: f32 = expected.iter().map(|x| x * x).sum();
    let error: f32 = got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    // Rounding to int8 may fall differently where sums differ in the last bit.
    let relative = (error / norm).sqrt();
    assert!(relative < 2e-3, "relative error {relative}");
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
            assert_close(&y, &inputs.expected(4, glu, form));
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
    assert_close(&y, &expected);
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
    let cancel = Arc::new(AtomicBool::new(true));
    let attributes = vec![model::int("k", 2)];
    let mut session = session(&inputs, &cancel, &attributes).unwrap();
    let error = inputs.run(&mut session).expect_err("the flag is set");
    assert!(error.to_string().contains("cancelled"), "{error}");
    cancel.store(false, Ordering::Relaxed);
    inputs.run(&mut session).unwrap();
}
