//! The resident model: loaded on first use, shared by all requests, replaced
//! when a request names another one.

mod fault;
mod power;
mod waiting;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};

use self::waiting::Waiting;
use super::failure::Failure;
use super::generation::blocking;
use super::grammar::Grammars;
use super::loader::{Availability, Loader, ModelSummary, ProviderInfo, Unavailable, Unloaded};
use super::meters::{Meters, Outcomes};
use super::standing::Standing;
use crate::engine::{Engine, EngineSettings, Numbers, Pace, Statistics};
use crate::harmony::Tokenizer;

/// A model in memory.
struct Resident {
    model: String,
    engine: Arc<Engine>,
    tokenizer: Arc<Tokenizer>,
    /// Whether another provider could compute, should this one fail.
    replaceable: bool,
    /// Leases given out.
    users: watch::Sender<usize>,
    /// When the last of them was given back.
    released: Mutex<Instant>,
}

impl Resident {
    /// How long nobody has used it; `None` while somebody does.
    fn idle(&self) -> Option<Duration> {
        let released = self.released.lock();
        let released = released.unwrap_or_else(PoisonError::into_inner);
        (*self.users.borrow() == 0).then(|| released.elapsed())
    }
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
        let released = self.0.released.lock();
        *released.unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.users.send_modify(|n| *n -= 1);
    }
}

/// What a load made.
struct Loaded {
    resident: Resident,
    provider: ProviderInfo,
    on_device: bool,
}

#[derive(Default)]
struct Slot {
    resident: Option<Arc<Resident>>,
    /// The engine even while its model is on its way out, for the watchdog.
    engine: Weak<Engine>,
    /// Whether it computes on a device of its own.
    on_device: bool,
    /// How often the machine has gone to sleep.
    sleeps: u64,
    /// What it counts.
    numbers: Option<Numbers>,
    /// What the engines before it have counted.
    counted: Statistics,
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
    standing: Standing,
    meters: Meters,
    provider: watch::Sender<ProviderInfo>,
    /// The present model's. Held while one is read, which takes seconds: who
    /// comes meanwhile waits for the same.
    tokenizer: tokio::sync::Mutex<Option<(String, Arc<Tokenizer>)>>,
    /// For the tokenizer they were made for.
    grammars: tokio::sync::Mutex<Option<(Arc<Tokenizer>, Arc<Grammars>)>>,
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
            standing: Standing::new(),
            meters: Meters::default(),
            provider: watch::Sender::default(),
            tokenizer: tokio::sync::Mutex::default(),
            grammars: tokio::sync::Mutex::default(),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of the availability.
    pub fn watch_availability(&self) -> watch::Receiver<Availability> {
        self.standing.watch()
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
        let now = self.standing.own();
        if let Availability::Idle(_) | Availability::Unavailable(_) = now {
            let found = self.probe(now.clone()).await;
            // A load that began meanwhile knows better.
            self.standing.publish_after(&now, found);
        }
        self.standing.shown()
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
            (Ok(()), idle @ Availability::Idle(_)) => idle,
            (Ok(()), _) => Availability::Idle(None),
        }
    }

    /// Quick checks whether this model could be loaded.
    ///
    /// # Errors
    /// What is missing.
    pub async fn probe_model(self: &Arc<Self>, model: &str) -> Result<(), Unavailable> {
        let name = model.to_owned();
        self.blocking(move |loader| loader.probe(&name)).await
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

    /// What makes grammars for a tokenizer; made with the first request that
    /// needs one.
    ///
    /// # Errors
    /// The library's.
    pub(super) async fn grammars(
        &self,
        tokenizer: &Arc<Tokenizer>,
    ) -> Result<Arc<Grammars>, Failure> {
        let mut known = self.grammars.lock().await;
        if let Some((of, grammars)) = known.as_ref()
            && Arc::ptr_eq(of, tokenizer)
        {
            return Ok(Arc::clone(grammars));
        }
        let of = Arc::clone(tokenizer);
        let grammars = Arc::new(blocking(move || Grammars::new(&of)).await?);
        *known = Some((Arc::clone(tokenizer), Arc::clone(&grammars)));
        Ok(grammars)
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
        let works = resident.engine.failure().is_none() && resident.fault().is_none();
        let usable = resident.model == model && works;
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
        self.standing.admit().await?;
        if let Some(lease) = self.usable(model) {
            return Ok(lease);
        }
        let asked_at = self.slot().loads;
        let (_waiting, before) = Waiting::join(&self.waiting);
        ahead.store(before, Ordering::Relaxed);
        let turn = self.awake_turn().await?;
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

    /// The turn to load, while the machine is awake.
    async fn awake_turn(&self) -> Result<OwnedMutexGuard<()>, Unavailable> {
        loop {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            if !self.standing.conditions().asleep {
                self.standing.admit().await?;
                return Ok(turn);
            }
            drop(turn);
            self.standing.admit().await?;
        }
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
        let (old, sleeps) = {
            let mut slot = self.slot();
            if slot.stopped {
                return Err(Unavailable::Failed("the daemon is stopping".into()));
            }
            (slot.resident.take(), slot.sleeps)
        };
        self.standing.publish(Availability::Loading {
            model: model.clone(),
            progress: 0.0,
        });
        if let Some(old) = old {
            self.dismiss(old).await;
        }
        let result = match self.load_awake(&model, sleeps).await {
            Ok(loaded) => {
                let lease = self.install(loaded);
                self.reload_after_fault(&lease);
                Ok(lease)
            }
            Err(error) => {
                tracing::error!(model, reason = error.reason(), "loading failed: {error}");
                let mut slot = self.slot();
                slot.loads += 1;
                slot.failure = Some((slot.loads, model, error.clone()));
                drop(slot);
                self.provider.send_replace(ProviderInfo::default());
                self.standing
                    .publish(Availability::Unavailable(error.clone()));
                Err(error)
            }
        };
        drop(turn);
        result
    }

    /// Takes the model out of memory, once its requests have ended. `false`
    /// where there is none.
    pub async fn unload(self: &Arc<Self>) -> bool {
        self.unload_if(Unloaded::Asked, |_| true).await
    }

    async fn unload_if(
        self: &Arc<Self>,
        why: Unloaded,
        condition: impl FnOnce(&Resident) -> bool,
    ) -> bool {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let old = self.slot().resident.take_if(|resident| condition(resident));
        let Some(old) = old else {
            return false;
        };
        tracing::info!(
            model = old.model,
            reason = why.reason(),
            "unloading the model"
        );
        if why == Unloaded::Sleep {
            old.engine.suspend();
        }
        // To its end, even where nobody waits for it any more: half of it would say
        // that a model is ready that is not there.
        let host = Arc::clone(self);
        let rest = tokio::spawn(async move {
            let _turn = turn;
            host.dismiss(old).await;
            // Another model may be installed under its name by the time it is needed.
            *host.grammars.lock().await = None;
            *host.tokenizer.lock().await = None;
            host.provider.send_replace(ProviderInfo::default());
            host.standing.publish(Availability::Idle(Some(why)));
        });
        if let Err(error) = rest.await {
            tracing::error!("unloading broke: {error}");
        }
        true
    }

    /// Waits until nobody uses the model any more, and drops it.
    async fn dismiss(&self, old: Arc<Resident>) {
        // What waits for mains power would keep it for as long as that takes.
        if self.standing.conditions().pace() == Pace::Slow {
            old.engine.set_pace(Pace::Full);
        }
        // The sender is in `old`, so this ends by the count alone.
        let _ = old.users.subscribe().wait_for(|n| *n == 0).await;
        let loader = Arc::clone(&self.loader);
        // Joins the model's thread. Whoever used it last may not have let go of it quite.
        let drop_alone = move || {
            fault::set_aside(loader.as_ref(), &old);
            let mut left = old;
            while let Err(shared) = Arc::try_unwrap(left) {
                left = shared;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let dropped = tokio::task::spawn_blocking(drop_alone).await;
        if let Err(error) = dropped {
            tracing::error!("unloading broke: {error}");
        }
    }

    /// Unloads whatever nobody has used for `after`, for ever.
    pub async fn unload_when_idle(self: Arc<Self>, after: Duration) {
        let mut availability = self.standing.watch_own();
        let ready = |now: &Availability| matches!(now, Availability::Ready { .. });
        // The sender is in `self`.
        while availability.wait_for(ready).await.is_ok() {
            let idle = self.slot().resident.as_ref().and_then(|r| r.idle());
            let left = after.saturating_sub(idle.unwrap_or_default());
            if left.is_zero() {
                let long = |resident: &Resident| resident.idle().is_some_and(|t| t >= after);
                self.unload_if(Unloaded::Unused, long).await;
            } else {
                tokio::time::sleep(left).await;
            }
        }
    }

    fn install(&self, loaded: Loaded) -> Lease {
        let Loaded {
            resident,
            provider,
            on_device,
        } = loaded;
        let model = resident.model.clone();
        tracing::info!(model, provider = provider.name, "model loaded");
        let resident = Arc::new(resident);
        let mut slot = self.slot();
        slot.loads += 1;
        slot.failure = None;
        slot.engine = Arc::downgrade(&resident.engine);
        slot.on_device = on_device;
        if let Some(before) = slot.numbers.replace(resident.engine.numbers()) {
            slot.counted.add_counts(&before.statistics());
        }
        resident.engine.set_pace(self.standing.conditions().pace());
        if slot.stopped {
            resident.engine.stop();
        }
        slot.resident = Some(Arc::clone(&resident));
        drop(slot);
        self.provider.send_replace(provider);
        let slow = false;
        self.standing.publish(Availability::Ready { model, slow });
        Lease::new(resident)
    }

    /// Loads, again where the machine slept meanwhile: what a device had been
    /// given by then is lost. `sleeps` is how often it had slept when this began.
    async fn load_awake(
        self: &Arc<Self>,
        model: &str,
        mut sleeps: u64,
    ) -> Result<Loaded, Unavailable> {
        loop {
            let loaded = self.load(model).await?;
            if !loaded.on_device || self.slot().sleeps == sleeps {
                return Ok(loaded);
            }
            self.dismiss(Arc::new(loaded.resident)).await;
            self.standing.awake().await;
            sleeps = self.slot().sleeps;
        }
    }

    async fn load(self: &Arc<Self>, model: &str) -> Result<Loaded, Unavailable> {
        let tokenizer = self.tokenizer(model).await?;
        let (host, name) = (Arc::clone(self), model.to_owned());
        let load = move |loader: &dyn Loader| {
            let progress = &mut |share: f64| {
                host.standing.publish(Availability::Loading {
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
                replaceable: loaded.replaceable,
                users: watch::Sender::new(0),
                released: Mutex::new(Instant::now()),
            };
            Ok(Loaded {
                resident,
                provider: loaded.provider,
                on_device: loaded.on_device,
            })
        };
        self.blocking(load).await
    }

    /// The engines' numbers since the daemon's start.
    pub fn statistics(&self) -> Statistics {
        let slot = self.slot();
        let numbers = slot.numbers.as_ref();
        let mut statistics = numbers.map(Numbers::statistics).unwrap_or_default();
        statistics.add_counts(&slot.counted);
        statistics
    }

    /// What became of requests since the daemon's start.
    pub fn outcomes(&self) -> Outcomes {
        self.meters.read()
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The heartbeat of an engine that is computing; `None` where nothing
    /// computes and nothing can hang.
    pub fn pulse(&self) -> Option<u64> {
        self.engine()?.pulse()
    }

    /// The engine, even while its model is on its way out.
    fn engine(&self) -> Option<Arc<Engine>> {
        self.slot().engine.upgrade()
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

#[cfg(test)]
#[path = "tests/host.rs"]
mod tests;
