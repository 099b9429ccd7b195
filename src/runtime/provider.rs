//! Which execution provider computes, and why not a better one.
//!
//! That a provider is compiled into the library says little: its driver can be
//! missing, too old, or wrong. A provider counts as working only after it has
//! run the embedded model and matched its golden logits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use gptoss_onnx::export::Target;
use ort::ep::{self, ExecutionProvider};
use ort::memory::AllocationDevice;
use ort::session::builder::SessionBuilder;

use super::error::RuntimeError;
use super::{gpu, memory, self_test};

/// How long a provider may take for its self-test. A first start of CUDA
/// compiles and loads its kernels, which takes tens of seconds.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(90);

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

    /// Adds the provider to a session's options; the CPU is always there.
    pub(super) fn register(self, builder: &mut SessionBuilder) -> Result<(), String> {
        match self {
            Self::Cuda => ep::CUDA::default()
                .register(builder)
                .map_err(|e| e.to_string()),
            Self::CoreMl => ep::CoreML::default()
                .register(builder)
                .map_err(|e| e.to_string()),
            Self::Cpu => Ok(()),
        }
    }

    /// Whose memory it computes in, where that is not main memory.
    pub(super) fn device(self) -> Option<AllocationDevice<'static>> {
        match self {
            Self::Cuda => Some(AllocationDevice::CUDA),
            Self::CoreMl | Self::Cpu => None,
        }
    }

    /// Bytes of memory that a model may take where it computes, none where nobody tells.
    pub fn available_memory(self) -> Option<u64> {
        match self {
            Self::Cuda => gpu::memory().map(|memory| memory.free),
            Self::CoreMl | Self::Cpu => memory::available(),
        }
    }

    /// The exports that it runs, best first.
    pub fn targets(self) -> &'static [Target] {
        match self {
            Self::Cuda => &[Target::Cuda, Target::CudaInt4],
            Self::CoreMl | Self::Cpu => &[Target::Cpu, Target::Portable, Target::CudaInt4],
        }
    }

    /// Who runs an export for `target`.
    pub fn of_target(target: Target) -> Self {
        match target {
            Target::Cuda | Target::CudaInt4 => Self::Cuda,
            Target::Cpu | Target::Portable => Self::Cpu,
        }
    }

    /// The name ONNX Runtime has for it.
    pub(super) fn onnx_name(self) -> &'static str {
        match self {
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
            Self::Auto if cfg!(target_os = "macos") => {
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

/// Decides on a provider by running the embedded model on each candidate.
///
/// A provider asked for by name that fails is an error; `auto` goes on to the
/// next and keeps the reason. [`initialise`](super::initialise) comes first.
pub fn choose(choice: ProviderChoice) -> Result<ProviderReport, RuntimeError> {
    super::library::environment()?;
    let report = choose_by(choice, |provider| within(SELF_TEST_LIMIT, provider))?;
    for (provider, reason) in &report.rejected {
        tracing::info!(%provider, reason, "execution provider rejected");
    }
    tracing::info!(provider = %report.provider, "execution provider chosen");
    Ok(report)
}

/// Has one provider prove itself with the embedded model: inside, why it does not.
///
/// # Errors
/// [`RuntimeError::NotInitialised`]: [`initialise`](super::initialise) comes first.
pub fn prove(provider: Provider) -> Result<Result<(), String>, RuntimeError> {
    super::library::environment()?;
    Ok(within(SELF_TEST_LIMIT, provider))
}

fn choose_by(
    choice: ProviderChoice,
    prove: impl Fn(Provider) -> Result<(), String>,
) -> Result<ProviderReport, RuntimeError> {
    let mut rejected = Vec::new();
    for &provider in choice.candidates() {
        match prove(provider) {
            Ok(()) => return Ok(ProviderReport { provider, rejected }),
            Err(reason) if choice != ProviderChoice::Auto => {
                return Err(RuntimeError::ProviderUnusable { provider, reason });
            }
            Err(reason) => rejected.push((provider, reason)),
        }
    }
    Err(RuntimeError::NoProvider { rejected })
}

/// Runs the self-test on a thread of its own: a driver that hangs must not
/// hang this program. Such a thread cannot be ended and is left behind.
fn within(limit: Duration, provider: Provider) -> Result<(), String> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name(format!("self-test-{provider}"))
        .spawn(move || {
            // The receiver may have given up; then nobody wants the answer.
            let _ = send.send(self_test::run(provider));
        })
        .map_err(|error| format!("no thread for its self-test: {error}"))?;
    receive.recv_timeout(limit).unwrap_or_else(|error| {
        Err(match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => {
                format!("its self-test did not end within {} s", limit.as_secs())
            }
            std::sync::mpsc::RecvTimeoutError::Disconnected => "its self-test panicked".into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(works: Provider) -> impl Fn(Provider) -> Result<(), String> {
        move |provider| match provider == works {
            true => Ok(()),
            false => Err("no device".into()),
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
        let error = choose_by(ProviderChoice::Auto, |_| Err("broken".into())).unwrap_err();
        assert_eq!(
            error.to_string().matches("broken").count(),
            ProviderChoice::Auto.candidates().len()
        );
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
