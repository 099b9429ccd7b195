//! How a model is loaded, and what that took.

use std::path::PathBuf;
use std::time::Duration;

use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;

use super::prefault::PrefaultReport;
use super::provider::Provider;
use super::streaming::ExpertMemory;

/// Positions of the KV cache unless said otherwise.
pub const DEFAULT_CONTEXT: usize = 8192;

/// Most tokens computed in one run unless said otherwise: so many that an
/// expert's weights, once unpacked, serve about 64 of them.
pub const DEFAULT_PREFILL_CHUNK: usize = 512;

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
    /// What the KV cache is made of; `None` for f16, or for f32 where `exact`.
    /// Target `portable` has f32, and nothing else.
    pub kv_cache: Option<Precision>,
    /// A provider that [`choose`](super::choose) found to work.
    pub provider: Provider,
    /// Have the provider allocate the key/value cache of one sequence, as it does in the
    /// memory of a device.
    pub provider_cache: bool,
    /// Most tokens computed in one run.
    pub prefill_chunk: usize,
    /// Bring the mapped weights into memory while loading.
    pub prefault: bool,
    /// Sequences computed together, where the export allows more than one.
    pub sequences: usize,
    /// Positions that the sequences have together, where the cache is made of
    /// blocks; `None` for one context window and some to spare.
    pub cache_positions: Option<usize>,
    /// How the names of the files begin that ONNX Runtime writes its profile to.
    pub profile: Option<PathBuf>,
    /// Threads wait actively between the operators of a step, and sleep
    /// between steps: a wake-up costs more than most operators take.
    pub spinning: bool,
    /// Keep experts on the disk and only some of them in memory; `None` where all of
    /// the model has to fit.
    pub stream_experts: Option<ExpertMemory>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: String::new(),
            target: Target::Cpu,
            context: DEFAULT_CONTEXT,
            threads: None,
            exact: false,
            kv_cache: None,
            provider: Provider::Cpu,
            provider_cache: false,
            prefill_chunk: DEFAULT_PREFILL_CHUNK,
            prefault: true,
            sequences: 1,
            cache_positions: None,
            profile: None,
            spinning: true,
            stream_experts: None,
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
    /// What the KV cache is made of.
    pub kv_cache: Precision,
    /// Weights brought into memory, where that was asked for.
    pub prefault: Option<PrefaultReport>,
    /// Threads within one operator.
    pub threads: usize,
    /// Experts on the disk, where they are streamed.
    pub streamed: Option<Streamed>,
}

/// Experts of which only some are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streamed {
    /// Experts of all layers.
    pub experts: usize,
    /// How many of them memory is kept for.
    pub slots: usize,
    /// Bytes of that memory.
    pub memory: u64,
}
