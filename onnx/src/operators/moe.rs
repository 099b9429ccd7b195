//! Operator `gptoss:MoE`, version 1: a mixture-of-experts layer that reads the
//! checkpoint's MXFP4 bytes in place.
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

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, TryLockError};

use half::bf16;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};

use super::guarded;
use crate::kernels::experts::{Activations, Layer, Options, Workspace, mixture};
use crate::kernels::mxfp4::{BLOCK, BLOCK_BYTES, ExpertMatrices};
use crate::kernels::parallel::Parallel;
use crate::kernels::portable::SwiGlu;
use crate::kernels::{ExpertKernel, KernelError, best_kernel};

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
    shared: Arc<Shared>,
}

struct Shared {
    cancel: Arc<AtomicBool>,
    workspace: Mutex<Workspace>,
    kernel: &'static dyn ExpertKernel,
}

impl MoE {
    /// The operator; its nodes stop with an error while `cancel` is set.
    pub fn new(cancel: Arc<AtomicBool>) -> Self {
        let kernel = best_kernel();
        tracing::debug!(isa = kernel.isa().name(), "expert kernels");
        Self {
            shared: Arc::new(Shared {
                cancel,
                workspace: Mutex::default(),
                kernel,
            }),
        }
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

/// A node of the operator.
pub struct MoEKernel {
    options: Options,
    shared: Arc<Shared>,
}

impl Kernel for MoEKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(NAME, || {
            // Two runs of one session at once are legal: the second one gets
            // a workspace of its own. A workspace left behind by a panic is
            // as good as any, since every run overwrites what it reads.
            match self.shared.workspace.try_lock() {
                Ok(mut workspace) => self.compute_with(context, &mut workspace),
                Err(TryLockError::Poisoned(poisoned)) => {
                    self.compute_with(context, &mut poisoned.into_inner())
                }
                Err(TryLockError::WouldBlock) => {
                    self.compute_with(context, &mut Workspace::default())
                }
            }
        })
    }
}

impl MoEKernel {
    fn compute_with(&self, context: &ComputeContext, workspace: &mut Workspace) -> ort::Result<()> {
        let inputs = INPUTS
            .iter()
            .enumerate()
            .map(|(i, name)| {
                context
                    .input(i)?
                    .ok_or_else(|| error(format!("input {name} is missing")))
            })
            .collect::<ort::Result<Vec<_>>>()?;
        let x = Input::<f32>::read(&inputs, 0)?;
        let router_logits = Input::<f32>::read(&inputs, 1)?;
        let gate_up_bias = Input::<bf16>::read(&inputs, 4)?;
        let down_bias = Input::<bf16>::read(&inputs, 7)?;
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
        mixture(
            self.shared.kernel,
            &layer,
            &self.options,
            x.data,
            router_logits.data,
            y,
            workspace,
            &IntraOpPool(context),
            &self.shared.cancel,
        )
        .map_err(node_error)
    }
}

/// A tensor input, viewed.
struct Input<'a, T> {
    name: &'static str,
    shape: Vec<i64>,
    data: &'a [T],
}

impl<'a, T: PrimitiveTensorElementType> Input<'a, T> {
    fn read(inputs: &'a [ValueRef<'_>], index: usize) -> ort::Result<Self> {
        let (shape, data) = inputs[index].try_extract_tensor::<T>()?;
        Ok(Self {
            name: INPUTS[index],
            shape: shape.to_vec(),
            data,
        })
    }

    fn dimensions<const N: usize>(&self) -> ort::Result<[usize; N]> {
        let sizes: Option<Vec<usize>> = self
            .shape
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect();
        sizes.and_then(|s| s.try_into().ok()).ok_or_else(|| {
            error(format!(
                "input {} has shape {:?}, which must have {N} dimensions",
                self.name, self.shape
            ))
        })
    }

    fn ends_with(&self, size: usize) -> ort::Result<()> {
        if self.shape.len() > 1 && self.shape.last() == Some(&(size as i64)) {
            return Ok(());
        }
        Err(error(format!(
            "input {} has shape {:?}, whose last dimension must be {size}",
            self.name, self.shape
        )))
    }
}

/// Inputs `first` (blocks) and `first + 1` (scales) as the experts' matrices.
fn matrices<'a>(inputs: &'a [ValueRef<'_>], first: usize) -> ort::Result<ExpertMatrices<'a>> {
    let blocks = Input::<u8>::read(inputs, first)?;
    let scales = Input::<u8>::read(inputs, first + 1)?;
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

/// The session's own threads.
struct IntraOpPool<'a>(&'a ComputeContext);

impl Parallel for IntraOpPool<'_> {
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        // 0 batches: threads take single parts, beginning each at its own
        // share of the range and helping out where others are behind.
        self.0
            .par_for(parts, 0, task)
            .map_err(|e| KernelError::Pool(e.to_string()))
    }
}

fn node_error(e: KernelError) -> ort::Error {
    error(e.to_string())
}

fn error(message: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{NAME}: {message}"))
}
