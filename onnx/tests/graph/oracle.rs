//! The architecture in float64, slow and independent of everything it judges:
//! its own safetensors reader, its own MXFP4 and YaRN, no cache, no chunks.

use std::cell::Cell;
use std::collections::HashMap;
use std::f64::consts::PI;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// A model in memory.
pub struct Oracle {
    config: Value,
    tensors: HashMap<String, Vec<u8>>,
    narrowest: Cell<f64>,
}

const FP4: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

impl Oracle {
    /// Reads every `*.safetensors` of a folder.
    pub fn open(dir: &Path) -> Self {
        let config = fs::read(dir.join("config.json")).expect("config.json");
        let mut tensors = HashMap::new();
        for entry in fs::read_dir(dir).expect("checkpoint folder") {
            let path = entry.expect("folder entry").path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                read_safetensors(&fs::read(path).expect("shard"), &mut tensors);
            }
        }
        Self::new(&config, tensors)
    }

    fn new(config: &[u8], tensors: HashMap<String, Vec<u8>>) -> Self {
        Self {
            config: serde_json::from_slice(config).expect("config.json"),
            tensors,
            narrowest: Cell::new(f64::INFINITY),
        }
    }

    /// By how much, in router logits, the closest choice of an expert was made
    /// so far. Who computes in float32 may well choose the other one where this
    /// is as small as its own rounding.
    pub fn narrowest_choice(&self) -> f64 {
        self.narrowest.get()
    }

    fn int(&self, key: &str) -> usize {
        self.config[key].as_u64().expect(key) as usize
    }

    fn float(&self, key: &str) -> f64 {
        self.config[key].as_f64().expect(key)
    }

    fn raw(&self, name: &str) -> &[u8] {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"))
    }

    fn bf16(&self, name: &str) -> Vec<f64> {
        let widen = |b: &[u8]| f64::from(f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])));
        self.raw(name).chunks_exact(2).map(widen).collect()
    }

    /// Logits of the tokens at `positions`, one row each.
    pub fn logits(&self, ids: &[u32], positions: &[usize]) -> Vec<Vec<f64>> {
        let hidden = self.int("hidden_size");
        let embedding = self.bf16("model.embed_tokens.weight");
        let row = |id: &u32| embedding[*id as usize * hidden..][..hidden].to_vec();
        let mut x: Vec<Vec<f64>> = ids.iter().map(row).collect();
        for layer in 0..self.int("num_hidden_layers") {
            self.attention(layer, &mut x);
            self.experts(layer, &mut x);
        }
        let norm = self.bf16("model.norm.weight");
        let head = self.bf16("lm_head.weight");
        let row = |p: &usize| matvec(&head, &self.rms_norm(&x[*p], &norm), &[]);
        positions.iter().map(row).collect()
    }

    fn rms_norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.float("rms_norm_eps")).sqrt();
        x.iter().zip(weight).map(|(v, w)| v * scale * w).collect()
    }

    fn attention(&self, layer: usize, x: &mut [Vec<f64>]) {
        let (heads, kv_heads) = (
            self.int("num_attention_heads"),
            self.int("num_key_value_heads"),
        );
        let dim = self.int("head_dim");
        let prefix = format!("model.layers.{layer}");
        let norm = self.bf16(&format!("{prefix}.input_layernorm.weight"));
        let normed: Vec<_> = x.iter().map(|x| self.rms_norm(x, &norm)).collect();
        let project = |part: &str, inputs: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let weight = self.bf16(&format!("{prefix}.self_attn.{part}_proj.weight"));
            let bias = self.bf16(&format!("{prefix}.self_attn.{part}_proj.bias"));
            inputs.iter().map(|x| matvec(&weight, x, &bias)).collect()
        };
        let (mut q, mut k) = (project("q", &normed), project("k", &normed));
        let v = project("v", &normed);
        let frequencies = self.yarn(dim);
        for rows in [&mut q, &mut k] {
            for (position, row) in rows.iter_mut().enumerate() {
                for head in row.chunks_exact_mut(dim) {
                    self.rotate(head, position, &frequencies);
                }
            }
        }
        let sinks = self.bf16(&format!("{prefix}.self_attn.sinks"));
        let sliding = self.config["layer_types"][layer] == "sliding_attention";
        let window = if sliding {
            self.int("sliding_window")
        } else {
            usize::MAX
        };
        let mut mixed = vec![vec![0.0; heads * dim]; x.len()];
        for (position, row) in mixed.iter_mut().enumerate() {
            let first = (position + 1).saturating_sub(window);
            for (head, out) in row.chunks_exact_mut(dim).enumerate() {
                let at = head / (heads / kv_heads) * dim;
                let query = &q[position][head * dim..][..dim];
                let scores: Vec<f64> = (first..=position)
                    .map(|p| dot(query, &k[p][at..][..dim]) / (dim as f64).sqrt())
                    .collect();
                let largest = scores.iter().copied().fold(sinks[head], f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total = weights.iter().sum::<f64>() + (sinks[head] - largest).exp();
                for (weight, p) in weights.iter().zip(first..) {
                    for (o, v) in out.iter_mut().zip(&v[p][at..][..dim]) {
                        *o += weight / total * v;
                    }
                }
            }
        }
        add(x, &project("o", &mixed));
    }

    /// Of transformers 5, or as published.
    fn rope(&self) -> &Value {
        let newer = self.config.get("rope_parameters");
        newer.unwrap_or(&self.config["rope_scaling"])
    }

    /// Inverse frequencies, after the definition in the YaRN paper's code.
    fn yarn(&self, dim: usize) -> Vec<f64> {
        let rope = self.rope();
        let get = |key: &str| rope[key].as_f64().expect(key);
        let base = rope.get("rope_theta").unwrap_or(&self.config["rope_theta"]);
        let base = base.as_f64().expect("rope_theta");
        let original = get("original_max_position_embeddings");
        let find = |rotations: f64| {
            dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln())
        };
        assert_eq!(rope["truncate"], Value::Bool(false));
        let low = find(get("beta_fast")).max(0.0);
        let high = find(get("beta_slow")).min(dim as f64 - 1.0);
        let frequency = |i: usize| {
            let plain = base.powf(-((2 * i) as f64) / dim as f64);
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            plain / get("factor") * ramp + plain * (1.0 - ramp)
        };
        (0..dim / 2).map(frequency).collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize, frequencies: &[f64]) {
        let factor = self.rope()["factor"].as_f64().expect("factor");
        let concentration = 0.1 * factor.ln() + 1.0;
        let (first, second) = head.split_at_mut(frequencies.len());
        for ((a, b), frequency) in first.iter_mut().zip(second).zip(frequencies) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (x, y) = (*a, *b);
            *a = (x * cos - y * sin) * concentration;
            *b = (y * cos + x * sin) * concentration;
        }
    }

    fn experts(&self, layer: usize, x: &mut [Vec<f64>]) {
        let prefix = format!("model.layers.{layer}");
        let norm = self.bf16(&format!("{prefix}.post_attention_layernorm.weight"));
        let router = self.bf16(&format!("{prefix}.mlp.router.weight"));
        let router_bias = self.bf16(&format!("{prefix}.mlp.router.bias"));
        let gate_up = self.matrices(&format!("{prefix}.mlp.experts.gate_up_proj"));
        let down = self.matrices(&format!("{prefix}.mlp.experts.down_proj"));
        let limit = self.config["swiglu_limit"].as_f64().unwrap_or(7.0);
        for x in x {
            let input = self.rms_norm(x, &norm);
            let scores = matvec(&router, &input, &router_bias);
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let top = self.int("num_experts_per_tok");
            if let (Some(last), Some(next)) = (order.get(top - 1), order.get(top)) {
                let margin = scores[*last] - scores[*next];
                self.narrowest.set(self.narrowest.get().min(margin));
            }
            order.truncate(top);
            let weights: Vec<f64> = order
                .iter()
                .map(|e| (scores[*e] - scores[order[0]]).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (expert, weight) in order.into_iter().zip(weights) {
                let pairs = gate_up.apply(expert, &input);
                let inner: Vec<f64> = pairs
                    .chunks_exact(2)
                    .map(|pair| {
                        let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
                        (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
                    })
                    .collect();
                let output = down.apply(expert, &inner);
                for (x, y) in x.iter_mut().zip(output) {
                    *x += weight / total * y;
                }
            }
        }
    }

    fn matrices(&self, name: &str) -> Experts<'_> {
        let experts = self.int("num_local_experts");
        let bias = self.bf16(&format!("{name}_bias"));
        Experts {
            rows: bias.len() / experts,
            weights: match self.tensors.contains_key(name) {
                true => Weights::Floats(self.bf16(name)),
                false => Weights::Mxfp4 {
                    blocks: self.raw(&format!("{name}_blocks")),
                    scales: self.raw(&format!("{name}_scales")),
                },
            },
            bias,
        }
    }
}

/// The stacked matrices of all experts.
struct Experts<'a> {
    rows: usize,
    weights: Weights<'a>,
    bias: Vec<f64>,
}

enum Weights<'a> {
    /// As published, rows of outputs.
    Mxfp4 { blocks: &'a [u8], scales: &'a [u8] },
    /// As in transformers, rows of inputs.
    Floats(Vec<f64>),
}

impl Experts<'_> {
    fn apply(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        match &self.weights {
            Weights::Mxfp4 { blocks, scales } => self.apply_mxfp4(expert, blocks, scales, x),
            Weights::Floats(weights) => {
                let bias = self.bias.iter().skip(expert * self.rows);
                let mut sums: Vec<f64> = bias.take(self.rows).copied().collect();
                let inputs = weights.chunks_exact(self.rows).skip(expert * x.len());
                for (row, x) in inputs.zip(x) {
                    for (sum, weight) in sums.iter_mut().zip(row) {
                        *sum += weight * x;
                    }
                }
                sums
            }
        }
    }

    fn apply_mxfp4(&self, expert: usize, blocks: &[u8], scales: &[u8], x: &[f64]) -> Vec<f64> {
        let per_row = x.len() / 32;
        let row = |row: usize| {
            let mut sum = self.bias[row];
            for (block, x) in (row * per_row..).zip(x.chunks_exact(32)) {
                let bytes = &blocks[block * 16..][..16];
                let mut part = 0.0;
                for (byte, x) in bytes.iter().zip(x.chunks_exact(2)) {
                    part += FP4[usize::from(byte & 15)] * x[0] + FP4[usize::from(byte >> 4)] * x[1];
                }
                sum += part * 2f64.powi(i32::from(scales[block]) - 127);
            }
            sum
        };
        (expert * self.rows..(expert + 1) * self.rows)
            .map(row)
            .collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `matrix · x + bias`; no bias when it is empty.
fn matvec(matrix: &[f64], x: &[f64], bias: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(x.len()).enumerate();
    rows.map(|(i, row)| dot(row, x) + bias.get(i).unwrap_or(&0.0))
        .collect()
}

fn add(x: &mut [Vec<f64>], update: &[Vec<f64>]) {
    for (x, update) in x.iter_mut().flatten().zip(update.iter().flatten()) {
        *x += update;
    }
}

fn read_safetensors(file: &[u8], tensors: &mut HashMap<String, Vec<u8>>) {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).expect("header");
    let data = &file[8 + length..];
    for (name, info) in header.as_object().expect("an object") {
        if name != "__metadata__" {
            let offset = |i: usize| info["data_offsets"][i].as_u64().expect("an offset") as usize;
            tensors.insert(name.clone(), data[offset(0)..offset(1)].to_vec());
        }
    }
}
