//! One layer: attention, router, and the experts of each target.

use crate::checkpoint::{ExpertFormat, LayerType};
use crate::kernels::attention::Precision;
use crate::proto::{AttributeProto, DataType};
use crate::quantize::int4;

use super::plan::Job;
use super::{
    ACCURACY_LEVEL, ACTIVATIONS, BLOCKS, Builder, FIRST_AXIS, GPTOSS, MICROSOFT, Operators,
    ROPE_COS, ROPE_SIN, SEQUENCES, STANDARD, WINDOW_BLOCKS, attention_operator,
};

impl Builder<'_> {
    /// Attention of a layer, up to its output projection: f32
    /// `[1, S, heads · head_dim]`.
    pub(super) fn attention(&mut self, layer: usize, input: &str) -> String {
        let config = self.config;
        let prefix = format!("model.layers.{layer}.self_attn");
        let parts = |what: &str| {
            ["q_proj", "k_proj", "v_proj"]
                .map(|part| format!("{prefix}.{part}.{what}"))
                .to_vec()
        };
        let qkv = self.projection(
            &format!("{prefix}.qkv_proj"),
            input,
            parts("weight"),
            (
                config.query_width() + 2 * config.kv_width(),
                config.hidden_size,
            ),
            parts("bias"),
        );
        let sinks = format!("{prefix}.sinks");
        self.constant(&sinks, vec![sinks.clone()], &[config.heads]);
        let (window, table) = match config.layer_types[layer] {
            LayerType::Sliding => (config.sliding_window as i64, WINDOW_BLOCKS),
            LayerType::Full => (-1, BLOCKS),
        };
        let output = format!("{prefix}.out");
        let [past_key, past_value] =
            ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}"));
        let [present_key, present_value] =
            ["key", "value"].map(|part| format!("present.{layer}.{part}"));
        let outputs = [output.as_str(), &present_key, &present_value];
        let mut attributes = vec![
            AttributeProto::int("num_heads", config.heads as i64),
            AttributeProto::float("scale", (config.head_dim as f32).sqrt().recip()),
            AttributeProto::int("local_window_size", window),
        ];
        match self.operators {
            Operators::Ours => {
                let inputs = [
                    qkv.as_str(),
                    &past_key,
                    &past_value,
                    SEQUENCES,
                    table,
                    ROPE_COS,
                    ROPE_SIN,
                    &sinks,
                ];
                let operator = (GPTOSS, attention_operator(Precision::F16));
                self.plan
                    .node(operator, &prefix, &inputs, &outputs, attributes);
            }
            Operators::Stock => {
                let inputs = [
                    qkv.as_str(),
                    "",
                    "",
                    &past_key,
                    &past_value,
                    "seqlens_k",
                    "total_sequence_length",
                    ROPE_COS,
                    ROPE_SIN,
                    "",
                    "",
                    &sinks,
                ];
                attributes.extend([
                    AttributeProto::int("kv_num_heads", config.kv_heads as i64),
                    AttributeProto::int("do_rotary", 1),
                    AttributeProto::int("rotary_interleaved", 0),
                ]);
                let operator = (MICROSOFT, "GroupQueryAttention");
                self.plan
                    .node(operator, &prefix, &inputs, &outputs, attributes);
            }
        }
        output
    }

    /// Output projection of a layer's attention: f32 `[1, S, H]`.
    pub(super) fn attention_output(&mut self, layer: usize, input: &str) -> String {
        let config = self.config;
        let prefix = format!("model.layers.{layer}.self_attn");
        let name = format!("{prefix}.o_proj");
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let shape = (config.hidden_size, config.query_width());
        // The last layer's may have no position to compute.
        match layer + 1 == config.layers {
            true => self.linear(&name, input, vec![weight], shape, Some(vec![bias])),
            false => self.projection(&name, input, vec![weight], shape, vec![bias]),
        }
    }

    /// Scores of the experts, computed in float32 throughout: `[1, S, E]`.
    pub(super) fn router(&mut self, layer: usize, input: &str) -> String {
        let input = self.single(input);
        let input = input.as_str();
        let (experts, hidden) = (self.config.experts, self.config.hidden_size);
        let prefix = format!("model.layers.{layer}.mlp.router");
        let (weight, bias) = (format!("{prefix}.weight"), format!("{prefix}.bias"));
        let dims = [hidden as i64, experts as i64];
        self.plan.derived(
            Job::Transpose(weight.clone()),
            &[(&weight, DataType::Float, &dims)],
        );
        let bias_dims = [experts as i64];
        let job = Job::Widen(vec![bias.clone()]);
        self.plan
            .derived(job, &[(&bias, DataType::Float, &bias_dims)]);
        let (product, logits) = (format!("{prefix}.product"), format!("{prefix}.logits"));
        let multiply = (STANDARD, "MatMul");
        let add = (STANDARD, "Add");
        self.plan.node(
            multiply,
            &product,
            &[input, &weight],
            &[&product],
            Vec::new(),
        );
        self.plan
            .node(add, &logits, &[&product, &bias], &[&logits], Vec::new());
        self.narrowed(&logits)
    }

    /// The router's scores as `QMoE` wants them, a matrix `[S, E]`.
    pub(super) fn scores(&mut self, layer: usize, router: &str) -> String {
        let scores = format!("model.layers.{layer}.mlp.scores");
        let squeeze = (STANDARD, "Squeeze");
        let inputs = [router, FIRST_AXIS];
        self.plan
            .node(squeeze, &scores, &inputs, &[&scores], Vec::new());
        scores
    }

    /// What every `QMoE` of ours is told.
    pub(super) fn qmoe_attributes(&self, block: usize) -> Vec<AttributeProto> {
        let config = self.config;
        vec![
            AttributeProto::int("k", config.experts_per_token as i64),
            AttributeProto::int("expert_weight_bits", 4),
            AttributeProto::int("block_size", block as i64),
            AttributeProto::string("activation_type", "swiglu"),
            AttributeProto::int("swiglu_fusion", 1),
            AttributeProto::float("swiglu_limit", config.swiglu_limit),
            AttributeProto::float("activation_alpha", config.swiglu_alpha),
            AttributeProto::float("activation_beta", 1.0),
            AttributeProto::int("normalize_routing_weights", 1),
        ]
    }

    /// Adds the `QMoE` of a layer and names its output.
    pub(super) fn qmoe(
        &mut self,
        layer: usize,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let mlp = format!("model.layers.{layer}.mlp");
        let output = format!("{mlp}.out");
        let operator = (MICROSOFT, "QMoE");
        self.plan
            .node(operator, &mlp, inputs, &[&output], attributes);
        output
    }

    /// Rows and columns of an expert's two matrices.
    pub(super) fn expert_shapes(&self) -> [(&'static str, i64, i64); 2] {
        let hidden = self.config.hidden_size as i64;
        let inner = self.config.intermediate_size as i64;
        [
            ("gate_up_proj", 2 * inner, hidden),
            ("down_proj", hidden, inner),
        ]
    }
}

/// Experts in MXFP4, f32 `[1, S, H]`: read in place where the checkpoint holds them
/// so, else quantized.
pub(super) fn mxfp4_experts(
    builder: &mut Builder<'_>,
    layer: usize,
    input: &str,
    router: &str,
) -> String {
    let experts = builder.config.experts as i64;
    let mlp = format!("model.layers.{layer}.mlp");
    let mut inputs = vec![input.to_owned(), router.to_owned()];
    for (projection, rows, columns) in builder.expert_shapes() {
        let part = |part: &str| format!("{mlp}.experts.{projection}_{part}");
        let (blocks, scales, bias) = (part("blocks"), part("scales"), part("bias"));
        let count = columns / int4::BLOCK as i64;
        let block_dims = [experts, rows, count, 16];
        let scale_dims = [experts, rows, count];
        match builder.experts[layer] {
            ExpertFormat::Mxfp4 => {
                let plan = &mut builder.plan;
                plan.published(&blocks, DataType::Uint8, &block_dims);
                plan.published(&scales, DataType::Uint8, &scale_dims);
            }
            ExpertFormat::Float => builder.plan.derived(
                Job::Mxfp4(format!("{mlp}.experts.{projection}")),
                &[
                    (&blocks, DataType::Uint8, &block_dims),
                    (&scales, DataType::Uint8, &scale_dims),
                ],
            ),
        }
        builder
            .plan
            .published(&bias, DataType::Bfloat16, &[experts, rows]);
        inputs.extend([blocks, scales, bias]);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let output = format!("{mlp}.out");
    builder.plan.node(
        (GPTOSS, "MoE"),
        &mlp,
        &inputs,
        &[&output],
        vec![
            AttributeProto::int("k", builder.config.experts_per_token as i64),
            AttributeProto::float("limit", builder.config.swiglu_limit),
            AttributeProto::float("alpha", builder.config.swiglu_alpha),
            AttributeProto::string(ACTIVATIONS, "int8"),
        ],
    );
    output
}

/// Experts as int4 in the stock operator `QMoE`: f32 `[1, S, H]`.
pub(super) fn int4_experts(
    builder: &mut Builder<'_>,
    layer: usize,
    input: &str,
    router: &str,
) -> String {
    let config = builder.config;
    let experts = config.experts as i64;
    let mlp = format!("model.layers.{layer}.mlp");
    let scores = builder.scores(layer, router);
    let mut inputs = vec![input.to_owned(), scores];
    for (projection, rows, columns) in builder.expert_shapes() {
        let part = |part: &str| format!("{mlp}.experts.{projection}{part}");
        let (weight, scale, bias) = (part(".weight_q4"), part(".scale"), part("_bias"));
        let blocks = columns / int4::BLOCK as i64;
        let job = match builder.experts[layer] {
            ExpertFormat::Mxfp4 => Job::Int4 {
                blocks: part("_blocks"),
                scales: part("_scales"),
            },
            ExpertFormat::Float => Job::Int4OfFloats(part("")),
        };
        builder.plan.derived(
            job,
            &[
                (&weight, DataType::Uint8, &[experts, rows, columns / 2]),
                (&scale, DataType::Float, &[experts, rows, blocks]),
            ],
        );
        builder.constant(&bias, vec![bias.clone()], &[config.experts, rows as usize]);
        inputs.extend([weight, scale, bias]);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut attributes = builder.qmoe_attributes(int4::BLOCK);
    attributes.push(AttributeProto::int(ACCURACY_LEVEL, 4));
    builder.qmoe(layer, &inputs, attributes)
}
