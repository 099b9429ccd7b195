//! Weights that are not in memory yet: what a layer asks for, and how it gets it.

use std::sync::atomic::AtomicBool;

use super::KernelError;
use super::mxfp4::Matrix;

/// An expert that tokens go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which one of its layer.
    pub expert: usize,
    /// How many tokens go to it.
    pub tokens: usize,
}

/// An expert whose weights are in memory.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    /// Which one of its layer.
    pub index: usize,
    /// Gate and up projection `[2I, H]`, rows interleaved.
    pub gate_up: Matrix<'a>,
    /// Down projection `[H, I]`.
    pub down: Matrix<'a>,
}

/// Takes experts that are in memory, as many as there are at the time.
pub type Compute<'c> = dyn FnMut(&[Expert<'_>]) -> Result<(), KernelError> + 'c;

/// Brings the experts of one layer into memory as they are needed.
pub trait Supply: Sync {
    /// Hands every one of the `wanted` experts to `compute`, each once, several at a
    /// time, in whatever order they are there. An expert is read at most until
    /// `compute` returns.
    ///
    /// # Errors
    /// What `compute` says; [`KernelError::Weights`] where weights cannot be read;
    /// [`KernelError::Cancelled`] when `cancel` was set while waiting.
    fn supply(
        &self,
        wanted: &[Wanted],
        cancel: &AtomicBool,
        compute: &mut Compute<'_>,
    ) -> Result<(), KernelError>;
}
