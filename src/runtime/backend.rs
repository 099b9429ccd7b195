//! One exported model behind the engine's [`Backend`] trait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use gptoss_onnx::export::{self, ModelFile};
use gptoss_onnx::kernels::attention::BLOCK;
use gptoss_onnx::streaming::ExpertStream;
use ort::memory::{AllocationDevice, Allocator};
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::blocks::{Exhausted, Sequences};
use super::cancel::RunCancel;
use super::device_cache::DeviceCache;
use super::error::RuntimeError;
use super::feed::Feed;
use super::kv_cache::{CacheShape, KvCache};
use super::layout::Layout;
use super::memory_plan::MemoryPlan;
use super::model_facts::{ModelFacts, StepWeights};
use super::options::{LoadReport, Options, Streamed};
use super::prefault;
use super::session;
use super::streaming;
use super::{memory, threads};
use crate::engine::backend::{
    Backend, BackendError, BackendInfo, CacheUse, Cancel, Logits, SequenceId, Slice, Wanted,
};
use crate::model::InUse;

/// Most bytes of attention scores, f32 heads × chunk × context: deep in a long
/// context, runs become shorter instead of memory larger.
const SCORE_BYTES: usize = 256 << 20;

/// A loaded model with its KV cache.
pub struct OrtBackend {
    info: BackendInfo,
    report: LoadReport,
    score_heads: Option<usize>,
    weights: StepWeights,
    sequences: Kept,
    feed: Feed,
    logits: Tensor<f32>,
    cancel: Arc<RunCancel>,
    // Dropped in this order: the binding and the session use the cache's memory.
    binding: IoBinding,
    session: Session,
    cache: Cache,
    /// While it runs, its files are not removed.
    in_use: Option<InUse>,
}

/// The memory of the key/value cache.
enum Cache {
    Main(KvCache),
    /// For one sequence, without blocks.
    Device(DeviceCache),
}

impl Cache {
    fn new(
        shape: CacheShape,
        session: &Session,
        device: Option<AllocationDevice<'static>>,
    ) -> Result<Self, RuntimeError> {
        // What is made of blocks is copied and read by the processor.
        match device.filter(|_| shape.is_one_piece()) {
            Some(device) => DeviceCache::new(session, device, &shape).map(Self::Device),
            None => KvCache::new(shape).map(Self::Main),
        }
    }

    fn bind(&mut self, binding: &mut IoBinding) -> Result<(), RuntimeError> {
        match self {
            Self::Main(cache) => cache.bind(binding),
            Self::Device(cache) => cache.bind(binding),
        }
    }

    fn in_main_memory(&self) -> bool {
        matches!(self, Self::Main(_))
    }

    fn main(&mut self) -> Option<&mut KvCache> {
        match self {
            Self::Main(cache) => Some(cache),
            Self::Device(_) => None,
        }
    }
}

/// The sequences in the cache.
enum Kept {
    /// As many as the blocks are enough for.
    Paged(Sequences),
    /// At most one, in a cache without blocks.
    Single(Option<Single>),
}

impl Kept {
    fn new(layout: Layout) -> Self {
        match layout {
            Layout::Paged { sizes, window, .. } => Self::Paged(Sequences::new(sizes, window)),
            Layout::Single => Self::Single(None),
        }
    }
}

/// The one sequence of a cache without blocks.
#[derive(Debug, Default, Clone, Copy)]
struct Single {
    id: u32,
    length: usize,
}

impl OrtBackend {
    /// Loads the export `options.target` of the model in `revision`, a folder
    /// `<store>/models/<name>/<revision>`.
    pub fn load(revision: &Path, options: Options) -> Result<Self, RuntimeError> {
        let folder = revision.join(options.target.to_string());
        if !folder.join("model.onnx").is_file() {
            return Err(RuntimeError::Model(format!(
                "{} holds no export for the target {}; make one with `gptoss-ctl export`",
                revision.display(),
                options.target
            )));
        }
        let in_use =
            InUse::hold(revision).map_err(|error| RuntimeError::Model(error.to_string()))?;
        let file =
            export::read_model(&folder).map_err(|error| RuntimeError::Model(error.to_string()))?;
        let file = if options.exact { file.exact() } else { file };
        let file = match options.kv_cache {
            Some(precision) => file.with_cache(precision),
            None => file,
        };
        let ModelFile {
            bytes,
            external_root,
        } = file;
        let mut backend = Self::from_model(&bytes, Some(&external_root), &options)?;
        backend.in_use = Some(in_use);
        if options.prefault {
            backend.prefault(revision)?;
        }
        tracing::info!(
            model = backend.info.model,
            target = %options.target,
            context = backend.info.context_window,
            threads = backend.report.threads,
            milliseconds = backend.report.duration.as_millis(),
            "model loaded"
        );
        Ok(backend)
    }

    /// Opens a model from its bytes; `external_root` is the folder that the
    /// locations of its external tensors are relative to.
    pub fn from_model(
        model: &[u8],
        external_root: Option<&Path>,
        options: &Options,
    ) -> Result<Self, RuntimeError> {
        let started = Instant::now();
        let facts = ModelFacts::read(model)?;
        if options.kv_cache.is_some_and(|wanted| wanted != facts.cache) {
            return Err(RuntimeError::Model(format!(
                "the key/value cache of this export can only be of {}",
                facts.cache.name()
            )));
        }
        let plan = MemoryPlan::of(&facts, options);
        let stream = match options.stream_experts {
            Some(wanted) => Some(streaming::open(
                model,
                external_root,
                &plan,
                wanted,
                memory::available(),
            )?),
            None => {
                plan.check(options.provider, || {
                    streaming::disk_speed(model, external_root)
                })?;
                None
            }
        };
        let streamed = stream.as_ref().map(|stream| Streamed {
            experts: stream.files().experts(),
            slots: stream.slots(),
            memory: stream.slots() as u64 * stream.files().slot_bytes(),
        });
        let context = plan.context;
        let layout = Layout::new(&facts, context, options);
        let threads = options.threads.unwrap_or_else(threads::physical_cores);
        let cancel = Arc::new(RunCancel::new(stream)?);
        let opening = Instant::now();
        let session = session::open(
            model,
            session::Settings {
                external_root,
                provider: options.provider,
                threads,
                spinning: options.spinning,
                profile: options.profile.as_deref(),
                operators: gptoss_onnx::operators::domain(&cancel.control)?,
            },
        )?;
        let session_duration = opening.elapsed();
        let shape = layout.shape(&facts, context);
        let device = options.provider.device();
        let device = device.or_else(|| options.provider_cache.then_some(AllocationDevice::CPU));
        let mut cache = Cache::new(shape, &session, device)?;
        let mut binding = session.create_binding()?;
        cache.bind(&mut binding)?;
        let mut logits = Tensor::new(&Allocator::default(), [1, facts.vocab_size])?;
        binding.bind_output("logits", &mut logits)?;
        Ok(Self {
            info: BackendInfo {
                model: options.model.clone(),
                vocab_size: facts.vocab_size,
                context_window: context,
                prefill_chunk: options.prefill_chunk.max(1),
                sequences: layout.sequences(),
                provider: options.provider.to_string(),
            },
            report: LoadReport {
                duration: started.elapsed(),
                session: session_duration,
                need: match streamed {
                    Some(streamed) => plan.without_experts() + streamed.memory,
                    None => plan.total(),
                },
                cache: plan.cache,
                kv_cache: facts.cache,
                prefault: None,
                threads,
                streamed,
            },
            // Of the stock operator on the processor; a device keeps no such matrix.
            score_heads: facts.score_heads.filter(|_| cache.in_main_memory()),
            weights: facts.step_weights,
            feed: Feed::new(layout.is_paged(), cache.in_main_memory())?,
            sequences: Kept::new(layout),
            logits,
            cancel,
            binding,
            session,
            cache,
            in_use: None,
        })
    }

    /// What loading took.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Experts read since loading, each layer of each run for itself.
    pub fn experts_read(&self) -> u64 {
        self.cancel.control.experts_read.load(Ordering::Relaxed)
    }

    /// The experts on the disk, where they are streamed.
    pub fn stream(&self) -> Option<&ExpertStream> {
        self.cancel.control.stream.as_ref()
    }

    /// Bytes of weights that a step reads which reads so many experts, those of
    /// all layers together.
    pub fn step_bytes(&self, experts: f64) -> f64 {
        self.weights.dense as f64 + experts * self.weights.expert as f64
    }

    /// Appends `count` positions of noise to a sequence: for measuring how long
    /// what follows takes.
    ///
    /// # Errors
    /// No room for them, or a cache that is not made of blocks.
    pub fn append_noise(&mut self, sequence: SequenceId, count: usize) -> Result<(), BackendError> {
        let Kept::Paged(sequences) = &mut self.sequences else {
            let message = "this export's cache cannot be filled with noise";
            return Err(BackendError::Provider(message.into()));
        };
        let (mut left, mut copies) = (count, Vec::new());
        while left > 0 {
            let tokens = left.min(self.info.prefill_chunk);
            let room = sequences.reserve(&[(sequence.0, tokens)], &mut copies);
            room.map_err(|Exhausted| BackendError::CacheFull)?;
            let (full, window) = sequences.tables(sequence.0);
            let Some(cache) = self.cache.main() else {
                break;
            };
            let new = |table: &'_ [u32]| table.len() - table.len().min(tokens.div_ceil(BLOCK) + 1);
            cache.fill_with_noise(false, &full[new(full)..]);
            cache.fill_with_noise(true, &window[new(window)..]);
            sequences.advance(sequence.0, tokens);
            left -= tokens;
        }
        Ok(())
    }

    /// Ends the profile that [`Options::profile`] began and names its file.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn end_profile(&mut self) -> Result<String, RuntimeError> {
        Ok(self.session.end_profiling()?)
    }

    fn prefault(&mut self, revision: &Path) -> Result<(), RuntimeError> {
        let part = match self.report.streamed {
            Some(_) => prefault::Part::Dense,
            None => prefault::Part::All,
        };
        let budget = memory::available().unwrap_or(u64::MAX);
        let report = prefault::mapped_weights(revision, part, self.report.threads, budget);
        tracing::info!(
            mapped = report.mapped,
            populated = report.populated,
            milliseconds = report.duration.as_millis(),
            "weights brought into memory"
        );
        self.report.duration += report.duration;
        self.report.prefault = Some(report);
        if let Some(stream) = self.stream() {
            let started = Instant::now();
            let filled = stream.fill();
            let bytes = filled.map_err(|error| RuntimeError::Model(error.to_string()))?;
            let milliseconds = started.elapsed().as_millis();
            tracing::info!(bytes, milliseconds, "experts read ahead");
            self.report.duration += started.elapsed();
        }
        Ok(())
    }

    /// Makes room in the cache and says what the run is about.
    fn prepare(&mut self, slices: &[Slice<'_>]) -> Result<(), BackendError> {
        match &mut self.sequences {
            Kept::Paged(sequences) => {
                let wanted: Vec<_> = slices
                    .iter()
                    .map(|slice| (slice.sequence.0, slice.tokens.len()))
                    .collect();
                let mut copies = Vec::new();
                let room = sequences.reserve(&wanted, &mut copies);
                room.map_err(|Exhausted| BackendError::CacheFull)?;
                if let Some(cache) = self.cache.main() {
                    copies.into_iter().for_each(|copy| cache.copy(copy));
                }
                self.feed.fill(slices).map_err(provider_error)?;
                self.feed.fill_tables(slices, sequences)
            }
            Kept::Single(single) => {
                let length = single.map_or(0, |single| single.length);
                let fed: usize = slices.iter().map(|slice| slice.tokens.len()).sum();
                self.feed.fill(slices).map_err(provider_error)?;
                self.feed.fill_length(length + fed);
                Ok(())
            }
        }
        .map_err(provider_error)
    }

    /// One run of the session; gives how many rows of logits it computed.
    fn run(&mut self, slices: &[Slice<'_>]) -> Result<usize, BackendError> {
        self.cancel.check()?;
        self.prepare(slices)?;
        let rows = self.feed.rows();
        self.bind(self.feed.computed_rows())
            .map_err(provider_error)?;
        let outcome = self
            .session
            .run_binding_with_options(&self.binding, &self.cancel.options)
            .map(drop);
        self.cancel.check()?;
        outcome.map_err(provider_error)?;
        Ok(rows)
    }

    fn bind(&mut self, rows: usize) -> Result<(), ort::Error> {
        if self.logits.shape().first() != Some(&(rows as i64)) {
            self.logits = Tensor::new(&Allocator::default(), [rows, self.info.vocab_size])?;
            self.binding.bind_output("logits", &mut self.logits)?;
        }
        self.feed.bind(&mut self.binding)
    }

    /// The run has appended the slices, or it has not.
    fn settle(&mut self, slices: &[Slice<'_>], done: bool) {
        for slice in slices {
            match &mut self.sequences {
                Kept::Paged(sequences) if done => {
                    sequences.advance(slice.sequence.0, slice.tokens.len());
                }
                Kept::Paged(sequences) => sequences.retreat(slice.sequence.0),
                Kept::Single(Some(single)) if done => single.length += slice.tokens.len(),
                Kept::Single(_) => {}
            }
        }
    }

    fn validate(&self, slices: &[Slice<'_>]) -> Result<(), BackendError> {
        let misuse = |message: String| Err(BackendError::Provider(message));
        if slices.is_empty() || slices.len() > self.info.sequences {
            return misuse(format!("{} slices at once", slices.len()));
        }
        for (i, slice) in slices.iter().enumerate() {
            let total = self.length(slice.sequence) + slice.tokens.len();
            if total > self.info.context_window {
                return Err(BackendError::ContextExceeded {
                    wanted: total,
                    window: self.info.context_window,
                });
            }
            let outside = |&&token: &&u32| token as usize >= self.info.vocab_size;
            if let Some(&token) = slice.tokens.iter().find(outside) {
                return Err(BackendError::InvalidToken(token));
            }
            let fits = (1..=self.info.prefill_chunk).contains(&slice.tokens.len());
            let twice = slices[..i].iter().any(|s| s.sequence == slice.sequence);
            if !fits || twice {
                return misuse(format!(
                    "{} tokens at once for sequence {}",
                    slice.tokens.len(),
                    slice.sequence.0
                ));
            }
            if let Wanted::At(positions) = slice.wanted {
                let ascending = positions.is_sorted_by(|a, b| a < b);
                let inside = positions.last().is_none_or(|&p| p < slice.tokens.len());
                if !(ascending && inside) {
                    return misuse(format!(
                        "logits are wanted at positions that are not ascending below {}",
                        slice.tokens.len()
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Backend for OrtBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn open(&mut self) -> Option<SequenceId> {
        match &mut self.sequences {
            Kept::Paged(sequences) => Some(SequenceId(sequences.open())),
            Kept::Single(Some(_)) => None,
            Kept::Single(single) => Some(SequenceId(single.insert(Single::default()).id)),
        }
    }

    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId> {
        match &mut self.sequences {
            Kept::Paged(sequences) => Some(SequenceId(sequences.fork(sequence.0, position))),
            Kept::Single(_) => None,
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        match &mut self.sequences {
            Kept::Paged(sequences) => sequences.close(sequence.0),
            Kept::Single(single) => *single = None,
        }
    }

    fn length(&self, sequence: SequenceId) -> usize {
        match &self.sequences {
            Kept::Paged(sequences) => sequences.length(sequence.0),
            Kept::Single(single) => single.map_or(0, |single| single.length),
        }
    }

    fn rewind(&mut self, sequence: SequenceId, position: usize) {
        match &mut self.sequences {
            Kept::Paged(sequences) => sequences.rewind(sequence.0, position),
            // Attention reads nothing beyond the length, so what the cache
            // still holds there is overwritten before it can matter.
            Kept::Single(Some(single)) => single.length = single.length.min(position),
            Kept::Single(None) => {}
        }
    }

    fn mark(&mut self, sequence: SequenceId, position: usize) {
        if let Kept::Paged(sequences) = &mut self.sequences {
            sequences.mark(sequence.0, position);
        }
    }

    fn longest_slice(&self, sequence: SequenceId) -> usize {
        let wish = self.info.prefill_chunk;
        let Some(heads) = self.score_heads else {
            return wish;
        };
        let row = heads * (self.length(sequence) + wish) * size_of::<f32>();
        wish.min((SCORE_BYTES / row.max(1)).max(1))
    }

    fn forward(&mut self, slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError> {
        self.validate(slices)?;
        let outcome = self.run(slices);
        self.settle(slices, outcome.is_ok());
        let rows = outcome?;
        Ok(Logits {
            values: match rows {
                0 => &[],
                _ => self.logits.extract_tensor().1,
            },
            vocab_size: self.info.vocab_size,
        })
    }

    fn cache_use(&self) -> CacheUse {
        let (used, total) = match &self.sequences {
            Kept::Paged(sequences) => sequences.full_use(),
            Kept::Single(single) => (
                single.map_or(0, |single| single.length.div_ceil(BLOCK)),
                self.info.context_window.div_ceil(BLOCK),
            ),
        };
        CacheUse { used, total }
    }

    fn trim(&mut self) {
        match (&self.sequences, self.cache.main()) {
            (Kept::Paged(sequences), Some(cache)) => {
                let (full, window) = sequences.free();
                cache.release(false, full);
                cache.release(true, window);
            }
            (Kept::Single(None), Some(cache)) => cache.release_all(),
            // A device's memory is one allocation, until the model is unloaded.
            (_, None) | (Kept::Single(Some(_)), _) => {}
        }
        memory::trim_heap();
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.cancel) as Arc<dyn Cancel>
    }
}

fn provider_error(error: ort::Error) -> BackendError {
    BackendError::Provider(error.message().to_owned())
}
