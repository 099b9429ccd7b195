//! Loading a model into this process, for `eval`, `bench` and `runtime`.

use super::locate::Located;
use super::messages::message;
use super::{CliError, ExitStatus, Global};
use crate::engine::backend::Solo;
use crate::model::{Store, Stores};
use crate::runtime::{self, Options, OrtBackend};

/// Loads ONNX Runtime from wherever it is found.
pub(super) fn start_runtime(global: &Global) -> Result<(), CliError> {
    let stores = Stores::open(global.store.as_deref())?;
    let library = runtime::find(None, stores.all().map(Store::root))?;
    runtime::initialise(&library)?;
    Ok(())
}

/// Loads the model for a single sequence.
pub(super) fn load(
    global: &Global,
    located: &Located,
    options: Options,
) -> Result<Solo<OrtBackend>, CliError> {
    let none = || CliError::new(ExitStatus::Failed, message!("in-process-no-sequence"));
    Solo::new(load_backend(global, located, options)?).ok_or_else(none)
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
        let message = message!(
            "in-process-not-exported",
            model = &located.name,
            target = %options.target
        );
        return Err(CliError::new(ExitStatus::NotFound, message));
    }
    Ok(OrtBackend::load(&located.revision, options)?)
}
