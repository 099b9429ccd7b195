//! Reads an exported model back, for a runtime.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{EXTERNAL_ROOT, FORMAT, MODEL_FILE, ModelError, external_root};
use crate::graph::{ACCURACY_LEVEL, ACTIVATIONS, attention_operator, attention_precision};
use crate::kernels::attention::Precision;
use crate::proto::{DataType, GraphProto, ModelProto};

/// An exported model, ready to be loaded from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// The model, for `commit_from_memory`.
    pub bytes: Vec<u8>,
    /// Folder its external data is relative to, for
    /// `session.model_external_initializers_file_folder_path`.
    pub external_root: PathBuf,
}

impl ModelFile {
    /// The same model computing with float32 activations and a float32 cache:
    /// slow, and as near to the reference as the weights allow. Bytes that are no model stay as
    /// they are.
    #[must_use]
    pub fn exact(self) -> Self {
        self.changed(|graph| {
            use_cache(graph, Precision::F32);
            let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
            for attribute in attributes {
                match attribute.name.as_deref() {
                    Some(ACCURACY_LEVEL) => attribute.i = Some(0),
                    Some(ACTIVATIONS) => attribute.s = Some(b"float32".to_vec()),
                    _ => {}
                }
            }
        })
    }

    /// The same model with another cache, if it is one of ours: that of target
    /// `portable`, and bytes that are no model, stay as they are.
    #[must_use]
    pub fn with_cache(self, precision: Precision) -> Self {
        self.changed(|graph| use_cache(graph, precision))
    }

    fn changed(self, change: impl FnOnce(&mut GraphProto)) -> Self {
        let Ok(mut model) = ModelProto::decode(self.bytes.as_slice()) else {
            return self;
        };
        model.graph.as_mut().map(change);
        Self {
            bytes: model.encode_to_vec(),
            external_root: self.external_root,
        }
    }
}

/// Makes the cache of our attention one of `precision`.
fn use_cache(graph: &mut GraphProto, precision: Precision) {
    let mut sides = HashMap::new();
    for node in &mut graph.node {
        if let Some(before) = attention_precision(node) {
            node.op_type = Some(attention_operator(precision).to_owned());
            let past = node.input.iter().skip(1).take(2);
            let present = node.output.iter().skip(1).take(2);
            sides.extend(past.chain(present).map(|name| (name.clone(), before)));
        }
    }
    let element = match precision {
        Precision::F16 => DataType::Float16,
        Precision::F32 => DataType::Float,
        Precision::Int8 => DataType::Uint8,
    };
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let name = value.name.as_deref().unwrap_or_default();
        if let Some(before) = sides.get(name) {
            value.set_element(element);
            if let Some(last) = value.last_size_mut() {
                let head_dim = before.head_dim(usize::try_from(*last).unwrap_or_default());
                *last = precision.row_len(head_dim) as i64;
            }
        }
    }
}

/// Reads the model in `target_dir` (`<revision>/<target>`) and checks that all
/// files of its external data are there and long enough.
///
/// # Errors
/// When a file is missing or short, or the model is not one of ours.
pub fn read_model(target_dir: &Path) -> Result<ModelFile, ModelError> {
    let path = target_dir.join(MODEL_FILE);
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Read { path, source }
    };
    let foreign = |reason: String| ModelError::Foreign {
        path: path.clone(),
        reason,
    };
    let bytes = fs::read(&path).map_err(read(&path))?;
    let model = ModelProto::decode(bytes.as_slice())
        .map_err(|e| foreign(format!("is not an ONNX model ({e})")))?;
    let property = |key: &str| {
        let mut entries = model.metadata_props.iter();
        entries
            .find(|entry| entry.key.as_deref() == Some(key))
            .and_then(|entry| entry.value.clone())
    };
    match property("gptoss.format").as_deref() {
        Some(FORMAT) => {}
        Some(other) => return Err(foreign(format!("has the unknown format {other:?}"))),
        None => return Err(foreign("was not written by gptoss".into())),
    }
    let target_dir = target_dir.canonicalize().map_err(read(target_dir))?;
    let root = property(EXTERNAL_ROOT).unwrap_or_default();
    let external_root = external_root(&target_dir, &root)
        .ok_or_else(|| foreign(format!("has the unknown external root {root:?}")))?;
    for (location, needed) in external_files(&model) {
        let file = external_root.join(&location);
        let found = fs::metadata(&file).map_err(read(&file))?.len();
        if found < needed {
            return Err(ModelError::Truncated {
                path: file,
                found,
                needed,
            });
        }
    }
    Ok(ModelFile {
        bytes,
        external_root,
    })
}

/// Each file of external data and how many bytes of it are used.
fn external_files(model: &ModelProto) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    let tensors = model.graph.iter().flat_map(|graph| &graph.initializer);
    for tensor in tensors {
        let value = |key: &str| {
            let mut entries = tensor.external_data.iter();
            let found = entries.find(|entry| entry.key.as_deref() == Some(key));
            found.and_then(|entry| entry.value.as_deref())
        };
        let number = |key| value(key).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        if let Some(location) = value("location") {
            let end = number("offset").saturating_add(number("length"));
            let needed: &mut u64 = files.entry(location.to_owned()).or_default();
            *needed = end.max(*needed);
        }
    }
    files
}
