//! `config.json`: parsed, and held to what the graph builder supports.

use serde::Deserialize;

use super::CheckpointError;

const FILE: &str = "config.json";

/// How far a layer looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerType {
    /// The last [`Config::sliding_window`] positions, its own included.
    Sliding,
    /// Everything.
    Full,
}

/// YaRN's parameters, as in the paper (arXiv 2309.00071).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the rotation frequencies.
    pub theta: f64,
    /// Context extension factor.
    pub factor: f64,
    /// Context before the extension.
    pub original_max_position_embeddings: usize,
    /// Rotations above which a dimension is left as it was.
    pub beta_fast: f64,
    /// Rotations below which a dimension is interpolated fully.
    pub beta_slow: f64,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

/// A validated model configuration. Every product of its sizes fits `usize`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream; a multiple of 32.
    pub hidden_size: usize,
    /// Width inside an expert; a multiple of 32.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; a multiple of 16.
    pub head_dim: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts at work for one token.
    pub experts_per_token: usize,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Positions a sliding layer sees, the token's own included.
    pub sliding_window: usize,
    /// Kind of each layer, `layers` entries.
    pub layer_types: Vec<LayerType>,
    /// Rotary embedding.
    pub rope: Rope,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f32,
    /// Bound of the experts' activations.
    pub swiglu_limit: f32,
    /// Slope inside the experts' sigmoid.
    pub swiglu_alpha: f32,
    /// Whether config.json says that the experts are in MXFP4. What counts is
    /// [`Checkpoint::experts`](super::Checkpoint::experts), from the tensors.
    pub quantized: bool,
    /// Longest context, in positions.
    pub max_position_embeddings: usize,
    /// Ids at which generation ends, from generation_config.json where there
    /// is one.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Parses `config.json` and, where there is one, `generation_config.json`.
    pub fn parse(config: &[u8], generation: Option<&[u8]>) -> Result<Self, CheckpointError> {
        let raw: RawConfig = serde_json::from_slice(config).map_err(|e| refuse(e.to_string()))?;
        raw.check_kind()?;
        let layers = in_range("num_hidden_layers", raw.num_hidden_layers, 1, 1024)?;
        let parsed = Self {
            hidden_size: in_range("hidden_size", raw.hidden_size, 32, 1 << 16)?,
            intermediate_size: in_range("intermediate_size", raw.intermediate_size, 32, 1 << 16)?,
            layers,
            heads: in_range("num_attention_heads", raw.num_attention_heads, 1, 1024)?,
            kv_heads: in_range("num_key_value_heads", raw.num_key_value_heads, 1, 1024)?,
            head_dim: in_range("head_dim", raw.head_dim, 16, 512)?,
            experts: in_range("num_local_experts", raw.num_local_experts, 1, 4096)?,
            experts_per_token: in_range("num_experts_per_tok", raw.num_experts_per_tok, 1, 64)?,
            vocab_size: in_range("vocab_size", raw.vocab_size, 1, 1 << 22)?,
            sliding_window: in_range("sliding_window", raw.sliding_window, 1, 1 << 24)?,
            layer_types: raw.layer_types()?,
            rope: raw.rope()?,
            rms_eps: float("rms_norm_eps", raw.rms_norm_eps, 0.0, 1.0)? as f32,
            swiglu_limit: float("swiglu_limit", raw.swiglu_limit.unwrap_or(7.0), 1e-3, 1e6)? as f32,
            swiglu_alpha: float("swiglu_alpha", raw.swiglu_alpha.unwrap_or(1.702), 0.0, 1e3)?
                as f32,
            quantized: raw.quantization_config.is_some(),
            max_position_embeddings: in_range(
                "max_position_embeddings",
                raw.max_position_embeddings,
                1,
                1 << 20,
            )?,
            eos_token_ids: eos_token_ids(raw.eos_token_id, generation)?,
        };
        parsed.check_relations()?;
        Ok(parsed)
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn check_relations(&self) -> Result<(), CheckpointError> {
        let checks = [
            (
                self.hidden_size.is_multiple_of(32),
                "hidden_size must be a multiple of 32",
            ),
            (
                self.intermediate_size.is_multiple_of(32),
                "intermediate_size must be a multiple of 32",
            ),
            (
                self.head_dim.is_multiple_of(16),
                "head_dim must be a multiple of 16",
            ),
            (
                self.heads.is_multiple_of(self.kv_heads),
                "num_key_value_heads must divide num_attention_heads",
            ),
            (
                self.experts_per_token <= self.experts,
                "num_experts_per_tok exceeds num_local_experts",
            ),
            (
                self.layer_types.len() == self.layers,
                "layer_types must have one entry a layer",
            ),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, reason)) => Err(refuse(reason)),
        }
    }
}

fn refuse(reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Config {
        file: FILE,
        reason: reason.into(),
    }
}

fn in_range(key: &str, value: u64, low: usize, high: usize) -> Result<usize, CheckpointError> {
    match usize::try_from(value) {
        Ok(v) if (low..=high).contains(&v) => Ok(v),
        _ => Err(refuse(format!(
            "{key} is {value}, supported is {low} to {high}"
        ))),
    }
}

fn float(key: &str, value: f64, low: f64, high: f64) -> Result<f64, CheckpointError> {
    if value > low && value <= high {
        Ok(value)
    } else {
        Err(refuse(format!(
            "{key} is {value}, it must be above {low} and at most {high}"
        )))
    }
}

/// The ids at which generation ends: generation_config.json has them all,
/// config.json usually only one.
fn eos_token_ids(
    config: Option<OneOrMany>,
    generation: Option<&[u8]>,
) -> Result<Vec<u32>, CheckpointError> {
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<OneOrMany>,
    }
    let generation = match generation {
        None => None,
        Some(bytes) => {
            serde_json::from_slice::<Generation>(bytes)
                .map_err(|e| CheckpointError::Config {
                    file: "generation_config.json",
                    reason: e.to_string(),
                })?
                .eos_token_id
        }
    };
    Ok(match generation.or(config) {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct RawConfig {
    architectures: Vec<String>,
    model_type: String,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: u64,
    head_dim: u64,
    num_local_experts: u64,
    num_experts_per_tok: u64,
    vocab_size: u64,
    sliding_window: u64,
    layer_types: Vec<String>,
    rms_norm_eps: f64,
    swiglu_limit: Option<f64>,
    swiglu_alpha: Option<f64>,
    max_position_embeddings: u64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    quantization_config: Option<RawQuantization>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "yes")]
    attention_bias: bool,
    hidden_act: Option<String>,
    eos_token_id: Option<OneOrMany>,
}

fn yes() -> bool {
    true
}

/// `rope_scaling` as published, with `rope_theta` beside it; `rope_parameters`, with
/// `rope_theta` inside, as transformers writes it from version 5 on.
#[derive(Deserialize)]
struct RawRope {
    rope_type: String,
    rope_theta: Option<f64>,
    factor: f64,
    original_max_position_embeddings: u64,
    beta_fast: f64,
    beta_slow: f64,
    #[serde(default = "yes")]
    truncate: bool,
}

#[derive(Deserialize)]
struct RawQuantization {
    quant_method: String,
}

impl RawConfig {
    fn check_kind(&self) -> Result<(), CheckpointError> {
        if self.architectures != ["GptOssForCausalLM"] {
            return Err(refuse(format!(
                "architectures is {:?}; only GptOssForCausalLM is supported",
                self.architectures
            )));
        }
        if self.model_type != "gpt_oss" {
            return Err(refuse(format!(
                "model_type is {:?}; only gpt_oss is supported",
                self.model_type
            )));
        }
        if let Some(RawQuantization { quant_method }) = &self.quantization_config
            && quant_method != "mxfp4"
        {
            return Err(refuse(format!(
                "quantization_config.quant_method is {quant_method:?}; supported are mxfp4 and \
                 checkpoints that are not quantized"
            )));
        }
        if self.tie_word_embeddings {
            return Err(refuse("tie_word_embeddings must be false"));
        }
        if !self.attention_bias {
            return Err(refuse("attention_bias must be true"));
        }
        match self.hidden_act.as_deref() {
            None | Some("silu") => Ok(()),
            Some(other) => Err(refuse(format!(
                "hidden_act is {other:?}; only silu is supported"
            ))),
        }
    }

    fn layer_types(&self) -> Result<Vec<LayerType>, CheckpointError> {
        let kind = |name: &String| match name.as_str() {
            "sliding_attention" => Ok(LayerType::Sliding),
            "full_attention" => Ok(LayerType::Full),
            other => Err(refuse(format!("layer_types holds the unknown {other:?}"))),
        };
        self.layer_types.iter().map(kind).collect()
    }

    fn rope(&self) -> Result<Rope, CheckpointError> {
        let (key, raw) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(raw), _) => ("rope_parameters", raw),
            (None, Some(raw)) => ("rope_scaling", raw),
            (None, None) => {
                return Err(refuse("it has neither rope_parameters nor rope_scaling"));
            }
        };
        if raw.rope_type != "yarn" {
            return Err(refuse(format!(
                "{key}.rope_type is {:?}; only yarn is supported",
                raw.rope_type
            )));
        }
        let theta = raw.rope_theta.or(self.rope_theta);
        let theta = theta.ok_or_else(|| refuse("rope_theta is missing"))?;
        let within = |name: &str| format!("{key}.{name}");
        let rope = Rope {
            theta: float("rope_theta", theta, 1.0, 1e12)?,
            factor: float(&within("factor"), raw.factor, 0.0, 1e6)?,
            original_max_position_embeddings: in_range(
                &within("original_max_position_embeddings"),
                raw.original_max_position_embeddings,
                1,
                1 << 24,
            )?,
            beta_fast: float(&within("beta_fast"), raw.beta_fast, 0.0, 1e6)?,
            beta_slow: float(&within("beta_slow"), raw.beta_slow, 0.0, 1e6)?,
            truncate: raw.truncate,
        };
        if rope.factor < 1.0 {
            return Err(refuse(format!("{key}.factor must be at least 1")));
        }
        if rope.beta_fast < rope.beta_slow {
            return Err(refuse(format!(
                "{key}.beta_fast must not be below {key}.beta_slow"
            )));
        }
        Ok(rope)
    }
}
