//! Operator `gptoss:MoE`, version 1: a mixture-of-experts layer that reads the
//! checkpoint's MXFP4 bytes in place, or through the control's stream.
//!
//! | | type | shape | |
//! |---|---|---|---|
//! | input 0 | f32 | `[S, H]` or `[1, S, H]` | `x` |
//! | 1 | f32 | `[.. S, E]` | router logits |
//! | 2, 3 | u8 | `[E, 2I, H/32, 16]`, `[E, 2I, H/32]` | gate and up projection, rows interleaved: blocks, scales |
//! | 4 | bf16 | `[E, 2I]` | its bias |
//! | 5, 6 | u8 | `[E, H, I/32, 16]`, `[E, H, I/32]` | down projection: blocks, scales |
//! | 7 | bf16 | `[E, H]` | its bias |
//! | output 0 | f32 | shape of `x` | |
//!
//! Attributes: `k` (int), the experts a token goes to; `limit` (float, 7) and
//! `alpha` (float, 1.702) of the gated activation; `activations`, `"int8"`
//! (default) or `"float32"`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use half::bf16;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::TensorElementType;

use super::node::{Inputs, IntraOpPool, Shared, required};
use super::{Control, guarded};
use crate::kernels::KernelError;
use crate::kernels::experts::{Activations, Layer, Options, Workspace, mixture};
use crate::kernels::mxfp4::{BLOCK, BLOCK_BYTES, ExpertMatrices};
use crate::kernels::portable::SwiGlu;

const NAME: &str = "gptoss:MoE";
const INPUTS: [&str; 8] = [
    "x",
    "router_logits",
    "gate_up_blocks",
    "gate_up_scales",
    "gate_up_bias",
    "down_blocks",
    "down_scales",
    "down_bias",
];

/// The operator `gptoss:MoE`. All its nodes in a session share one workspace,
/// since they run one after another.
pub struct MoE {
    shared: Arc<Shared<Workspace>>,
}

impl MoE {
    /// The operator for the session that has `control`.
    pub fn new(control: Arc<Control>) -> Self {
        let shared = Shared::new(control);
        tracing::debug!(isa = shared.kernel.isa().name(), "expert kernels");
        Self { shared }
    }
}

impl Operator for MoE {
    type Kernel<'attr> = MoEKernel;

    fn name(&self) -> &str {
        "MoE"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Bfloat16, Float32, Uint8};
        [
            Float32, Float32, Uint8, Uint8, Bfloat16, Uint8, Uint8, Bfloat16,
        ]
        .map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<MoEKernel> {
        guarded(NAME, || {
            Ok(MoEKernel {
                options: read_options(context)?,
                streamed: streamed_layer(context, &self.shared.control)?,
                shared: Arc::clone(&self.shared),
            })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(NAME, || match context.inputs().first() {
            Some(x) => context.set_output(0, x),
            None => Ok(()),
        })
    }
}

fn read_options(context: &KernelContext<'_>) -> ort::Result<Options> {
    let k = context
        .get::<i64>("k")
        .and_then(|k| usize::try_from(k).ok())
        .filter(|&k| k > 0)
        .ok_or_else(|| error("attribute k must be a positive integer"))?;
    let default = SwiGlu::default();
    let glu = SwiGlu {
        alpha: context.get("alpha").unwrap_or(default.alpha),
        limit: context.get("limit").unwrap_or(default.limit),
    };
    if !(glu.limit > 0.0 && glu.limit.is_finite() && glu.alpha.is_finite()) {
        return Err(error("attributes limit and alpha must be finite"));
    }
    let activations = match context.get::<String>("activations") {
        Some(name) => name
            .parse()
            .map_err(|e: KernelError| error(e.to_string()))?,
        None => Activations::default(),
    };
    Ok(Options {
        experts_per_token: k,
        glu,
        activations,
    })
}

/// Which layer of the control's stream a node is; none where nothing is streamed.
fn streamed_layer(context: &KernelContext<'_>, control: &Control) -> ort::Result<Option<usize>> {
    let Some(stream) = &control.stream else {
        return Ok(None);
    };
    let inputs = context.inputs()?;
    let name = inputs.get(2).map_or("", |input| input.name());
    match stream.layer_named(name) {
        Some(layer) => Ok(Some(layer)),
        None => Err(error(format!("the experts {name:?} are not streamed"))),
    }
}

/// A node of the operator.
pub struct MoEKernel {
    options: Options,
    streamed: Option<usize>,
    shared: Arc<Shared<Workspace>>,
}

impl Kernel for MoEKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(NAME, || {
            self.shared
                .with_workspace(|workspace| self.compute_with(context, workspace))
        })
    }
}

impl MoEKernel {
    fn compute_with(&self, context: &ComputeContext, workspace: &mut Workspace) -> ort::Result<()> {
        let values = required(context, NAME, &INPUTS)?;
        let inputs = Inputs {
            operator: NAME,
            names: &INPUTS,
            values: &values,
        };
        let x = inputs.read::<f32>(0)?;
        let router_logits = inputs.read::<f32>(1)?;
        let gate_up_bias = inputs.read::<bf16>(4)?;
        let down_bias = inputs.read::<bf16>(7)?;
        let layer = Layer::new(
            matrices(&inputs, 2)?,
            gate_up_bias.data,
            matrices(&inputs, 5)?,
            down_bias.data,
        )
        .map_err(node_error)?;
        x.ends_with(layer.hidden())?;
        router_logits.ends_with(layer.experts())?;
        gate_up_bias.ends_with(2 * layer.intermediate())?;
        down_bias.ends_with(layer.hidden())?;

        let mut output = context
            .output(0, x.shape.clone())?
            .ok_or_else(|| error("output y is missing"))?;
        let (_, y) = output.try_extract_tensor_mut::<f32>()?;
        let stream = self.shared.control.stream.as_ref().zip(self.streamed);
        let stream = stream.map(|(stream, layer)| stream.layer(layer));
        let layer = match &stream {
            Some(stream) => layer.supplied_by(stream),
            None => layer,
        };
        mixture(
            self.shared.kernel,
            &layer,
            &self.options,
            x.data,
            router_logits.data,
            y,
            workspace,
            &IntraOpPool(context),
            &self.shared.control.cancel,
        )
        .map_err(node_error)?;
        let read = &self.shared.control.experts_read;
        read.fetch_add(workspace.experts_read() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Inputs `first` (blocks) and `first + 1` (scales) as the experts' matrices.
fn matrices<'a>(inputs: &Inputs<'a, '_>, first: usize) -> ort::Result<ExpertMatrices<'a>> {
    let blocks = inputs.read::<u8>(first)?;
    let scales = inputs.read::<u8>(first + 1)?;
    let [experts, rows, row_blocks, bytes] = blocks.dimensions()?;
    if bytes != BLOCK_BYTES || scales.dimensions()? != [experts, rows, row_blocks] {
        return Err(error(format!(
            "inputs {} {:?} and {} {:?} must be [E, N, K/{BLOCK}, {BLOCK_BYTES}] and [E, N, K/{BLOCK}]",
            blocks.name, blocks.shape, scales.name, scales.shape
        )));
    }
    ExpertMatrices::new(blocks.data, scales.data, experts, rows, row_blocks * BLOCK)
        .map_err(node_error)
}

fn node_error(e: KernelError) -> ort::Error {
    error(e.to_string())
}

fn error(message: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{NAME}: {message}"))
}
