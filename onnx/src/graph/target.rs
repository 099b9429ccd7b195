//! The targets of an export.

use std::fmt;
use std::str::FromStr;

use crate::kernels::attention::Precision;

/// Where an exported graph is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// CPU with our operators: experts in MXFP4, in place as published where the
    /// checkpoint holds them so.
    Cpu,
    /// Stock operators only: experts as int4. Any ONNX Runtime runs it.
    Portable,
    /// ONNX Runtime's CUDA provider, float16 throughout: experts in MXFP4, the
    /// published codes in the provider's order.
    Cuda,
    /// The same with experts as int4, for providers that were built without MXFP4. The
    /// processor runs it too, slowly.
    CudaInt4,
    /// ONNX Runtime's CoreML provider: [`Target::Cpu`] with the projections of attention in
    /// float16, which is what the provider takes.
    Coreml,
}

impl Target {
    /// All targets.
    pub const ALL: [Target; 5] = [
        Target::Cpu,
        Target::Portable,
        Target::Cuda,
        Target::CudaInt4,
        Target::Coreml,
    ];

    /// Name, also of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Portable => "portable",
            Target::Cuda => "cuda",
            Target::CudaInt4 => "cuda-int4",
            Target::Coreml => "coreml",
        }
    }

    /// What the key/value cache is made of; none where that can be chosen.
    pub fn fixed_cache(self) -> Option<Precision> {
        match self {
            Target::Cpu | Target::Coreml => None,
            Target::Portable => Some(Precision::F32),
            Target::Cuda | Target::CudaInt4 => Some(Precision::F16),
        }
    }

    /// Whether our operators compute it, over experts that are read in place where the
    /// checkpoint holds them in MXFP4.
    pub fn has_our_operators(self) -> bool {
        matches!(self, Target::Cpu | Target::Coreml)
    }

    /// Whether the processor has kernels for all of its operators.
    pub fn runs_on_the_processor(self) -> bool {
        self != Target::Cuda
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A target of that name does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown target {0:?}: there are cpu, portable, cuda, cuda-int4 and coreml")]
pub struct UnknownTarget(String);

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        let found = Self::ALL.into_iter().find(|target| target.name() == name);
        found.ok_or_else(|| UnknownTarget(name.to_owned()))
    }
}
