//! Operators `gptoss:Attention`, `gptoss:AttentionFloat32` and
//! `gptoss:AttentionInt8`, version 1: attention with sinks, rotation and a window
//! over a paged key/value cache of float16, of float32, or of int8 with lines,
//! that it appends to.
//!
//! | | type | shape | |
//! |---|---|---|---|
//! | input 0 | f32 | `[1, S, (H + 2 KVH) · D]` | queries, keys and values, not yet rotated, of B sequences one after the other |
//! | 1, 2 | f16, f32, u8 | `[N, KVH, 64, D]`, of u8 `[N, KVH, 64, D · 5 / 4]` | past keys and values: the layer's pool of blocks |
//! | 3 | i32 | `[B, 2]` | of each sequence: tokens among the S, positions before them |
//! | 4 | i32 | `[B, M]` | of each sequence: its blocks in the pool, from the one that its first token's window begins in; what is not used may be anything |
//! | 5, 6 | f32 | `[.., D / 2]` | cosines and sines |
//! | 7 | f32 | `[H]` | sinks |
//! | output 0 | f32 | `[1, S, H · D]` | |
//! | 1, 2 | as 1, 2 | as 1, 2 | present keys and values |
//!
//! The cache's content is laid out as [`crate::kernels::attention`] says. Where
//! past and present are one tensor, it is changed in place, else it is copied.
//!
//! Attributes: `num_heads` (int), `scale` (float), `local_window_size` (int, -1
//! for none).

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRefMut, ValueType};

use super::node::{Input, Inputs, IntraOpPool, Shared, required};
use super::{Control, guarded};
use crate::graph::attention_operator;
use crate::kernels::KernelError;
use crate::kernels::attention::{
    self, BLOCK, Cache, Precision, Sequence, Shape, Workspace, attention,
};

/// What errors name, whatever the cache is made of.
const NAME: &str = "gptoss:Attention";
const INPUTS: [&str; 8] = [
    "qkv",
    "past_key",
    "past_value",
    "sequences",
    "blocks",
    "cos",
    "sin",
    "sinks",
];

/// One of the operators.
pub struct Attention {
    precision: Precision,
    shared: Arc<Shared<Workspace>>,
}

impl Attention {
    /// The operator over a cache of `precision`, for the session that has `control`.
    pub fn new(precision: Precision, control: Arc<Control>) -> Self {
        Self {
            precision,
            shared: Shared::new(control),
        }
    }
}

/// The type of tensors that hold a cache of `precision`.
pub fn cache_element(precision: Precision) -> TensorElementType {
    match precision {
        Precision::F16 => TensorElementType::Float16,
        Precision::F32 => TensorElementType::Float32,
        Precision::Int8 => TensorElementType::Uint8,
    }
}

impl Operator for Attention {
    type Kernel<'attr> = AttentionKernel;

    fn name(&self) -> &str {
        attention_operator(self.precision)
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int32};
        let cache = cache_element(self.precision);
        [
            Float32, cache, cache, Int32, Int32, Float32, Float32, Float32,
        ]
        .map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let cache = cache_element(self.precision);
        [TensorElementType::Float32, cache, cache].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<AttentionKernel> {
        guarded(self.name(), || {
            let heads = context.get::<i64>("num_heads");
            let scale = context.get::<f32>("scale");
            let window = context.get::<i64>("local_window_size").unwrap_or(-1);
            let (Some(heads @ 1..=65_536), Some(scale)) = (heads, scale) else {
                return Err(error("attributes num_heads and scale are needed"));
            };
            Ok(AttentionKernel {
                precision: self.precision,
                heads: heads as usize,
                scale,
                window: usize::try_from(window).unwrap_or(usize::MAX),
                shared: Arc::clone(&self.shared),
            })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(self.name(), || {
            let inputs = context.inputs();
            let [Some(qkv), Some(key), Some(value)] = [0, 1, 2].map(|i| inputs.get(i)) else {
                return Ok(());
            };
            context.set_output(1, key)?;
            context.set_output(2, value)?;
            let heads = context.attr::<i64>("num_heads")?;
            let row_len = key.tensor_shape().and_then(|shape| shape.last()).copied();
            let row_len = row_len.and_then(|len| usize::try_from(len).ok());
            let head_dim = row_len.map(|len| self.precision.head_dim(len) as i64);
            let mut y = qkv.clone();
            if let (ValueType::Tensor { shape, .. }, Some(head_dim @ 1..)) = (&mut y, head_dim)
                && let Some(last) = shape.last_mut()
            {
                *last = heads.saturating_mul(head_dim);
                context.set_output(0, &y)?;
            }
            Ok(())
        })
    }
}

/// A node of the operators.
pub struct AttentionKernel {
    precision: Precision,
    heads: usize,
    scale: f32,
    window: usize,
    shared: Arc<Shared<Workspace>>,
}

impl Kernel for AttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(NAME, || {
            self.shared
                .with_workspace(|workspace| self.compute_with(context, workspace))
        })
    }
}

impl AttentionKernel {
    fn compute_with(&self, context: &ComputeContext, workspace: &mut Workspace) -> ort::Result<()> {
        let values = required(context, NAME, &INPUTS)?;
        let inputs = Inputs {
            operator: NAME,
            names: &INPUTS,
            values: &values,
        };
        let qkv = inputs.read::<f32>(0)?;
        let [_, tokens, _] = qkv.dimensions()?;
        let (sizes, past_shape) = inputs.sizes::<4>(1)?;
        let (value_sizes, _) = inputs.sizes::<4>(2)?;
        let [blocks, kv_heads, positions, row_len] = sizes;
        let head_dim = self.precision.head_dim(row_len);
        if positions != BLOCK || value_sizes != sizes {
            return Err(error(format!(
                "a cache of {sizes:?} and {value_sizes:?} is not made of blocks of {BLOCK}"
            )));
        }
        let shape = Shape {
            heads: self.heads,
            kv_heads,
            head_dim,
            blocks,
        };
        let (lengths, tables) = (inputs.read::<i32>(3)?, inputs.read::<i32>(4)?);
        let sequences = sequences(&lengths, &tables)?;
        let (cos, sin) = (inputs.read::<f32>(5)?, inputs.read::<f32>(6)?);
        let sinks = inputs.read::<f32>(7)?;
        let width = (self.heads * head_dim) as i64;
        let missing = || error("an output is missing");
        let mut y = context
            .output(0, vec![1, tokens as i64, width])?
            .ok_or_else(missing)?;
        let mut key = context.output(1, past_shape.clone())?.ok_or_else(missing)?;
        let mut value = context.output(2, past_shape)?.ok_or_else(missing)?;
        let call = attention::Inputs {
            qkv: qkv.data,
            sequences: &sequences,
            cos: cos.data,
            sin: sin.data,
            sinks: sinks.data,
            scale: self.scale,
            window: self.window,
        };
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        let sides = [(1, &mut key), (2, &mut value)];
        let cache = match self.precision {
            Precision::F16 => Cache::F16(present(&inputs, sides)?),
            Precision::F32 => Cache::F32(present(&inputs, sides)?),
            Precision::Int8 => Cache::Int8(present(&inputs, sides)?),
        };
        let pool = IntraOpPool(context);
        let shared = &self.shared;
        attention(
            shared.kernel,
            shape,
            &call,
            cache,
            y,
            workspace,
            &pool,
            &shared.control.cancel,
        )
        .map_err(|e: KernelError| error(e))
    }
}

/// The sequences of a call, from inputs 3 and 4.
fn sequences<'a>(
    lengths: &Input<'a, i32>,
    tables: &Input<'a, i32>,
) -> ort::Result<Vec<Sequence<'a>>> {
    let ([count, two], [rows, columns]) = (lengths.dimensions()?, tables.dimensions()?);
    if two != 2 || rows != count {
        return Err(error(format!(
            "sequences are {:?} and their blocks {:?}, not [B, 2] and [B, M]",
            lengths.shape, tables.shape
        )));
    }
    let pairs = lengths.data.as_chunks::<2>().0.iter().enumerate();
    pairs
        .map(|(row, &[tokens, past])| {
            let (Ok(tokens), Ok(past)) = (usize::try_from(tokens), usize::try_from(past)) else {
                return Err(error(format!(
                    "sequence {row} has {tokens} tokens after {past}"
                )));
            };
            Ok(Sequence {
                tokens,
                past,
                blocks: &tables.data[row * columns..(row + 1) * columns],
            })
        })
        .collect()
}

/// The present sides of the cache, which begin as the inputs of their indexes,
/// the past ones.
fn present<'a, T: PrimitiveTensorElementType + Copy>(
    inputs: &Inputs<'_, '_>,
    sides: [(usize, &'a mut ValueRefMut<'_>); 2],
) -> ort::Result<[&'a mut [T]; 2]> {
    let side = |(index, present): (usize, &'a mut ValueRefMut<'_>)| -> ort::Result<&'a mut [T]> {
        let (_, present) = present.try_extract_tensor_mut::<T>()?;
        if inputs.address(index) != present.as_ptr().cast() {
            present.copy_from_slice(inputs.read::<T>(index)?.data);
        }
        Ok(present)
    };
    let [key, value] = sides.map(side);
    Ok([key?, value?])
}

fn error(message: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{NAME}: {message}"))
}
