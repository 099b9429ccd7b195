//! Names, shapes and dtypes of a gpt-oss model's tensors.

use std::fmt;

use super::Config;

/// Element types of a published checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// bfloat16: everything but the experts' matrices.
    Bf16,
    /// Bytes: MXFP4 blocks (two codes a byte) and their E8M0 scales.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bf16 => 2,
            Dtype::U8 => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Bf16 => "BF16",
            Dtype::U8 => "U8",
        })
    }
}

/// What one tensor must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Published name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

/// Every tensor of a model of this shape: `3 + 19 * layers`.
pub fn expected(config: &Config) -> Vec<TensorSpec> {
    let hidden = config.hidden_size;
    let vocab = config.vocab_size;
    let mut specs = vec![
        bf16("lm_head.weight".into(), &[vocab, hidden]),
        bf16("model.embed_tokens.weight".into(), &[vocab, hidden]),
        bf16("model.norm.weight".into(), &[hidden]),
    ];
    for layer in 0..config.layers {
        push_layer(config, layer, &mut specs);
    }
    specs
}

fn push_layer(config: &Config, layer: usize, specs: &mut Vec<TensorSpec>) {
    let (hidden, inner, experts) = (config.hidden_size, config.intermediate_size, config.experts);
    let (query, kv) = (config.query_width(), config.kv_width());
    let name = |rest: &str| format!("model.layers.{layer}.{rest}");
    specs.extend([
        bf16(name("input_layernorm.weight"), &[hidden]),
        bf16(name("post_attention_layernorm.weight"), &[hidden]),
        bf16(name("self_attn.sinks"), &[config.heads]),
        bf16(name("mlp.router.weight"), &[experts, hidden]),
        bf16(name("mlp.router.bias"), &[experts]),
    ]);
    for (projection, rows, columns) in [
        ("q_proj", query, hidden),
        ("k_proj", kv, hidden),
        ("v_proj", kv, hidden),
        ("o_proj", hidden, query),
    ] {
        let weight = name(&format!("self_attn.{projection}.weight"));
        specs.push(bf16(weight, &[rows, columns]));
        let bias = name(&format!("self_attn.{projection}.bias"));
        specs.push(bf16(bias, &[rows]));
    }
    for (projection, rows, columns) in [
        ("gate_up_proj", 2 * inner, hidden),
        ("down_proj", hidden, inner),
    ] {
        let part = |part: &str| name(&format!("mlp.experts.{projection}_{part}"));
        specs.push(u8s(part("blocks"), &[experts, rows, columns / 32, 16]));
        specs.push(u8s(part("scales"), &[experts, rows, columns / 32]));
        specs.push(bf16(part("bias"), &[experts, rows]));
    }
}

fn bf16(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name,
        dtype: Dtype::Bf16,
        shape: shape.to_vec(),
    }
}

fn u8s(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name,
        dtype: Dtype::U8,
        shape: shape.to_vec(),
    }
}
