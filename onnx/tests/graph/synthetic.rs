//! Makes small checkpoints of any shape in the published layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

/// What to make.
#[derive(Debug, Clone)]
pub struct Shape {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub experts: usize,
    pub top: usize,
    pub vocab: usize,
    pub window: usize,
    pub positions: usize,
    pub shards: usize,
    /// Every matrix row holds only `{0, m}`: int4 and int8 lose nothing.
    pub grid: bool,
    pub seed: u64,
    /// Tensors begin at multiples of eight, as in published files; else at
    /// odd offsets, which the format allows.
    pub aligned: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            hidden: 64,
            intermediate: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            experts: 4,
            top: 2,
            vocab: 300,
            window: 128,
            positions: 1024,
            shards: 1,
            grid: true,
            seed: 1,
            aligned: true,
        }
    }
}

/// SplitMix64: the same numbers everywhere, for ever.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Near normal: sum of twelve uniforms.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

struct Made {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Share of non-zero weights in a grid row.
const DENSITY: f64 = 0.15;

struct Maker {
    grid: bool,
    random: Random,
    tensors: Vec<Made>,
}

impl Maker {
    fn push(&mut self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.push(Made {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    fn vector(&mut self, name: &str, shape: &[usize], mean: f64, deviation: f64) {
        let count: usize = shape.iter().product();
        let bytes = (0..count)
            .flat_map(|_| bf16::from_f64(mean + deviation * self.random.normal()).to_le_bytes())
            .collect();
        self.push(name, "BF16", shape, bytes);
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize, deviation: f64) {
        if !self.grid {
            return self.vector(name, &[rows, columns], 0.0, deviation);
        }
        let mut bytes = Vec::with_capacity(2 * rows * columns);
        for _ in 0..rows {
            let sign = if self.random.uniform() < 0.5 {
                -1.0
            } else {
                1.0
            };
            let jitter = (0.1 * self.random.normal()).exp();
            let m = bf16::from_f64(sign * deviation / DENSITY.sqrt() * jitter);
            for _ in 0..columns {
                let here = self.random.uniform() < DENSITY;
                let value = if here { m } else { bf16::ZERO };
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.push(name, "BF16", &[rows, columns], bytes);
    }

    fn experts(&mut self, name: &str, shape: [usize; 3], deviation: f64, bias: f64) {
        let [experts, rows, columns] = shape;
        let (mut blocks, mut scales) = (Vec::new(), Vec::new());
        let spread = if self.grid { 4.0 * DENSITY.sqrt() } else { 2.5 };
        let exponent = (127.0 + (deviation / spread).log2()).round() as u8;
        for _ in 0..experts * rows {
            let code = if self.random.uniform() < 0.5 { 6 } else { 14 };
            let of_row = exponent + (self.random.word() & 1) as u8;
            for _ in 0..columns / 32 {
                for _ in 0..16 {
                    let mut nibble = || match self.grid {
                        true if self.random.uniform() < DENSITY => code,
                        true => 0,
                        false => (self.random.word() & 15) as u8,
                    };
                    blocks.push(nibble() | nibble() << 4);
                }
                let wobble = if self.grid { 0 } else { self.random.word() & 1 };
                scales.push(of_row - wobble as u8);
            }
        }
        let groups = columns / 32;
        self.push(
            &format!("{name}_blocks"),
            "U8",
            &[experts, rows, groups, 16],
            blocks,
        );
        self.push(
            &format!("{name}_scales"),
            "U8",
            &[experts, rows, groups],
            scales,
        );
        self.vector(&format!("{name}_bias"), &[experts, rows], 0.0, bias);
    }

    fn layer(&mut self, shape: &Shape, layer: usize) {
        let (hidden, inner) = (shape.hidden, shape.intermediate);
        let (query, kv) = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let per = |columns: usize| 1.0 / (columns as f64).sqrt();
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        self.vector(&name("input_layernorm.weight"), &[hidden], 1.0, 0.2);
        self.vector(
            &name("post_attention_layernorm.weight"),
            &[hidden],
            1.0,
            0.2,
        );
        self.vector(&name("self_attn.sinks"), &[shape.heads], 2.0, 1.5);
        for (part, rows, columns, level, bias) in [
            ("q_proj", query, hidden, 0.9, 0.5),
            ("k_proj", kv, hidden, 0.9, 0.5),
            ("v_proj", kv, hidden, 1.0, 0.2),
            ("o_proj", hidden, query, 1.2, 0.1),
        ] {
            let weight = name(&format!("self_attn.{part}.weight"));
            self.matrix(&weight, rows, columns, level * per(columns));
            self.vector(&name(&format!("self_attn.{part}.bias")), &[rows], 0.0, bias);
        }
        self.matrix(
            &name("mlp.router.weight"),
            shape.experts,
            hidden,
            1.5 * per(hidden),
        );
        self.vector(&name("mlp.router.bias"), &[shape.experts], 0.0, 0.4);
        let gate_up = [shape.experts, 2 * inner, hidden];
        self.experts(
            &name("mlp.experts.gate_up_proj"),
            gate_up,
            2.5 * per(hidden),
            0.5,
        );
        let down = [shape.experts, hidden, inner];
        self.experts(&name("mlp.experts.down_proj"), down, 0.3 * per(inner), 0.1);
    }
}

/// Writes a checkpoint into `dir`.
pub fn make(shape: &Shape, dir: &Path) {
    let mut maker = Maker {
        grid: shape.grid,
        random: Random::new(shape.seed),
        tensors: Vec::new(),
    };
    let logits = 3.0 / (shape.hidden as f64).sqrt();
    maker.matrix("lm_head.weight", shape.vocab, shape.hidden, logits);
    maker.matrix("model.embed_tokens.weight", shape.vocab, shape.hidden, 1.0);
    for layer in 0..shape.layers {
        maker.layer(shape, layer);
    }
    maker.vector("model.norm.weight", &[shape.hidden], 1.0, 0.2);
    let config = serde_json::to_vec_pretty(&config(shape)).expect("JSON");
    fs::write(dir.join("config.json"), config).expect("config.json");
    write_shards(&maker.tensors, shape, dir);
}

/// The published config.json at another size.
pub fn config(shape: &Shape) -> Value {
    let kinds = (0..shape.layers).map(|layer| match layer % 2 {
        0 => "sliding_attention",
        _ => "full_attention",
    });
    json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "eos_token_id": 2,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "layer_types": kinds.collect::<Vec<_>>(),
        "max_position_embeddings": shape.positions,
        "model_type": "gpt_oss",
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.top,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "num_local_experts": shape.experts,
        "quantization_config": {"quant_method": "mxfp4"},
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": false,
        },
        "rope_theta": 150_000,
        "sliding_window": shape.window,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "vocab_size": shape.vocab,
    })
}

fn write_shards(tensors: &[Made], shape: &Shape, dir: &Path) {
    let shards = shape.shards;
    let per_shard = tensors.len().div_ceil(shards);
    let mut places = BTreeMap::new();
    for (i, group) in tensors.chunks(per_shard).enumerate() {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{i:05}-of-{:05}.safetensors", n - 1),
        };
        places.extend(group.iter().map(|t| (t.name.clone(), file.clone())));
        fs::write(dir.join(file), safetensors(group, shape.aligned)).expect("shard");
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": places});
        let path = dir.join("model.safetensors.index.json");
        fs::write(path, index.to_string()).expect("index");
    }
}

fn safetensors(tensors: &[Made], aligned: bool) -> Vec<u8> {
    let mut header = Map::new();
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes.len();
        let info = json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), info);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    if !aligned {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for tensor in tensors {
        file.extend_from_slice(&tensor.bytes);
    }
    file
}
