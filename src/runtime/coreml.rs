//! How CoreML's provider is asked to compute.
//!
//! It is given graphs in CoreML's newer format, which alone knows float16, and every
//! device of Apple's. Shapes stay dynamic: prompts have any length, and graphs with fixed
//! ones have been seen to give wrong sums in float16 (onnxruntime#32569, macOS 15). Sums
//! stay in float32.
//!
//! The provider compiles what it takes, weights included, into files. It finds them again
//! by the names in the graph alone and takes them whatever the weights have become, so
//! that each model has a folder of its own:
//!
//! ```text
//! ~/Library/Caches/gptoss/coreml/KEY/…     KEY is of the model's bytes and of its place
//! ```

use std::path::{Path, PathBuf};

use ort::ep;
use ort::ep::coreml::{ComputeUnits, ModelFormat};
use sha2::{Digest, Sha256};

use crate::platform::user_cache_folder;

/// The provider's options; what it compiles is kept in `cache`, where there is one.
pub(super) fn options(cache: Option<&Path>) -> ep::CoreML {
    let provider = ep::CoreML::default()
        .with_model_format(ModelFormat::MLProgram)
        .with_compute_units(ComputeUnits::All)
        .with_static_input_shapes(false)
        .with_low_precision_accumulation_on_gpu(false);
    match cache.and_then(Path::to_str) {
        Some(cache) => provider.with_model_cache_dir(cache),
        None => provider,
    }
}

/// Where what is compiled of a model is kept: none for a model that holds its weights,
/// which compiles at once, or without a home.
pub(super) fn cache(model: &[u8], external_root: Option<&Path>) -> Option<PathBuf> {
    let folder = user_cache_folder(&|name| std::env::var_os(name))?;
    Some(folder.join("coreml").join(key(model, external_root?)))
}

/// A model's bytes say how its weights lie, the folder of its revision which they are.
fn key(model: &[u8], external_root: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(external_root.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(model);
    let digest = hash.finalize();
    digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_folder_of_its_own() {
        let key = |model: &[u8], root: &str| key(model, Path::new(root));
        let one = key(b"graph", "/models/a/1");
        assert_eq!(one.len(), 32);
        assert_eq!(one, key(b"graph", "/models/a/1"));
        assert_ne!(one, key(b"graph", "/models/a/2"));
        assert_ne!(one, key(b"other", "/models/a/1"));
        assert_eq!(cache(b"graph", None), None);
    }
}
