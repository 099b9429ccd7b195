//! A checkpoint of any size that takes next to no disk: shards with true headers whose
//! tensors are holes until something is written into them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use gptoss_onnx::checkpoint::{Config, Elements, ExpertFormat, TensorSpec, expected};
use serde_json::{Map, Value, json};

/// Most bytes of a shard, as of the largest that is published.
const SHARD: u64 = 4_625_000_000;

/// The files, and where in them each tensor begins.
pub struct Holes {
    files: Vec<File>,
    places: BTreeMap<String, (usize, u64)>,
}

fn element(spec: &TensorSpec) -> (&'static str, u64) {
    match spec.elements {
        Elements::Bytes => ("U8", 1),
        Elements::Floats => ("BF16", 2),
    }
}

fn length(spec: &TensorSpec) -> u64 {
    spec.shape.iter().product::<usize>() as u64 * element(spec).1
}

impl Holes {
    /// Makes shards and their index for the `config.json` in a folder.
    pub fn dig(dir: &Path) -> Self {
        let json = fs::read(dir.join("config.json")).expect("config.json");
        let config = Config::parse(&json, None).expect("a sound configuration");
        let formats = vec![ExpertFormat::Mxfp4; config.layers];
        let (mut shards, mut filled) = (vec![Vec::new()], 0);
        for spec in expected(&config, &formats) {
            if filled + length(&spec) > SHARD {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += length(&spec);
            shards.last_mut().expect("at least one").push(spec);
        }
        let (mut files, mut places, mut index) = (Vec::new(), BTreeMap::new(), Map::new());
        for (i, specs) in shards.iter().enumerate() {
            let name = format!("model-{i:05}-of-{:05}.safetensors", shards.len() - 1);
            let (file, starts) = dig_shard(&dir.join(&name), specs);
            files.push(file);
            for (spec, start) in specs.iter().zip(starts) {
                places.insert(spec.name.clone(), (i, start));
                index.insert(spec.name.clone(), json!(name));
            }
        }
        let index = json!({"metadata": {}, "weight_map": index});
        let path = dir.join("model.safetensors.index.json");
        fs::write(path, index.to_string()).expect("the index");
        Self { files, places }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.files.len()
    }

    /// Writes bytes into a tensor, from an offset in it on.
    pub fn write(&self, tensor: &str, offset: u64, bytes: &[u8]) {
        let (shard, start) = self.places[tensor];
        let written = self.files[shard].write_all_at(bytes, start + offset);
        written.expect("space for a few bytes");
    }
}

/// One shard, and where its tensors begin.
fn dig_shard(path: &Path, specs: &[TensorSpec]) -> (File, Vec<u64>) {
    let (mut header, mut ends) = (Map::new(), vec![0]);
    for spec in specs {
        let start = ends[ends.len() - 1];
        let end = start + length(spec);
        let (dtype, _) = element(spec);
        let entry = json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [start, end]});
        header.insert(spec.name.clone(), entry);
        ends.push(end);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let file = File::create(path).expect("a shard");
    let data = 8 + header.len() as u64;
    let written = file
        .write_all_at(&(header.len() as u64).to_le_bytes(), 0)
        .and_then(|()| file.write_all_at(header.as_bytes(), 8))
        .and_then(|()| file.set_len(data + ends[ends.len() - 1]));
    written.expect("a file system with holes");
    ends.pop();
    (file, ends.into_iter().map(|start| data + start).collect())
}
