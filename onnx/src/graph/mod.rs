//! Builds the graph, one function per target over shared layer code.
//!
//! ```text
//! inputs   input_ids              i64 [1, S]
//!          logits_positions       i64 [P]      indexes into S, P may be 0
//! outputs  logits                 f32 [P, V]
//!
//! targets portable, cuda and cuda-int4: one sequence, whose cache is preallocated for
//! T positions; f32 in portable, f16 in the others
//! inputs   seqlens_k              i32 [1]      positions in all, less one
//!          total_sequence_length  i32 []       positions in all
//!          past_key_values.{i}.{key,value}  f32 or f16 [1, KVH, T, D]
//! outputs  present.{i}.{key,value}          f32 or f16 [1, KVH, T, D]
//!
//! target cpu: B sequences, whose caches are blocks of two pools
//! inputs   sequences              i32 [B, 2]   tokens of each, positions before
//!          blocks                 i32 [B, M]   of each sequence, from its first on
//!          window_blocks          i32 [B, W]   from the one its window begins in
//!          past_key_values.{i}.{key,value}  f16 [N, KVH, 64, D]
//! outputs  present.{i}.{key,value}          f16 [N, KVH, 64, D]
//! ```
//!
//! The same tensor may be bound as past and present. Of target `cpu`, N counts
//! the blocks of the pool for layers that see everything; for layers with a
//! sliding window it is another number, NW: a sequence needs few blocks there,
//! however long it is. [`crate::kernels::attention`] says what the blocks hold.
//! From the last layer's attention on, only the P wanted positions are computed.

mod coreml;
mod cuda;
mod layer;
mod plan;
pub mod rope;
mod target;

use crate::checkpoint::{Config, ExpertFormat, LayerType};
use crate::kernels::attention::{BLOCK, Precision};
use crate::proto::{AttributeProto, DataType, NodeProto};
use crate::quantize::int8;

pub use plan::{Content, Initializer, Job, Plan};
pub use target::{Target, UnknownTarget};

use coreml::Projections;
use plan::Dim;

/// Domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";
/// Domain of ours.
pub const GPTOSS: &str = "gptoss";
/// Domain of the standard operators.
const STANDARD: &str = "";

/// The graph of `target` for a model of this shape; `experts` has the format of each
/// layer's in the checkpoint.
pub fn build(config: &Config, experts: &[ExpertFormat], target: Target) -> Plan {
    match target {
        Target::Cpu => cpu(config, experts),
        Target::Coreml => coreml(config, experts),
        Target::Portable => portable(config, experts),
        Target::Cuda => cuda(config, experts, Floats::Half, CudaExperts::Mxfp4),
        Target::CudaInt4 => cuda(config, experts, Floats::Half, CudaExperts::Int4),
    }
}

/// Target `cpu`: `gptoss:MoE` over MXFP4 tensors, `gptoss:Linear` for the other
/// matrices.
pub fn cpu(config: &Config, experts: &[ExpertFormat]) -> Plan {
    Builder::new(config, experts, Operators::Ours, Floats::Single).model(layer::mxfp4_experts)
}

/// Target `coreml`: target `cpu`, with the projections of attention in float16.
pub fn coreml(config: &Config, experts: &[ExpertFormat]) -> Plan {
    let mut builder = Builder::new(config, experts, Operators::Ours, Floats::Single);
    builder.projections = Projections::Half;
    builder.model(layer::mxfp4_experts)
}

/// Target `portable`: `QMoE` over int4 experts.
pub fn portable(config: &Config, experts: &[ExpertFormat]) -> Plan {
    Builder::new(config, experts, Operators::Stock, Floats::Single).model(layer::int4_experts)
}

/// How the experts of the targets for CUDA are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaExperts {
    /// The published codes and scales.
    Mxfp4,
    /// Blocks of 64.
    Int4,
}

/// Targets `cuda` and `cuda-int4`: `QMoE` as the CUDA provider takes it. They compute in
/// float16; in float32 the graph says what that costs, and nothing else.
pub fn cuda(config: &Config, experts: &[ExpertFormat], floats: Floats, form: CudaExperts) -> Plan {
    let builder = Builder::new(config, experts, Operators::Stock, floats);
    builder.model(match form {
        CudaExperts::Mxfp4 => cuda::mxfp4_experts,
        CudaExperts::Int4 => cuda::int4_experts,
    })
}

/// The float type of a graph's activations, its cache, and what is stored for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floats {
    /// float32.
    Single,
    /// float16, but for the first norm, the router and the logits.
    Half,
}

impl Floats {
    fn data_type(self) -> DataType {
        match self {
            Floats::Single => DataType::Float,
            Floats::Half => DataType::Float16,
        }
    }
}

/// Adds the experts of a layer: (builder, layer, input, router logits) to the
/// name of their output.
type Experts = fn(&mut Builder<'_>, usize, &str, &str) -> String;

/// Whose operators a graph may use.
#[derive(Clone, Copy, PartialEq)]
enum Operators {
    Ours,
    Stock,
}

struct Builder<'a> {
    config: &'a Config,
    /// One entry a layer.
    experts: &'a [ExpertFormat],
    operators: Operators,
    floats: Floats,
    projections: Projections,
    plan: Plan,
}

/// Inputs of target `cpu` that say which tokens are whose.
pub const SEQUENCES: &str = "sequences";
/// Blocks of each sequence in layers that see everything.
pub const BLOCKS: &str = "blocks";
/// Blocks of each sequence in layers with a sliding window.
pub const WINDOW_BLOCKS: &str = "window_blocks";

/// Initializers with the cosines and sines of the rotation.
pub const ROPE_COS: &str = "rope.cos";
/// See [`ROPE_COS`].
pub const ROPE_SIN: &str = "rope.sin";
const FIRST_AXIS: &str = "axis.first";

impl<'a> Builder<'a> {
    fn new(
        config: &'a Config,
        experts: &'a [ExpertFormat],
        operators: Operators,
        floats: Floats,
    ) -> Self {
        assert_eq!(experts.len(), config.layers, "one entry a layer");
        let mut plan = Plan::default();
        plan.graph.name = Some("gpt-oss".into());
        Self {
            config,
            experts,
            operators,
            floats,
            projections: Projections::Same,
            plan,
        }
    }

    fn model(mut self, experts: Experts) -> Plan {
        self.declare();
        self.shared_constants();
        let mut hidden = self.embedding();
        let mut normed = self.first_norm(&hidden);
        for layer in 0..self.config.layers {
            let last = layer + 1 == self.config.layers;
            let mut attended = self.attention(layer, &normed);
            if last {
                // Nothing after the last cache needs the other positions.
                attended = self.wanted(&attended);
                hidden = self.wanted(&hidden);
            }
            let attention = self.attention_output(layer, &attended);
            let norm = format!("model.layers.{layer}.post_attention_layernorm");
            (normed, hidden) = self.add_and_norm(&norm, &attention, &hidden);
            let router = self.router(layer, &normed);
            let output = experts(&mut self, layer, &normed, &router);
            let norm = match last {
                false => format!("model.layers.{}.input_layernorm", layer + 1),
                true => "model.norm".to_owned(),
            };
            (normed, hidden) = self.add_and_norm(&norm, &output, &hidden);
        }
        self.logits(&normed);
        self.plan
    }

    fn declare(&mut self) {
        let config = self.config;
        let plan = &mut self.plan;
        let ids = [Dim::Fixed(1), Dim::Named("S")];
        plan.input("input_ids", DataType::Int64, &ids);
        plan.input("logits_positions", DataType::Int64, &[Dim::Named("P")]);
        match self.operators {
            Operators::Ours => {
                let table = |columns| [Dim::Named("B"), Dim::Named(columns)];
                let lengths = [Dim::Named("B"), Dim::Fixed(2)];
                plan.input(SEQUENCES, DataType::Int32, &lengths);
                plan.input(BLOCKS, DataType::Int32, &table("M"));
                plan.input(WINDOW_BLOCKS, DataType::Int32, &table("W"));
            }
            Operators::Stock => {
                plan.input("seqlens_k", DataType::Int32, &[Dim::Fixed(1)]);
                plan.input("total_sequence_length", DataType::Int32, &[]);
            }
        }
        let logits = [Dim::Named("P"), Dim::Fixed(config.vocab_size)];
        plan.output("logits", DataType::Float, &logits);
        for layer in 0..config.layers {
            let (element, cache) = self.cache(layer);
            let plan = &mut self.plan;
            for part in ["key", "value"] {
                let past = format!("past_key_values.{layer}.{part}");
                plan.input(&past, element, &cache);
                let present = format!("present.{layer}.{part}");
                plan.output(&present, element, &cache);
            }
        }
    }

    /// One side of a layer's cache: its type and sizes.
    fn cache(&self, layer: usize) -> (DataType, [Dim; 4]) {
        let config = self.config;
        let (element, outer, positions) = match (self.operators, config.layer_types[layer]) {
            (Operators::Stock, _) => (self.floats.data_type(), Dim::Fixed(1), Dim::Named("T")),
            (Operators::Ours, LayerType::Full) => {
                (DataType::Float16, Dim::Named("N"), Dim::Fixed(BLOCK))
            }
            (Operators::Ours, LayerType::Sliding) => {
                (DataType::Float16, Dim::Named("NW"), Dim::Fixed(BLOCK))
            }
        };
        let heads = Dim::Fixed(config.kv_heads);
        (
            element,
            [outer, heads, positions, Dim::Fixed(config.head_dim)],
        )
    }

    fn shared_constants(&mut self) {
        let rows = self.config.max_position_embeddings as i64;
        let dims = [rows, self.config.head_dim as i64 / 2];
        self.plan.derived(
            Job::Rope,
            &[
                (ROPE_COS, self.floats.data_type(), &dims),
                (ROPE_SIN, self.floats.data_type(), &dims),
            ],
        );
        self.plan.inline_i64(FIRST_AXIS, &[1], &[0]);
    }

    /// Looks the tokens up: `[1, S, H]`.
    fn embedding(&mut self) -> String {
        let hidden = self.config.hidden_size;
        let layout = match self.floats {
            Floats::Single => int8::Layout::embedding(hidden),
            Floats::Half => int8::Layout::half_embedding(hidden),
        };
        let vocab = self.config.vocab_size as i64;
        let name = "model.embed_tokens";
        let (weight, scale) = (format!("{name}.weight_q8"), format!("{name}.scale"));
        self.plan.derived(
            Job::Int8 {
                tensors: vec![format!("{name}.weight")],
                layout,
            },
            &[
                (
                    &weight,
                    DataType::Uint8,
                    &[vocab, layout.row_bytes() as i64],
                ),
                (
                    &scale,
                    self.floats.data_type(),
                    &[vocab, layout.row_scales() as i64],
                ),
            ],
        );
        self.plan.node(
            (MICROSOFT, "GatherBlockQuantized"),
            name,
            &[&weight, "input_ids", &scale],
            &["embedded"],
            vec![
                AttributeProto::int("bits", 8),
                AttributeProto::int("block_size", layout.block as i64),
                AttributeProto::int("gather_axis", 0),
                AttributeProto::int("quantize_axis", 1),
            ],
        );
        "embedded".to_owned()
    }

    /// RMSNorm before the first layer, in standard operators: the fused one
    /// without a residual is in no published operator set. ONNX Runtime fuses
    /// this pattern. In float32, since squares may be too large for float16.
    fn first_norm(&mut self, hidden: &str) -> String {
        let name = "model.layers.0.input_layernorm";
        let weight = format!("{name}.weight");
        let dims = [self.config.hidden_size as i64];
        let job = Job::Widen(vec![weight.clone()]);
        self.plan.derived(job, &[(&weight, DataType::Float, &dims)]);
        let hidden = self.single(hidden);
        let hidden = hidden.as_str();
        self.plan.inline_f32("norm.exponent", 2.0);
        self.plan.inline_f32("norm.epsilon", self.config.rms_eps);
        self.plan.inline_i64("axis.last", &[1], &[-1]);
        let steps: [(&str, &[&str], &str); 6] = [
            ("Pow", &[hidden, "norm.exponent"], "square"),
            ("ReduceMean", &["square", "axis.last"], "mean"),
            ("Add", &["mean", "norm.epsilon"], "shifted"),
            ("Sqrt", &["shifted"], "rms"),
            ("Div", &[hidden, "rms"], "scaled"),
            ("Mul", &["scaled", &weight], "normed"),
        ];
        for (operator, inputs, output) in steps {
            let node = format!("{name}.{output}");
            let attributes = Vec::new();
            let operator = (STANDARD, operator);
            self.plan
                .node(operator, &node, inputs, &[output], attributes);
        }
        self.narrowed("normed")
    }

    /// `input` in float32, where it is not.
    fn single(&mut self, input: &str) -> String {
        match self.floats {
            Floats::Single => input.to_owned(),
            Floats::Half => self.cast(input, "single", DataType::Float),
        }
    }

    /// `input`, which is float32, in the graph's float type.
    fn narrowed(&mut self, input: &str) -> String {
        match self.floats {
            Floats::Single => input.to_owned(),
            Floats::Half => self.cast(input, "half", DataType::Float16),
        }
    }

    fn cast(&mut self, input: &str, suffix: &str, to: DataType) -> String {
        let output = format!("{input}.{suffix}");
        let to = vec![AttributeProto::int("to", to as i64)];
        self.plan
            .node((STANDARD, "Cast"), &output, &[input], &[&output], to);
        output
    }

    /// Adds `update` to the residual and normalises: (normed, new residual).
    fn add_and_norm(&mut self, name: &str, update: &str, residual: &str) -> (String, String) {
        let weight = self.norm_weight(name);
        let (normed, sum) = (format!("{name}.out"), format!("{name}.residual"));
        self.plan.node(
            (MICROSOFT, "SkipSimplifiedLayerNormalization"),
            name,
            &[update, residual, &weight],
            &[&normed, "", "", &sum],
            vec![AttributeProto::float("epsilon", self.config.rms_eps)],
        );
        (normed, sum)
    }

    fn norm_weight(&mut self, name: &str) -> String {
        let weight = format!("{name}.weight");
        let hidden = self.config.hidden_size;
        self.constant(&weight, vec![weight.clone()], &[hidden]);
        weight
    }

    /// Adds float tensors as one initializer of the graph's float type.
    fn constant(&mut self, name: &str, tensors: Vec<String>, dims: &[usize]) {
        let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        let job = match self.floats {
            Floats::Single => Job::Widen(tensors),
            Floats::Half => Job::Halve(tensors),
        };
        let data_type = self.floats.data_type();
        self.plan.derived(job, &[(name, data_type, &dims)]);
    }

    /// `input · stacked(tensors)ᵀ (+ bias)` with int8 weights; columns is K.
    fn linear(
        &mut self,
        name: &str,
        input: &str,
        tensors: Vec<String>,
        (rows, columns): (usize, usize),
        bias: Option<Vec<String>>,
    ) -> String {
        let layout = match self.floats {
            Floats::Single => int8::Layout::matmul(columns),
            Floats::Half => int8::Layout::half_matmul(columns),
        };
        let blocks = layout.row_scales() as i64;
        let (weight, scale) = (format!("{name}.weight_q8"), format!("{name}.scale"));
        self.plan.derived(
            Job::Int8 { tensors, layout },
            &[
                (
                    &weight,
                    DataType::Uint8,
                    &[rows as i64, blocks, layout.block as i64],
                ),
                (&scale, self.floats.data_type(), &[rows as i64, blocks]),
            ],
        );
        let bias_name = format!("{name}.bias");
        let bias_name = bias.map(|tensors| {
            self.constant(&bias_name, tensors, &[rows]);
            bias_name.as_str()
        });
        let output = format!("{name}.out");
        let mut inputs = vec![input, &weight, &scale];
        match self.operators {
            Operators::Ours => {
                inputs.extend(bias_name);
                self.plan.node(
                    (GPTOSS, "Linear"),
                    name,
                    &inputs,
                    &[&output],
                    vec![AttributeProto::string(ACTIVATIONS, "int8")],
                );
            }
            Operators::Stock => {
                let mut attributes = vec![
                    AttributeProto::int("K", columns as i64),
                    AttributeProto::int("N", rows as i64),
                    AttributeProto::int("bits", 8),
                    AttributeProto::int("block_size", layout.block as i64),
                ];
                let operator = (MICROSOFT, "MatMulNBits");
                if self.floats == Floats::Half {
                    // CUDA's own kernels for it know no bias.
                    return self.product_and_bias(operator, name, &inputs, attributes, bias_name);
                }
                attributes.push(AttributeProto::int(ACCURACY_LEVEL, 4));
                inputs.extend(bias_name.into_iter().flat_map(|bias| ["", "", bias]));
                self.plan
                    .node(operator, name, &inputs, &[&output], attributes);
            }
        }
        output
    }

    /// A product, and its bias as a node of its own.
    fn product_and_bias(
        &mut self,
        operator: (&str, &str),
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        bias: Option<&str>,
    ) -> String {
        let output = format!("{name}.out");
        let Some(bias) = bias else {
            self.plan
                .node(operator, name, inputs, &[&output], attributes);
            return output;
        };
        let product = format!("{name}.product");
        self.plan
            .node(operator, name, inputs, &[&product], attributes);
        let add = (STANDARD, "Add");
        self.plan
            .node(add, &output, &[&product, bias], &[&output], Vec::new());
        output
    }

    /// The rows of `source` at the wanted positions: f32 `[1, P, columns]`.
    fn wanted(&mut self, source: &str) -> String {
        let name = format!("{source}.wanted");
        self.plan.node(
            (STANDARD, "Gather"),
            &name,
            &[source, "logits_positions"],
            &[&name],
            vec![AttributeProto::int("axis", 1)],
        );
        name
    }

    /// lm_head: `[1, P, H]` to the graph's output `[P, V]`.
    fn logits(&mut self, normed: &str) {
        let shape = (self.config.vocab_size, self.config.hidden_size);
        let tensors = vec!["lm_head.weight".to_owned()];
        let logits = self.linear("lm_head", normed, tensors, shape, None);
        let logits = self.single(&logits);
        self.plan.node(
            (STANDARD, "Squeeze"),
            "logits",
            &[&logits, FIRST_AXIS],
            &["logits"],
            Vec::new(),
        );
    }
}

/// Attribute of the stock quantized operators: 4 computes with int8
/// activations, 0 with float32.
pub const ACCURACY_LEVEL: &str = "accuracy_level";
/// Name of our attention over a cache of `precision`.
pub fn attention_operator(precision: Precision) -> &'static str {
    match precision {
        Precision::F16 => "Attention",
        Precision::F32 => "AttentionFloat32",
        Precision::Int8 => "AttentionInt8",
    }
}

/// What the cache of `node` is made of, if it is our attention.
pub fn attention_precision(node: &NodeProto) -> Option<Precision> {
    let ours = node.domain.as_deref() == Some(GPTOSS);
    let named = |p: &Precision| node.op_type.as_deref() == Some(attention_operator(*p));
    Precision::ALL.into_iter().find(|p| ours && named(p))
}
/// Attribute of `gptoss:MoE` and `gptoss:Linear`: `int8` or `float32`.
pub const ACTIVATIONS: &str = "activations";
