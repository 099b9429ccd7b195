//! Threads that bring experts from their files into slots.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use memmap2::MmapMut;

use super::StreamCounts;
use super::cache::{Cache, Room};
use super::files::{ExpertFiles, Span, TENSORS, buffers};

/// Reads that may wait for a thread before whoever fills the memory has to pause.
const LONG: usize = 64;

/// How often whoever asks gives way to the threads that read.
const YIELDS: usize = 8;

/// The weights of an expert in memory.
#[derive(Debug)]
pub(super) struct Weights([Tensor; TENSORS]);

/// Memory with the bytes of a tensor somewhere in it.
#[derive(Debug)]
struct Tensor {
    memory: MmapMut,
    skip: usize,
    len: usize,
}

impl Weights {
    /// Blocks and scales of the gate and up projection, then of the down projection.
    pub fn tensors(&self) -> [&[u8]; TENSORS] {
        self.0.each_ref().map(|t| &t.memory[t.skip..t.skip + t.len])
    }
}

/// What is to be read, and what was.
#[derive(Debug)]
pub(super) struct Queue {
    pub cache: Cache<Weights>,
    pub counts: StreamCounts,
    jobs: VecDeque<Job>,
    /// Experts on their way.
    coming: HashMap<usize, Coming>,
    /// Experts that could not be read, and why.
    failures: HashMap<usize, String>,
    stopping: bool,
}

/// One tensor of an expert, to be read into its memory.
#[derive(Debug)]
struct Job {
    expert: usize,
    tensor: usize,
    span: Span,
    memory: MmapMut,
}

/// What is there of an expert on its way.
#[derive(Debug, Default)]
struct Coming {
    tensors: [Option<Tensor>; TENSORS],
    failure: Option<String>,
}

impl Queue {
    /// Experts that memory is kept for.
    pub fn slots(&self) -> usize {
        self.cache.limit()
    }

    /// Whether enough reads are waiting.
    pub fn is_long(&self) -> bool {
        self.jobs.len() >= LONG
    }

    /// Whether anything is on its way.
    pub fn is_busy(&self) -> bool {
        !self.coming.is_empty()
    }

    /// Why an expert could not be read; it counts as absent again.
    pub fn take_failure(&mut self, expert: usize) -> Option<String> {
        self.failures.remove(&expert)
    }

    /// Why one of those could not be read that nobody has asked after.
    pub fn take_any_failure(&mut self) -> Option<String> {
        self.failures.drain().next().map(|(_, failure)| failure)
    }

    /// A read has ended; gives whether its expert is complete.
    fn settle(&mut self, job: Job, read: io::Result<usize>) -> bool {
        let Some(coming) = self.coming.get_mut(&job.expert) else {
            return false;
        };
        match read {
            Ok(bytes) => self.counts.bytes += bytes as u64,
            Err(error) => coming.failure = Some(error.to_string()),
        }
        coming.tensors[job.tensor] = Some(Tensor {
            memory: job.memory,
            skip: job.span.skip,
            len: job.span.len,
        });
        if coming.tensors.iter().any(Option::is_none) {
            return false;
        }
        let Coming { tensors, failure } = self.coming.remove(&job.expert).unwrap_or_default();
        let tensors: Vec<Tensor> = tensors.into_iter().flatten().collect();
        let weights = <[Tensor; TENSORS]>::try_from(tensors).ok().map(Weights);
        match (failure, weights) {
            (None, Some(weights)) => self.cache.arrived(job.expert, weights),
            (failure, weights) => {
                self.cache.failed(job.expert, weights);
                self.failures
                    .insert(job.expert, failure.unwrap_or_default());
            }
        }
        true
    }
}

/// The threads, and what they share with whoever asks them.
#[derive(Debug)]
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    files: ExpertFiles,
    queue: Mutex<Queue>,
    /// There is something to read, or nothing ever again.
    asked: Condvar,
    /// An expert is there, or will not come.
    arrived: Condvar,
}

impl Readers {
    /// Starts `threads` threads that read into `slots` slots.
    pub fn start(files: ExpertFiles, slots: usize, threads: usize) -> io::Result<Self> {
        let queue = Queue {
            cache: Cache::new(files.experts(), slots),
            counts: StreamCounts::default(),
            jobs: VecDeque::new(),
            coming: HashMap::new(),
            failures: HashMap::new(),
            stopping: false,
        };
        let shared = Arc::new(Shared {
            files,
            queue: Mutex::new(queue),
            asked: Condvar::new(),
            arrived: Condvar::new(),
        });
        let mut readers = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let shared = Arc::clone(&readers.shared);
            let builder = std::thread::Builder::new().name("experts".into());
            readers.threads.push(builder.spawn(move || shared.read())?);
        }
        Ok(readers)
    }

    pub fn files(&self) -> &ExpertFiles {
        &self.shared.files
    }

    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.lock()
    }

    /// Waits until an expert arrives or fails, or for so long.
    pub fn wait<'q>(&self, queue: MutexGuard<'q, Queue>, most: Duration) -> MutexGuard<'q, Queue> {
        let waited = self.shared.arrived.wait_timeout(queue, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks for an expert that is absent; gives whether there was room for it. Nobody
    /// reads it before [`wake`](Self::wake).
    pub fn request(&self, queue: &mut Queue, layer: usize, expert: usize) -> io::Result<bool> {
        let files = self.files();
        let number = files.layer(layer).first + expert;
        let memory = match queue.cache.reserve(number) {
            None => return Ok(false),
            Some(Room::Used(Weights(tensors))) => tensors.map(|tensor| tensor.memory),
            Some(Room::New) => match buffers(files.buffer_lengths()) {
                Ok(memory) => memory,
                Err(error) => {
                    queue.cache.failed(number, None);
                    return Err(error);
                }
            },
        };
        queue.failures.remove(&number);
        queue.coming.insert(number, Coming::default());
        for (tensor, memory) in memory.into_iter().enumerate() {
            queue.jobs.push_back(Job {
                expert: number,
                tensor,
                span: files.span(layer, expert, tensor),
                memory,
            });
        }
        Ok(true)
    }

    /// Sets threads to work on so many experts that were asked for; not while the queue
    /// is locked.
    pub fn wake(&self, experts: usize) {
        for _ in 0..experts * TENSORS {
            self.shared.asked.notify_one();
        }
        // Computing keeps all processors busy: left to the scheduler, a thread would wait for
        // milliseconds before it could even ask the disk.
        for _ in 0..YIELDS {
            if experts == 0 || self.lock().jobs.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.lock().stopping = true;
        self.shared.asked.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has reported it already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // It is changed by whole steps, a panic leaves it sound.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does.
    fn read(&self) {
        let mut queue = self.lock();
        while !queue.stopping {
            let Some(mut job) = queue.jobs.pop_front() else {
                let waited = self.asked.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let read = self.files.read(&job.span, &mut job.memory);
            queue = self.lock();
            if queue.settle(job, read) {
                self.arrived.notify_all();
            }
        }
    }
}
