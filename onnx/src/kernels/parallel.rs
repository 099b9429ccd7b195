//! Running independent pieces of work on a thread pool that someone else owns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

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

/// Threads of our own, for programs without ONNX Runtime's.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held during [`run`](Parallel::run): one job at a time.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Counts jobs, so that a helper takes each once.
    number: usize,
    job: Option<Arc<Job>>,
    /// Helpers that have not yet finished the job.
    busy: usize,
    stop: bool,
}

/// A task and what is left of it.
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    parts: usize,
    /// Each thread's next part, relative to the begin of its share.
    next: Vec<AtomicUsize>,
}

// SAFETY: the task is Sync, and `run` returns, and with that ends the borrow
// behind the pointer, only after all helpers are done with it.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("parts", &self.parts).finish()
    }
}

impl Job {
    /// Works on the share of `thread`, then on what others have left.
    fn work(&self, thread: usize) {
        // SAFETY: `run` is still waiting for this call.
        let task = unsafe { &*self.task };
        let threads = self.next.len();
        for i in 0..threads {
            let share = (thread + i) % threads;
            let begin = |share: usize| share * self.parts / threads;
            loop {
                let part = begin(share) + self.next[share].fetch_add(1, Ordering::Relaxed);
                if part >= begin(share + 1) {
                    break;
                }
                task(part);
            }
        }
    }
}

impl Threads {
    /// A pool of `threads`, the calling one included.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let helpers = (1..threads.max(1))
            .map(|thread| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.help(thread))
            })
            .collect();
        Self {
            shared,
            helpers,
            turn: Mutex::default(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // State is only ever changed completely, a panic leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `ready` holds.
    fn wait_until(&self, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !ready(&state) {
            let waiting = self.changed.wait(state);
            state = waiting.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    fn help(&self, thread: usize) {
        let mut done = 0;
        loop {
            let state = self.wait_until(|state| state.stop || state.number != done);
            let Some(job) = state.job.clone().filter(|_| !state.stop) else {
                return;
            };
            done = state.number;
            drop(state);
            // A panic must not leave `run` waiting for ever.
            let finished = Finished(self);
            job.work(thread);
            drop(finished);
        }
    }
}

/// Signs a helper off.
struct Finished<'a>(&'a Shared);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

/// Waits for the helpers, even while a panic unwinds.
struct Joined<'a>(&'a Shared);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.0.wait_until(|state| state.busy == 0).job = None;
    }
}

impl Parallel for Threads {
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = self.helpers.len() + 1;
        // SAFETY: only the lifetime changes; `Joined` keeps this call, and so
        // the borrow, alive until no helper uses the pointer.
        let task = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task)
        };
        let job = Arc::new(Job {
            task,
            parts,
            next: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
        });
        {
            let mut state = self.shared.lock();
            state.number += 1;
            state.job = Some(Arc::clone(&job));
            state.busy = self.helpers.len();
        }
        self.shared.changed.notify_all();
        let joined = Joined(&self.shared);
        job.work(0);
        drop(joined);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has reported it already.
            let _ = helper.join();
        }
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

    #[test]
    fn threads_run_every_part_once() {
        for threads in [1, 2, 3, 7] {
            let pool = Threads::new(threads);
            for parts in [0, 1, 2, 10, 1000] {
                let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                let task = |part: usize| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                };
                pool.run(parts, &task).unwrap();
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_stops_the_rest() {
        let done = AtomicUsize::new(0);
        let pool = Threads::new(3);
        let result = run_parts(&pool, &AtomicBool::new(false), 30, |_| panic!("all fail"));
        assert!(matches!(result, Err(KernelError::Panicked)));
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
