//! Reads an exported model back, for a runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{EXTERNAL_ROOT, FORMAT, MODEL_FILE, ModelError, external_root};
use crate::graph::{ACCURACY_LEVEL, ACTIVATIONS, ATTENTION, GPTOSS};
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
        let Ok(mut model) = ModelProto::decode(self.bytes.as_slice()) else {
            return self;
        };
        if let Some(graph) = &mut model.graph {
            use_float32_cache(graph);
        }
        let nodes = model.graph.iter_mut().flat_map(|graph| &mut graph.node);
        for attribute in nodes.flat_map(|node| &mut node.attribute) {
            match attribute.name.as_deref() {
                Some(ACCURACY_LEVEL) => attribute.i = Some(0),
                Some(ACTIVATIONS) => attribute.s = Some(b"float32".to_vec()),
                _ => {}
            }
        }
        Self {
            bytes: model.encode_to_vec(),
            external_root: self.external_root,
        }
    }
}

/// Makes the cache of our attention float32.
fn use_float32_cache(graph: &mut GraphProto) {
    let [half, float32] = ATTENTION;
    let mut changed = false;
    for node in &mut graph.node {
        if node.domain.as_deref() == Some(GPTOSS) && node.op_type.as_deref() == Some(half) {
            node.op_type = Some(float32.to_owned());
            changed = true;
        }
    }
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        if changed {
            value.replace_element(DataType::Float16, DataType::Float);
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
