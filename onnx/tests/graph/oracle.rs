//! The architecture in float64, slow and independent of everything it judges:
//! its own safetensors reader, its own MXFP4, int8 and YaRN, no cache, no chunks.
//!
//! Weights stay where they are, in mapped files: a row is widened while it is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::f64::consts::PI;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use memmap2::Mmap;
use serde_json::Value;

/// A model in mapped files.
pub struct Oracle {
    config: Value,
    tensors: HashMap<String, Tensor>,
    int8: bool,
    routed: Mutex<Routed>,
}

/// Where a tensor lies.
struct Tensor {
    file: Arc<Mmap>,
    range: Range<usize>,
}

/// What the routers have chosen so far.
struct Routed {
    /// Of each token the closest choice of any layer.
    closest: BTreeMap<usize, f64>,
    /// Layer and expert.
    experts: BTreeSet<(usize, usize)>,
}

/// Weights that share a scale where matrices are rounded to int8.
const MATRIX_BLOCK: usize = 64;
const EMBEDDING_BLOCK: usize = 32;

const FP4: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

impl Oracle {
    /// Maps every `*.safetensors` of a folder.
    pub fn open(dir: &Path) -> Self {
        let config = fs::read(dir.join("config.json")).expect("config.json");
        let mut tensors = HashMap::new();
        for entry in fs::read_dir(dir).expect("checkpoint folder") {
            let path = entry.expect("folder entry").path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let file = fs::File::open(path).expect("shard");
                // SAFETY: the checkpoint is a test's own and nobody changes it.
                let map = unsafe { Mmap::map(&file) }.expect("shard");
                read_safetensors(&Arc::new(map), &mut tensors);
            }
        }
        Self {
            config: serde_json::from_slice(&config).expect("config.json"),
            tensors,
            int8: false,
            routed: Mutex::new(Routed {
                closest: BTreeMap::new(),
                experts: BTreeSet::new(),
            }),
        }
    }

    /// The same with the embedding, attention's matrices and the head rounded to int8,
    /// as an export says that it does: of a checkpoint that loses something by it, what
    /// the export means.
    pub fn rounded_to_int8(mut self) -> Self {
        self.int8 = true;
        self
    }

    /// By how much, in router logits, the closest choice of an expert was made
    /// so far. Who computes in float32 may well choose the other one where this
    /// is as small as its own rounding.
    pub fn narrowest_choice(&self) -> f64 {
        let routed = self.routed.lock().expect("no panic");
        let closest = routed.closest.values().copied();
        closest.fold(f64::INFINITY, f64::min)
    }

    /// The same of the token at one position.
    pub fn closest_choice_at(&self, position: usize) -> f64 {
        let routed = self.routed.lock().expect("no panic");
        routed.closest[&position]
    }

    /// How many experts of a layer some token went to so far.
    pub fn experts_chosen(&self, layer: usize) -> usize {
        let routed = self.routed.lock().expect("no panic");
        routed.experts.range((layer, 0)..(layer + 1, 0)).count()
    }

    fn int(&self, key: &str) -> usize {
        self.config[key].as_u64().expect(key) as usize
    }

    fn float(&self, key: &str) -> f64 {
        self.config[key].as_f64().expect(key)
    }

    fn raw(&self, name: &str) -> &[u8] {
        let tensor = self.tensors.get(name);
        let Tensor { file, range } = tensor.unwrap_or_else(|| panic!("{name} is missing"));
        &file[range.clone()]
    }

    fn bf16(&self, name: &str) -> Vec<f64> {
        widen(self.raw(name))
    }

    /// One row of a matrix, rounded where all of it is, in blocks of so many weights.
    fn row(&self, bytes: &[u8], row: usize, columns: usize, block: usize) -> Vec<f64> {
        let mut row = widen(&bytes[2 * columns * row..][..2 * columns]);
        if self.int8 {
            row.chunks_mut(block).for_each(round_to_int8);
        }
        row
    }

    /// `matrix · x + bias` for each `x`; no bias when it is empty.
    fn linear(&self, name: &str, inputs: &[&[f64]], bias: &[f64]) -> Vec<Vec<f64>> {
        let columns = inputs[0].len();
        let bytes = self.raw(name);
        let rows = bytes.len() / 2 / columns;
        let products = on_all_cores(rows, |i| {
            let row = self.row(bytes, i, columns, MATRIX_BLOCK);
            let bias = bias.get(i).unwrap_or(&0.0);
            let each = inputs.iter().map(|x| dot(&row, x) + bias);
            each.collect::<Vec<f64>>()
        });
        let output = |i| products.iter().map(|row| row[i]).collect();
        (0..inputs.len()).map(output).collect()
    }

    /// Logits of the tokens at `positions`, one row each.
    pub fn logits(&self, ids: &[u32], positions: &[usize]) -> Vec<Vec<f64>> {
        let hidden = self.int("hidden_size");
        let embedding = self.raw("model.embed_tokens.weight");
        let row = |id: &u32| self.row(embedding, *id as usize, hidden, EMBEDDING_BLOCK);
        let mut x: Vec<Vec<f64>> = ids.iter().map(row).collect();
        for layer in 0..self.int("num_hidden_layers") {
            self.attention(layer, &mut x);
            self.experts(layer, &mut x);
        }
        let norm = self.bf16("model.norm.weight");
        let wanted = positions.iter().map(|p| self.rms_norm(&x[*p], &norm));
        let wanted: Vec<Vec<f64>> = wanted.collect();
        self.linear("lm_head.weight", &slices(&wanted), &[])
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
            let bias = self.bf16(&format!("{prefix}.self_attn.{part}_proj.bias"));
            let weight = format!("{prefix}.self_attn.{part}_proj.weight");
            self.linear(&weight, &slices(inputs), &bias)
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
        let updates = on_all_cores(x.len(), |token| {
            let input = self.rms_norm(&x[token], &norm);
            let scores = matvec(&router, &input, &router_bias);
            let mut update = vec![0.0; input.len()];
            for (expert, weight) in self.route(layer, token, &scores) {
                let inner = self.activate(&gate_up.apply(expert, &input));
                for (sum, y) in update.iter_mut().zip(down.apply(expert, &inner)) {
                    *sum += weight * y;
                }
            }
            update
        });
        add(x, &updates);
    }

    /// The experts that a token goes to, and the weight of each.
    fn route(&self, layer: usize, token: usize, scores: &[f64]) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let top = self.int("num_experts_per_tok");
        let mut routed = self.routed.lock().expect("no panic");
        if let (Some(last), Some(next)) = (order.get(top - 1), order.get(top)) {
            let margin = scores[*last] - scores[*next];
            let closest = routed.closest.entry(token).or_insert(f64::INFINITY);
            *closest = closest.min(margin);
        }
        order.truncate(top);
        routed.experts.extend(order.iter().map(|e| (layer, *e)));
        drop(routed);
        let weight = |e: &usize| (scores[*e] - scores[order[0]]).exp();
        let total: f64 = order.iter().map(weight).sum();
        order.iter().map(|e| (*e, weight(e) / total)).collect()
    }

    /// The gated activation of gates and ups in turns.
    fn activate(&self, pairs: &[f64]) -> Vec<f64> {
        let limit = self.config["swiglu_limit"].as_f64().unwrap_or(7.0);
        let one = |pair: &[f64]| {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
        };
        pairs.chunks_exact(2).map(one).collect()
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

/// In eight sums, so that additions do not wait for one another.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    rest + sums.iter().sum::<f64>()
}

/// `matrix · x + bias`.
fn matvec(matrix: &[f64], x: &[f64], bias: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(x.len()).zip(bias);
    rows.map(|(row, bias)| dot(row, x) + bias).collect()
}

fn add(x: &mut [Vec<f64>], update: &[Vec<f64>]) {
    for (x, update) in x.iter_mut().flatten().zip(update.iter().flatten()) {
        *x += update;
    }
}

fn slices(rows: &[Vec<f64>]) -> Vec<&[f64]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// bfloat16 numbers.
fn widen(bytes: &[u8]) -> Vec<f64> {
    let one = |b: &[u8]| f64::from(f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])));
    bytes.chunks_exact(2).map(one).collect()
}

/// What is left of a block's weights: in float32, as an export reckons, whole numbers
/// up to 127 of a scale that is the largest magnitude's 127th part, ties to even.
fn round_to_int8(block: &mut [f64]) {
    let largest = block.iter().fold(0.0, |most: f64, w| most.max(w.abs())) as f32;
    let scale = largest / 127.0;
    let inverse = 1.0 / scale;
    for weight in block {
        *weight = match inverse.is_finite() {
            true => f64::from((*weight as f32 * inverse).round_ties_even()) * f64::from(scale),
            false => 0.0,
        };
    }
}

/// The results of `task` for `0..count`, in order.
fn on_all_cores<T: Send>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads).max(1);
    let task = &task;
    std::thread::scope(|scope| {
        let starts = (0..count).step_by(share);
        let parts: Vec<_> = starts
            .map(|start| start..count.min(start + share))
            .map(|range| scope.spawn(move || range.map(task).collect::<Vec<T>>()))
            .collect();
        let done = parts.into_iter().map(|part| part.join().expect("no panic"));
        done.flatten().collect()
    })
}

fn read_safetensors(file: &Arc<Mmap>, tensors: &mut HashMap<String, Tensor>) {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let start = 8 + length;
    let header: Value = serde_json::from_slice(&file[8..start]).expect("header");
    for (name, info) in header.as_object().expect("an object") {
        if name != "__metadata__" {
            let offset = |i: usize| info["data_offsets"][i].as_u64().expect("an offset") as usize;
            let tensor = Tensor {
                file: file.clone(),
                range: start + offset(0)..start + offset(1),
            };
            tensors.insert(name.clone(), tensor);
        }
    }
}
