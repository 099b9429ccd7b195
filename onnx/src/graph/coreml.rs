//! Matrices as CoreML's provider takes them: `Gemm` in float16, whose weights lie as
//! published.
//!
//! ```text
//! f32 [1, S, K] ─ Squeeze ─ Cast ─ Gemm (transB) ─ Cast ─ Unsqueeze ─► f32 [1, S, N]
//! ```
//!
//! Each of these nodes is one that the provider takes, so that it takes them as one. It
//! knows none of ONNX Runtime's own quantized operators and none of ours, and CoreML's
//! palettes of 4 bits cannot be said in ONNX. It fails on empty tensors.
//!
//! Source: ONNX Runtime 1.31.1, `coreml_supported_mlprogram_ops.md`, and the words of the
//! library.

use crate::proto::{AttributeProto, DataType};

use super::plan::Job;
use super::{Builder, FIRST_AXIS, STANDARD};

/// How the projections of attention are stored and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projections {
    /// As all matrices of the target.
    Same,
    /// As `Gemm` in float16.
    Half,
}

impl Builder<'_> {
    /// `input · stacked(tensors)ᵀ + bias` of attention; columns is K.
    pub(super) fn projection(
        &mut self,
        name: &str,
        input: &str,
        tensors: Vec<String>,
        shape: (usize, usize),
        bias: Vec<String>,
    ) -> String {
        match self.projections {
            Projections::Same => self.linear(name, input, tensors, shape, Some(bias)),
            Projections::Half => self.half_projection(name, input, tensors, shape, bias),
        }
    }

    fn half_projection(
        &mut self,
        name: &str,
        input: &str,
        tensors: Vec<String>,
        (rows, columns): (usize, usize),
        bias: Vec<String>,
    ) -> String {
        let (weight, offset) = (format!("{name}.weight_f16"), format!("{name}.bias_f16"));
        let half = DataType::Float16;
        let dims = [rows as i64, columns as i64];
        self.plan
            .derived(Job::Halve(tensors), &[(&weight, half, &dims)]);
        self.plan
            .derived(Job::Halve(bias), &[(&offset, half, &dims[..1])]);
        let flat = format!("{name}.in");
        let squeeze = (STANDARD, "Squeeze");
        let inputs = [input, FIRST_AXIS];
        self.plan.node(squeeze, &flat, &inputs, &[&flat], vec![]);
        let flat = self.cast(&flat, "half", half);
        let product = format!("{name}.product");
        let transposed = vec![AttributeProto::int("transB", 1)];
        let inputs = [flat.as_str(), &weight, &offset];
        let multiply = (STANDARD, "Gemm");
        self.plan
            .node(multiply, name, &inputs, &[&product], transposed);
        let product = self.cast(&product, "single", DataType::Float);
        let output = format!("{name}.out");
        let unsqueeze = (STANDARD, "Unsqueeze");
        let inputs = [product.as_str(), FIRST_AXIS];
        self.plan
            .node(unsqueeze, &output, &inputs, &[&output], vec![]);
        output
    }
}
