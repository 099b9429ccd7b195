//! Loading a model into this process, for `eval`, `bench` and `runtime`.

use super::locate::Located;
use super::{CliError, ExitStatus, Global};
use crate::engine::backend::Solo;
use crate::model::Store;
use crate::runtime::{self, Options, OrtBackend, RuntimeError};

impl From<RuntimeError> for CliError {
    fn from(error: RuntimeError) -> Self {
        let status = match &error {
            RuntimeError::NotEnoughMemory { .. } => ExitStatus::NoSpace,
            RuntimeError::LibraryNotFound { .. } => ExitStatus::NotFound,
            RuntimeError::NotPinned { .. } => ExitStatus::Verification,
            _ => ExitStatus::Failed,
        };
        Self::new(status, error.to_string())
    }
}

/// Loads ONNX Runtime from wherever it is found.
pub(super) fn start_runtime(global: &Global) -> Result<(), CliError> {
    let store = global.store.clone().unwrap_or_else(Store::default_root);
    runtime::initialise(&runtime::find(None, &store)?)?;
    Ok(())
}

/// Loads the model for a single sequence.
pub(super) fn load(
    global: &Global,
    located: &Located,
    options: Options,
) -> Result<Solo<OrtBackend>, CliError> {
    Solo::new(load_backend(global, located, options)?)
        .ok_or_else(|| CliError::new(ExitStatus::Failed, "the backend has no sequence to give"))
}

/// Loads the model.
pub(super) fn load_backend(
    global: &Global,
    located: &Located,
    options: Options,
) -> Result<OrtBackend, CliError> {
    start_runtime(global)?;
    let folder = located.revision.join(options.target.to_string());
    if !folder.is_dir() {
        return Err(CliError::new(
            ExitStatus::NotFound,
            format!(
                "{} has no export for the target {target}; \
                 make one with `gptoss-ctl export {} --target {target}`",
                located.name,
                located.name,
                target = options.target
            ),
        ));
    }
    Ok(OrtBackend::load(&located.revision, options)?)
}
