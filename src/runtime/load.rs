//! A model's load on a provider, in this process.
//!
//! A proof loads a tiny model in a process that can be ended. The real one has to be
//! loaded here, where a driver that hangs can only be left alone: its thread stays, and so
//! does what it holds of the device.

use std::path::Path;
use std::time::Duration;

use super::backend::OrtBackend;
use super::bounded::{self, NoResult};
use super::error::RuntimeError;
use super::fault_injection;
use super::options::Options;
use super::provider::Provider;
use super::quarantine::Quarantine;

/// How long a load may take for whatever it does besides reading.
const BESIDES: Duration = Duration::from_secs(120);

/// Bytes of weights a second that a load is given time for: what a slow disk gives.
const SLOWEST: u64 = 32 << 20;

/// Loads a model as [`OrtBackend::load`] does, from files of so many `bytes`.
///
/// On a provider other than the processor it is bounded in time. If that is over, or this
/// process does not survive, the provider is in quarantine.
///
/// # Errors
/// [`RuntimeError::LoadHangs`], and those of [`OrtBackend::load`].
pub fn load(
    revision: &Path,
    options: Options,
    bytes: u64,
    quarantine: &Quarantine,
) -> Result<OrtBackend, RuntimeError> {
    let (provider, model) = (options.provider, options.model.clone());
    if provider == Provider::Cpu {
        return OrtBackend::load(revision, options);
    }
    let _loading = quarantine.loading(provider, &model);
    let limit = fault_injection::load_limit(provider).unwrap_or_else(|| limit(bytes));
    let revision = revision.to_owned();
    // ONNX Runtime's threads inherit the name of the thread that makes them.
    let load = move || OrtBackend::load(&revision, options);
    bounded::within(limit, "model", load).unwrap_or_else(|none| match none {
        NoResult::Late(limit) => {
            let hangs = RuntimeError::LoadHangs {
                provider,
                model,
                seconds: limit.as_secs(),
            };
            quarantine.put(provider, &hangs.to_string());
            Err(hangs)
        }
        none => Err(RuntimeError::ProviderUnusable {
            provider,
            reason: format!("the load of {model} {none}"),
        }),
    })
}

fn limit(bytes: u64) -> Duration {
    BESIDES + Duration::from_secs(bytes / SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_model_has_more_time() {
        assert_eq!(limit(0), BESIDES);
        let minutes = |bytes: u64| limit(bytes).as_secs() / 60;
        assert_eq!(minutes(13_000_000_000), 8);
        assert_eq!(minutes(65_000_000_000), 34);
        // No size that a manifest can say is too large to be told.
        assert!(limit(u64::MAX) > limit(1 << 40));
    }
}
