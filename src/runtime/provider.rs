//! Which execution provider computes, and why not a better one.
//!
//! That a provider is compiled into the library says little: its driver can be
//! missing, too old, or wrong. A provider counts as working only after it has
//! run the embedded model and matched its golden logits.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use gptoss_onnx::export::Target;
use ort::ep::{self, ExecutionProvider};
use ort::memory::AllocationDevice;
use ort::session::builder::SessionBuilder;

use super::coreml;
use super::error::RuntimeError;
use super::proof::{self, Distance, NotProven};
use super::quarantine::Quarantine;
use super::{fault_injection, gpu, memory};

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// NVIDIA GPUs.
    Cuda,
    /// Apple's accelerators.
    CoreMl,
    /// The processor.
    Cpu,
}

impl Provider {
    /// Every provider that this system could have, best first.
    pub fn of_this_system() -> &'static [Self] {
        ProviderChoice::Auto.candidates()
    }

    /// The provider that goes by this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Cuda, Self::CoreMl, Self::Cpu];
        all.into_iter()
            .find(|provider| provider.to_string() == name)
    }

    /// Adds the provider to a session's options; the CPU is always there. What it compiles
    /// may be kept in `cache`.
    pub(super) fn register(
        self,
        builder: &mut SessionBuilder,
        cache: Option<&Path>,
    ) -> Result<(), String> {
        if let Some(played) = fault_injection::register(self) {
            return played;
        }
        match self {
            Self::Cuda => ep::CUDA::default()
                .register(builder)
                .map_err(|e| e.to_string()),
            Self::CoreMl => coreml::options(cache)
                .register(builder)
                .map_err(|e| e.to_string()),
            Self::Cpu => Ok(()),
        }
    }

    /// Whose memory it computes in, where that is not main memory.
    pub(super) fn device(self) -> Option<AllocationDevice<'static>> {
        match self {
            _ if fault_injection::plays(self) => None,
            Self::Cuda => Some(AllocationDevice::CUDA),
            Self::CoreMl | Self::Cpu => None,
        }
    }

    /// Bytes of memory that a model may take where it computes, none where nobody tells.
    pub fn available_memory(self) -> Option<u64> {
        match self {
            _ if fault_injection::plays(self) => memory::available(),
            Self::Cuda => gpu::memory().map(|memory| memory.free),
            Self::CoreMl | Self::Cpu => memory::available(),
        }
    }

    /// The exports that it runs, best first.
    pub fn targets(self) -> &'static [Target] {
        match self {
            _ if fault_injection::plays(self) => Self::Cpu.targets(),
            Self::Cuda => &[Target::Cuda, Target::CudaInt4],
            Self::CoreMl => &[Target::Coreml, Target::Cpu, Target::Portable],
            Self::Cpu => &[
                Target::Cpu,
                Target::Coreml,
                Target::Portable,
                Target::CudaInt4,
            ],
        }
    }

    /// Who runs an export for `target`.
    pub fn of_target(target: Target) -> Self {
        match target {
            Target::Cuda | Target::CudaInt4 => Self::Cuda,
            Target::Coreml => Self::CoreMl,
            Target::Cpu | Target::Portable => Self::Cpu,
        }
    }

    /// The name ONNX Runtime has for it.
    pub fn onnx_name(self) -> &'static str {
        match self {
            _ if fault_injection::plays(self) => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::CoreMl => "CoreMLExecutionProvider",
            Self::Cpu => "CPUExecutionProvider",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuda => "cuda",
            Self::CoreMl => "coreml",
            Self::Cpu => "cpu",
        })
    }
}

/// What a person asked for: `auto|cuda|coreml|cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProviderChoice {
    /// The best that works.
    #[default]
    Auto,
    /// CUDA or an error.
    Cuda,
    /// CoreML or an error.
    CoreMl,
    /// The processor.
    Cpu,
}

impl ProviderChoice {
    /// The providers to try, best first.
    fn candidates(self) -> &'static [Provider] {
        match self {
            Self::Auto if crate::platform::HAS_COREML => {
                &[Provider::Cuda, Provider::CoreMl, Provider::Cpu]
            }
            Self::Auto => &[Provider::Cuda, Provider::Cpu],
            Self::Cuda => &[Provider::Cuda],
            Self::CoreMl => &[Provider::CoreMl],
            Self::Cpu => &[Provider::Cpu],
        }
    }
}

impl FromStr for ProviderChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda),
            "coreml" => Ok(Self::CoreMl),
            "cpu" => Ok(Self::Cpu),
            _ => Err(format!(
                "unknown execution provider {text:?}: choose auto, cuda, coreml or cpu"
            )),
        }
    }
}

impl fmt::Display for ProviderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::CoreMl => "coreml",
            Self::Cpu => "cpu",
        })
    }
}

/// The provider that will compute, and the better ones that will not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    /// Passed its self-test.
    pub provider: Provider,
    /// Tried before it and failed, with the reason.
    pub rejected: Vec<(Provider, String)>,
}

/// Decides on a provider by having each candidate prove itself with the embedded model.
///
/// One in quarantine, or that has `failed` otherwise, is passed over with that reason. A
/// provider asked for by name that does not prove itself is an error; `auto` goes on to
/// the next and keeps the reason. [`initialise`](super::initialise) comes first.
///
/// # Errors
/// The one asked for does not work, or none does.
pub fn choose(
    choice: ProviderChoice,
    quarantine: &Quarantine,
    failed: &[(Provider, String)],
) -> Result<ProviderReport, RuntimeError> {
    super::library::environment()?;
    let report = choose_by(choice, |provider| {
        match failed.iter().find(|(other, _)| *other == provider) {
            Some((_, reason)) => Err(NotProven::Unavailable(reason.clone())),
            None => prove_by(provider, quarantine, &proof::gather),
        }
    })?;
    for (provider, reason) in &report.rejected {
        tracing::info!(%provider, reason, "execution provider rejected");
    }
    tracing::info!(provider = %report.provider, "execution provider chosen");
    Ok(report)
}

/// Has one provider prove itself, unless it is in quarantine: inside, why it does not.
///
/// # Errors
/// [`RuntimeError::NotInitialised`]: [`initialise`](super::initialise) comes first.
pub fn prove(
    provider: Provider,
    quarantine: &Quarantine,
) -> Result<Result<Distance, NotProven>, RuntimeError> {
    super::library::environment()?;
    Ok(prove_by(provider, quarantine, &proof::gather))
}

/// Has one provider prove itself, whether or not it is in quarantine.
///
/// # Errors
/// As for [`prove`].
pub fn prove_anew(
    provider: Provider,
    quarantine: &Quarantine,
) -> Result<Result<Distance, NotProven>, RuntimeError> {
    super::library::environment()?;
    Ok(keep_book(provider, quarantine, proof::gather(provider)))
}

fn prove_by(
    provider: Provider,
    quarantine: &Quarantine,
    gather: &dyn Fn(Provider) -> Result<Distance, NotProven>,
) -> Result<Distance, NotProven> {
    match quarantine.holds(provider) {
        Some(record) => Err(NotProven::Quarantined(Box::new(record))),
        None => keep_book(provider, quarantine, gather(provider)),
    }
}

/// Puts a provider into quarantine, or takes it out, as it has proven itself.
fn keep_book(
    provider: Provider,
    quarantine: &Quarantine,
    proof: Result<Distance, NotProven>,
) -> Result<Distance, NotProven> {
    match &proof {
        Ok(_) => quarantine.release(provider),
        Err(error) if error.lasts() => quarantine.put(provider, &error.to_string()),
        Err(_) => {}
    }
    proof
}

fn choose_by(
    choice: ProviderChoice,
    prove: impl Fn(Provider) -> Result<Distance, NotProven>,
) -> Result<ProviderReport, RuntimeError> {
    let mut rejected = Vec::new();
    for &provider in choice.candidates() {
        match prove(provider) {
            Ok(_) => return Ok(ProviderReport { provider, rejected }),
            Err(error) if choice != ProviderChoice::Auto => {
                let reason = error.to_string();
                return Err(RuntimeError::ProviderUnusable { provider, reason });
            }
            Err(error) => rejected.push((provider, error.to_string())),
        }
    }
    Err(RuntimeError::NoProvider { rejected })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Distance = Distance {
        found: 0.0,
        allowed: 0.1,
    };

    fn only(works: Provider) -> impl Fn(Provider) -> Result<Distance, NotProven> {
        move |provider| match provider == works {
            true => Ok(NEAR),
            false => Err(NotProven::Unavailable("no device".into())),
        }
    }

    #[test]
    fn auto_takes_the_first_that_works_and_keeps_the_reasons() {
        let report = choose_by(ProviderChoice::Auto, only(Provider::Cuda)).unwrap();
        assert_eq!(
            (report.provider, report.rejected.len()),
            (Provider::Cuda, 0)
        );
        let report = choose_by(ProviderChoice::Auto, only(Provider::Cpu)).unwrap();
        assert_eq!(report.provider, Provider::Cpu);
        assert_eq!(report.rejected[0], (Provider::Cuda, "no device".into()));
    }

    #[test]
    fn a_named_provider_never_falls_back() {
        let error = choose_by(ProviderChoice::Cuda, only(Provider::Cpu)).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("cuda") && message.contains("no device"),
            "{message}"
        );
    }

    #[test]
    fn every_reason_is_told_when_nothing_works() {
        let error = choose_by(ProviderChoice::Auto, |_| {
            Err(NotProven::Broken("broken".into()))
        });
        let error = error.unwrap_err();
        assert_eq!(
            error.to_string().matches("broken").count(),
            ProviderChoice::Auto.candidates().len()
        );
    }

    #[test]
    fn what_breaks_once_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::in_folder(folder.path());
        let tried = std::cell::Cell::new(0);
        let breaks = |_: Provider| {
            tried.set(tried.get() + 1);
            Err(NotProven::Broken("it crashed".into()))
        };
        let first = prove_by(Provider::Cuda, &quarantine, &breaks).unwrap_err();
        assert_eq!(first, NotProven::Broken("it crashed".into()));
        let second = prove_by(Provider::Cuda, &quarantine, &breaks).unwrap_err();
        assert!(second.to_string().contains("it crashed"), "{second}");
        assert!(second.to_string().contains("--retry"), "{second}");
        assert_eq!(tried.get(), 1);
        // Asked anew it works, and counts from then on.
        let anew = keep_book(Provider::Cuda, &quarantine, Ok(NEAR));
        assert_eq!(anew, Ok(NEAR));
        assert_eq!(
            prove_by(Provider::Cuda, &quarantine, &|_: Provider| Ok(NEAR)),
            Ok(NEAR)
        );
        // The processor is tried each time, and so is what only says that it cannot.
        for _ in 0..2 {
            let _ = prove_by(Provider::Cpu, &quarantine, &breaks);
            let refuses = |_: Provider| Err(NotProven::Unavailable("no device".into()));
            let told = prove_by(Provider::Cuda, &quarantine, &refuses).unwrap_err();
            assert_eq!(told.to_string(), "no device");
        }
        assert_eq!(tried.get(), 3);
    }

    #[test]
    fn choices_round_trip_through_text() {
        for text in ["auto", "cuda", "coreml", "cpu"] {
            assert_eq!(text.parse::<ProviderChoice>().unwrap().to_string(), text);
        }
        assert!(
            "gpu"
                .parse::<ProviderChoice>()
                .unwrap_err()
                .contains("coreml")
        );
    }
}
