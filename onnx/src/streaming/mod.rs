//! Experts read from the disk while the model runs, where memory is too short for all
//! of them.
//!
//! ```text
//! router ─► LayerStream::supply ─► in memory: computed at once
//!                │
//!                └► absent: all their ranges are asked for together ─► reader threads ─► slots
//!                           computed as they come                       (direct reads)
//! ```
//!
//! A bounded number of experts is kept in memory of our own, each in a slot; `cache`
//! says which. The kernels read the slots, which hold the very bytes of the
//! files, so what they compute is the same. Nothing of the experts is read through
//! a mapping: a file that becomes shorter or a disk that fails is an error of the run,
//! not a signal, and neither the kernel's page cache nor its read-ahead has a say in
//! what stays. Reads go past the page cache where the file system lets them, so
//! nothing is in memory twice.
//!
//! Asking the next layer's router ahead, with this layer's input (Eliseev and Mazur, "Fast
//! Inference of Mixture-of-Experts Language Models with Offloading", 2023), was tried on
//! random weights and left out. It foresaw 72 % of the absent experts, 31 % of what it
//! read was not wanted, and decoding became 0 to 5 % faster, less than runs differ:
//! an expert of 20b takes such a disk 10 ms, computing a layer 6, so a read that is
//! foreseen by one layer is waited for all the same, and a wrong one delays the right ones.
//! On a disk of several GB/s, or with experts that are easier to foresee, it may pay.

mod cache;
mod files;
mod readers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::cache::Found;
pub use self::files::ExpertFiles;
use self::files::TENSORS;
use self::readers::{Queue, Readers, Weights};
use crate::kernels::KernelError;
use crate::kernels::mxfp4::Matrix;
use crate::kernels::supply::{Compute, Expert, Supply, Wanted};

/// Threads that read. One expert is four reads, and one large read is many requests
/// to the disk, so these keep the queue of any disk full.
const READERS: usize = 8;
/// Fewest experts in memory: one is computed while another one comes.
const FEWEST: u64 = 2;
/// How long to wait at a time before looking whether the run was cancelled.
const PATIENCE: Duration = Duration::from_millis(50);

/// Why experts cannot be streamed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It is another kind of model, or another target's export.
    #[error("the model has no experts that lie in files of the checkpoint")]
    NoExperts,
    /// Experts do not lie in a file as they should.
    #[error("the model's tensor {tensor} cannot be read from the disk: {reason}")]
    Malformed {
        /// Its name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of weights cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Not even two experts fit.
    #[error("{have} bytes of memory for experts are too little, two of them take {need}")]
    TooLittle {
        /// Bytes needed at least.
        need: u64,
        /// Bytes given.
        have: u64,
    },
    /// Threads cannot be started.
    #[error("no thread can be started to read experts: {0}")]
    Threads(std::io::Error),
    /// Experts cannot be read.
    #[error("an expert cannot be read: {0}")]
    Read(String),
}

/// What streaming has done since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamCounts {
    /// Experts that were needed, each layer of each run for itself.
    pub wanted: u64,
    /// Those of them that were in memory.
    pub hits: u64,
    /// Bytes read from the files.
    pub bytes: u64,
    /// How long computing waited for experts.
    pub waited: Duration,
}

impl std::ops::Sub for StreamCounts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            wanted: self.wanted - before.wanted,
            hits: self.hits - before.hits,
            bytes: self.bytes - before.bytes,
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// The experts of a model, some of them in memory, the others on the disk.
#[derive(Debug)]
pub struct ExpertStream {
    readers: Readers,
    /// Assignments that each layer has had. Held while a layer is supplied: layers take
    /// turns, as the nodes of a run do.
    turn: Mutex<Vec<u64>>,
}

impl ExpertStream {
    /// Keeps as many experts in memory as `memory` bytes are enough for.
    ///
    /// # Errors
    /// Two of them do not fit, or there are no threads to be had.
    pub fn new(files: ExpertFiles, memory: u64) -> Result<Self, StreamError> {
        let each = files.slot_bytes();
        let slots = memory / each.max(1);
        if slots < FEWEST {
            return Err(StreamError::TooLittle {
                need: FEWEST * each,
                have: memory,
            });
        }
        let clocks = vec![0; files.layers()];
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Ok(Self {
            readers: Readers::start(files, slots, READERS).map_err(StreamError::Threads)?,
            turn: Mutex::new(clocks),
        })
    }

    /// The files that hold the experts.
    pub fn files(&self) -> &ExpertFiles {
        self.readers.files()
    }

    /// Experts that memory is kept for.
    pub fn slots(&self) -> usize {
        self.readers.lock().slots()
    }

    /// What was done until now.
    pub fn counts(&self) -> StreamCounts {
        self.readers.lock().counts
    }

    /// Fills the memory before the first use: with the first experts of all layers,
    /// since nobody knows yet which ones will be wanted. Gives how many bytes were read.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn fill(&self) -> Result<u64, StreamError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.counts().bytes;
        let files = self.files();
        let layers: Vec<_> = (0..files.layers()).map(|i| (i, files.layer(i))).collect();
        let most = layers.iter().map(|(_, layer)| layer.experts).max();
        let order = (0..most.unwrap_or(0)).flat_map(|expert| {
            let here = layers.iter().filter(move |(_, l)| expert < l.experts);
            here.map(move |(layer, _)| (*layer, expert))
        });
        for (layer, expert) in order.take(self.slots()) {
            let mut queue = self.readers.lock();
            while queue.is_long() {
                queue = self.readers.wait(queue, PATIENCE);
            }
            let number = files.layer(layer).first + expert;
            if matches!(queue.cache.find(number), Found::Absent) {
                let asked = self.readers.request(&mut queue, layer, expert);
                drop(queue);
                self.readers.wake(1);
                asked.map_err(|e| StreamError::Read(e.to_string()))?;
            }
        }
        let mut queue = self.readers.lock();
        while queue.is_busy() {
            queue = self.readers.wait(queue, PATIENCE);
        }
        match queue.take_any_failure() {
            Some(failure) => Err(StreamError::Read(failure)),
            None => Ok(queue.counts.bytes - before),
        }
    }

    /// The layer whose gate and up projection's blocks have this name in the model.
    pub(crate) fn layer_named(&self, name: &str) -> Option<usize> {
        self.files().layer_named(name)
    }

    /// Layer `index` of those that have experts.
    pub(crate) fn layer(&self, index: usize) -> LayerStream<'_> {
        LayerStream {
            stream: self,
            index,
        }
    }
}

/// One layer's experts.
pub(crate) struct LayerStream<'s> {
    stream: &'s ExpertStream,
    index: usize,
}

impl Supply for LayerStream<'_> {
    fn supply(
        &self,
        wanted: &[Wanted],
        cancel: &AtomicBool,
        compute: &mut Compute<'_>,
    ) -> Result<(), KernelError> {
        let turn = &self.stream.turn;
        let mut clocks = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pass = Pass {
            readers: &self.stream.readers,
            layer: self.index,
            held: Vec::new(),
            coming: Vec::new(),
            absent: Vec::new(),
        };
        let most = (self.stream.slots() / 2).max(1);
        pass.begin(wanted, clocks[self.index])?;
        clocks[self.index] += wanted.iter().map(|w| w.tokens as u64).sum::<u64>();
        let mut left = wanted.len();
        while left > 0 {
            let batch = pass.next(most, cancel)?;
            let experts = batch
                .iter()
                .map(|(index, weights)| pass.expert(*index, weights));
            let experts = experts.collect::<Result<Vec<_>, _>>()?;
            compute(&experts)?;
            left -= batch.len();
        }
        Ok(())
    }
}

/// One way through a layer.
struct Pass<'s> {
    readers: &'s Readers,
    layer: usize,
    /// In memory and not computed yet.
    held: Vec<(usize, Arc<Weights>)>,
    /// On their way.
    coming: Vec<usize>,
    /// Not asked for yet, since there was no room; the next one last.
    absent: Vec<usize>,
}

impl Pass<'_> {
    /// Takes what is in memory and asks for the rest.
    fn begin(&mut self, wanted: &[Wanted], clock: u64) -> Result<(), KernelError> {
        let first = self.readers.files().layer(self.layer).first;
        let mut queue = self.readers.lock();
        for Wanted { expert, tokens } in wanted.iter().copied() {
            queue.cache.note(first + expert, tokens, clock);
            match queue.cache.find(first + expert) {
                Found::Ready(weights) => self.held.push((expert, weights)),
                Found::Loading => self.coming.push(expert),
                Found::Absent => self.absent.push(expert),
            }
        }
        queue.counts.wanted += wanted.len() as u64;
        queue.counts.hits += self.held.len() as u64;
        self.absent.reverse();
        let asked = self.ask(&mut queue);
        drop(queue);
        // Where asking failed, some may be in the queue all the same.
        self.readers.wake(asked.as_ref().map_or(1, |asked| *asked));
        asked.map(drop)
    }

    /// Asks for as many as there is room for, and gives how many these are.
    fn ask(&mut self, queue: &mut Queue) -> Result<usize, KernelError> {
        let before = self.absent.len();
        while let Some(&expert) = self.absent.last() {
            let asked = self.readers.request(queue, self.layer, expert);
            if !asked.map_err(|e| KernelError::Weights(e.to_string()))? {
                break;
            }
            self.absent.pop();
            self.coming.push(expert);
        }
        Ok(before - self.absent.len())
    }

    /// The next experts, at most so many; waits until one is there.
    fn next(
        &mut self,
        most: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<(usize, Arc<Weights>)>, KernelError> {
        let first = self.readers.files().layer(self.layer).first;
        let mut queue = self.readers.lock();
        let mut waiting: Option<Instant> = None;
        loop {
            for &expert in &self.coming {
                if let Found::Ready(weights) = queue.cache.find(first + expert) {
                    self.held.push((expert, weights));
                } else if let Some(failure) = queue.take_failure(first + expert) {
                    return Err(KernelError::Weights(failure));
                }
            }
            let held = &self.held;
            let there = |expert: &usize| held.iter().any(|(index, _)| index == expert);
            self.coming.retain(|expert| !there(expert));
            let asked = self.ask(&mut queue)?;
            if asked > 0 {
                drop(queue);
                self.readers.wake(asked);
                queue = self.readers.lock();
            }
            if !self.held.is_empty() {
                break;
            }
            if asked > 0 {
                // One may have arrived while nobody was looking.
                continue;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(KernelError::Cancelled);
            }
            waiting.get_or_insert_with(Instant::now);
            queue = self.readers.wait(queue, PATIENCE);
        }
        if let Some(since) = waiting {
            queue.counts.waited += since.elapsed();
        }
        let count = most.min(self.held.len());
        Ok(self.held.drain(..count).collect())
    }

    /// An expert, viewed.
    fn expert<'w>(&self, index: usize, weights: &'w Weights) -> Result<Expert<'w>, KernelError> {
        let [(up_rows, up_k), (down_rows, down_k)] = self.readers.files().layer(self.layer).shapes;
        let [up, up_scales, down, down_scales]: [&[u8]; TENSORS] = weights.tensors();
        Ok(Expert {
            index,
            gate_up: Matrix::new(up, up_scales, up_rows, up_k)?,
            down: Matrix::new(down, down_scales, down_rows, down_k)?,
        })
    }
}

#[cfg(test)]
mod tests;
