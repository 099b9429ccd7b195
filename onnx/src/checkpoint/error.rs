//! Why a checkpoint was refused.

use std::path::PathBuf;

/// Why a checkpoint was refused. Messages name the file or tensor and, where
/// the user can do something, what.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` (or `generation_config.json`) is not what it should be.
    #[error("{file}: {reason}")]
    Config {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// `model.safetensors.index.json` is not what it should be.
    #[error("model.safetensors.index.json: {0}")]
    Index(String),
    /// A shard's name or place is unsafe.
    #[error(
        "shard {name:?} {reason}: shards must be plain files in the checkpoint's own folder; \
         copy the real files there"
    )]
    ShardPath {
        /// The name in the index.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A shard is damaged: truncated, or its header contradicts itself.
    #[error("shard {shard} is damaged ({reason}): fetch it again")]
    Shard {
        /// The shard's file name.
        shard: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor the architecture needs is not there.
    #[error("tensor {name} is missing{place}: the checkpoint is incomplete or of another model")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Where it was looked for, for the message.
        place: String,
    },
    /// A layer's experts are in no format this crate reads, or in two.
    #[error("layer {layer}: {reason}")]
    Experts {
        /// The layer, from 0.
        layer: usize,
        /// What is there.
        reason: String,
    },
    /// A tensor the architecture does not have.
    #[error("shard {shard} holds {name}, which is no tensor of a gpt-oss model of this shape")]
    UnexpectedTensor {
        /// The tensor.
        name: String,
        /// The shard's file name.
        shard: String,
    },
    /// A tensor has another dtype or shape than config.json asks for.
    #[error("tensor {name} is {found}, but config.json asks for {expected}")]
    WrongTensor {
        /// The tensor.
        name: String,
        /// Its dtype and shape.
        found: String,
        /// The wanted dtype and shape.
        expected: String,
    },
    /// A tensor holds a value no weight may have.
    #[error("tensor {name} holds {what} at element {index}: the checkpoint is damaged")]
    BadValue {
        /// The tensor.
        name: String,
        /// The value.
        what: &'static str,
        /// Flat index of the first such element.
        index: usize,
    },
}
