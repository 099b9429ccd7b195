//! What `bench` prints: a table for people, llama-bench's keys for programs.

use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use serde_json::{Value, json};

use super::Test;
use super::samples::{self, Samples};
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
}

/// One test with its times, and the memory held right after it.
pub(super) struct Measured {
    test: Test,
    samples: Samples,
    resident: memory::Resident,
}

impl Machine {
    pub fn of(backend: &OrtBackend, revision: &Path, target: Target) -> Self {
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
        }
    }
}

impl Measured {
    pub fn new(test: Test, samples: Samples) -> Self {
        Self {
            test,
            samples,
            resident: memory::resident().unwrap_or_default(),
        }
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
    println!(
        "{} ({}), {} threads, context {}, ONNX Runtime {} on {}",
        machine.model,
        machine.target,
        load.threads,
        machine.context,
        machine.runtime,
        machine.provider
    );
    println!("loaded in {:.2} s", load.duration.as_secs_f64());
    println!();
    println!(
        "| {:<16} | {:>20} | {:>10} | {:>12} | {:>12} |",
        "test", "tokens/s", "median", "own memory", "mapped files"
    );
    println!(
        "| {:-<16} | {:->19}: | {:->9}: | {:->11}: | {:->11}: |",
        "", "", "", "", ""
    );
}

pub(super) fn print_row(measured: &Measured) {
    let rates = measured.samples.rates();
    println!(
        "| {:<16} | {:>20} | {:>10.2} | {:>9.2} GB | {:>9.2} GB |",
        measured.test.name(),
        format!(
            "{:.2} ± {:.2}",
            samples::mean(&rates),
            samples::deviation(&rates)
        ),
        samples::median(&rates),
        measured.resident.anonymous as f64 / 1e9,
        measured.resident.file as f64 / 1e9,
    );
}

pub(super) fn print_foot() {
    println!();
    println!("pp: prompt tokens computed at once; tg: tokens generated one by one");
}

pub(super) fn print_json(machine: &Machine, measured: &[Measured]) {
    let tests: Vec<Value> = measured.iter().map(|test| entry(machine, test)).collect();
    println!("{:#}", Value::from(tests));
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
        "type_k": "f32",
        "type_v": "f32",
        "n_prompt": measured.test.prompt,
        "n_gen": measured.test.generate,
        "n_depth": measured.test.depth,
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
        "rss_anon": measured.resident.anonymous,
        "rss_file": measured.resident.file,
    })
}
