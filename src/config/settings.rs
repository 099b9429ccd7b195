//! The keys, their defaults and ranges.

use std::path::PathBuf;

use serde::Deserialize;

/// All settings of `gptossd`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Which model, and when it is loaded.
    pub model: Model,
    /// What computes.
    pub runtime: Runtime,
    /// What one user, and all together, may have.
    pub limits: Limits,
    /// Calls without a bus.
    pub socket: Socket,
    /// What becomes of requests on battery.
    pub power: Power,
    /// What becomes of memory that others need.
    pub memory: Memory,
    /// Numbers for a monitoring system.
    pub metrics: Metrics,
    /// Which models may be installed.
    pub trust: Trust,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Model {
    /// The model for requests that name none. Without one: the only one
    /// installed, else `20b`, else `nano`.
    pub default: Option<String>,
    /// Positions of the KV cache, for the conversation and its answer.
    pub context: usize,
    /// When the model is loaded.
    pub load: Load,
    /// Seconds after which a model that nobody uses is unloaded; 0 for never.
    pub unload_idle_seconds: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            default: None,
            context: 8192,
            load: Load::FirstUse,
            unload_idle_seconds: 1800,
        }
    }
}

/// `model.load`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// With the first request.
    #[default]
    FirstUse,
    /// As soon as the daemon is up.
    Start,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Runtime {
    /// ONNX Runtime's library; searched where unset.
    pub library: Option<PathBuf>,
    /// `auto`, `cuda`, `coreml` or `cpu`.
    pub provider: String,
    /// Threads of the CPU provider; 0 for one per physical core.
    pub threads: usize,
    /// What the KV cache is made of: `f16`, or `int8` for half the memory.
    pub kv_cache: String,
    /// Requests that are computed together.
    pub parallel: usize,
    /// Whether tokens are guessed from what was said before and verified
    /// together, where that is faster.
    pub speculate: bool,
    /// Whether experts stay on the disk and are read as they are needed: for a model that
    /// does not fit in memory, slowly.
    pub stream_experts: bool,
    /// Bytes of memory for those experts; 0 for what is free when the model is loaded.
    pub expert_memory_bytes: u64,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            library: None,
            provider: "auto".into(),
            threads: 0,
            kv_cache: "f16".into(),
            parallel: 4,
            speculate: true,
            stream_experts: false,
            expert_memory_bytes: 0,
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Requests that may wait, of all users.
    pub queue: usize,
    /// Requests one user may have, running and waiting.
    pub requests_per_user: usize,
    /// Prompt tokens in all requests of one user.
    pub tokens_per_user: usize,
    /// Sessions one user may have.
    pub sessions_per_user: usize,
    /// Seconds after which a session that nobody uses is closed.
    pub session_idle_seconds: u64,
    /// Bytes of text in one request, a session's history included.
    pub prompt_bytes: usize,
    /// Bytes of events kept for a reader that does not read.
    pub spool_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 64,
            requests_per_user: 8,
            tokens_per_user: 1 << 18,
            sessions_per_user: 32,
            session_idle_seconds: 3600,
            prompt_bytes: 4 << 20,
            spool_bytes: 1 << 20,
        }
    }
}

/// `[socket]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Socket {
    /// A Unix socket to serve on as well, for the daemon's own user and root; none
    /// where unset.
    pub path: Option<PathBuf>,
    /// Connections it may have at a time.
    pub connections: usize,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: None,
            connections: 64,
        }
    }
}

/// `[power]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Power {
    /// What the model does while the machine runs on battery.
    pub on_battery: OnBattery,
}

/// `power.on-battery`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBattery {
    /// The same as ever.
    #[default]
    Run,
    /// Background requests wait; the others are computed with as much rest as
    /// work.
    Slow,
    /// What runs halts until the power is back, new requests are refused.
    Pause,
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Memory {
    /// What is given back when the system is short of memory.
    pub on_pressure: OnPressure,
    /// Seconds that memory must have been short for before the model is
    /// unloaded.
    pub pressure_seconds: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            on_pressure: OnPressure::Unload,
            pressure_seconds: 10,
        }
    }
}

/// `memory.on-pressure`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnPressure {
    /// What is kept for prompts to come, then the model, if nobody uses it.
    #[default]
    Unload,
    /// What is kept for prompts to come.
    DropCaches,
    /// Nothing.
    Ignore,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Metrics {
    /// File for the textfile collector of Prometheus' node_exporter; none where
    /// unset. The service may write there only if its unit lets it.
    pub textfile: Option<PathBuf>,
    /// Seconds between two versions of it.
    pub interval_seconds: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            textfile: None,
            interval_seconds: 15,
        }
    }
}

/// `[trust]`: read by `gptoss-ctl` when it installs a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trust {
    /// What a model needs to be installed.
    pub models: TrustedModels,
    /// Folder of the public keys (`*.pub`, minisign's format) whose signatures count.
    pub keys: PathBuf,
    /// The site's catalog, which is used instead of the built-in one where it is there.
    pub catalog: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            models: TrustedModels::Any,
            keys: "/etc/gptoss/trusted-keys".into(),
            catalog: "/etc/gptoss/catalog.toml".into(),
        }
    }
}

/// `trust.models`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedModels {
    /// Nothing.
    #[default]
    Any,
    /// Bytes that are published or in a signed catalog, or a trusted signature.
    Pinned,
    /// A trusted signature.
    Signed,
}

/// Most requests computed together: beyond, nobody's answer moves any more.
const MOST_PARALLEL: usize = 64;

/// Most connections to the daemon's socket: each has a descriptor.
const MOST_CONNECTIONS: usize = 4096;

/// A value that is not what its key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutOfRange {
    /// The key, its table first.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

fn check(fits: bool, key: &'static str, value: impl ToString, range: &'static str) -> Checked {
    match fits {
        true => Ok(()),
        false => Err(OutOfRange {
            key,
            value: value.to_string(),
            range,
        }),
    }
}

type Checked = Result<(), OutOfRange>;

impl Config {
    /// Checks the ranges.
    pub(super) fn validate(&self) -> Checked {
        self.model.validate()?;
        self.runtime.validate()?;
        self.limits.validate()?;
        self.socket.validate()?;
        let least = "at least 1";
        let seconds = self.memory.pressure_seconds;
        check(seconds > 0, "memory.pressure-seconds", seconds, least)?;
        self.metrics.validate()?;
        let Trust { keys, catalog, .. } = &self.trust;
        let range = "an absolute path";
        check(keys.is_absolute(), "trust.keys", format!("{keys:?}"), range)?;
        let value = format!("{catalog:?}");
        check(catalog.is_absolute(), "trust.catalog", value, range)
    }
}

impl Model {
    fn validate(&self) -> Checked {
        let context = self.context;
        check(context >= 128, "model.context", context, "at least 128")
    }
}

impl Runtime {
    fn validate(&self) -> Checked {
        let threads = self.threads;
        check(threads <= 1024, "runtime.threads", threads, "at most 1024")?;
        let together = self.parallel;
        let fits = (1..=MOST_PARALLEL).contains(&together);
        check(fits, "runtime.parallel", together, "from 1 to 64")?;
        let known = ["auto", "cuda", "coreml", "cpu"].contains(&self.provider.as_str());
        let provider = format!("{:?}", self.provider);
        let range = "auto, cuda, coreml or cpu";
        check(known, "runtime.provider", provider, range)?;
        let known = ["f16", "int8"].contains(&self.kv_cache.as_str());
        let kv_cache = format!("{:?}", self.kv_cache);
        check(known, "runtime.kv-cache", kv_cache, "f16 or int8")
    }
}

impl Limits {
    fn validate(&self) -> Checked {
        for (key, value) in [
            ("limits.queue", self.queue),
            ("limits.requests-per-user", self.requests_per_user),
            ("limits.tokens-per-user", self.tokens_per_user),
            ("limits.sessions-per-user", self.sessions_per_user),
            ("limits.prompt-bytes", self.prompt_bytes),
        ] {
            check(value > 0, key, value, "at least 1")?;
        }
        let idle = self.session_idle_seconds;
        check(idle > 0, "limits.session-idle-seconds", idle, "at least 1")?;
        // A line has up to 4096 bytes, and a few must fit.
        let (spool, range) = (self.spool_bytes, "at least 16384");
        check(spool >= 16384, "limits.spool-bytes", spool, range)
    }
}

impl Socket {
    fn validate(&self) -> Checked {
        let connections = self.connections;
        let fits = (1..=MOST_CONNECTIONS).contains(&connections);
        let range = "from 1 to 4096";
        check(fits, "socket.connections", connections, range)?;
        let Some(path) = &self.path else {
            return Ok(());
        };
        let range = "an absolute path";
        check(
            path.is_absolute(),
            "socket.path",
            format!("{path:?}"),
            range,
        )
    }
}

impl Metrics {
    fn validate(&self) -> Checked {
        let seconds = self.interval_seconds;
        let least = "at least 1";
        check(seconds > 0, "metrics.interval-seconds", seconds, least)?;
        let Some(file) = &self.textfile else {
            return Ok(());
        };
        // The collector looks at no other files.
        let fits = file.is_absolute() && file.extension().is_some_and(|e| e == "prom");
        let range = "an absolute path that ends in .prom";
        check(fits, "metrics.textfile", format!("{file:?}"), range)
    }
}
