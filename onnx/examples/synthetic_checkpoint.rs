//! Writes a checkpoint with made-up weights in the published layout, of any
//! number of layers at the real width, in little memory:
//!
//! ```text
//! cargo run --release -p gptoss-onnx --example synthetic_checkpoint -- \
//!     [--size 20b|120b] [--values random|grid] [--experts mxfp4|bf16]
//!     [--vocabulary ROWS] DIR [LAYERS [TOKENIZER_DIR]]
//! ```
//!
//! 24 layers of 32 experts (the default) make the 13.8 GB of gpt-oss-20b, or with
//! `--experts bf16`, as transformers saves a fine-tune, 41.8 GB. `--size 120b` has 128
//! experts a layer and, unless said otherwise, 36 layers: 65.2 GB; two of them are 5.7 GB.
//! `--vocabulary` makes embedding and head smaller than the published 201 088 rows.
//!
//! `--values random` (the default) draws weights that fill their formats. With `grid`
//! each row of a matrix holds only 0, one number and its negative: int8, int4 and
//! float16 lose nothing of it, and what an export computes can be held to a reference
//! exactly. Every layer has bytes of its own; the same arguments give the same bytes.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

const HIDDEN: usize = 2880;
const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 201_088;
/// Shards of 20b's sizes, whatever the number of layers.
const SHARDS: usize = 3;
/// Most bytes in a shard of 120b's: those of the largest published one, beyond 2^32.
const SHARD_BYTES: usize = 4_625_000_000;
/// Share of a grid's weights that are not 0, of 4096.
const DENSITY: u64 = 614;

/// How the bytes of a tensor are drawn.
#[derive(Clone, Copy)]
enum Draw {
    /// bf16, normal with this mean and deviation.
    Normal(f64, f64),
    /// Two MXFP4 codes a byte, uniform.
    Codes,
    /// E8M0 exponents so that MXFP4 weights have about this deviation.
    Exponents(f64),
    /// bf16, in each row 0, one number or its negative, of about this deviation.
    Grid(f64),
    /// Two MXFP4 codes a byte: 0, 4 or -4.
    GridCodes,
    /// E8M0 exponents, one for a row, so that those codes have about this deviation.
    GridExponents(f64),
}

/// Which values a checkpoint's matrices have.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Random,
    Grid,
}

impl Values {
    /// For a matrix of this deviation.
    fn matrix(self, deviation: f64) -> Draw {
        match self {
            Values::Random => Draw::Normal(0.0, deviation),
            Values::Grid => Draw::Grid(deviation),
        }
    }

    /// For the blocks and scales of experts of this deviation.
    fn mxfp4(self, deviation: f64) -> (Draw, Draw) {
        match self {
            Values::Random => (Draw::Codes, Draw::Exponents(deviation)),
            Values::Grid => (Draw::GridCodes, Draw::GridExponents(deviation)),
        }
    }
}

/// How the experts' matrices are stored.
#[derive(Clone, Copy, PartialEq)]
enum Experts {
    /// As published.
    Mxfp4,
    /// As in a fine-tune, normal and so on no grid.
    Bf16,
}

/// What to write.
struct Shape {
    layers: usize,
    /// Experts of a layer.
    count: usize,
    experts: Experts,
    values: Values,
    vocabulary: usize,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    draw: Draw,
}

impl Tensor {
    fn width(&self) -> usize {
        if matches!(self.draw, Draw::Normal(..) | Draw::Grid(_)) {
            2
        } else {
            1
        }
    }

    /// Bytes of what a row of its matrix has; 16 of MXFP4's codes are a block.
    fn row_bytes(&self) -> usize {
        let inner = match self.draw {
            Draw::GridCodes => 2,
            _ => 1,
        };
        let inner = &self.shape[self.shape.len() - inner..];
        inner.iter().product::<usize>() * self.width()
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

fn tensors(shape: &Shape) -> Vec<Tensor> {
    let Shape { values, count, .. } = *shape;
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
        &[shape.vocabulary, HIDDEN],
        values.matrix(3.0 * per_row),
    );
    push(
        "model.embed_tokens.weight".into(),
        &[shape.vocabulary, HIDDEN],
        values.matrix(1.0),
    );
    for layer in 0..shape.layers {
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
                values.matrix(level),
            );
            push(
                &format!("self_attn.{part}_proj.bias"),
                &[rows],
                Draw::Normal(0.0, 0.2),
            );
        }
        push(
            "mlp.router.weight",
            &[count, HIDDEN],
            values.matrix(1.5 * per_row),
        );
        push("mlp.router.bias", &[count], Draw::Normal(0.0, 0.4));
        for (part, rows, level) in [("gate_up", 2 * HIDDEN, 2.0), ("down", HIDDEN, 0.3)] {
            let name = |kind: &str| format!("mlp.experts.{part}_proj{kind}");
            let blocks = [count, rows, HIDDEN / 32, 16];
            let deviation = level * per_row;
            match shape.experts {
                Experts::Mxfp4 => {
                    let (codes, exponents) = values.mxfp4(deviation);
                    push(&name("_blocks"), &blocks, codes);
                    push(&name("_scales"), &blocks[..3], exponents);
                }
                Experts::Bf16 => {
                    let shape = [count, HIDDEN, rows];
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
    if let Draw::Grid(_) | Draw::GridCodes | Draw::GridExponents(_) = tensor.draw {
        return write_grid(file, tensor, random);
    }
    // Values come from a table, several of them by one random word.
    let table: Vec<u16> = match tensor.draw {
        Draw::Normal(mean, deviation) => (0..4096)
            .map(|_| bf16::from_f64(mean + deviation * random.normal()).to_bits())
            .collect(),
        Draw::Codes | Draw::Grid(_) | Draw::GridCodes | Draw::GridExponents(_) => Vec::new(),
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
                _ => chunk.extend_from_slice(&word.to_le_bytes()),
            }
        }
        chunk.truncate(left);
        file.write_all(&chunk)?;
        left -= chunk.len();
    }
    Ok(())
}

/// Row after row, each of 0, one number and its negative.
fn write_grid(file: &mut impl Write, tensor: &Tensor, random: &mut Random) -> std::io::Result<()> {
    let share = (DENSITY as f64 / 4096.0).sqrt();
    let mut row = Vec::with_capacity(tensor.row_bytes() + 16);
    for _ in 0..tensor.bytes() / tensor.row_bytes() {
        row.clear();
        match tensor.draw {
            Draw::Grid(deviation) => {
                let size = deviation / share * (0.1 * random.normal()).exp();
                let values = [0.0, size, -size].map(|v| bf16::from_f64(v).to_le_bytes());
                let row_values = picks(random).flat_map(|pick| values[pick]);
                row.extend(row_values.take(tensor.row_bytes()));
            }
            Draw::GridCodes => {
                let mut codes = picks(random).map(|pick| [0u8, 6, 14][pick]);
                let mut byte = || Some(codes.next()? | codes.next()? << 4);
                row.extend(std::iter::from_fn(&mut byte).take(tensor.row_bytes()));
            }
            Draw::GridExponents(deviation) => {
                let middle = 127.0 + (deviation / (4.0 * share)).log2();
                let other = (random.word() & 1) as u8;
                row.resize(tensor.row_bytes(), middle.round() as u8 + other);
            }
            Draw::Normal(..) | Draw::Codes | Draw::Exponents(_) => {
                unreachable!("these have no rows")
            }
        }
        file.write_all(&row)?;
    }
    Ok(())
}

/// For ever, which of three values a weight has, the first one mostly; five by one
/// random word.
fn picks(random: &mut Random) -> impl Iterator<Item = usize> {
    let pick = |bits: u64| match bits % 4096 {
        bits if bits < DENSITY => 1 + bits as usize % 2,
        _ => 0,
    };
    std::iter::repeat_with(|| random.word())
        .flat_map(move |word| (0..5).map(move |i| pick(word >> (12 * i))))
}

fn config(shape: &Shape) -> Value {
    let layers = shape.layers;
    let kinds = ["sliding_attention", "full_attention"];
    let quantization = match shape.experts {
        Experts::Mxfp4 => json!({"quant_method": "mxfp4"}),
        Experts::Bf16 => Value::Null,
    };
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
        "attention_bias": true, "attention_dropout": 0.0,
        "eos_token_id": shape.vocabulary.min(200_003) - 1,
        "experts_per_token": 4, "num_experts_per_tok": 4, "num_local_experts": shape.count,
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
        "vocab_size": shape.vocabulary,
    })
}

/// Which tensors go together into a file.
fn shards(tensors: &[Tensor], in_parts: bool) -> Vec<Vec<&Tensor>> {
    let total: usize = tensors.iter().map(Tensor::bytes).sum();
    let (mut shards, mut before) = (vec![Vec::new()], 0);
    let mut filled = 0;
    for tensor in tensors {
        let full = match in_parts {
            true => before * SHARDS / total >= shards.len(),
            false => filled + tensor.bytes() > SHARD_BYTES,
        };
        if full {
            shards.push(Vec::new());
            filled = 0;
        }
        if let Some(last) = shards.last_mut() {
            last.push(tensor);
        }
        filled += tensor.bytes();
        before += tensor.bytes();
    }
    shards
}

/// What the command line asks for: the shape, whether it is 20b's, and the rest.
fn arguments() -> Option<(Shape, bool, Vec<String>)> {
    let mut shape = Shape {
        layers: 0,
        count: 32,
        experts: Experts::Mxfp4,
        values: Values::Random,
        vocabulary: VOCABULARY,
    };
    let mut arguments = std::env::args().skip(1).peekable();
    while let Some(option) = arguments.next_if(|word| word.starts_with("--")) {
        match (&*option, &*arguments.next()?) {
            ("--size", "20b") => shape.count = 32,
            ("--size", "120b") => shape.count = 128,
            ("--values", "random") => shape.values = Values::Random,
            ("--values", "grid") => shape.values = Values::Grid,
            ("--experts", "mxfp4") => shape.experts = Experts::Mxfp4,
            ("--experts", "bf16") => shape.experts = Experts::Bf16,
            ("--vocabulary", rows) => shape.vocabulary = rows.parse().ok().filter(|n| *n > 1)?,
            _ => return None,
        }
    }
    let small = shape.count == 32;
    let rest: Vec<String> = arguments.collect();
    shape.layers = match rest.get(1) {
        Some(layers) => layers.parse().ok().filter(|n| *n > 0)?,
        None if small => 24,
        None => 36,
    };
    let on_no_grid = shape.values == Values::Grid && shape.experts == Experts::Bf16;
    ((1..=3).contains(&rest.len()) && !on_no_grid).then_some((shape, small, rest))
}

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: synthetic_checkpoint [--size 20b|120b] [--values random|grid] \
         [--experts mxfp4|bf16] [--vocabulary ROWS] DIR [LAYERS [TOKENIZER_DIR]]";
    let (shape, small, rest) = arguments().ok_or(USAGE)?;
    let dir = Path::new(&rest[0]);
    fs::create_dir_all(dir)?;

    let tensors = tensors(&shape);
    let total: usize = tensors.iter().map(Tensor::bytes).sum();
    let shards = shards(&tensors, small);
    let (mut places, mut seed) = (Map::new(), 0);
    for (i, tensors) in shards.iter().enumerate() {
        let name = format!("model-{i:05}-of-{:05}.safetensors", shards.len() - 1);
        places.extend(tensors.iter().map(|t| (t.name.clone(), json!(name))));
        write_shard(&dir.join(&name), tensors, &mut seed)?;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": places});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string())?;
    fs::write(
        dir.join("config.json"),
        serde_json::to_string_pretty(&config(&shape))?,
    )?;
    if let Some(tokenizer) = rest.get(2) {
        for file in [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
        ] {
            fs::copy(Path::new(tokenizer).join(file), dir.join(file))?;
        }
    }
    println!(
        "{}: {} layers of {} experts, {:.2} GB of tensors",
        dir.display(),
        shape.layers,
        shape.count,
        total as f64 / 1e9
    );
    Ok(())
}
