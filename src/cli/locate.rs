//! Which model a command means.

use std::path::{Path, PathBuf};

use super::install::open_stores;
use super::messages::message;
use super::{CliError, ExitStatus, Global};

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
                message!("locate-no-folder", folder = model),
            ))
        };
    }
    let installed = open_stores(global)?.find(model)?;
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
