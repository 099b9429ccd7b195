//! The experts of the targets for CUDA, in the layouts that its `QMoE` takes.
//!
//! ```text
//! MXFP4   weights  u8 [E, K, N/2]         two of a column a byte, the even row low
//!         scales   E8M0 [E, N, K/32]      as published
//!         global scales  f32 [E]          ones
//! int4    weights  u8 [E, N, K/2]         two of a row a byte, the even column low
//!         scales   [E, N, ceil(K/64)]
//! both    biases   [E, N]
//! ```
//!
//! Rows of the first matrix alternate between gate and value, as published
//! (`swiglu_fusion` 1).
//!
//! Source: ONNX Runtime, `docs/contrib_ops/cuda/moe_qmoe.md`.

use crate::checkpoint::ExpertFormat;
use crate::kernels::mxfp4;
use crate::proto::{AttributeProto, DataType};
use crate::quantize::int4_wide;

use super::Builder;
use super::plan::Job;

/// Global scale of each expert, which MXFP4 does without.
const GLOBAL_SCALES: &str = "experts.global_scale";
/// Where `QMoE` has its first global scale, and its second.
const FIRST_GLOBAL_SCALE: usize = 15;

/// Experts in MXFP4, the published codes: `[1, S, H]`.
pub(super) fn mxfp4_experts(
    builder: &mut Builder<'_>,
    layer: usize,
    input: &str,
    router: &str,
) -> String {
    let experts = builder.config.experts;
    if layer == 0 {
        builder.plan.inline_f32s(GLOBAL_SCALES, &vec![1.0; experts]);
    }
    let mut inputs = vec![input.to_owned(), builder.scores(layer, router)];
    for (projection, rows, columns) in builder.expert_shapes() {
        let part = |part: &str| format!("model.layers.{layer}.mlp.experts.{projection}{part}");
        let (weight, scales) = (part(".weight_fp4"), part("_scales"));
        let count = experts as i64;
        let weight_dims = [count, columns, rows / 2];
        let scale_dims = [count, rows, columns / mxfp4::BLOCK as i64];
        let weights = (weight.as_str(), DataType::Uint8, weight_dims.as_slice());
        match builder.experts[layer] {
            ExpertFormat::Mxfp4 => {
                let job = Job::Mxfp4Columns {
                    blocks: part("_blocks"),
                    rows: rows as usize,
                };
                builder.plan.derived(job, &[weights]);
                builder
                    .plan
                    .published(&scales, DataType::Float8E8M0, &scale_dims);
            }
            ExpertFormat::Float => builder.plan.derived(
                Job::Mxfp4ColumnsOfFloats(part("")),
                &[weights, (&scales, DataType::Float8E8M0, &scale_dims)],
            ),
        }
        let bias = part("_bias");
        builder.constant(&bias, vec![bias.clone()], &[experts, rows as usize]);
        inputs.extend([weight, scales, bias]);
    }
    inputs.resize(FIRST_GLOBAL_SCALE, String::new());
    inputs.extend([GLOBAL_SCALES.to_owned(), GLOBAL_SCALES.to_owned()]);
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut attributes = builder.qmoe_attributes(mxfp4::BLOCK);
    attributes.push(AttributeProto::string("quant_type", "fp4"));
    builder.qmoe(layer, &inputs, attributes)
}

/// Experts as int4 in blocks of 64: `[1, S, H]`.
pub(super) fn int4_experts(
    builder: &mut Builder<'_>,
    layer: usize,
    input: &str,
    router: &str,
) -> String {
    let experts = builder.config.experts;
    let mut inputs = vec![input.to_owned(), builder.scores(layer, router)];
    for (projection, rows, columns) in builder.expert_shapes() {
        let part = |part: &str| format!("model.layers.{layer}.mlp.experts.{projection}{part}");
        let (weight, scale, bias) = (part(".weight_q4"), part(".scale"), part("_bias"));
        let job = match builder.experts[layer] {
            ExpertFormat::Mxfp4 => Job::WideInt4 {
                blocks: part("_blocks"),
                scales: part("_scales"),
            },
            ExpertFormat::Float => Job::WideInt4OfFloats(part("")),
        };
        let count = experts as i64;
        let blocks = (columns as usize).div_ceil(int4_wide::BLOCK) as i64;
        let data_type = builder.floats.data_type();
        builder.plan.derived(
            job,
            &[
                (&weight, DataType::Uint8, &[count, rows, columns / 2]),
                (&scale, data_type, &[count, rows, blocks]),
            ],
        );
        builder.constant(&bias, vec![bias.clone()], &[experts, rows as usize]);
        inputs.extend([weight, scale, bias]);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut attributes = builder.qmoe_attributes(int4_wide::BLOCK);
    // As the schema has them: the provider orders them for its kernels itself.
    attributes.push(AttributeProto::int("weights_prepacked", 0));
    builder.qmoe(layer, &inputs, attributes)
}
