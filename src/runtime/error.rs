//! What can go wrong between the library on disk and a loaded model.

use std::path::PathBuf;

use gptoss_onnx::export::Target;

use super::provider::Provider;
use super::streaming::Forecast;

/// Why a model cannot be run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No ONNX Runtime library in any of the places searched.
    #[error(
        "no ONNX Runtime library found (looked at {}); `gptoss-ctl runtime install` fetches \
         one; or install the gptoss package, run `make runtime` in the source tree, or set \
         ORT_DYLIB_PATH to the file {}",
        listed(.tried),
        super::library::FILE_NAME
    )]
    LibraryNotFound {
        /// Where it was looked for, in order.
        tried: Vec<PathBuf>,
    },
    /// The file is there but it is no ONNX Runtime library.
    #[error(
        "{} is not an ONNX Runtime library that this machine can load: {reason}",
        path.display()
    )]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// The loader's own words.
        reason: String,
    },
    /// What a bundle or `runtime install` brought is not what this program pins.
    #[error(
        "{} is not the ONNX Runtime that this version of gptoss pins ({why}) and is not loaded; \
         `gptoss-ctl runtime install` (with --cuda where that was) or the bundle brings it in \
         anew, `gptoss-ctl runtime remove` removes it",
        path.display()
    )]
    NotPinned {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else could change a library that would be loaded.
    #[error(
        "{} is not loaded: {why}, and a library is code: only root and the user whose program \
         loads it may be able to write it. `gptoss-ctl runtime install --cuda` puts it right, for \
         the machine's store as root; `gptoss-ctl runtime remove --cuda` removes it",
        path.display()
    )]
    Untrusted {
        /// The file or its folder.
        path: PathBuf,
        /// Who could.
        why: String,
    },
    /// The library is older than the interface this program speaks.
    #[error(
        "{} is ONNX Runtime {version}, too old: {needed} or newer is needed; \
         install the gptoss package, run `make runtime` in the source tree, \
         or set ORT_DYLIB_PATH to a newer library",
        path.display()
    )]
    LibraryTooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
        /// The oldest version that works.
        needed: &'static str,
    },
    /// Another library is already loaded; a process can load only one.
    #[error(
        "ONNX Runtime is already loaded from {}, a process can load it only once",
        loaded.display()
    )]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
    },
    /// `ORT_DISABLE_TELEMETRY` was taken out of the environment.
    #[error("ORT_DISABLE_TELEMETRY is not 1: refusing to load ONNX Runtime with telemetry")]
    Telemetry,
    /// A model was asked for before [`initialise`](super::initialise).
    #[error("ONNX Runtime has not been loaded yet")]
    NotInitialised,
    /// The provider that was asked for by name does not work here.
    #[error("the execution provider {provider} does not work on this machine: {reason}")]
    ProviderUnusable {
        /// The provider.
        provider: Provider,
        /// What its self-test said.
        reason: String,
    },
    /// Not one provider passed its self-test.
    #[error("no execution provider passed its self-test: {}", reasons(.rejected))]
    NoProvider {
        /// Every provider tried, with the reason.
        rejected: Vec<(Provider, String)>,
    },
    /// The model would not fit in memory.
    #[error(
        "not enough memory: {} are needed, {} are available; \
         close other programs or choose a smaller context window{}",
        gigabytes(*need),
        gigabytes(*have),
        streamed.as_ref().map_or_else(String::new, instead)
    )]
    NotEnoughMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
        /// What it would cost to leave experts on the disk, where that is a way.
        streamed: Option<Forecast>,
    },
    /// The model would not fit in the GPU's memory.
    #[error(
        "not enough memory on the GPU: {} are needed, {} are free; close what else computes \
         there, or choose a smaller context window",
        gigabytes(*need),
        gigabytes(*have)
    )]
    NotEnoughGpuMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        have: u64,
    },
    /// The model has no export that the provider runs.
    #[error(
        "the model {model} has no export for the execution provider {provider}; make one with \
         `gptoss-ctl export {model} --target {target}`"
    )]
    NoExport {
        /// The model.
        model: String,
        /// Who was to run it.
        provider: Provider,
        /// The export that it runs best.
        target: Target,
    },
    /// A provider has not loaded a model in all the time that it had.
    #[error("{provider} did not load {model} within {seconds} s, and is left alone")]
    LoadHangs {
        /// The provider.
        provider: Provider,
        /// The model.
        model: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The exported model cannot be read or is not one of ours.
    #[error("{0}")]
    Model(String),
    /// ONNX Runtime refused; the text is its own.
    #[error("ONNX Runtime: {0}")]
    Ort(String),
}

impl<R> From<ort::Error<R>> for RuntimeError {
    fn from(error: ort::Error<R>) -> Self {
        Self::Ort(error.message().to_owned())
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

fn reasons(rejected: &[(Provider, String)]) -> String {
    let reasons: Vec<_> = rejected.iter().map(|(p, r)| format!("{p}: {r}")).collect();
    reasons.join("; ")
}

/// The other way, with its cost.
fn instead(forecast: &Forecast) -> String {
    let rate = match (forecast.tokens_per_second, forecast.disk_bytes_per_second) {
        (Some(rate), Some(disk)) => format!(
            ", at most {rate:.1} tokens a second from this disk, which gives {:.2} GB a second",
            disk / 1e9
        ),
        _ => String::new(),
    };
    format!(
        "; or leave experts on the disk (stream-experts = true under [runtime] in gptossd.toml, \
         --stream-experts of gptoss-ctl bench and eval): {:.0} % of them fit, the others are \
         read for each token, {:.2} GB{rate}",
        100.0 * forecast.hit_rate,
        forecast.disk_bytes_per_token / 1e9
    )
}

/// Bytes in decimal gigabytes with one digit, as people buy memory.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
