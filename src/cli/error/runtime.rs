//! Errors between ONNX Runtime's library and a loaded model.

use super::Spoken;
use crate::cli::messages::{decimal, translated};
use crate::runtime::{RuntimeError, library};

impl Spoken for RuntimeError {
    fn spoken(&self) -> String {
        match self {
            Self::LibraryNotFound { tried } => {
                let tried: Vec<_> = tried.iter().map(|p| p.display().to_string()).collect();
                translated!(
                    self,
                    "error-runtime-not-found",
                    tried = tried.join(", "),
                    file = library::FILE_NAME
                )
            }
            Self::NotALibrary { path, reason } => translated!(
                self,
                "error-runtime-no-library",
                path = %path.display(),
                why = reason
            ),
            Self::NotPinned { path, why } => {
                translated!(self, "error-runtime-not-pinned", path = %path.display(), why = why)
            }
            Self::Untrusted { path, why } => {
                translated!(self, "error-runtime-untrusted", path = %path.display(), why = why)
            }
            Self::LibraryTooOld {
                path,
                version,
                needed,
            } => translated!(
                self,
                "error-runtime-too-old",
                path = %path.display(),
                version = version,
                needed = *needed
            ),
            Self::AlreadyLoaded { loaded } => {
                translated!(self, "error-runtime-loaded", path = %loaded.display())
            }
            Self::Telemetry => translated!(self, "error-runtime-telemetry"),
            Self::NotInitialised => translated!(self, "error-runtime-not-loaded"),
            Self::ProviderUnusable { provider, reason } => translated!(
                self,
                "error-runtime-provider",
                provider = %provider,
                why = reason
            ),
            Self::NoProvider { rejected } => {
                let why = |(provider, reason)| format!("{provider}\u{a0}: {reason}");
                let why: Vec<_> = rejected.iter().map(|(p, r)| why((p, r))).collect();
                translated!(
                    self,
                    "error-runtime-no-provider",
                    why = why.join("\u{a0}; ")
                )
            }
            Self::NotEnoughMemory {
                need,
                have,
                streamed: None,
            } => translated!(
                self,
                "error-runtime-memory",
                need = gigabytes(*need),
                have = gigabytes(*have)
            ),
            Self::NotEnoughGpuMemory { need, have } => translated!(
                self,
                "error-runtime-gpu-memory",
                need = gigabytes(*need),
                have = gigabytes(*have)
            ),
            Self::NoExport {
                model,
                provider,
                target,
            } => translated!(
                self,
                "error-runtime-no-export",
                model = model,
                provider = %provider,
                target = %target
            ),
            Self::NotEnoughMemory {
                need,
                have,
                streamed: Some(forecast),
            } => translated!(
                self,
                "error-runtime-memory-or",
                need = gigabytes(*need),
                have = gigabytes(*have),
                percent = decimal(100.0 * forecast.hit_rate, 0),
                read = decimal(forecast.disk_bytes_per_token / 1e9, 2),
                rate = decimal(forecast.tokens_per_second.unwrap_or(0.0), 1),
                disk = decimal(forecast.disk_bytes_per_second.unwrap_or(0.0) / 1e9, 2)
            ),
            // Free text as a whole; the library's own words; what the daemon alone meets.
            Self::Model(_) | Self::Ort(_) | Self::LoadHangs { .. } => self.to_string(),
        }
    }
}

fn gigabytes(bytes: u64) -> String {
    decimal(bytes as f64 / 1e9, 1)
}
