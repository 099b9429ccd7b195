//! Names, shapes and dtypes of a gpt-oss model's tensors.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Config;

/// Floating point types a tensor may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Float {
    /// bfloat16: everything but the experts' matrices in a published checkpoint.
    Bf16,
    /// IEEE float16.
    F16,
    /// IEEE float32.
    F32,
}

impl Float {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Float::Bf16 | Float::F16 => 2,
            Float::F32 => 4,
        }
    }

    /// Widens little-endian elements to float32, which is exact. As many as both
    /// slices hold.
    pub fn widen_into(self, bytes: &[u8], into: &mut [f32]) {
        match self {
            Float::Bf16 => {
                for (wide, b) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *wide = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            Float::F16 => {
                // In steps, so that the processor's own conversion is used.
                let mut narrow = [f16::ZERO; 32];
                for (wide, bytes) in into.chunks_mut(32).zip(bytes.chunks(64)) {
                    for (narrow, b) in narrow.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *narrow = f16::from_le_bytes(*b);
                    }
                    let count = wide.len().min(bytes.len() / 2);
                    narrow[..count].convert_to_f32_slice(&mut wide[..count]);
                }
            }
            Float::F32 => {
                for (wide, b) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *wide = f32::from_le_bytes(*b);
                }
            }
        }
    }

    /// Whether an element is an infinity or NaN.
    pub(crate) fn is_finite(self, element: &[u8]) -> bool {
        match (self, element) {
            (Float::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).is_finite(),
            (Float::F16, &[a, b]) => f16::from_le_bytes([a, b]).is_finite(),
            (Float::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).is_finite(),
            _ => false,
        }
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Float::Bf16 => "BF16",
            Float::F16 => "F16",
            Float::F32 => "F32",
        })
    }
}

/// Element types of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Numbers.
    Float(Float),
    /// Bytes: MXFP4 blocks (two codes a byte) and their E8M0 scales.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Float(float) => float.size(),
            Dtype::U8 => 1,
        }
    }

    /// That of a safetensors file, if a checkpoint may have it.
    pub(super) fn of(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::BF16 => Some(Dtype::Float(Float::Bf16)),
            safetensors::Dtype::F16 => Some(Dtype::Float(Float::F16)),
            safetensors::Dtype::F32 => Some(Dtype::Float(Float::F32)),
            safetensors::Dtype::U8 => Some(Dtype::U8),
            _ => None,
        }
    }
}

/// How a checkpoint holds the matrices of a layer's experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertFormat {
    /// As published: `*_blocks` and `*_scales`, an expert's matrix as rows of
    /// outputs, `[E, N, K]`.
    Mxfp4,
    /// As transformers saves them after dequantizing, for fine-tunes: floats, an
    /// expert's matrix as rows of inputs, `[E, K, N]`, the transpose of the other.
    /// The columns of `gate_up_proj` alternate between gate and up, as the rows do
    /// there. Source: `GptOssExperts` in transformers 5.24.
    Float,
}

/// What the elements of a tensor must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// Any of [`Float`].
    Floats,
    /// [`Dtype::U8`].
    Bytes,
}

impl Elements {
    /// Whether a tensor of that type will do.
    pub fn accept(self, dtype: Dtype) -> bool {
        match self {
            Elements::Floats => matches!(dtype, Dtype::Float(_)),
            Elements::Bytes => dtype == Dtype::U8,
        }
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Elements::Floats => "BF16, F16 or F32",
            Elements::Bytes => "U8",
        })
    }
}

/// What one tensor must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Published name.
    pub name: String,
    /// Element types it may have.
    pub elements: Elements,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

/// Every tensor of a model of this shape, whose layers' experts have these formats:
/// `3 + 17 * layers`, and two more for a layer in MXFP4.
pub fn expected(config: &Config, experts: &[ExpertFormat]) -> Vec<TensorSpec> {
    let hidden = config.hidden_size;
    let vocab = config.vocab_size;
    let mut specs = vec![
        floats("lm_head.weight".into(), &[vocab, hidden]),
        floats("model.embed_tokens.weight".into(), &[vocab, hidden]),
        floats("model.norm.weight".into(), &[hidden]),
    ];
    for (layer, format) in experts.iter().enumerate() {
        push_layer(config, layer, *format, &mut specs);
    }
    specs
}

fn push_layer(config: &Config, layer: usize, format: ExpertFormat, specs: &mut Vec<TensorSpec>) {
    let (hidden, inner, experts) = (config.hidden_size, config.intermediate_size, config.experts);
    let (query, kv) = (config.query_width(), config.kv_width());
    let name = |rest: &str| format!("model.layers.{layer}.{rest}");
    specs.extend([
        floats(name("input_layernorm.weight"), &[hidden]),
        floats(name("post_attention_layernorm.weight"), &[hidden]),
        floats(name("self_attn.sinks"), &[config.heads]),
        floats(name("mlp.router.weight"), &[experts, hidden]),
        floats(name("mlp.router.bias"), &[experts]),
    ]);
    for (projection, rows, columns) in [
        ("q_proj", query, hidden),
        ("k_proj", kv, hidden),
        ("v_proj", kv, hidden),
        ("o_proj", hidden, query),
    ] {
        let weight = name(&format!("self_attn.{projection}.weight"));
        specs.push(floats(weight, &[rows, columns]));
        let bias = name(&format!("self_attn.{projection}.bias"));
        specs.push(floats(bias, &[rows]));
    }
    for (projection, rows, columns) in [
        ("gate_up_proj", 2 * inner, hidden),
        ("down_proj", hidden, inner),
    ] {
        let part = |part: &str| name(&format!("mlp.experts.{projection}{part}"));
        match format {
            ExpertFormat::Mxfp4 => {
                specs.push(bytes(part("_blocks"), &[experts, rows, columns / 32, 16]));
                specs.push(bytes(part("_scales"), &[experts, rows, columns / 32]));
            }
            ExpertFormat::Float => specs.push(floats(part(""), &[experts, columns, rows])),
        }
        specs.push(floats(part("_bias"), &[experts, rows]));
    }
}

fn floats(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name,
        elements: Elements::Floats,
        shape: shape.to_vec(),
    }
}

fn bytes(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name,
        elements: Elements::Bytes,
        shape: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_widens_exactly() {
        let values: Vec<f32> = (0..77).map(|i| (i as f32 - 40.0) * 0.25).collect();
        let mut wide = vec![0.0; 77];
        for float in [Float::Bf16, Float::F16, Float::F32] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| encode(float, *v)).collect();
            assert_eq!(bytes.len(), 77 * float.size());
            wide.fill(f32::NAN);
            float.widen_into(&bytes, &mut wide);
            assert_eq!(wide, values, "{float}");
        }
    }

    #[test]
    fn infinities_and_nan_are_told_from_numbers() {
        for float in [Float::Bf16, Float::F16, Float::F32] {
            for (value, finite) in [(1.0, true), (f32::INFINITY, false), (f32::NAN, false)] {
                assert_eq!(
                    float.is_finite(&encode(float, value)),
                    finite,
                    "{float} {value}"
                );
            }
        }
    }

    fn encode(float: Float, value: f32) -> Vec<u8> {
        match float {
            Float::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Float::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Float::F32 => value.to_le_bytes().to_vec(),
        }
    }
}
