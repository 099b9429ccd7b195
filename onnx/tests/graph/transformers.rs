//! Checkpoints as transformers saves fine-tunes: experts dequantized, transposed, as
//! floats. Written after `convert_moe_packed_tensors` and `GptOssConfig` of transformers
//! 5.24, and independent of what it tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

/// A tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

const FP4: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Reads every shard of a folder.
pub fn read(dir: &Path) -> Tensors {
    let mut tensors = Tensors::new();
    for entry in fs::read_dir(dir).expect("checkpoint folder") {
        let path = entry.expect("folder entry").path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            read_shard(&fs::read(path).expect("shard"), &mut tensors);
        }
    }
    tensors
}

fn read_shard(file: &[u8], tensors: &mut Tensors) {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("header");
    let data = &file[8 + length..];
    for (name, info) in header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
    {
        let number = |v: &Value| v.as_u64().expect("a number") as usize;
        let numbers = |key: &str| -> Vec<usize> {
            let list = info[key].as_array().expect("a list");
            list.iter().map(number).collect()
        };
        let offsets = numbers("data_offsets");
        let tensor = Tensor {
            dtype: info["dtype"].as_str().expect("a type").to_owned(),
            shape: numbers("shape"),
            bytes: data[offsets[0]..offsets[1]].to_vec(),
        };
        tensors.insert(name, tensor);
    }
}

/// Every pair of blocks and scales as one tensor `[E, K, N]`.
pub fn dequantize(tensors: &mut Tensors) {
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names.iter().filter_map(|name| name.strip_suffix("_blocks")) {
        let blocks = tensors.remove(&format!("{name}_blocks")).expect("blocks");
        let scales = tensors.remove(&format!("{name}_scales")).expect("scales");
        tensors.insert(name.to_owned(), unpack(&blocks, &scales));
    }
}

fn unpack(blocks: &Tensor, scales: &Tensor) -> Tensor {
    let [experts, outputs, groups, 16] = blocks.shape[..] else {
        panic!("blocks of the shape {:?}", blocks.shape)
    };
    let inputs = 32 * groups;
    let mut values = vec![bf16::ZERO; experts * inputs * outputs];
    for expert in 0..experts {
        for output in 0..outputs {
            for input in 0..inputs {
                let block = (expert * outputs + output) * groups + input / 32;
                let byte = blocks.bytes[block * 16 + input % 32 / 2];
                let code = byte >> (4 * (input % 2)) & 15;
                let unit = 2f64.powi(i32::from(scales.bytes[block]) - 127);
                // FP4 as float32 keeps the sign of zero.
                let value = (f64::from(FP4[usize::from(code)]) * unit) as f32;
                values[(expert * inputs + input) * outputs + output] = bf16::from_f32(value);
            }
        }
    }
    Tensor {
        dtype: "BF16".into(),
        shape: vec![experts, inputs, outputs],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Every bfloat16 tensor as another float type.
pub fn convert(tensors: &mut Tensors, dtype: &str) {
    for tensor in tensors.values_mut().filter(|t| t.dtype == "BF16") {
        let words = tensor.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let values = words.map(|b| bf16::from_le_bytes(b).to_f32());
        tensor.bytes = match dtype {
            "F16" => values
                .flat_map(|v| f16::from_f32(v).to_le_bytes())
                .collect(),
            "F32" => values.flat_map(f32::to_le_bytes).collect(),
            other => panic!("no {other}"),
        };
        tensor.dtype = dtype.to_owned();
    }
}

/// config.json as version 5 writes it for a model that is not quantized.
pub fn config(published: &[u8]) -> Vec<u8> {
    let mut config: Map<String, Value> = serde_json::from_slice(published).expect("config.json");
    config.remove("quantization_config").expect("published");
    let theta = config.remove("rope_theta").expect("published");
    let mut rope = config.remove("rope_scaling").expect("published");
    rope["rope_theta"] = theta;
    config.insert("rope_parameters".into(), rope);
    config.insert("swiglu_alpha".into(), json!(1.702));
    config.insert("dtype".into(), json!("bfloat16"));
    config.insert("transformers_version".into(), json!("5.24.0"));
    serde_json::to_vec_pretty(&config).expect("JSON")
}

/// Writes tensors as so many shards, with an index where there are several.
pub fn write(tensors: &Tensors, shards: usize, dir: &Path) {
    let all: Vec<_> = tensors.iter().collect();
    let mut places = BTreeMap::new();
    for (i, group) in all.chunks(all.len().div_ceil(shards)).enumerate() {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        places.extend(
            group
                .iter()
                .map(|(name, _)| ((*name).clone(), file.clone())),
        );
        fs::write(dir.join(file), shard(group)).expect("shard");
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": places});
        let path = dir.join("model.safetensors.index.json");
        fs::write(path, index.to_string()).expect("index");
    }
}

fn shard(tensors: &[(&String, &Tensor)]) -> Vec<u8> {
    let mut header = Map::from_iter([("__metadata__".into(), json!({"format": "pt"}))]);
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
        });
        header.insert((*name).clone(), info);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(data);
    file
}

/// Saves the published checkpoint in `from` as a fine-tune that changed nothing, after a
/// last `change`.
pub fn save(from: &Path, to: &Path, shards: usize, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = read(from);
    dequantize(&mut tensors);
    change(&mut tensors);
    fs::create_dir_all(to).expect("folder");
    write(&tensors, shards, to);
    for entry in fs::read_dir(from).expect("checkpoint folder") {
        let path = entry.expect("folder entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let content = match name.as_str() {
            "config.json" => config(&fs::read(&path).expect("config.json")),
            "model.safetensors.index.json" | "golden.json" | "taught.json" => continue,
            name if name.ends_with(".json") => fs::read(&path).expect("a small file"),
            _ => continue,
        };
        fs::write(to.join(name), content).expect("a small file");
    }
}
