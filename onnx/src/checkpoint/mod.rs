//! Reader of checkpoints, as published and as transformers saves fine-tunes of
//! them: sharded safetensors, mapped, and validated completely before use.
//!
//! ```text
//! config.json                        shape of the model
//! generation_config.json             (optional) all ids that end generation
//! model.safetensors.index.json       which shard holds which tensor, or
//! model.safetensors                  one file that holds them all
//! model-00000-of-00002.safetensors   shards
//! ```

mod config;
mod error;
mod formats;
mod shard;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

pub use config::{Config, LayerType, Rope};
pub use error::CheckpointError;
pub use formats::float_layers;
pub use tensors::{Dtype, Elements, ExpertFormat, Float, TensorSpec, expected};

use shard::{Bytes, Shard};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Largest small file that is read, in bytes: a bound against nonsense.
const DOCUMENT_MAX: u64 = 64 << 20;

/// A validated checkpoint. Holds the mapped files; never copies a weight.
pub struct Checkpoint {
    config: Config,
    experts: Vec<ExpertFormat>,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Placed>,
}

/// A tensor's place.
struct Placed {
    shard: usize,
    /// In the shard's file, from its first byte.
    offset: usize,
    length: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// One tensor, in place.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Little-endian elements, row-major.
    pub bytes: &'a [u8],
    /// File name of the shard.
    pub shard: &'a str,
    /// Where the bytes begin in that file.
    pub offset: u64,
}

impl Checkpoint {
    /// Maps the checkpoint in `dir` and validates all of it: architecture,
    /// every tensor's name, dtype, shape and place, and the MXFP4 scales. Floats
    /// are looked at when they are used.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let generation = read_optional(dir, "generation_config.json")?;
        let config = Config::parse(&read(dir, "config.json")?, generation.as_deref())?;
        let index = read_optional(dir, INDEX)?;
        Self::assemble(config, index.as_deref(), |name| Shard::map(dir, name))
    }

    /// The same over files in memory, as (name, content): the embedded model.
    pub fn from_static(files: &[(&'static str, &'static [u8])]) -> Result<Self, CheckpointError> {
        let find = |wanted: &str| {
            let found = files.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, content)| *content)
        };
        let need = |name: &str| {
            find(name).ok_or_else(|| CheckpointError::Read {
                path: name.into(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        };
        let config = Config::parse(need("config.json")?, find("generation_config.json"))?;
        Self::assemble(config, find(INDEX), |name| {
            shard::check_name(name)?;
            Shard::new(name, Bytes::Static(need(name)?))
        })
    }

    fn assemble(
        config: Config,
        index: Option<&[u8]>,
        open: impl Fn(&str) -> Result<Shard, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let weight_map = index.map(parse_index).transpose()?;
        let names: BTreeSet<&str> = match &weight_map {
            Some(map) => map.values().map(String::as_str).collect(),
            None => BTreeSet::from([SINGLE]),
        };
        let shards = names.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let experts = match &weight_map {
            Some(map) => formats::of_layers(config.layers, map.keys().map(String::as_str))?,
            None => {
                let named = shards.iter().flat_map(|shard| shard.metadata.tensors());
                let names: Vec<String> = named.map(|(name, _)| name).collect();
                formats::of_layers(config.layers, names.iter().map(String::as_str))?
            }
        };
        let tensors = place(&config, &experts, &shards, weight_map.as_ref())?;
        let checkpoint = Self {
            config,
            experts,
            shards,
            tensors,
        };
        checkpoint.check_scales()?;
        Ok(checkpoint)
    }

    /// The same checkpoint with a context of at most `limit` positions, which
    /// makes the exported rotary tables shorter.
    #[must_use]
    pub fn with_max_positions(mut self, limit: usize) -> Self {
        let positions = &mut self.config.max_position_embeddings;
        *positions = limit.clamp(1, (*positions).max(1));
        self
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How each layer holds its experts.
    pub fn experts(&self) -> &[ExpertFormat] {
        &self.experts
    }

    /// The tensor of that name; every one of [`expected`] is there.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let placed = self.tensors.get(name)?;
        let shard = self.shards.get(placed.shard)?;
        Some(TensorView {
            dtype: placed.dtype,
            shape: &placed.shape,
            bytes: shard
                .bytes
                .get(placed.offset..placed.offset + placed.length)?,
            shard: &shard.name,
            offset: placed.offset as u64,
        })
    }

    /// Gives back the memory that reading a part of a tensor has taken, for tensors that
    /// are larger than memory together. It can be read again.
    pub(crate) fn release(&self, name: &str, part: Range<usize>) {
        if let Some(placed) = self.tensors.get(name)
            && let Some(shard) = self.shards.get(placed.shard)
        {
            let start = placed.offset + part.start;
            shard.bytes.release(start..start + part.len());
        }
    }

    /// File names of the shards, sorted.
    pub fn shards(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|shard| shard.name.as_str())
    }

    /// E8M0 has no NaN but 255; no published scale is one.
    fn check_scales(&self) -> Result<(), CheckpointError> {
        let names = self.tensors.keys();
        for name in names.filter(|name| name.ends_with("_scales")) {
            let bytes = self.tensor(name).map_or(&[][..], |view| view.bytes);
            if let Some(index) = find_parallel(bytes, 255) {
                return Err(CheckpointError::BadValue {
                    name: name.clone(),
                    what: "a NaN scale",
                    index,
                });
            }
        }
        Ok(())
    }
}

/// Index of the first byte equal to `wanted`, on all cores for large inputs.
fn find_parallel(bytes: &[u8], wanted: u8) -> Option<usize> {
    const CHUNK: usize = 64 << 10;
    // Whether a chunk has one is decided without an early exit, which the
    // compiler turns into vector code; the exact place is wanted rarely.
    let find = |part: &[u8]| {
        let mut start = 0;
        for chunk in part.chunks(CHUNK) {
            if chunk.iter().fold(false, |any, b| any | (*b == wanted)) {
                let at = chunk.iter().position(|b| *b == wanted)?;
                return Some(start + at);
            }
            start += chunk.len();
        }
        None
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 || bytes.len() < 4 * CHUNK {
        return find(bytes);
    }
    let share = bytes.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let parts: Vec<_> = bytes
            .chunks(share)
            .map(|part| scope.spawn(move || find(part)))
            .collect();
        let results = parts.into_iter().enumerate().map(|(i, part)| {
            // A worker only reads a slice: it cannot panic.
            part.join().ok().flatten().map(|at| i * share + at)
        });
        results.collect::<Vec<_>>().into_iter().flatten().next()
    })
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
    let path = dir.join(name);
    let mut bytes = Vec::new();
    let limited = File::open(&path).and_then(|file| {
        let limit = DOCUMENT_MAX + 1;
        file.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    });
    limited.map_err(|source| CheckpointError::Read { path, source })
}

/// None where there is no such file.
fn read_optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
    match read(dir, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CheckpointError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn parse_index(bytes: &[u8]) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(bytes).map_err(|e| CheckpointError::Index(e.to_string()))?;
    for name in index.weight_map.values() {
        shard::check_name(name)?;
    }
    if index.weight_map.is_empty() {
        return Err(CheckpointError::Index("weight_map is empty".into()));
    }
    Ok(index.weight_map)
}

/// Finds every expected tensor, and no other, in the shards.
fn place(
    config: &Config,
    experts: &[ExpertFormat],
    shards: &[Shard],
    weight_map: Option<&BTreeMap<String, String>>,
) -> Result<BTreeMap<String, Placed>, CheckpointError> {
    let by_name: BTreeMap<&str, usize> = shards
        .iter()
        .enumerate()
        .map(|(i, shard)| (shard.name.as_str(), i))
        .collect();
    let mut tensors = BTreeMap::new();
    for spec in expected(config, experts) {
        let file = match weight_map {
            None => SINGLE,
            Some(map) => map
                .get(&spec.name)
                .ok_or_else(|| missing(&spec.name, INDEX))?,
        };
        // `shards` was made from the same names.
        let index = *by_name.get(file).ok_or_else(|| missing(&spec.name, file))?;
        let placed = place_one(&spec, index, &shards[index])?;
        tensors.insert(spec.name, placed);
    }
    for shard in shards {
        let mut names: Vec<String> = shard.metadata.tensors().into_keys().collect();
        names.sort();
        for name in names {
            let placed = tensors.get(&name).map(|placed| placed.shard);
            if placed != by_name.get(shard.name.as_str()).copied() {
                return Err(CheckpointError::UnexpectedTensor {
                    name,
                    shard: shard.name.clone(),
                });
            }
        }
    }
    Ok(tensors)
}

fn missing(name: &str, file: &str) -> CheckpointError {
    CheckpointError::MissingTensor {
        name: name.to_owned(),
        place: format!(" in {file}"),
    }
}

fn place_one(spec: &TensorSpec, index: usize, shard: &Shard) -> Result<Placed, CheckpointError> {
    let info = shard
        .metadata
        .info(&spec.name)
        .ok_or_else(|| missing(&spec.name, &shard.name))?;
    let wrong = || CheckpointError::WrongTensor {
        name: spec.name.clone(),
        found: format!("{:?} {:?}", info.dtype, info.shape),
        expected: format!("{} {:?}", spec.elements, spec.shape),
    };
    let dtype = Dtype::of(info.dtype).ok_or_else(wrong)?;
    if !spec.elements.accept(dtype) || info.shape != spec.shape {
        return Err(wrong());
    }
    let (start, end) = info.data_offsets;
    Ok(Placed {
        shard: index,
        offset: shard.data_start + start,
        length: end - start,
        dtype,
        shape: spec.shape.clone(),
    })
}
