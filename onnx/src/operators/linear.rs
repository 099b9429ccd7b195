//! Operator `gptoss:Linear`, version 1: a product with int8 weights that are
//! read in place, where `MatMulNBits` would keep a rearranged copy.
//!
//! | | type | shape | |
//! |---|---|---|---|
//! | input 0 | f32 | `[.. S, K]` | `x` |
//! | 1 | u8 | `[N, ceil(K/64), 64]` | weights around 128 |
//! | 2 | f32 | `[N, ceil(K/64)]` | their scales |
//! | 3 | f32 | `[N]` | bias, optional |
//! | output 0 | f32 | `[.. S, N]` | `x · weightsᵀ + bias` |
//!
//! Attribute `activations`: `"int8"` (default), one dynamic scale per 64
//! elements, or `"float32"`.

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{TensorElementType, ValueType};

use super::node::{Inputs, IntraOpPool, Shared, required};
use super::{Control, guarded};
use crate::kernels::KernelError;
use crate::kernels::dense::{self, BLOCK, Int8Matrix, Workspace};
use crate::kernels::experts::Activations;

const NAME: &str = "gptoss:Linear";
const INPUTS: [&str; 4] = ["x", "weights", "scales", "bias"];

/// The operator `gptoss:Linear`.
pub struct Linear {
    shared: Arc<Shared<Workspace>>,
}

impl Linear {
    /// The operator for the session that has `control`.
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            shared: Shared::new(control),
        }
    }
}

impl Operator for Linear {
    type Kernel<'attr> = LinearKernel;

    fn name(&self) -> &str {
        "Linear"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Uint8};
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Uint8),
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<LinearKernel> {
        guarded(NAME, || {
            let activations = match context.get::<String>("activations") {
                Some(name) => name.parse().map_err(node_error)?,
                None => Activations::default(),
            };
            Ok(LinearKernel {
                activations,
                shared: Arc::clone(&self.shared),
            })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(NAME, || {
            let inputs = context.inputs();
            let (Some(mut y), Some(weights)) = (inputs.first().cloned(), inputs.get(1)) else {
                return Ok(());
            };
            let rows = weights.tensor_shape().and_then(|shape| shape.first());
            if let (ValueType::Tensor { shape, .. }, Some(&rows)) = (&mut y, rows)
                && let Some(last) = shape.last_mut()
            {
                *last = rows;
                context.set_output(0, &y)?;
            }
            Ok(())
        })
    }
}

/// A node of the operator.
pub struct LinearKernel {
    activations: Activations,
    shared: Arc<Shared<Workspace>>,
}

impl Kernel for LinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(NAME, || {
            self.shared
                .with_workspace(|workspace| self.compute_with(context, workspace))
        })
    }
}

impl LinearKernel {
    fn compute_with(&self, context: &ComputeContext, workspace: &mut Workspace) -> ort::Result<()> {
        let mut values = required(context, NAME, &INPUTS[..3])?;
        values.extend(context.input(3)?);
        let inputs = Inputs {
            operator: NAME,
            names: &INPUTS,
            values: &values,
        };
        let x = inputs.read::<f32>(0)?;
        let weights = inputs.read::<u8>(1)?;
        let scales = inputs.read::<f32>(2)?;
        let bias = match values.len() {
            4 => Some(inputs.read::<f32>(3)?),
            _ => None,
        };
        let [rows, blocks, block] = weights.dimensions()?;
        if block != BLOCK || scales.dimensions()? != [rows, blocks] {
            return Err(error(format!(
                "inputs weights {:?} and scales {:?} must be [N, ceil(K/{BLOCK}), {BLOCK}] and [N, ceil(K/{BLOCK})]",
                weights.shape, scales.shape
            )));
        }
        let matrix =
            Int8Matrix::new(weights.data, scales.data, rows, blocks).map_err(node_error)?;
        let Some((&k, leading)) = x.shape.split_last().filter(|(k, _)| **k > 0) else {
            return Err(error(format!("input x has shape {:?}", x.shape)));
        };
        let mut shape = leading.to_vec();
        shape.push(rows as i64);
        let mut output = context
            .output(0, shape)?
            .ok_or_else(|| error("output y is missing"))?;
        let (_, y) = output.try_extract_tensor_mut::<f32>()?;
        dense::linear(
            self.shared.kernel,
            &matrix,
            bias.map(|bias| bias.data),
            self.activations,
            x.data,
            k as usize,
            y,
            workspace,
            &IntraOpPool(context),
            &self.shared.control.cancel,
        )
        .map_err(node_error)
    }
}

fn node_error(e: KernelError) -> ort::Error {
    error(e.to_string())
}

fn error(message: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{NAME}: {message}"))
}
