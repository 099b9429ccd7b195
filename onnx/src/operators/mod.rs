//! The custom operators `gptoss:*`, registered through ort.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn f(environment: &ort::environment::Environment) -> Result<(), Box<dyn std::error::Error>> {
//! let control = Arc::new(gptoss_onnx::operators::Control::default());
//! let _opening = gptoss_onnx::operators::opening();
//! let domain = gptoss_onnx::operators::domain(&control)?;
//! let builder = ort::session::Session::builder(environment)?.with_operators(domain);
//! # Ok(()) }
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::operator::OperatorDomain;

use crate::kernels::attention::Precision;
use crate::streaming::ExpertStream;

mod attention;
mod linear;
mod moe;
mod node;

pub use attention::{Attention, cache_element};
pub use linear::Linear;
pub use moe::MoE;

/// The name of the operators' domain.
pub const DOMAIN: &str = "gptoss";

/// What the operators of a session share with whoever runs it.
#[derive(Debug, Default)]
pub struct Control {
    /// While it is set, running operators stop early and return an error;
    /// clearing it makes the session usable again.
    pub cancel: AtomicBool,
    /// How many experts' weights were read since the beginning: each layer of
    /// each run adds the number of different experts that its tokens went to.
    pub experts_read: AtomicU64,
    /// Where experts come from that are not all in memory; `None` where they are
    /// read in place.
    pub stream: Option<ExpertStream>,
}

/// All operators, for one session.
///
/// # Errors
/// ONNX Runtime refused the registration.
pub fn domain(control: &Arc<Control>) -> ort::Result<OperatorDomain> {
    let domain = OperatorDomain::new(DOMAIN)?
        .add(MoE::new(Arc::clone(control)))?
        .add(Linear::new(Arc::clone(control)))?;
    Precision::ALL
        .into_iter()
        .try_fold(domain, |domain, precision| {
            domain.add(Attention::new(precision, Arc::clone(control)))
        })
}

/// Held while a session with [`domain`] is opened. ONNX Runtime keeps the names
/// of domains in one registry for the process and does not guard it: of two
/// sessions opened at once, one can fail because "the domain is already exist".
pub fn opening() -> MutexGuard<'static, ()> {
    static OPENING: Mutex<()> = Mutex::new(());
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns a panic into an error: unwinding into ONNX Runtime would abort the process.
fn guarded<T>(operator: &str, f: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(ort::Error::new(format!(
            "operator {operator} panicked, which is a bug: {}",
            panic_message(panic.as_ref())
        )))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded::<()>("gptoss:Test", || panic!("number {}", 3)).unwrap_err();
        assert!(error.to_string().contains("number 3"));
    }
}
