//! Writes a checkpoint with random weights in the published layout, of any
//! number of layers at the real width, in little memory:
//!
//! ```text
//! cargo run --release -p gptoss-onnx --example synthetic_checkpoint -- \
//!     [--experts mxfp4|bf16] DIR [LAYERS [TOKENIZER_DIR]]
//! ```
//!
//! 24 layers (the default) make the 13.8 GB of gpt-oss-20b, or with `--experts bf16`,
//! as transformers saves a fine-tune, 41.8 GB. Every layer has bytes of its own; the
//! same arguments give the same bytes.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

const HIDDEN: usize = 2880;
const EXPERTS: usize = 32;
const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 201_088;
const SHARDS: usize = 3;

/// How the bytes of a tensor are drawn.
#[derive(Clone, Copy)]
enum Draw {
    /// bf16, normal with this mean and deviation.
    Normal(f64, f64),
    /// Two MXFP4 codes a byte, uniform.
    Codes,
    /// E8M0 exponents so that MXFP4 weights have about this deviation.
    Exponents(f64),
}

/// How the experts' matrices are stored.
#[derive(Clone, Copy, PartialEq)]
enum Experts {
    /// As published.
    Mxfp4,
    /// As in a fine-tune, normal and so on no grid.
    Bf16,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    draw: Draw,
}

impl Tensor {
    fn width(&self) -> usize {
        if matches!(self.draw, Draw::Normal(..)) {
            2
        } else {
            1
        }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.width()
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn normal(&mut self) -> f64 {
        let uniform = |word: u64| (word >> 11) as f64 / (1u64 << 53) as f64;
        (0..12).map(|_| uniform(self.word())).sum::<f64>() - 6.0
    }
}

fn tensors(layers: usize, experts: Experts) -> Vec<Tensor> {
    let mut all = Vec::new();
    let mut push = |name: String, shape: &[usize], draw| {
        all.push(Tensor {
            name,
            shape: shape.to_vec(),
            draw,
        });
    };
    let (query, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let per_row = 1.0 / (HIDDEN as f64).sqrt();
    push(
        "lm_head.weight".into(),
        &[VOCABULARY, HIDDEN],
        Draw::Normal(0.0, 3.0 * per_row),
    );
    push(
        "model.embed_tokens.weight".into(),
        &[VOCABULARY, HIDDEN],
        Draw::Normal(0.0, 1.0),
    );
    for layer in 0..layers {
        let mut push = |rest: &str, shape: &[usize], draw| {
            push(format!("model.layers.{layer}.{rest}"), shape, draw);
        };
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            push(&format!("{norm}.weight"), &[HIDDEN], Draw::Normal(1.0, 0.2));
        }
        push("self_attn.sinks", &[HEADS], Draw::Normal(2.0, 1.5));
        for (part, rows, columns) in [
            ("q", query, HIDDEN),
            ("k", kv, HIDDEN),
            ("v", kv, HIDDEN),
            ("o", HIDDEN, query),
        ] {
            let level = 0.9 / (columns as f64).sqrt();
            push(
                &format!("self_attn.{part}_proj.weight"),
                &[rows, columns],
                Draw::Normal(0.0, level),
            );
            push(
                &format!("self_attn.{part}_proj.bias"),
                &[rows],
                Draw::Normal(0.0, 0.2),
            );
        }
        push(
            "mlp.router.weight",
            &[EXPERTS, HIDDEN],
            Draw::Normal(0.0, 1.5 * per_row),
        );
        push("mlp.router.bias", &[EXPERTS], Draw::Normal(0.0, 0.4));
        for (part, rows, level) in [("gate_up", 2 * HIDDEN, 2.0), ("down", HIDDEN, 0.3)] {
            let name = |kind: &str| format!("mlp.experts.{part}_proj{kind}");
            let blocks = [EXPERTS, rows, HIDDEN / 32, 16];
            let deviation = level * per_row;
            match experts {
                Experts::Mxfp4 => {
                    push(&name("_blocks"), &blocks, Draw::Codes);
                    push(&name("_scales"), &blocks[..3], Draw::Exponents(deviation));
                }
                Experts::Bf16 => {
                    let shape = [EXPERTS, HIDDEN, rows];
                    push(&name(""), &shape, Draw::Normal(0.0, deviation));
                }
            }
            push(&name("_bias"), &blocks[..2], Draw::Normal(0.0, 0.1));
        }
    }
    push(
        "model.norm.weight".into(),
        &[HIDDEN],
        Draw::Normal(1.0, 0.2),
    );
    all
}

fn write_shard(path: &Path, tensors: &[&Tensor], seed: &mut u64) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut at = 0;
    for tensor in tensors {
        let kind = if tensor.width() == 2 { "BF16" } else { "U8" };
        let end = at + tensor.bytes();
        let entry = json!({"dtype": kind, "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for tensor in tensors {
        *seed += 1;
        write_tensor(
            &mut file,
            tensor,
            &mut Random(seed.wrapping_mul(0xd134_2543_de82_ef95)),
        )?;
    }
    file.flush()
}

fn write_tensor(
    file: &mut impl Write,
    tensor: &Tensor,
    random: &mut Random,
) -> std::io::Result<()> {
    // Values come from a table, several of them by one random word.
    let table: Vec<u16> = match tensor.draw {
        Draw::Normal(mean, deviation) => (0..4096)
            .map(|_| bf16::from_f64(mean + deviation * random.normal()).to_bits())
            .collect(),
        Draw::Codes => Vec::new(),
        Draw::Exponents(deviation) => {
            // Uniform codes have a root mean square of 2.95.
            let middle = 127.0 + (deviation / 2.95).log2();
            (0..4096)
                .map(|i| (middle.round() as u16) - u16::from(i % 4 == 0))
                .collect()
        }
    };
    let mut left = tensor.bytes();
    let mut chunk = Vec::with_capacity(1 << 16);
    while left > 0 {
        chunk.clear();
        while chunk.len() < left.min(1 << 16) {
            let word = random.word();
            let picks = (0..5).map(|i| table[(word >> (12 * i)) as usize % 4096]);
            match tensor.draw {
                Draw::Normal(..) => picks.for_each(|v| chunk.extend_from_slice(&v.to_le_bytes())),
                Draw::Exponents(_) => picks.for_each(|v| chunk.push(v as u8)),
                Draw::Codes => chunk.extend_from_slice(&word.to_le_bytes()),
            }
        }
        chunk.truncate(left);
        file.write_all(&chunk)?;
        left -= chunk.len();
    }
    Ok(())
}

fn config(layers: usize, experts: Experts) -> Value {
    let kinds = ["sliding_attention", "full_attention"];
    let quantization = match experts {
        Experts::Mxfp4 => json!({"quant_method": "mxfp4"}),
        Experts::Bf16 => Value::Null,
    };
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
        "attention_bias": true, "attention_dropout": 0.0, "eos_token_id": 200_002,
        "experts_per_token": 4, "num_experts_per_tok": 4, "num_local_experts": EXPERTS,
        "head_dim": HEAD_DIM, "hidden_act": "silu", "hidden_size": HIDDEN,
        "initial_context_length": 4096, "intermediate_size": HIDDEN,
        "layer_types": (0..layers).map(|i| kinds[i % 2]).collect::<Vec<_>>(),
        "max_position_embeddings": 131_072, "num_attention_heads": HEADS,
        "num_hidden_layers": layers, "num_key_value_heads": KV_HEADS,
        "pad_token_id": 199_999, "quantization_config": quantization,
        "rms_norm_eps": 1e-5, "rope_theta": 150_000,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn",
            "original_max_position_embeddings": 4096, "truncate": false,
        },
        "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
        "vocab_size": VOCABULARY,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str =
        "usage: synthetic_checkpoint [--experts mxfp4|bf16] DIR [LAYERS [TOKENIZER_DIR]]";
    let mut arguments = std::env::args().skip(1).peekable();
    let experts = match arguments.next_if_eq("--experts") {
        None => Experts::Mxfp4,
        Some(_) => match arguments.next().as_deref() {
            Some("mxfp4") => Experts::Mxfp4,
            Some("bf16") => Experts::Bf16,
            _ => return Err(USAGE.into()),
        },
    };
    let dir = arguments.next().ok_or(USAGE)?;
    let layers: usize = arguments.next().map_or(Ok(24), |n| n.parse())?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;

    let tensors = tensors(layers, experts);
    let total: usize = tensors.iter().map(Tensor::bytes).sum();
    let (mut shards, mut before) = (vec![Vec::new(); SHARDS], 0);
    for tensor in &tensors {
        shards[(before * SHARDS / total).min(SHARDS - 1)].push(tensor);
        before += tensor.bytes();
    }
    let (mut places, mut seed) = (Map::new(), 0);
    for (i, tensors) in shards.iter().enumerate() {
        let name = format!("model-{i:05}-of-{:05}.safetensors", SHARDS - 1);
        places.extend(tensors.iter().map(|t| (t.name.clone(), json!(name))));
        write_shard(&dir.join(&name), tensors, &mut seed)?;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": places});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string())?;
    fs::write(
        dir.join("config.json"),
        serde_json::to_string_pretty(&config(layers, experts))?,
    )?;
    if let Some(tokenizer) = arguments.next() {
        for file in [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
        ] {
            fs::copy(Path::new(&tokenizer).join(file), dir.join(file))?;
        }
    }
    println!(
        "{}: {layers} layers, {:.2} GB of tensors",
        dir.display(),
        total as f64 / 1e9
    );
    Ok(())
}
