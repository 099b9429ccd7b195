//! What `bench` prints: a table for people, llama-bench's keys for programs.

use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use serde_json::{Value, json};

use super::Test;
use super::samples::{self, Samples};
use super::streamed::Streamed;
use crate::cli::messages::{decimal, message, size};
use crate::cli::terminal::say;
use crate::engine::backend::Backend;
use crate::runtime::{LoadReport, OrtBackend, library, memory};

/// What is the same for every test.
pub(super) struct Machine {
    model: String,
    file: PathBuf,
    target: Target,
    provider: String,
    chunk: usize,
    context: usize,
    processor: String,
    runtime: String,
    load: LoadReport,
    /// Bytes a second that all threads together read from memory.
    read: f64,
}

/// One test with its times, and the memory held right after it.
pub(super) struct Measured {
    pub test: Test,
    pub samples: Samples,
    pub resident: memory::Resident,
    /// Experts read in a step, of all layers.
    pub experts: f64,
    /// Bytes of weights read in a step.
    pub step_bytes: f64,
    /// What experts on the disk cost.
    pub streamed: Option<Streamed>,
}

impl Machine {
    pub fn of(backend: &OrtBackend, revision: &Path, target: Target, read: f64) -> Self {
        let info = backend.info();
        Self {
            model: info.model.clone(),
            file: revision.join(target.to_string()).join("model.onnx"),
            target,
            provider: info.provider.clone(),
            chunk: info.prefill_chunk,
            context: info.context_window,
            processor: processor(),
            runtime: library::loaded().map_or_else(String::new, |library| library.version),
            load: *backend.load_report(),
            read,
        }
    }
}

impl Measured {
    /// Seconds that all repetitions took.
    pub fn seconds(&self) -> f64 {
        self.samples.nanoseconds().iter().sum::<f64>() / 1e9
    }

    /// Median tokens a second.
    pub fn rate(&self) -> f64 {
        samples::median(&self.samples.rates())
    }

    /// Bytes of weights read a second while generating; a prompt is bound by
    /// arithmetic.
    fn bandwidth(&self) -> Option<f64> {
        let steps = self.test.generate as f64;
        let median = samples::median(&self.samples.nanoseconds()) / 1e9;
        (steps > 0.0).then(|| self.step_bytes * steps / median)
    }
}

fn processor() -> String {
    let table = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = table.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

pub(super) fn print_head(machine: &Machine) {
    let load = &machine.load;
    let of = message!(
        "bench-machine",
        model = &machine.model,
        target = %machine.target,
        threads = load.threads,
        context = machine.context,
        runtime = &machine.runtime,
        provider = &machine.provider,
    );
    let loaded = message!(
        "bench-loaded",
        seconds = decimal(load.duration.as_secs_f64(), 2),
        threads = load.threads,
        gigabytes = decimal(machine.read / 1e9, 1),
    );
    say!("{of}\n{loaded}");
    if let Some(streamed) = load.streamed {
        let told = message!(
            "bench-streaming",
            slots = streamed.slots,
            experts = streamed.experts,
            memory = size(streamed.memory),
        );
        say!("{told}");
    }
    say!("");
    say!(
        "| {:<16} | {:>20} | {:>8} | {:>9} | {:>16} | {:>10} | {:>12} |",
        "test",
        "tokens/s",
        "median",
        "ms",
        "weights read",
        "own memory",
        "mapped files"
    );
    say!(
        "| {:-<16} | {:->19}: | {:->7}: | {:->8}: | {:->15}: | {:->9}: | {:->11}: |",
        "",
        "",
        "",
        "",
        "",
        "",
        ""
    );
}

pub(super) fn print_row(machine: &Machine, measured: &Measured) {
    let rates = measured.samples.rates();
    let read = measured.bandwidth().map_or_else(String::new, |read| {
        format!(
            "{:.1} GB/s {:>3.0} %",
            read / 1e9,
            100.0 * read / machine.read.max(1.0)
        )
    });
    say!(
        "| {:<16} | {:>20} | {:>8.2} | {:>9.1} | {:>16} | {:>7.2} GB | {:>9.2} GB |",
        measured.test.name(),
        format!(
            "{:.2} ± {:.2}",
            samples::mean(&rates),
            samples::deviation(&rates)
        ),
        measured.rate(),
        samples::median(&measured.samples.nanoseconds()) / 1e6,
        read,
        measured.resident.anonymous as f64 / 1e9,
        measured.resident.file as f64 / 1e9,
    );
    if let Some(streamed) = &measured.streamed {
        say!("{}", streamed.told());
    }
}

pub(super) fn print_foot() {
    say!("");
    say!("{}", message!("bench-legend"));
}

pub(super) fn print_json(machine: &Machine, measured: &[Measured]) {
    let tests: Vec<Value> = measured.iter().map(|test| entry(machine, test)).collect();
    say!("{:#}", Value::from(tests));
}

/// llama-bench's keys first, then ours.
fn entry(machine: &Machine, measured: &Measured) -> Value {
    let nanoseconds = measured.samples.nanoseconds();
    let rates = measured.samples.rates();
    json!({
        "build_commit": option_env!("GPTOSS_COMMIT").unwrap_or("unknown"),
        "build_version": env!("CARGO_PKG_VERSION"),
        "cpu_info": machine.processor,
        "backends": machine.provider.to_uppercase(),
        "model_filename": machine.file,
        "model_type": format!("gpt-oss {} {}", machine.model, machine.target),
        "n_batch": machine.chunk,
        "n_ubatch": machine.chunk,
        "n_threads": machine.load.threads,
        "type_k": machine.load.kv_cache.name(),
        "type_v": machine.load.kv_cache.name(),
        "n_prompt": measured.test.prompt,
        "n_gen": measured.test.generate,
        "n_depth": measured.test.depth,
        "n_parallel": measured.test.parallel,
        "avg_ns": samples::mean(&nanoseconds).round() as u64,
        "stddev_ns": samples::deviation(&nanoseconds).round() as u64,
        "avg_ts": samples::mean(&rates),
        "stddev_ts": samples::deviation(&rates),
        "samples_ns": nanoseconds.iter().map(|ns| *ns as u64).collect::<Vec<_>>(),
        "samples_ts": rates,
        "median_ns": samples::median(&nanoseconds).round() as u64,
        "median_ts": samples::median(&rates),
        "n_ctx": machine.context,
        "onnxruntime": machine.runtime,
        "load_ms": machine.load.duration.as_secs_f64() * 1e3,
        "session_ms": machine.load.session.as_secs_f64() * 1e3,
        "read_bytes_per_second": machine.read,
        "experts_per_step": measured.experts,
        "weight_bytes_per_step": measured.step_bytes,
        "weight_bytes_per_second": measured.bandwidth(),
        "rss_anon": measured.resident.anonymous,
        "rss_file": measured.resident.file,
        "streamed": measured.streamed.as_ref().map(Streamed::entry),
    })
}
