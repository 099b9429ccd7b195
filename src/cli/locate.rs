//! Which model a command means.

use std::path::{Path, PathBuf};

use super::{CliError, ExitStatus, Global};
use crate::model::{Store, StoreError};

/// A model's folder and the name to show for it.
pub(super) struct Located {
    pub name: String,
    pub revision: PathBuf,
}

/// `model` is the path of a revision folder, or the name of an installed
/// model (`20b`, `20b@REVISION`). A name that is also a folder needs `./`.
pub(super) fn locate(global: &Global, model: &str) -> Result<Located, CliError> {
    let path = Path::new(model);
    if model.contains(std::path::MAIN_SEPARATOR) || model == "." {
        return if path.is_dir() {
            Ok(Located {
                name: folder_name(path),
                revision: path.to_owned(),
            })
        } else {
            Err(CliError::new(
                ExitStatus::NotFound,
                format!("there is no folder {model}"),
            ))
        };
    }
    installed(global, model)
}

fn installed(global: &Global, model: &str) -> Result<Located, CliError> {
    let root = global.store.clone().unwrap_or_else(Store::default_root);
    let found = Store::open(&root).and_then(|store| store.find(model));
    let installed = found.map_err(|error| {
        let status = match &error {
            StoreError::NotInstalled { .. } | StoreError::BadName { .. } => ExitStatus::NotFound,
            _ => ExitStatus::Failed,
        };
        CliError::new(status, error.to_string())
    })?;
    Ok(Located {
        name: installed.name,
        revision: installed.dir,
    })
}

fn folder_name(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}
