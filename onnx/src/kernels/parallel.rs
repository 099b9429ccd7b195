//! Running independent pieces of work on a thread pool that someone else owns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::KernelError;

/// A pool of threads.
pub trait Parallel {
    /// Calls `task(0)` … `task(parts - 1)`, in any order, on any threads, and
    /// returns when all are done. Neighbouring parts should run on one thread,
    /// since they read neighbouring memory. `task` does not panic.
    ///
    /// # Errors
    /// The pool could not run the parts.
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError>;
}

/// Runs everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        (0..parts).for_each(task);
        Ok(())
    }
}

/// Runs `task` for every part, skipping what is left once `cancel` is set.
///
/// # Errors
/// [`KernelError::Cancelled`] when `cancel` was set, [`KernelError::Panicked`]
/// when a part panicked (a panic must not cross into a foreign pool), or what
/// the pool says.
pub(super) fn run_parts(
    pool: &dyn Parallel,
    cancel: &AtomicBool,
    parts: usize,
    task: impl Fn(usize) + Sync,
) -> Result<(), KernelError> {
    let panicked = AtomicBool::new(false);
    let guarded = |part| {
        if cancel.load(Ordering::Relaxed) || panicked.load(Ordering::Relaxed) {
            return;
        }
        // Buffers a panicking part leaves half-written are never read: the
        // whole call fails, and the next one overwrites them.
        if catch_unwind(AssertUnwindSafe(|| task(part))).is_err() {
            panicked.store(true, Ordering::Relaxed);
        }
    };
    if parts == 1 {
        guarded(0);
    } else if parts > 1 {
        pool.run(parts, &guarded)?;
    }
    if panicked.load(Ordering::Relaxed) {
        return Err(KernelError::Panicked);
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(KernelError::Cancelled);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_panic_is_an_error_and_stops_the_rest() {
        let done = AtomicUsize::new(0);
        let result = run_parts(&Serial, &AtomicBool::new(false), 5, |part| {
            assert!(part != 1, "the second part fails");
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert!(matches!(result, Err(KernelError::Panicked)));
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn cancelling_skips_what_is_left() {
        let cancel = AtomicBool::new(false);
        let done = AtomicUsize::new(0);
        let result = run_parts(&Serial, &cancel, 5, |part| {
            done.fetch_add(1, Ordering::Relaxed);
            cancel.store(part == 2, Ordering::Relaxed);
        });
        assert!(matches!(result, Err(KernelError::Cancelled)));
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }
}
