//! What an export says of experts that it quantized.

use std::collections::BTreeSet;

use crate::checkpoint::{Checkpoint, ExpertFormat, Float};
use crate::graph::Target;
use crate::quantize::SquaredError;

/// What became of experts that a checkpoint holds as floats.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsQuantized {
    /// What they were: `BF16`, `F16`, `F32`, or several, joined by a comma.
    pub from: String,
    /// What they are in the export: `MXFP4` or `int4`.
    pub to: &'static str,
    /// In so many layers.
    pub layers: usize,
    /// Root mean square of what the weights have changed by, relative to that of the
    /// weights, over all of them. 0 where they came from MXFP4 and are in it again.
    pub relative_rms_error: f64,
}

/// Adds up what quantizing the experts has cost.
#[derive(Debug, Default)]
pub(super) struct Tally {
    from: BTreeSet<Float>,
    error: SquaredError,
}

impl Tally {
    /// Adds one expert's matrix.
    pub(super) fn add(&mut self, from: Float, error: SquaredError) {
        self.from.insert(from);
        self.error += error;
    }

    /// The sum, if there was anything to add.
    pub(super) fn of(self, checkpoint: &Checkpoint, target: Target) -> Option<ExpertsQuantized> {
        let formats = checkpoint.experts().iter();
        let layers = formats.filter(|f| **f == ExpertFormat::Float).count();
        let from: Vec<String> = self.from.iter().map(Float::to_string).collect();
        (layers > 0).then(|| ExpertsQuantized {
            from: from.join(", "),
            to: match target {
                Target::Cpu | Target::Coreml | Target::Cuda => "MXFP4",
                Target::Portable | Target::CudaInt4 => "int4",
            },
            layers,
            relative_rms_error: self.error.relative_rms(),
        })
    }
}
