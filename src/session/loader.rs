//! Where models come from, what there is of them, and why there is none.

use std::sync::Arc;

use crate::engine::Backend;
use crate::harmony::Tokenizer;

/// An installed model, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name in the store.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Bytes on disk.
    pub size: u64,
    /// What it is exported for.
    pub target: String,
    /// When its bytes were last proven, RFC 3339; may be empty.
    pub verified_at: String,
}

/// Why nothing is computed for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The machine sleeps, or is about to.
    Sleep,
    /// It runs on battery, and the settings say so.
    Battery,
}

impl Pause {
    /// The word for it in `Availability`.
    pub fn why(self) -> &'static str {
        match self {
            Pause::Sleep => "sleep",
            Pause::Battery => "battery",
        }
    }
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pause::Sleep => "paused while the machine sleeps; requests wait until it is awake",
            Pause::Battery => {
                "paused on battery (power.on-battery); what had begun goes on with the power"
            }
        })
    }
}

/// Why there is no model to answer with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// None installed, or not this one.
    #[error("{0}")]
    NoModel(String),
    /// The inference library is absent or unusable.
    #[error("{message}")]
    NoRuntime {
        /// Which library.
        library: String,
        /// What is wrong with it.
        message: String,
    },
    /// It would not fit.
    #[error("{message}")]
    NotEnoughMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
        /// That, and what to do.
        message: String,
    },
    /// No execution provider computes what it should.
    #[error("the provider {provider} failed its self-test: {message}")]
    SelfTestFailed {
        /// Which provider.
        provider: String,
        /// What it got wrong.
        message: String,
    },
    /// It could answer, and must not now.
    #[error("{0}")]
    Paused(Pause),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Unavailable {
    /// The word for it in `Availability`.
    pub fn reason(&self) -> &'static str {
        match self {
            Unavailable::NoModel(_) => "no-model",
            Unavailable::NoRuntime { .. } => "no-runtime",
            Unavailable::NotEnoughMemory { .. } => "not-enough-memory",
            Unavailable::SelfTestFailed { .. } => "self-test-failed",
            Unavailable::Paused(_) => "paused",
            Unavailable::Failed(_) => "load-failed",
        }
    }
}

/// Why a model was unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unloaded {
    /// An administrator asked.
    Asked,
    /// Nobody used it for long.
    Unused,
    /// The system was short of memory.
    MemoryPressure,
    /// The machine slept, and its device with it.
    Sleep,
}

impl Unloaded {
    /// The word for it in `Availability`.
    pub fn reason(self) -> &'static str {
        match self {
            Unloaded::Asked => "asked",
            Unloaded::Unused => "unused",
            Unloaded::MemoryPressure => "memory-pressure",
            Unloaded::Sleep => "sleep",
        }
    }
}

/// Whether a prompt would be answered now.
#[derive(Debug, Clone, PartialEq)]
pub enum Availability {
    /// A model is loaded.
    Ready {
        /// Its name.
        model: String,
        /// Whether it answers at a slow pace, to spare the battery.
        slow: bool,
    },
    /// None is; the next prompt loads one. With the reason, where one was.
    Idle(Option<Unloaded>),
    /// One is being loaded.
    Loading {
        /// Its name.
        model: String,
        /// Share done, 0 to 1.
        progress: f64,
    },
    /// A prompt would fail.
    Unavailable(Unavailable),
}

impl Availability {
    /// The state's name in the API.
    pub fn state(&self) -> &'static str {
        match self {
            Availability::Ready { .. } => "ready",
            Availability::Idle(_) => "idle",
            Availability::Loading { .. } => "loading",
            Availability::Unavailable(_) => "unavailable",
        }
    }

    /// Why it is so, in a word; empty where there is nothing to explain.
    pub fn reason(&self) -> &'static str {
        match self {
            Availability::Ready { slow: true, .. } => Pause::Battery.why(),
            Availability::Ready { .. } | Availability::Loading { .. } => "",
            Availability::Idle(why) => why.map_or("", Unloaded::reason),
            Availability::Unavailable(why) => why.reason(),
        }
    }
}

/// The execution provider at work and why not a better one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProviderInfo {
    /// `cpu`, `cuda`, `coreml` or `simulated`; empty while nothing is loaded.
    pub name: String,
    /// The better ones and what was wrong with each.
    pub rejected: Vec<(String, String)>,
    /// Bytes of memory for experts, where the others are read from the disk as they
    /// are needed, which is slow; `None` where all are in memory.
    pub streamed: Option<u64>,
}

/// What a [`Loader`] made.
pub struct LoadedModel {
    /// Ready to compute.
    pub backend: Box<dyn Backend>,
    /// What computes.
    pub provider: ProviderInfo,
    /// Whether that is a device of its own, whose memory a sleeping machine
    /// loses.
    pub on_device: bool,
    /// Whether another provider could compute instead, should this one fail.
    pub replaceable: bool,
}

/// Where models come from. All of it may block; the host calls it on threads
/// made for that.
pub trait Loader: Send + Sync + 'static {
    /// What is installed.
    fn models(&self) -> Vec<ModelSummary>;

    /// The full name of the model a request asks for, the default one for
    /// `None`.
    ///
    /// # Errors
    /// It is not installed, with what to do.
    fn resolve(&self, name: Option<&str>) -> Result<String, Unavailable>;

    /// Quick checks whether loading could work at all.
    ///
    /// # Errors
    /// What is missing.
    fn probe(&self, model: &str) -> Result<(), Unavailable>;

    /// The model's tokenizer, without the model.
    ///
    /// # Errors
    /// It cannot be read.
    fn tokenizer(&self, model: &str) -> Result<Arc<Tokenizer>, Unavailable>;

    /// Positions of the context window the model will have.
    ///
    /// # Errors
    /// It is not installed or not readable.
    fn context_window(&self, model: &str) -> Result<usize, Unavailable>;

    /// Has the execution provider prove itself again, if one has before: the
    /// machine slept, and drivers may not have survived it.
    ///
    /// # Errors
    /// None computes what it should.
    fn prove_again(&self) -> Result<(), Unavailable>;

    /// Passes a provider over from now on, since it failed while it computed, for this
    /// reason. Told only of what was [replaceable](LoadedModel::replaceable), and quick.
    fn set_aside(&self, _provider: &str, _reason: &str) {}

    /// Loads the model; `progress` is told the share done, 0 to 1.
    ///
    /// # Errors
    /// Why it can't.
    fn load(&self, model: &str, progress: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable>;
}
