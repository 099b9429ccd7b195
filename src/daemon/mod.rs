//! Lifecycle of `gptossd`: wiring, readiness, watchdog, signals.

pub mod arguments;
mod installed;
mod logging;
mod logind;
mod machine;
mod metrics;
mod notify;
mod pressure;
mod simulated;
mod upower;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use self::arguments::{Arguments, BusName};
use self::installed::StoreLoader;
use self::logging::Logging;
use self::metrics::TextFile;
use self::simulated::SimulatedLoader;
use crate::config::{self, Config, Load, OnPressure, Scope};
use crate::dbus::{Bus, NAME, Parts, Service, SocketSettings};
use crate::engine::EngineSettings;
use crate::model::Stores;
use crate::runtime::simulated::Script;
use crate::runtime::{Quarantine, memory, proof};
use crate::session::{Availability, Loader, ModelHost, Quota, QuotaLimits, Unloaded};

/// How long readers have to take their last event when the daemon stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// Texts that are rendered at once, and whatever else may block: more threads than this
/// end nothing sooner, and each leaves a stack and the tokenizer's scratch space behind.
const BLOCKING_THREADS: usize = 16;

/// The command line, or the settings, make no sense.
const EXIT_USAGE: u8 = 2;

/// Entry point of `gptossd`.
pub fn main() -> ExitCode {
    if let Some(code) = proof::serve() {
        return code;
    }
    memory::share_heap();
    let arguments = Arguments::parse();
    let log = Logging::start();
    match run(arguments, log) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl From<BusName> for Bus {
    fn from(name: BusName) -> Bus {
        match name {
            BusName::System => Bus::System,
            BusName::Session => Bus::Session,
        }
    }
}

fn run(arguments: Arguments, log: Arc<Logging>) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = config::files(arguments.scope(), arguments.config.as_deref())
        .and_then(|files| Ok((Config::load(&files)?, files)));
    let (config, files) = match config {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    if arguments.check_config {
        match files.as_slice() {
            [] => println!("no settings files; the defaults are valid"),
            files => files
                .iter()
                .for_each(|f| println!("{}: valid", f.display())),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let quarantine = match arguments.scope() {
        Scope::System => Quarantine::of_machine(),
        Scope::User => Quarantine::of_user(),
    };
    let loader = loader(&arguments, &config, quarantine.clone())?;
    let engine = EngineSettings {
        queue: config.limits.queue,
        // A script says how long each token takes: nothing is to be gained.
        speculate: config.runtime.speculate && arguments.simulate.is_none(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("bus")
        .enable_all()
        .build()?;
    let host = ModelHost::new(loader, engine);
    let ways = Ways::new(&arguments, &config);
    let result = runtime.block_on(serve(ways, &config, host, log));
    // A load that hangs in a file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if arguments.simulate.is_none() {
        quarantine.forget_load();
    }
    result
}

fn loader(
    arguments: &Arguments,
    config: &Config,
    quarantine: Quarantine,
) -> Result<Arc<dyn Loader>, Box<dyn std::error::Error>> {
    match &arguments.simulate {
        Some(script) => {
            tracing::warn!("answers are simulated by {}", script.display());
            Ok(Arc::new(SimulatedLoader::new(Script::from_file(script)?)))
        }
        None => {
            let stores = Stores::open(arguments.store.as_deref())?;
            let places = stores.all().map(|store| store.root().display().to_string());
            let places: Vec<_> = places.collect();
            tracing::info!("models are in {}", places.join(" and "));
            Ok(Arc::new(StoreLoader::new(stores, config, quarantine)?))
        }
    }
}

/// How calls come in.
struct Ways {
    bus: Option<Bus>,
    socket: Option<SocketSettings>,
}

impl Ways {
    fn new(arguments: &Arguments, config: &Config) -> Ways {
        let path = arguments.socket.clone();
        let path = path.or_else(|| config.socket.path.clone());
        let path = path.or_else(|| arguments.default_socket());
        Ways {
            bus: arguments.bus().map(Bus::from),
            socket: path.map(|path| SocketSettings {
                path,
                connections: config.socket.connections,
            }),
        }
    }
}

async fn serve(
    ways: Ways,
    config: &Config,
    host: Arc<ModelHost>,
    log: Arc<Logging>,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    // Found out before anyone looks, so that the first change is a change.
    host.availability().await;
    let parts = parts(config, &host, log);
    let mut service = Service::start(parts, ways.bus, ways.socket).await?;
    if !service.request_name().await? {
        tracing::error!("{NAME} is taken: another gptossd runs on this bus");
        return Ok(ExitCode::FAILURE);
    }
    notify::ready();
    if let Some(socket) = service.socket() {
        tracing::info!("ready on {}", socket.display());
    }
    if let Some(bus) = ways.bus {
        tracing::info!("ready as {NAME} on the {} bus", bus.name());
    }
    let background = background(config, &host, hangup);
    let metrics = config.metrics.textfile.clone();
    let metrics = metrics.map(|path| Arc::new(TextFile::new(path, Arc::clone(&host))));
    let written = metrics.as_ref().map(|file| {
        let interval = Duration::from_secs(config.metrics.interval_seconds);
        let file = Arc::clone(file);
        tokio::spawn(async move { file.keep(interval).await })
    });
    let lost = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = service.lost() => true,
    };
    notify::stopping();
    tracing::info!("stopping");
    host.stop();
    service.stop(PATIENCE).await;
    background
        .iter()
        .chain(&written)
        .for_each(|task| task.abort());
    if let Some(file) = metrics
        && let Err(error) = file.write().await
    {
        tracing::warn!("the last numbers are not written: {error}");
    }
    if lost {
        return Err("the bus closed the connection".into());
    }
    Ok(ExitCode::SUCCESS)
}

fn parts(config: &Config, host: &Arc<ModelHost>, log: Arc<Logging>) -> Parts {
    Parts {
        host: Arc::clone(host),
        quota: Quota::new(QuotaLimits {
            requests_per_user: config.limits.requests_per_user,
            tokens_per_user: config.limits.tokens_per_user,
            sessions_per_user: config.limits.sessions_per_user,
        }),
        session_idle: Duration::from_secs(config.limits.session_idle_seconds),
        prompt_bytes: config.limits.prompt_bytes,
        spool_bytes: config.limits.spool_bytes,
        log,
    }
}

/// What goes on beside the bus, to be aborted at the end.
fn background(config: &Config, host: &Arc<ModelHost>, hangup: Signal) -> Vec<JoinHandle<()>> {
    let host = || Arc::clone(host);
    let mut tasks = vec![
        tokio::spawn(rescan(hangup, host())),
        tokio::spawn(notify::watchdog(host())),
        tokio::spawn(machine::follow(host(), config.power.on_battery)),
    ];
    if config.model.load == Load::Start {
        tasks.push(tokio::spawn(keep_loaded(host())));
    }
    if config.model.unload_idle_seconds > 0 {
        let after = Duration::from_secs(config.model.unload_idle_seconds);
        tasks.push(tokio::spawn(host().unload_when_idle(after)));
    }
    if config.memory.on_pressure != OnPressure::Ignore {
        let interval = Duration::from_secs(config.memory.pressure_seconds);
        let relief = pressure::relieve(host(), config.memory.on_pressure, interval);
        tasks.push(tokio::spawn(relief));
    }
    tasks
}

/// SIGHUP: looks at the store again, so that whoever watches hears of a model
/// that came or went.
async fn rescan(mut hangup: Signal, host: Arc<ModelHost>) {
    while hangup.recv().await.is_some() {
        let now = host.availability().await;
        tracing::info!(state = now.state(), "looked at the store again");
    }
}

/// Loads the default model, and again after a sleep that took it away.
async fn keep_loaded(host: Arc<ModelHost>) {
    let mut availability = host.watch_availability();
    let gone = Availability::Idle(Some(Unloaded::Sleep));
    loop {
        match host.resolve(None).await {
            // Kept resident by the host; a failed load has logged itself.
            Ok(model) => drop(host.acquire(&model).await),
            Err(why) => tracing::warn!("nothing to load: {why}"),
        }
        loop {
            if availability.changed().await.is_err() {
                return;
            }
            if *availability.borrow_and_update() == gone {
                break;
            }
        }
    }
}
