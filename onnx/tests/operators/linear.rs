//! `gptoss:Linear` against a plain sum, its errors, and its cancellation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gptoss_onnx::operators::Control;
use ort::session::Session;
use ort::value::Tensor;

use crate::model::{self, FLOAT, UINT8};
use crate::{assert_close, open};

/// Everything the operator takes; the bias may be left out.
#[derive(Clone)]
struct Inputs {
    shapes: [Vec<i64>; 4],
    x: Vec<f32>,
    weights: Vec<u8>,
    scales: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Inputs {
    fn new(tokens: usize, k: usize, rows: usize, with_bias: bool) -> Self {
        let blocks = k.div_ceil(64);
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
        let x = floats(tokens * k);
        let scales = floats(rows * blocks);
        let bias = with_bias.then(|| floats(rows));
        let weights = (0..rows * blocks * 64)
            .map(|_| next_byte(&mut floats))
            .collect();
        let (s, k, n, b) = (tokens as i64, k as i64, rows as i64, blocks as i64);
        Self {
            shapes: [vec![1, s, k], vec![n, b, 64], vec![n, b], vec![n]],
            x,
            weights,
            scales,
            bias,
        }
    }

    fn session(
        &self,
        control: &Arc<Control>,
        activations: &str,
    ) -> Result<Session, Box<dyn std::error::Error>> {
        let described = [
            ("x", FLOAT, 3),
            ("weights", UINT8, 3),
            ("scales", FLOAT, 2),
            ("bias", FLOAT, 1),
        ];
        let count = if self.bias.is_some() { 4 } else { 3 };
        let attributes = [model::string("activations", activations)];
        open(
            &model::node("Linear", &described[..count], &attributes),
            control,
        )
    }

    fn run(&self, session: &mut Session) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        let shape = |i: usize| self.shapes[i].clone();
        let mut inputs = ort::inputs![
            "x" => Tensor::from_array((shape(0), self.x.clone()))?,
            "weights" => Tensor::from_array((shape(1), self.weights.clone()))?,
            "scales" => Tensor::from_array((shape(2), self.scales.clone()))?,
        ];
        if let Some(bias) = &self.bias {
            let bias = Tensor::from_array((shape(3), bias.clone()))?;
            inputs.push(("bias".into(), bias.into()));
        }
        let outputs = session.run(inputs)?;
        let (shape, y) = outputs["y"].try_extract_tensor::<f32>()?;
        Ok((shape.to_vec(), y.to_vec()))
    }

    fn expected(&self) -> Vec<f32> {
        let (k, rows) = (self.shapes[0][2] as usize, self.shapes[1][0] as usize);
        let blocks = self.shapes[1][1] as usize;
        let product = |x: &[f32], row: usize| -> f32 {
            let weight = |i: usize| {
                let byte = self.weights[row * blocks * 64 + i];
                (f32::from(byte) - 128.0) * self.scales[row * blocks + i / 64]
            };
            let sum: f32 = x.iter().enumerate().map(|(i, x)| x * weight(i)).sum();
            sum + self.bias.as_ref().map_or(0.0, |bias| bias[row])
        };
        self.x
            .chunks_exact(k)
            .flat_map(|x| (0..rows).map(move |row| product(x, row)))
            .collect()
    }
}

fn next_byte(floats: &mut impl FnMut(usize) -> Vec<f32>) -> u8 {
    (floats(1)[0] * 127.0 + 128.0) as u8
}

#[test]
fn the_operator_multiplies() {
    for (tokens, k, rows) in [(1, 64, 50), (3, 100, 7), (40, 200, 130)] {
        for with_bias in [false, true] {
            let inputs = Inputs::new(tokens, k, rows, with_bias);
            let mut session = inputs.session(&Arc::default(), "float32").unwrap();
            let (shape, y) = inputs.run(&mut session).unwrap();
            assert_eq!(shape, [1, tokens as i64, rows as i64]);
            assert_close(&y, &inputs.expected(), 1e-5);
            let mut session = inputs.session(&Arc::default(), "int8").unwrap();
            let (_, y) = inputs.run(&mut session).unwrap();
            assert_close(&y, &inputs.expected(), 1e-2);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let good = Inputs::new(3, 100, 20, true);
    let error = good
        .session(&Arc::default(), "int4")
        .expect_err("no such form");
    assert!(error.to_string().contains("int4"), "{error}");

    let mut session = good.session(&Arc::default(), "int8").unwrap();
    let mut long = good.clone();
    long.shapes[0] = vec![1, 1, 300];
    let mut blocks = good.clone();
    blocks.shapes[1] = vec![20, 4, 32];
    let mut scales = good.clone();
    scales.shapes[2] = vec![2, 20];
    let mut bias = good.clone();
    bias.shapes[3] = vec![19];
    bias.bias = bias.bias.map(|bias| bias[1..].to_vec());
    for wrong in [long, blocks, scales, bias] {
        let error = wrong.run(&mut session).expect_err("sizes differ");
        assert!(error.to_string().contains("gptoss:Linear"), "{error}");
    }
    let mut none = good.clone();
    none.x.clear();
    none.shapes[0] = vec![1, 0, 100];
    let (shape, y) = none.run(&mut session).unwrap();
    assert_eq!((shape, y.len()), (vec![1, 0, 20], 0));
}

#[test]
fn a_cancelled_run_fails_and_the_next_one_works() {
    let inputs = Inputs::new(5, 64, 64, false);
    let control = Arc::new(Control::default());
    control.cancel.store(true, Ordering::Relaxed);
    let mut session = inputs.session(&control, "int8").unwrap();
    let error = inputs.run(&mut session).expect_err("the flag is set");
    assert!(error.to_string().contains("cancelled"), "{error}");
    control.cancel.store(false, Ordering::Relaxed);
    assert!(inputs.run(&mut session).is_ok());
}
