//! Proof that a provider computes what it should, gathered where it can do no harm.
//!
//! A driver's libraries can crash, hang, be killed for their memory or end the whole
//! process, and nothing in that process can prevent it. So a provider other than the
//! processor proves itself in a process of its own ([`process`], [`child`]): this same
//! program, executed again. Where that is impossible the provider is not proven, and
//! not used.

mod child;
mod process;

use std::time::Duration;

use gptoss_onnx::nano::Golden;

use super::bounded::{self, NoResult};
use super::error::RuntimeError;
use super::fault_injection;
use super::library;
use super::provider::Provider;
use super::quarantine::{Record, one_line};
use super::self_test;

#[cfg(debug_assertions)]
pub(super) use child::ARGUMENT;
pub use child::serve;

/// How long a provider may take for its self-test. A first start of CUDA
/// compiles and loads its kernels, which takes tens of seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// How far a provider's logits are from the golden ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// What was found; infinite where logits are missing or not finite.
    pub found: f64,
    /// What this provider is allowed.
    pub allowed: f64,
}

/// Why a provider is not trusted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotProven {
    /// It says itself that it cannot: no device, a library missing. That costs and
    /// risks nothing, and is asked anew each time.
    #[error("{0}")]
    Unavailable(String),
    /// It computes something else.
    #[error(
        "its self-test gave wrong logits: distance {:.3} from the golden ones, {} is allowed",
        .0.found,
        .0.allowed
    )]
    Wrong(Distance),
    /// It crashed, hung or gave no answer.
    #[error("{0}")]
    Broken(String),
    /// It did one of the last two before, and nothing has changed since.
    #[error(
        "quarantined since {}: {}; another driver, device, ONNX Runtime or gptoss, or \
         `gptoss-ctl selftest --retry`, has it tried again",
        .0.since,
        .0.reason
    )]
    Quarantined(Box<Record>),
}

impl NotProven {
    /// Whether trying again would be a risk, or in vain.
    pub(super) fn lasts(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Broken(_))
    }
}

/// Has a provider prove itself with the embedded model, whatever is known of it.
pub(super) fn gather(provider: Provider) -> Result<Distance, NotProven> {
    let found = match provider {
        Provider::Cpu => inside(LIMIT, || self_test::run(Provider::Cpu))?,
        _ => outside(provider)?,
    };
    judge(Distance {
        found,
        allowed: Golden::tolerance(&provider.to_string()),
    })
}

/// In a process of its own.
fn outside(provider: Provider) -> Result<f64, NotProven> {
    let unavailable = |error: RuntimeError| NotProven::Unavailable(error.to_string());
    let used = library::in_use().map_err(unavailable)?;
    let compiled = library::compiled_providers();
    let is_there = |name: &String| name == provider.onnx_name();
    if !compiled.iter().any(is_there) {
        return Err(NotProven::Unavailable(format!(
            "{} is not enabled in this build of ONNX Runtime",
            provider.onnx_name()
        )));
    }
    let limit = fault_injection::limit(provider).unwrap_or(LIMIT);
    let found = process::ask(provider, &used.library, limit)?;
    // What was proven is what the child has loaded.
    if library::identity(&used.library) != used.identity {
        return Err(NotProven::Unavailable(format!(
            "{} has been replaced since this program loaded it: start it anew",
            used.library.path().display()
        )));
    }
    Ok(found)
}

fn judge(distance: Distance) -> Result<Distance, NotProven> {
    tracing::debug!(
        distance = distance.found,
        tolerance = distance.allowed,
        "self-test"
    );
    // Not `>`: a distance that is no number is wrong too.
    match distance.found <= distance.allowed {
        true => Ok(distance),
        false => Err(NotProven::Wrong(distance)),
    }
}

/// Runs a self-test in this process.
fn inside(
    limit: Duration,
    test: impl FnOnce() -> Result<f64, String> + Send + 'static,
) -> Result<f64, NotProven> {
    match bounded::within(limit, "self-test", test) {
        Ok(answer) => answer.map_err(|reason| NotProven::Unavailable(one_line(&reason))),
        Err(none @ NoResult::NoThread(_)) => {
            Err(NotProven::Unavailable(format!("its self-test {none}")))
        }
        Err(none) => Err(NotProven::Broken(format!("its self-test {none}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_logits_are_told() {
        let judged = |found| {
            judge(Distance {
                found,
                allowed: 0.12,
            })
        };
        assert!(judged(0.06).is_ok());
        assert!(judged(0.5).unwrap_err().to_string().contains("0.500"));
        assert!(judged(f64::INFINITY).is_err());
        assert!(judged(f64::NAN).is_err());
        assert!(judged(0.5).unwrap_err().lasts());
    }

    #[test]
    fn a_test_in_this_process_is_bounded() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hangs = inside(Duration::from_millis(50), move || {
            let _ = hold.recv();
            Ok(0.0)
        });
        let hangs = hangs.unwrap_err();
        assert!(hangs.to_string().contains("did not end") && hangs.lasts());
        drop(release);
        let panics = inside(LIMIT, || panic!("a test panics")).unwrap_err();
        assert!(panics.to_string().contains("panicked") && panics.lasts());
        assert_eq!(inside(LIMIT, || Ok(0.5)), Ok(0.5));
        // What it refuses itself may work another time.
        let refuses = inside(LIMIT, || Err("no\ndevice".into())).unwrap_err();
        assert_eq!(refuses, NotProven::Unavailable("no device".into()));
        assert!(!refuses.lasts());
    }
}
