//! Numbers in OpenMetrics text, for the textfile collector of Prometheus'
//! node_exporter.
//!
//! The file is replaced as a whole, so a reader never sees half of it. It ends
//! with `# EOF`, which is a comment to readers of the older format.

use std::fmt;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Statistics;
use crate::runtime::memory::{self, Resident};
use crate::session::{Availability, BUCKETS, ModelHost, Outcomes};

/// States of `Availability`.
const STATES: [&str; 4] = ["ready", "idle", "loading", "unavailable"];

/// Writes the file now and then, until it is dropped.
pub struct TextFile {
    path: PathBuf,
    host: Arc<ModelHost>,
}

impl TextFile {
    /// Numbers of `host`, to be written to `path`.
    pub fn new(path: PathBuf, host: Arc<ModelHost>) -> Self {
        Self { path, host }
    }

    /// Writes it every `interval`, for ever.
    pub async fn keep(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut works = true;
        loop {
            ticks.tick().await;
            let written = self.write().await;
            // Said once, not four times a minute.
            if let (Err(error), true) = (&written, works) {
                tracing::warn!("cannot write {}: {error}", self.path.display());
            }
            works = written.is_ok();
        }
    }

    /// Writes it once.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn write(&self) -> std::io::Result<()> {
        let numbers = Numbers::of(&self.host).await;
        let path = self.path.clone();
        let replace = move || replace(&path, &numbers.text());
        let replaced = tokio::task::spawn_blocking(replace).await;
        replaced.map_err(std::io::Error::other)?
    }
}

/// Puts a file in place of another, complete and readable for all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // The collector reads `*.prom` alone.
    let mut file = tempfile::Builder::new()
        .prefix(".gptoss-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    // The service's umask would take it from other users.
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

/// What is written.
#[derive(Debug, Clone)]
struct Numbers {
    model: String,
    availability: Availability,
    engine: Statistics,
    outcomes: Outcomes,
    memory: Resident,
}

impl Numbers {
    async fn of(host: &Arc<ModelHost>) -> Self {
        Self {
            model: host.loaded_model(),
            availability: host.watch_availability().borrow().clone(),
            engine: host.statistics(),
            outcomes: host.outcomes(),
            memory: memory::resident().unwrap_or_default(),
        }
    }

    fn text(self) -> String {
        let mut registry = Registry::with_prefix("gptoss");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

/// Encodes metrics one by one.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn seconds(&mut self, name: &str, help: &str, micros: u64) -> fmt::Result {
        let (unit, kind) = (Some(&Unit::Seconds), MetricType::Counter);
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        let seconds = Duration::from_micros(micros).as_secs_f64();
        metric.encode_counter::<NoLabelSet, _, u64>(&seconds, None)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.encode_state(&mut page)?;
        self.encode_requests(&mut page)?;
        self.encode_tokens(&mut page)?;
        self.encode_memory(&mut page)
    }
}

impl Numbers {
    fn encode_state(&self, page: &mut Page<'_>) -> fmt::Result {
        let (help, kind) = ("The state of Availability", MetricType::Gauge);
        let mut states = page.0.encode_descriptor("availability", help, None, kind)?;
        for state in STATES {
            let now = i64::from(state == self.availability.state());
            states
                .encode_family(&[("state", state)])?
                .encode_gauge(&now)?;
        }
        let help = "The model in memory";
        let mut models = page.0.encode_descriptor("model_loaded", help, None, kind)?;
        match self.model.as_str() {
            "" => Ok(()),
            model => models
                .encode_family(&[("model", model)])?
                .encode_gauge(&1i64),
        }
    }

    fn encode_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let (help, kind) = ("Requests by how they ended", MetricType::Counter);
        let mut ended = page.0.encode_descriptor("requests", help, None, kind)?;
        for (how, count) in &self.outcomes.ended {
            let labels = [("outcome", *how)];
            let mut one = ended.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        let engine = &self.engine;
        page.counter(
            "requests_refused",
            "Requests refused since the queue was full",
            engine.refused,
        )?;
        let waiting = engine.waiting as u64;
        page.gauge("requests_waiting", "Requests in the queue", None, waiting)?;
        let running = engine.running as u64;
        page.gauge("requests_running", "Requests computed now", None, running)?;
        self.encode_first_token(page)
    }

    fn encode_first_token(&self, page: &mut Page<'_>) -> fmt::Result {
        let first = &self.outcomes.first_token;
        let mut buckets: Vec<_> = BUCKETS.into_iter().zip(first.buckets).collect();
        let beyond = first.count - first.buckets.iter().sum::<u64>();
        buckets.push((f64::INFINITY, beyond));
        let help = "From the acceptance of a request to its first token";
        let (unit, kind) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut metric = page.0.encode_descriptor("first_token", help, unit, kind)?;
        let sum = first.sum.as_secs_f64();
        metric.encode_histogram::<NoLabelSet>(sum, first.count, &buckets, None)
    }

    fn encode_tokens(&self, page: &mut Page<'_>) -> fmt::Result {
        let engine = &self.engine;
        let computed = engine.prefill_tokens;
        page.counter("prompt_tokens", "Tokens of prompts computed", computed)?;
        let cached = engine.cached_tokens;
        page.counter(
            "cached_tokens",
            "Tokens of prompts found in the cache",
            cached,
        )?;
        let generated = engine.generated_tokens;
        page.counter("generated_tokens", "Tokens generated", generated)?;
        page.seconds(
            "prefill",
            "Time of requests before their first token, from their start",
            engine.prefill_us,
        )?;
        page.seconds(
            "decode",
            "Time of requests from their first token to the last",
            engine.decode_us,
        )
    }

    fn encode_memory(&self, page: &mut Page<'_>) -> fmt::Result {
        let cache = self.engine.cache;
        let (used, total) = (cache.used as u64, cache.total as u64);
        let help = "Blocks of the key/value cache that hold something";
        page.gauge("cache_blocks_used", help, None, used)?;
        page.gauge("cache_blocks", "Blocks of the key/value cache", None, total)?;
        let (own, bytes) = (self.memory.anonymous, Some(&Unit::Bytes));
        page.gauge("memory_own", "Memory of the daemon's own", bytes, own)?;
        let (mapped, help) = (self.memory.file, "Mapped files in memory: the weights");
        page.gauge("memory_mapped", help, bytes, mapped)
    }
}

#[cfg(test)]
#[path = "tests/metrics.rs"]
mod tests;
