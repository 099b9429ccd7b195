//! Writes a checkpoint as an ONNX model with external data, reproducibly: the
//! same checkpoint and version give the same bytes.
//!
//! ```text
//! <revision>/                 the checkpoint's own files
//!   cpu/model.onnx            external data in cpu/dense.bin and the shards
//!   cpu/dense.bin             int8 attention, embedding, lm_head; float32 rest
//!   cpu/experts.bin           experts in MXFP4, only those the checkpoint holds as
//!                             floats: for each matrix its blocks u8 [E, N, K/32, 16],
//!                             then its scales u8 [E, N, K/32], as published ones lie
//!   portable/model.onnx       external data in weights.bin
//!   portable/weights.bin      everything, experts as int4
//!   coreml/                   as cpu/, its projections of attention in float16
//!   cuda/, cuda-int4/         likewise: everything, in float16, experts as MXFP4 or
//!                             int4 in the layouts of the CUDA provider
//! ```
//!
//! Locations of target `cpu` are relative to `<revision>`, which the property
//! `gptoss.external_root` (`..`) says; those of the others to their own folder,
//! so that any ONNX Runtime opens `portable/model.onnx` by its path.

mod error;
mod experts;
mod form;
mod job;
mod model_file;
mod sink;

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::checkpoint::{Checkpoint, Config, Dtype, Float, TensorView};
use crate::graph::{self, Content, Initializer, Job, Plan};
use crate::proto::{
    DataType, IR_VERSION, LOCATION_EXTERNAL, ModelProto, OPSET, OperatorSetIdProto,
    StringStringEntryProto, TensorProto,
};

pub use crate::graph::{Target, UnknownTarget};
pub use error::{ExportError, ModelError};
pub use experts::ExpertsQuantized;
pub use form::Form;
pub use model_file::{ModelFile, read_model};

use job::{Runner, Sinks};
use sink::{File, FileSink, MemorySink, Place, Sink};

/// File name of the graph.
pub const MODEL_FILE: &str = "model.onnx";
/// File name of the experts that target `cpu` quantizes.
pub const EXPERTS_FILE: &str = "experts.bin";
/// Property that says what external data is relative to, from the model.
pub const EXTERNAL_ROOT: &str = "gptoss.external_root";
/// Version of this layout, in the property `gptoss.format`.
pub const FORMAT: &str = "2";
/// Largest protobuf message, in bytes.
const PROTOBUF_LIMIT: u64 = i32::MAX as u64;

/// What an export wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportReport {
    /// The files, in the target's folder.
    pub files: Vec<(String, u64, String)>,
    /// What became of experts that the checkpoint holds as floats, if it does.
    pub experts: Option<ExpertsQuantized>,
    /// In which form the weights are.
    pub forms: Vec<Form>,
}

/// Writes `target` into `out_dir`, which is `<revision>/<target>`; the folder
/// is made where it does not exist, files there are replaced.
///
/// `progress(done, total)` counts bytes of weights written. Reports name, size
/// in bytes and SHA-256 (lower-case hex) of each file; all are on disk
/// (fsync) when this returns. Peak anonymous memory: the scales of the largest
/// matrix, one expert of a layer where experts are quantized, and a few MB.
///
/// # Errors
/// When a file cannot be written, or a weight is not a finite number. What was
/// written until then stays.
pub fn export(
    checkpoint: &Checkpoint,
    target: Target,
    out_dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ExportReport, ExportError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Write { path, source }
    };
    fs::create_dir_all(out_dir).map_err(write(out_dir))?;
    let plan = plan_of(checkpoint, target);
    let total = written_bytes(checkpoint, &plan);
    let place = |file| out_dir.join(file_name(target, file));
    let create = |file| {
        let path = place(file);
        FileSink::create(&path).map_err(|source| ExportError::Write { path, source })
    };
    let mut weights = create(File::Weights)?;
    let mut experts = match plan.jobs.iter().any(|job| matches!(job, Job::Mxfp4(_))) {
        true => Some(create(File::Experts)?),
        false => None,
    };
    let mut report = |done| progress(done, total);
    let sinks = Sinks {
        weights: &mut weights,
        experts: experts.as_mut().map(|sink| sink as &mut dyn Sink),
    };
    let mut runner = Runner::new(checkpoint, &plan, sinks, &mut report);
    let places = runner.place_all().map_err(|e| e.at(place))?;
    let quantized = runner.into_tally().of(checkpoint, target);
    let forms = form::forms(&plan, &places);

    let model = finish_model(checkpoint, target, plan, |initializer, tensor| {
        attach(tensor, initializer, &places, target);
        Ok(())
    })?;
    let path = out_dir.join(MODEL_FILE);
    let mut graph = FileSink::create(&path).map_err(write(&path))?;
    graph.write(&model.encode_to_vec()).map_err(write(&path))?;

    let mut files = Vec::new();
    let experts = experts.map(|sink| (sink, EXPERTS_FILE));
    let sinks = [(weights, file_name(target, File::Weights))];
    for (sink, name) in sinks
        .into_iter()
        .chain(experts)
        .chain([(graph, MODEL_FILE)])
    {
        let path = out_dir.join(name);
        let (size, sha256) = sink.finish().map_err(write(&path))?;
        files.push((name.to_owned(), size, sha256));
    }
    let folder = fs::File::open(out_dir).map_err(write(out_dir))?;
    folder.sync_all().map_err(write(out_dir))?;
    Ok(ExportReport {
        files,
        experts: quantized,
        forms,
    })
}

/// Bytes of weights that an export of this checkpoint writes; its graph and the gaps
/// between tensors come on top.
pub fn weight_bytes(checkpoint: &Checkpoint, target: Target) -> u64 {
    written_bytes(checkpoint, &plan_of(checkpoint, target))
}

fn plan_of(checkpoint: &Checkpoint, target: Target) -> Plan {
    graph::build(checkpoint.config(), checkpoint.experts(), target)
}

/// The whole model in one message, weights included.
///
/// # Errors
/// When it would exceed protobuf's 2 GB, or a weight is not a finite number.
pub fn in_memory(checkpoint: &Checkpoint, target: Target) -> Result<Vec<u8>, ExportError> {
    in_memory_of(checkpoint, target, plan_of(checkpoint, target))
}

/// The same of a graph that is not quite what `target` is, such as
/// [`graph::cuda`] in float32.
///
/// # Errors
/// As [`in_memory`].
pub fn in_memory_of(
    checkpoint: &Checkpoint,
    target: Target,
    plan: Plan,
) -> Result<Vec<u8>, ExportError> {
    let size: u64 = plan.initializers.iter().map(Initializer::byte_len).sum();
    if size > PROTOBUF_LIMIT - (64 << 20) {
        return Err(ExportError::TooLarge { bytes: size });
    }
    let mut sink = MemorySink::default();
    let mut nothing = |_| ();
    let sinks = Sinks {
        weights: &mut sink,
        experts: None,
    };
    let places = Runner::new(checkpoint, &plan, sinks, &mut nothing)
        .place_all()
        .map_err(|e| e.at(|_| "memory".into()))?;
    let model = finish_model(checkpoint, target, plan, |initializer, tensor| {
        if tensor.raw_data.is_none() {
            let bytes = match places.get(&initializer.name) {
                Some(Place::Written { offset, length, .. }) => sink.bytes(*offset, *length),
                Some(Place::InShard { .. }) => published(checkpoint, &initializer.name),
                None => None,
            };
            let bytes = bytes.ok_or_else(|| ExportError::Incomplete(initializer.name.clone()))?;
            tensor.raw_data = Some(bytes.to_vec());
        }
        Ok(())
    })?;
    Ok(model.encode_to_vec())
}

/// The file that holds a target's derived weights.
pub fn weights_name(target: Target) -> &'static str {
    match target {
        Target::Cpu | Target::Coreml => "dense.bin",
        Target::Portable | Target::Cuda | Target::CudaInt4 => "weights.bin",
    }
}

/// Name of a file in the target's folder.
fn file_name(target: Target, file: File) -> &'static str {
    match file {
        File::Weights => weights_name(target),
        File::Experts => EXPERTS_FILE,
    }
}

fn published<'a>(checkpoint: &'a Checkpoint, name: &str) -> Option<&'a [u8]> {
    checkpoint.tensor(name).map(|view| view.bytes)
}

/// Turns a plan into a model; `attach` gives each initializer its data.
fn finish_model(
    checkpoint: &Checkpoint,
    target: Target,
    plan: Plan,
    mut attach: impl FnMut(&Initializer, &mut TensorProto) -> Result<(), ExportError>,
) -> Result<ModelProto, ExportError> {
    let mut graph = plan.graph;
    for initializer in &plan.initializers {
        let mut tensor = TensorProto {
            dims: initializer.dims.clone(),
            data_type: Some(initializer.dtype as i32),
            name: Some(initializer.name.clone()),
            ..TensorProto::default()
        };
        if let Content::Inline(bytes) = &initializer.content {
            tensor.raw_data = Some(bytes.clone());
        }
        attach(initializer, &mut tensor)?;
        graph.initializer.push(tensor);
    }
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    let mut opset_import = vec![opset("", OPSET), opset(graph::MICROSOFT, 1)];
    if target.has_our_operators() {
        opset_import.push(opset(graph::GPTOSS, 1));
    }
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("gptoss".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph),
        opset_import,
        metadata_props: properties(checkpoint.config(), target),
    })
}

/// All a runtime needs to know of the model.
fn properties(config: &Config, target: Target) -> Vec<StringStringEntryProto> {
    let root = match target {
        Target::Cpu | Target::Coreml => "..",
        Target::Portable | Target::Cuda | Target::CudaInt4 => ".",
    };
    [
        ("gptoss.format", FORMAT.to_owned()),
        ("gptoss.target", target.to_string()),
        (EXTERNAL_ROOT, root.to_owned()),
        ("gptoss.layers", config.layers.to_string()),
        ("gptoss.kv_heads", config.kv_heads.to_string()),
        ("gptoss.head_dim", config.head_dim.to_string()),
        ("gptoss.vocab_size", config.vocab_size.to_string()),
        (
            "gptoss.max_positions",
            config.max_position_embeddings.to_string(),
        ),
        ("gptoss.tool_version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| entry(key, value))
    .collect()
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    }
}

fn attach(tensor: &mut TensorProto, of: &Initializer, places: &sink::Places, target: Target) {
    let (location, offset, length) = match places.get(&of.name) {
        None => return,
        Some(Place::Written {
            file,
            offset,
            length,
        }) => {
            let name = file_name(target, *file);
            let location = match target {
                Target::Cpu | Target::Coreml => format!("{target}/{name}"),
                Target::Portable | Target::Cuda | Target::CudaInt4 => name.to_owned(),
            };
            (location, *offset, *length)
        }
        Some(Place::InShard {
            shard,
            offset,
            length,
        }) => (shard.clone(), *offset, *length),
    };
    tensor.data_location = Some(LOCATION_EXTERNAL);
    tensor.external_data = vec![
        entry("location", location),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

/// Folder that a model's external data is relative to.
fn external_root(target_dir: &Path, root: &str) -> Option<PathBuf> {
    match root {
        "." => Some(target_dir.to_owned()),
        ".." => target_dir.parent().map(Path::to_owned),
        _ => None,
    }
}

/// Bytes of all weights that must be written: those that jobs make, and
/// published ones that cannot be used in place.
fn written_bytes(checkpoint: &Checkpoint, plan: &Plan) -> u64 {
    let written = plan.initializers.iter().filter(|of| match &of.content {
        Content::Inline(_) => false,
        Content::Derived { .. } => true,
        Content::Published(name) => checkpoint
            .tensor(name)
            .is_some_and(|view| !usable_in_place(of.dtype, &view)),
    });
    written.map(Initializer::byte_len).sum()
}

/// Whether a published tensor can be used where it is: of that type, and floats, which
/// are read as such, aligned.
fn usable_in_place(dtype: DataType, view: &TensorView<'_>) -> bool {
    let same = match view.dtype {
        Dtype::Float(Float::Bf16) => dtype == DataType::Bfloat16,
        Dtype::Float(Float::F16) => dtype == DataType::Float16,
        Dtype::Float(Float::F32) => dtype == DataType::Float,
        Dtype::U8 => dtype == DataType::Uint8,
    };
    same && view.offset.is_multiple_of(dtype.size())
}
