//! Errors of bundles.

use super::Spoken;
use crate::bundle::BundleError;
use crate::cli::messages::translated;

impl Spoken for BundleError {
    fn spoken(&self) -> String {
        match self {
            Self::NotFound(path) => {
                translated!(self, "error-bundle-not-found", path = %path.display())
            }
            Self::Malformed(why) => translated!(self, "error-bundle-malformed", why = why),
            Self::Piece { path, why } => {
                translated!(self, "error-bundle-piece", path = %path.display(), why = why)
            }
            Self::WrongBytes { what, why } => {
                translated!(self, "error-bundle-wrong-bytes", what = what, why = why)
            }
            Self::Choose { found } => {
                translated!(self, "error-bundle-choose", found = found.join(", "))
            }
            // Free text as a whole.
            Self::Signature(_) => self.to_string(),
            Self::Pieces { pieces, most } => {
                translated!(self, "error-bundle-pieces", pieces = *pieces, most = *most)
            }
            Self::Occupied(path) => {
                translated!(self, "error-bundle-occupied", path = %path.display())
            }
            Self::Damaged { path, why } => {
                translated!(self, "error-bundle-damaged", path = path, why = why)
            }
            Self::OtherRuntime { path, why } => {
                translated!(self, "error-bundle-runtime", path = %path.display(), why = why)
            }
            Self::Store(error) => error.spoken(),
        }
    }
}
