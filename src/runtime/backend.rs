//! One exported model behind the engine's [`Backend`] trait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gptoss_onnx::export::{self, ModelFile, Target};
use ort::memory::Allocator;
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::Tensor;

use super::error::RuntimeError;
use super::kv_cache::{CacheShape, KvCache};
use super::model_facts::ModelFacts;
use super::prefault::{self, PrefaultReport};
use super::provider::Provider;
use super::session;
use super::{memory, threads};
use crate::engine::backend::{Backend, BackendError, BackendInfo, Cancel, Logits, Wanted};

/// Positions of the KV cache unless said otherwise.
pub const DEFAULT_CONTEXT: usize = 8192;

/// Most tokens computed in one run unless said otherwise: so many that an
/// expert's weights, once unpacked, serve about 64 of them.
pub const DEFAULT_PREFILL_CHUNK: usize = 512;

/// Most bytes of attention scores, f32 heads × chunk × context: deep in a long
/// context, runs become shorter instead of memory larger.
const SCORE_BYTES: usize = 256 << 20;

/// Activations, scratch memory, the library itself and ourselves, in bytes.
const WORKSPACE: u64 = 400 << 20;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the model, only reported.
    pub model: String,
    /// Which export of it.
    pub target: Target,
    /// Positions of the KV cache; lowered to what the model was made for.
    pub context: usize,
    /// Threads; `None` for one per physical core.
    pub threads: Option<usize>,
    /// Compute with f32 activations: slow, for judging the export.
    pub exact: bool,
    /// A provider that [`choose`](super::choose) found to work.
    pub provider: Provider,
    /// Most tokens computed in one run.
    pub prefill_chunk: usize,
    /// Bring the mapped weights into memory while loading.
    pub prefault: bool,
    /// Threads wait actively between the operators of a step, and sleep
    /// between steps: a wake-up costs more than most operators take.
    pub spinning: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: String::new(),
            target: Target::Cpu,
            context: DEFAULT_CONTEXT,
            threads: None,
            exact: false,
            provider: Provider::Cpu,
            prefill_chunk: DEFAULT_PREFILL_CHUNK,
            prefault: true,
            spinning: true,
        }
    }
}

/// What loading took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadReport {
    /// Everything, from the files to a session ready for a first token.
    pub duration: Duration,
    /// Opening the session alone.
    pub session: Duration,
    /// Bytes estimated before loading: weights, cache and workspace.
    pub need: u64,
    /// Bytes of the KV cache.
    pub cache: u64,
    /// Weights brought into memory, where that was asked for.
    pub prefault: Option<PrefaultReport>,
    /// Threads within one operator.
    pub threads: usize,
}

/// A loaded model with its KV cache.
pub struct OrtBackend {
    info: BackendInfo,
    report: LoadReport,
    position: usize,
    score_heads: Option<usize>,
    feed: Feed,
    logits: Tensor<f32>,
    /// Rows of several runs, where one call needed several with logits.
    gathered: Vec<f32>,
    cancel: Arc<RunCancel>,
    // Dropped in this order: the binding and the session use the cache's memory.
    binding: IoBinding,
    session: Session,
    _cache: KvCache,
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
        let file =
            export::read_model(&folder).map_err(|error| RuntimeError::Model(error.to_string()))?;
        let file = if options.exact { file.exact() } else { file };
        let ModelFile {
            bytes,
            external_root,
        } = file;
        let mut backend = Self::from_model(&bytes, Some(&external_root), &options)?;
        if options.prefault {
            backend.prefault(revision);
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
        let shape = CacheShape {
            layers: facts.layers,
            kv_heads: facts.kv_heads,
            positions: options.context.clamp(1, facts.max_positions),
            head_dim: facts.head_dim,
            half: facts.half_cache,
        };
        let need = facts.weight_bytes + shape.bytes() + WORKSPACE;
        enough_memory(need, memory::available())?;
        let threads = options.threads.unwrap_or_else(threads::physical_cores);
        let cancel = Arc::new(RunCancel::new()?);
        let opening = Instant::now();
        let session = session::open(
            model,
            session::Settings {
                external_root,
                provider: options.provider,
                threads,
                spinning: options.spinning,
                operators: gptoss_onnx::operators::domain(Arc::clone(&cancel.flag))?,
            },
        )?;
        let session_duration = opening.elapsed();
        let mut cache = KvCache::new(shape)?;
        let mut binding = session.create_binding()?;
        cache.bind(&mut binding)?;
        let mut logits = Tensor::new(&Allocator::default(), [1, facts.vocab_size])?;
        binding.bind_output("logits", &mut logits)?;
        Ok(Self {
            info: BackendInfo {
                model: options.model.clone(),
                vocab_size: facts.vocab_size,
                context_window: shape.positions,
                prefill_chunk: options.prefill_chunk.max(1),
                provider: options.provider.to_string(),
            },
            report: LoadReport {
                duration: started.elapsed(),
                session: session_duration,
                need,
                cache: shape.bytes(),
                prefault: None,
                threads,
            },
            position: 0,
            score_heads: facts.score_heads,
            feed: Feed::new()?,
            logits,
            gathered: Vec::new(),
            cancel,
            binding,
            session,
            _cache: cache,
        })
    }

    /// What loading took.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    fn prefault(&mut self, revision: &Path) {
        let budget = memory::available().unwrap_or(u64::MAX);
        let report = prefault::mapped_weights(revision, self.report.threads, budget);
        tracing::info!(
            mapped = report.mapped,
            populated = report.populated,
            milliseconds = report.duration.as_millis(),
            "weights brought into memory"
        );
        self.report.duration += report.duration;
        self.report.prefault = Some(report);
    }

    /// Computes `tokens` in chunks; the position moves with each.
    fn append(&mut self, tokens: &[u32], wanted: Wanted<'_>) -> Result<Rows, BackendError> {
        let total = tokens.len();
        if total <= self.next_chunk(total) {
            return self.run(tokens, &wanted_in(wanted, 0, total, total));
        }
        self.gathered.clear();
        let (mut rows, mut done) = (0, 0);
        while done < total {
            let length = self.next_chunk(total - done);
            let positions = wanted_in(wanted, done, length, total);
            self.run(&tokens[done..done + length], &positions)?;
            if !positions.is_empty() {
                rows += positions.len();
                let (_, values) = self.logits.extract_tensor();
                self.gathered.extend_from_slice(values);
            }
            done += length;
        }
        Ok(Rows::Gathered(rows))
    }

    /// How many of the next `left` tokens go into one run.
    fn next_chunk(&self, left: usize) -> usize {
        let wish = left.min(self.info.prefill_chunk);
        let Some(heads) = self.score_heads else {
            return wish;
        };
        let row = heads * (self.position + wish) * size_of::<f32>();
        wish.min((SCORE_BYTES / row.max(1)).max(1))
    }

    /// One run of the session: at most a chunk of tokens.
    fn run(&mut self, tokens: &[u32], positions: &[i64]) -> Result<Rows, BackendError> {
        self.cancel.check()?;
        if tokens.is_empty() {
            return Ok(Rows::Bound(0));
        }
        self.bind(tokens, positions).map_err(provider_error)?;
        let outcome = self
            .session
            .run_binding_with_options(&self.binding, &self.cancel.options)
            .map(drop);
        self.cancel.check()?;
        outcome.map_err(provider_error)?;
        self.position += tokens.len();
        Ok(Rows::Bound(positions.len()))
    }

    fn bind(&mut self, tokens: &[u32], positions: &[i64]) -> Result<(), ort::Error> {
        let rows = positions.len();
        if self.logits.shape().first() != Some(&(rows as i64)) {
            self.logits = Tensor::new(&Allocator::default(), [rows, self.info.vocab_size])?;
            self.binding.bind_output("logits", &mut self.logits)?;
        }
        let total = self.position + tokens.len();
        self.feed.fill(tokens, positions, total)?;
        self.feed.bind(&mut self.binding)
    }

    fn logits(&self, rows: Rows) -> Logits<'_> {
        Logits {
            values: match rows {
                Rows::Bound(0) | Rows::Gathered(0) => &[],
                Rows::Bound(_) => self.logits.extract_tensor().1,
                Rows::Gathered(_) => &self.gathered,
            },
            vocab_size: self.info.vocab_size,
        }
    }

    fn validate(&self, tokens: &[u32], wanted: Wanted<'_>) -> Result<(), BackendError> {
        let total = self.position + tokens.len();
        if total > self.info.context_window {
            return Err(BackendError::ContextExceeded {
                wanted: total,
                window: self.info.context_window,
            });
        }
        let outside = |&&token: &&u32| token as usize >= self.info.vocab_size;
        if let Some(&token) = tokens.iter().find(outside) {
            return Err(BackendError::InvalidToken(token));
        }
        if let Wanted::At(positions) = wanted {
            let ascending = positions.is_sorted_by(|a, b| a < b);
            let inside = positions.last().is_none_or(|&last| last < tokens.len());
            if !(ascending && inside) {
                return Err(BackendError::Provider(format!(
                    "logits are wanted at positions that are not ascending below {}",
                    tokens.len()
                )));
            }
        }
        Ok(())
    }
}

impl Backend for OrtBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn position(&self) -> usize {
        self.position
    }

    fn forward(&mut self, tokens: &[u32], wanted: Wanted<'_>) -> Result<Logits<'_>, BackendError> {
        self.validate(tokens, wanted)?;
        let before = self.position;
        match self.append(tokens, wanted) {
            Ok(rows) => Ok(self.logits(rows)),
            Err(error) => {
                self.position = before;
                Err(error)
            }
        }
    }

    fn rewind(&mut self, position: usize) {
        // Attention reads nothing beyond the position, so what the cache still
        // holds there is overwritten before it can matter.
        self.position = self.position.min(position);
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.cancel) as Arc<dyn Cancel>
    }
}

/// Where the rows of a call are, and how many.
enum Rows {
    /// In the tensor bound as the graph's output.
    Bound(usize),
    /// Collected from several runs.
    Gathered(usize),
}

/// The wanted positions that fall in the slice of `length` tokens at `offset`
/// of a call with `total` tokens, counted from the slice's start.
fn wanted_in(wanted: Wanted<'_>, offset: usize, length: usize, total: usize) -> Vec<i64> {
    let inside = |position: usize| {
        let relative = position.checked_sub(offset)?;
        (relative < length).then_some(relative as i64)
    };
    match wanted {
        Wanted::None => Vec::new(),
        Wanted::Last => total.checked_sub(1).and_then(inside).into_iter().collect(),
        Wanted::At(positions) => positions.iter().filter_map(|&p| inside(p)).collect(),
    }
}

fn enough_memory(need: u64, have: Option<u64>) -> Result<(), RuntimeError> {
    match have {
        Some(have) if need > have => Err(RuntimeError::NotEnoughMemory { need, have }),
        _ => Ok(()),
    }
}

fn provider_error(error: ort::Error) -> BackendError {
    BackendError::Provider(error.message().to_owned())
}

/// The graph's inputs besides the cache, kept from one run to the next: steps
/// of one token all have the same shapes.
struct Feed {
    /// i64 `[1, S]`.
    input_ids: Tensor<i64>,
    /// i64 `[P]`.
    logits_positions: Tensor<i64>,
    /// i32 `[1]`.
    seqlens_k: Tensor<i32>,
    /// i32, a scalar.
    total_sequence_length: Tensor<i32>,
}

impl Feed {
    fn new() -> Result<Self, ort::Error> {
        let allocator = Allocator::default();
        Ok(Self {
            input_ids: Tensor::new(&allocator, [1usize, 1])?,
            logits_positions: Tensor::new(&allocator, [1usize])?,
            seqlens_k: Tensor::new(&allocator, [1usize])?,
            total_sequence_length: Tensor::new(&allocator, [0usize; 0])?,
        })
    }

    /// Takes in `tokens`, which end at position `total` of the sequence.
    fn fill(&mut self, tokens: &[u32], positions: &[i64], total: usize) -> Result<(), ort::Error> {
        let allocator = Allocator::default();
        if self.input_ids.shape().num_elements() != tokens.len() {
            self.input_ids = Tensor::new(&allocator, [1, tokens.len()])?;
        }
        if self.logits_positions.shape().num_elements() != positions.len() {
            self.logits_positions = Tensor::new(&allocator, [positions.len()])?;
        }
        let (_, ids) = self.input_ids.extract_tensor_mut();
        for (id, &token) in ids.iter_mut().zip(tokens) {
            *id = i64::from(token);
        }
        if !positions.is_empty() {
            let (_, wanted) = self.logits_positions.extract_tensor_mut();
            wanted.copy_from_slice(positions);
        }
        // The context window is far below the limits of i32.
        let total = i32::try_from(total).unwrap_or(i32::MAX);
        self.seqlens_k.extract_tensor_mut().1.fill(total - 1);
        self.total_sequence_length
            .extract_tensor_mut()
            .1
            .fill(total);
        Ok(())
    }

    /// Binding again hands the new values to a provider that keeps copies.
    fn bind(&self, binding: &mut IoBinding) -> Result<(), ort::Error> {
        binding.bind_input("input_ids", &self.input_ids)?;
        binding.bind_input("logits_positions", &self.logits_positions)?;
        binding.bind_input("seqlens_k", &self.seqlens_k)?;
        binding.bind_input("total_sequence_length", &self.total_sequence_length)
    }
}

/// Interrupts a run between two operators through ONNX Runtime, and inside a
/// long one of ours through the flag it polls.
struct RunCancel {
    flag: Arc<AtomicBool>,
    options: RunOptions,
}

impl RunCancel {
    fn new() -> Result<Self, RuntimeError> {
        Ok(Self {
            flag: Arc::new(AtomicBool::new(false)),
            options: RunOptions::new()?,
        })
    }

    fn check(&self) -> Result<(), BackendError> {
        match self.flag.load(Ordering::Acquire) {
            true => Err(BackendError::Cancelled),
            false => Ok(()),
        }
    }
}

impl Cancel for RunCancel {
    fn cancel(&self) {
        self.flag.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run cannot be interrupted");
        }
    }

    fn reset(&self) {
        if let Err(error) = self.options.unterminate() {
            tracing::warn!(%error, "an interruption cannot be taken back");
        }
        self.flag.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_positions_are_split_over_the_chunks() {
        let at = Wanted::At(&[0, 3, 4, 9]);
        assert_eq!(wanted_in(at, 0, 4, 10), [0, 3]);
        assert_eq!(wanted_in(at, 4, 4, 10), [0]);
        assert_eq!(wanted_in(at, 8, 2, 10), [1]);
        assert!(wanted_in(Wanted::Last, 0, 4, 10).is_empty());
        assert_eq!(wanted_in(Wanted::Last, 8, 2, 10), [1]);
        assert!(wanted_in(Wanted::Last, 0, 0, 0).is_empty());
        assert!(wanted_in(Wanted::None, 8, 2, 10).is_empty());
    }

    #[test]
    fn too_little_memory_is_told_with_numbers() {
        let error = enough_memory(15_000_000_000, Some(8_000_000_000)).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("15.0 GB") && message.contains("8.0 GB"),
            "{message}"
        );
        assert!(enough_memory(1, Some(1)).is_ok());
        assert!(enough_memory(u64::MAX, None).is_ok());
    }
}
