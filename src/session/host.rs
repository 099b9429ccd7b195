//! The resident model: loaded on first use, shared by all requests, replaced
//! when a request names another one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};

use crate::engine::{Backend, Engine, EngineSettings, Statistics};
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
    #[error("the model needs {need} bytes of memory, {have} are available")]
    NotEnoughMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// No execution provider computes what it should.
    #[error("the provider {provider} failed its self-test: {message}")]
    SelfTestFailed {
        /// Which provider.
        provider: String,
        /// What it got wrong.
        message: String,
    },
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
            Unavailable::Failed(_) => "load-failed",
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
    },
    /// None is; the next prompt loads one.
    Idle,
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
            Availability::Idle => "idle",
            Availability::Loading { .. } => "loading",
            Availability::Unavailable(_) => "unavailable",
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
}

/// What a [`Loader`] made.
pub struct LoadedModel {
    /// Ready to compute.
    pub backend: Box<dyn Backend>,
    /// What computes.
    pub provider: ProviderInfo,
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

    /// Loads the model; `progress` is told the share done, 0 to 1.
    ///
    /// # Errors
    /// Why it can't.
    fn load(&self, model: &str, progress: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable>;
}

/// A model in memory.
struct Resident {
    model: String,
    engine: Arc<Engine>,
    tokenizer: Arc<Tokenizer>,
    /// Leases given out.
    users: watch::Sender<usize>,
}

/// The right to use the resident model; it stays while a lease exists.
pub struct Lease(Arc<Resident>);

impl Lease {
    fn new(resident: Arc<Resident>) -> Self {
        resident.users.send_modify(|n| *n += 1);
        Lease(resident)
    }

    /// The model's engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.0.tokenizer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.send_modify(|n| *n -= 1);
    }
}

#[derive(Default)]
struct Slot {
    resident: Option<Arc<Resident>>,
    /// The engine even while its model is on its way out, for the watchdog.
    engine: Weak<Engine>,
    /// Number of loads that ended; tells a request whether a failure is newer
    /// than itself.
    loads: u64,
    /// The last load, where it failed.
    failure: Option<(u64, String, Unavailable)>,
    stopped: bool,
}

/// Holds at most one model. Requests for the resident model share it; one for
/// another model waits until the leases are gone, and requests that come later
/// wait behind it.
pub struct ModelHost {
    loader: Arc<dyn Loader>,
    settings: EngineSettings,
    slot: Mutex<Slot>,
    /// Held while a model is loaded or replaced. Fair: first come, first served.
    turn: Arc<tokio::sync::Mutex<()>>,
    waiting: watch::Sender<usize>,
    arrivals: AtomicU64,
    availability: watch::Sender<Availability>,
    provider: watch::Sender<ProviderInfo>,
    /// The present model's. Held while one is read, which takes seconds: who
    /// comes meanwhile waits for the same.
    tokenizer: tokio::sync::Mutex<Option<(String, Arc<Tokenizer>)>>,
}

impl ModelHost {
    /// A host without a model yet.
    pub fn new(loader: Arc<dyn Loader>, settings: EngineSettings) -> Arc<Self> {
        Arc::new(Self {
            loader,
            settings,
            slot: Mutex::default(),
            turn: Arc::default(),
            waiting: watch::Sender::new(0),
            arrivals: AtomicU64::new(0),
            availability: watch::Sender::new(Availability::Idle),
            provider: watch::Sender::default(),
            tokenizer: tokio::sync::Mutex::default(),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of the availability.
    pub fn watch_availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }

    /// Changes of the execution provider.
    pub fn watch_provider(&self) -> watch::Receiver<ProviderInfo> {
        self.provider.subscribe()
    }

    /// Name of the resident model, empty without one.
    pub fn loaded_model(&self) -> String {
        let slot = self.slot();
        let name = slot.resident.as_ref().map(|r| r.model.clone());
        name.unwrap_or_default()
    }

    /// What is installed.
    pub async fn models(self: &Arc<Self>) -> Vec<ModelSummary> {
        let models = self.blocking(|loader| Ok(loader.models())).await;
        models.unwrap_or_default()
    }

    /// The full name of the model a request asks for.
    ///
    /// # Errors
    /// It is not installed.
    pub async fn resolve(self: &Arc<Self>, name: Option<String>) -> Result<String, Unavailable> {
        self.blocking(move |loader| loader.resolve(name.as_deref()))
            .await
    }

    /// The present state. While nothing is loaded the checks are made afresh,
    /// so that a model pulled a moment ago counts.
    pub async fn availability(self: &Arc<Self>) -> Availability {
        let now = self.availability.borrow().clone();
        let now = match now {
            Availability::Idle | Availability::Unavailable(_) => self.probe(now).await,
            now => now,
        };
        self.publish(now.clone());
        now
    }

    async fn probe(self: &Arc<Self>, now: Availability) -> Availability {
        let probe = |loader: &dyn Loader| {
            let model = loader.resolve(None)?;
            loader.probe(&model)
        };
        match (self.blocking(probe).await, now) {
            (Err(missing), _) => Availability::Unavailable(missing),
            // What only a load can find out holds until the next one.
            (
                Ok(()),
                Availability::Unavailable(
                    found @ (Unavailable::NotEnoughMemory { .. }
                    | Unavailable::SelfTestFailed { .. }
                    | Unavailable::Failed(_)),
                ),
            ) => Availability::Unavailable(found),
            (Ok(()), _) => Availability::Idle,
        }
    }

    fn publish(&self, new: Availability) {
        self.availability.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// The tokenizer of an installed model; read once.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn tokenizer(self: &Arc<Self>, model: &str) -> Result<Arc<Tokenizer>, Unavailable> {
        let mut known = self.tokenizer.lock().await;
        if let Some((name, tokenizer)) = known.as_ref()
            && name == model
        {
            return Ok(Arc::clone(tokenizer));
        }
        let name = model.to_owned();
        let read = self.blocking(move |loader| loader.tokenizer(&name));
        let tokenizer = read.await?;
        *known = Some((model.to_owned(), Arc::clone(&tokenizer)));
        Ok(tokenizer)
    }

    /// The context window of an installed model.
    ///
    /// # Errors
    /// It is not readable.
    pub async fn context_window(self: &Arc<Self>, model: &str) -> Result<usize, Unavailable> {
        let name = model.to_owned();
        self.blocking(move |loader| loader.context_window(&name))
            .await
    }

    async fn blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T, Unavailable>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Loader) -> Result<T, Unavailable> + Send + 'static,
    {
        let loader = Arc::clone(&self.loader);
        let task = tokio::task::spawn_blocking(move || work(loader.as_ref()));
        task.await
            .unwrap_or_else(|error| Err(Unavailable::Failed(format!("the loader broke: {error}"))))
    }

    /// The resident model where it is `model` and works.
    fn usable(&self, model: &str) -> Option<Lease> {
        let slot = self.slot();
        let resident = slot.resident.as_ref()?;
        let usable = resident.model == model && resident.engine.failure().is_none();
        usable.then(|| Lease::new(Arc::clone(resident)))
    }

    /// Waits for `model`, loading it where needed. Dropping the future gives
    /// the place in the line up; a load that has begun goes on.
    ///
    /// # Errors
    /// Why it cannot be loaded. Who waited for a load that failed gets its
    /// error; who asks later tries again.
    pub async fn acquire(self: &Arc<Self>, model: &str) -> Result<Lease, Unavailable> {
        self.acquire_in_line(model, &AtomicUsize::new(0)).await
    }

    /// The same; `ahead` is told how many wait for a model already, as soon as
    /// this is the next to join them.
    pub async fn acquire_in_line(
        self: &Arc<Self>,
        model: &str,
        ahead: &AtomicUsize,
    ) -> Result<Lease, Unavailable> {
        if let Some(lease) = self.usable(model) {
            return Ok(lease);
        }
        let asked_at = self.slot().loads;
        let (_waiting, before) = Waiting::join(&self.waiting);
        ahead.store(before, Ordering::Relaxed);
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(lease) = self.usable(model) {
            return Ok(lease);
        }
        if let Some((load, failed, error)) = &self.slot().failure
            && *load > asked_at
            && failed == model
        {
            return Err(error.clone());
        }
        let task = tokio::spawn(Arc::clone(self).replace(turn, model.to_owned()));
        task.await
            .unwrap_or_else(|error| Err(Unavailable::Failed(format!("the loader broke: {error}"))))
    }

    /// The number of a request that is accepted now.
    pub fn next_arrival(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::Relaxed)
    }

    /// Number of requests that wait for a model; changes as they move on.
    pub fn watch_waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    /// Unloads what is there and loads `model`.
    async fn replace(
        self: Arc<Self>,
        turn: OwnedMutexGuard<()>,
        model: String,
    ) -> Result<Lease, Unavailable> {
        let old = {
            let mut slot = self.slot();
            if slot.stopped {
                return Err(Unavailable::Failed("the daemon is stopping".into()));
            }
            slot.resident.take()
        };
        self.publish(Availability::Loading {
            model: model.clone(),
            progress: 0.0,
        });
        if let Some(old) = old {
            // The sender is in `old`, so this ends by the count alone.
            let _ = old.users.subscribe().wait_for(|n| *n == 0).await;
            // Joins the model's thread.
            let dropped = tokio::task::spawn_blocking(move || drop(old)).await;
            if let Err(error) = dropped {
                tracing::error!("unloading broke: {error}");
            }
        }
        let loaded = self.load(&model).await;
        let result = match loaded {
            Ok(resident) => Ok(self.install(resident)),
            Err(error) => {
                tracing::error!(model, reason = error.reason(), "loading failed: {error}");
                let mut slot = self.slot();
                slot.loads += 1;
                slot.failure = Some((slot.loads, model, error.clone()));
                drop(slot);
                self.provider.send_replace(ProviderInfo::default());
                self.publish(Availability::Unavailable(error.clone()));
                Err(error)
            }
        };
        drop(turn);
        result
    }

    fn install(&self, (resident, provider): (Resident, ProviderInfo)) -> Lease {
        let model = resident.model.clone();
        tracing::info!(model, provider = provider.name, "model loaded");
        let resident = Arc::new(resident);
        let mut slot = self.slot();
        slot.loads += 1;
        slot.failure = None;
        slot.engine = Arc::downgrade(&resident.engine);
        if slot.stopped {
            resident.engine.stop();
        }
        slot.resident = Some(Arc::clone(&resident));
        drop(slot);
        self.provider.send_replace(provider);
        self.publish(Availability::Ready { model });
        Lease::new(resident)
    }

    async fn load(self: &Arc<Self>, model: &str) -> Result<(Resident, ProviderInfo), Unavailable> {
        let tokenizer = self.tokenizer(model).await?;
        let (host, name) = (Arc::clone(self), model.to_owned());
        let load = move |loader: &dyn Loader| {
            let progress = &mut |share: f64| {
                host.publish(Availability::Loading {
                    model: name.clone(),
                    progress: share.clamp(0.0, 1.0),
                });
            };
            let loaded = loader.load(&name, progress)?;
            let engine = Engine::start(loaded.backend, host.settings.clone());
            let engine = engine.map_err(|e| Unavailable::Failed(e.to_string()))?;
            let resident = Resident {
                model: name.clone(),
                engine: Arc::new(engine),
                tokenizer,
                users: watch::Sender::new(0),
            };
            Ok((resident, loaded.provider))
        };
        self.blocking(load).await
    }

    /// The engine's numbers, where there is one.
    pub fn statistics(&self) -> Option<Statistics> {
        Some(self.slot().engine.upgrade()?.statistics())
    }

    /// The heartbeat of an engine that is computing; `None` where nothing
    /// computes and nothing can hang.
    pub fn pulse(&self) -> Option<u64> {
        let engine = self.slot().engine.upgrade()?;
        (engine.statistics().running > 0).then(|| engine.heartbeat())
    }

    /// Fails what runs and waits in the engine; nothing is loaded any more.
    pub fn stop(&self) {
        let mut slot = self.slot();
        slot.stopped = true;
        if let Some(engine) = slot.engine.upgrade() {
            engine.stop();
        }
    }
}

/// Counts a request among those that wait for a model.
struct Waiting(watch::Sender<usize>);

impl Waiting {
    /// Joins the line; says how many were in it before.
    fn join(count: &watch::Sender<usize>) -> (Self, usize) {
        let mut before = 0;
        count.send_modify(|n| {
            before = *n;
            *n += 1;
        });
        (Waiting(count.clone()), before)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
#[path = "tests/host.rs"]
mod tests;
