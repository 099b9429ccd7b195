//! The keys, their defaults and ranges.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

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

/// Most requests computed together: beyond, nobody's answer moves any more.
const MOST_PARALLEL: usize = 64;

impl Config {
    /// Checks the ranges.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let at_least = |key, value: usize, least: usize, range| match value >= least {
            true => Ok(()),
            false => Err(ConfigError::Range {
                key,
                value: value.to_string(),
                range,
            }),
        };
        let (model, limits) = (&self.model, &self.limits);
        at_least("model.context", model.context, 128, "at least 128")?;
        at_least("limits.queue", limits.queue, 1, "at least 1")?;
        let per_user = limits.requests_per_user;
        at_least("limits.requests-per-user", per_user, 1, "at least 1")?;
        let tokens = limits.tokens_per_user;
        at_least("limits.tokens-per-user", tokens, 1, "at least 1")?;
        let sessions = limits.sessions_per_user;
        at_least("limits.sessions-per-user", sessions, 1, "at least 1")?;
        if limits.session_idle_seconds == 0 {
            return Err(ConfigError::Range {
                key: "limits.session-idle-seconds",
                value: "0".into(),
                range: "at least 1",
            });
        }
        let bytes = limits.prompt_bytes;
        at_least("limits.prompt-bytes", bytes, 1, "at least 1")?;
        // A line has up to 4096 bytes, and a few must fit.
        let spool = limits.spool_bytes;
        at_least("limits.spool-bytes", spool, 16384, "at least 16384")?;
        let threads = self.runtime.threads;
        if threads > 1024 {
            return Err(ConfigError::Range {
                key: "runtime.threads",
                value: threads.to_string(),
                range: "at most 1024",
            });
        }
        let parallel = self.runtime.parallel;
        if !(1..=MOST_PARALLEL).contains(&parallel) {
            return Err(ConfigError::Range {
                key: "runtime.parallel",
                value: parallel.to_string(),
                range: "from 1 to 64",
            });
        }
        let provider = &self.runtime.provider;
        if !["auto", "cuda", "coreml", "cpu"].contains(&provider.as_str()) {
            return Err(ConfigError::Range {
                key: "runtime.provider",
                value: format!("{provider:?}"),
                range: "auto, cuda, coreml or cpu",
            });
        }
        let kv_cache = &self.runtime.kv_cache;
        if !["f16", "int8"].contains(&kv_cache.as_str()) {
            return Err(ConfigError::Range {
                key: "runtime.kv-cache",
                value: format!("{kv_cache:?}"),
                range: "f16 or int8",
            });
        }
        Ok(())
    }
}
