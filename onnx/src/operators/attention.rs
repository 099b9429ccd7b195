//! Operators `gptoss:Attention` and `gptoss:AttentionFloat32`, version 1:
//! attention with sinks, rotation and a window over a key/value cache of
//! float16, or of float32, that it appends to.
//!
//! | | type | shape | |
//! |---|---|---|---|
//! | input 0 | f32 | `[1, S, (H + 2 KVH) · D]` | queries, keys and values, not yet rotated |
//! | 1, 2 | f16, f32 | `[1, KVH, T, D]` | past keys and values, T a multiple of 16 |
//! | 3 | i32 | `[]` | positions in all, these S included |
//! | 4, 5 | f32 | `[.., D / 2]` | cosines and sines |
//! | 6 | f32 | `[H]` | sinks |
//! | output 0 | f32 | `[1, S, H · D]` | |
//! | 1, 2 | as 1, 2 | `[1, KVH, T, D]` | present keys and values |
//!
//! The cache's content is laid out as [`crate::kernels::attention`] says. Where
//! past and present are one tensor, it is changed in place, else it is copied.
//!
//! Attributes: `num_heads` (int), `scale` (float), `local_window_size` (int, -1
//! for none).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use half::f16;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRefMut, ValueType};

use super::guarded;
use super::node::{Inputs, IntraOpPool, Shared, required};
use crate::kernels::KernelError;
use crate::kernels::attention::{self, Cache, Shape, Workspace, attention};

const INPUTS: [&str; 7] = [
    "qkv",
    "past_key",
    "past_value",
    "total_sequence_length",
    "cos",
    "sin",
    "sinks",
];

/// The operators: `gptoss:Attention` if `HALF`, else `gptoss:AttentionFloat32`.
pub struct Attention<const HALF: bool> {
    shared: Arc<Shared<Workspace>>,
}

impl<const HALF: bool> Attention<HALF> {
    const NAME: &str = match HALF {
        true => "gptoss:Attention",
        false => "gptoss:AttentionFloat32",
    };
    const ELEMENT: TensorElementType = match HALF {
        true => TensorElementType::Float16,
        false => TensorElementType::Float32,
    };

    /// The operator; its nodes stop with an error while `cancel` is set.
    pub fn new(cancel: Arc<AtomicBool>) -> Self {
        Self {
            shared: Shared::new(cancel),
        }
    }
}

impl<const HALF: bool> Operator for Attention<HALF> {
    type Kernel<'attr> = AttentionKernel<HALF>;

    fn name(&self) -> &str {
        Self::NAME.strip_prefix("gptoss:").unwrap_or(Self::NAME)
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int32};
        let cache = Self::ELEMENT;
        [Float32, cache, cache, Int32, Float32, Float32, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [TensorElementType::Float32, Self::ELEMENT, Self::ELEMENT].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<AttentionKernel<HALF>> {
        guarded(Self::NAME, || {
            let heads = context.get::<i64>("num_heads");
            let scale = context.get::<f32>("scale");
            let window = context.get::<i64>("local_window_size").unwrap_or(-1);
            let (Some(heads @ 1..=65_536), Some(scale)) = (heads, scale) else {
                return Err(error::<HALF>("attributes num_heads and scale are needed"));
            };
            Ok(AttentionKernel {
                heads: heads as usize,
                scale,
                window: usize::try_from(window).unwrap_or(usize::MAX),
                shared: Arc::clone(&self.shared),
            })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(Self::NAME, || {
            let inputs = context.inputs();
            let [Some(qkv), Some(key), Some(value)] = [0, 1, 2].map(|i| inputs.get(i)) else {
                return Ok(());
            };
            context.set_output(1, key)?;
            context.set_output(2, value)?;
            let heads = context.attr::<i64>("num_heads")?;
            let head_dim = key.tensor_shape().and_then(|shape| shape.last()).copied();
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
pub struct AttentionKernel<const HALF: bool> {
    heads: usize,
    scale: f32,
    window: usize,
    shared: Arc<Shared<Workspace>>,
}

impl<const HALF: bool> Kernel for AttentionKernel<HALF> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(Attention::<HALF>::NAME, || {
            self.shared
                .with_workspace(|workspace| self.compute_with(context, workspace))
        })
    }
}

impl<const HALF: bool> AttentionKernel<HALF> {
    fn compute_with(&self, context: &ComputeContext, workspace: &mut Workspace) -> ort::Result<()> {
        let values = required(context, Attention::<HALF>::NAME, &INPUTS)?;
        let inputs = Inputs {
            operator: Attention::<HALF>::NAME,
            names: &INPUTS,
            values: &values,
        };
        let qkv = inputs.read::<f32>(0)?;
        let [_, tokens, _] = qkv.dimensions()?;
        let (sizes, past_shape) = inputs.sizes::<4>(1)?;
        let (value_sizes, _) = inputs.sizes::<4>(2)?;
        let total = inputs.read::<i32>(3)?.data.first().copied().unwrap_or(-1);
        let past = usize::try_from(total)
            .ok()
            .and_then(|total| total.checked_sub(tokens));
        let [batch, kv_heads, positions, head_dim] = sizes;
        let shape = Shape {
            heads: self.heads,
            kv_heads,
            head_dim,
            positions,
        };
        let Some(past) = past.filter(|_| batch == 1 && value_sizes == sizes) else {
            return Err(error::<HALF>(format!(
                "{tokens} tokens that end at position {total} do not go with a cache of {sizes:?} and {value_sizes:?}"
            )));
        };
        let (cos, sin) = (inputs.read::<f32>(4)?, inputs.read::<f32>(5)?);
        let sinks = inputs.read::<f32>(6)?;
        let width = (self.heads * head_dim) as i64;
        let missing = || error::<HALF>("an output is missing");
        let mut y = context
            .output(0, vec![1, tokens as i64, width])?
            .ok_or_else(missing)?;
        let mut key = context.output(1, past_shape.clone())?.ok_or_else(missing)?;
        let mut value = context.output(2, past_shape)?.ok_or_else(missing)?;
        let call = attention::Inputs {
            qkv: qkv.data,
            cos: cos.data,
            sin: sin.data,
            sinks: sinks.data,
            scale: self.scale,
            window: self.window,
            past,
        };
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        let cache = if HALF {
            Cache::F16 {
                key: present::<f16>(&inputs, 1, &mut key)?,
                value: present::<f16>(&inputs, 2, &mut value)?,
            }
        } else {
            Cache::F32 {
                key: present::<f32>(&inputs, 1, &mut key)?,
                value: present::<f32>(&inputs, 2, &mut value)?,
            }
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
            &shared.cancel,
        )
        .map_err(|e: KernelError| error::<HALF>(e))
    }
}

/// The present side of the cache, which begins as input `index`, the past one.
fn present<'a, T: PrimitiveTensorElementType + Copy>(
    inputs: &Inputs<'_, '_>,
    index: usize,
    present: &'a mut ValueRefMut<'_>,
) -> ort::Result<&'a mut [T]> {
    let (_, present) = present.try_extract_tensor_mut::<T>()?;
    if inputs.address(index) != present.as_ptr().cast() {
        present.copy_from_slice(inputs.read::<T>(index)?.data);
    }
    Ok(present)
}

fn error<const HALF: bool>(message: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{}: {message}", Attention::<HALF>::NAME))
}
