//! `--report`: one file for whoever is to find a fault. It names no person, no machine
//! and no folder of theirs, and holds nothing that was said to a model.
//!
//! ```text
//! {
//!   "schema": 1, "gptoss": "0.1.0", "written": "2026-01-31T12:00:00Z",
//!   "system": {"kernel": "Linux 6.1.0 x86_64", "distribution": "Debian GNU/Linux 12 (bookworm)"},
//!   "processor": {"model": …, "cores": 8, "features": ["avx2", …], "kernels": "avx2"},
//!   "memory": {"total": bytes, "available": bytes},
//!   "gpu": {"driver": "570.86.15", "devices": ["NVIDIA H200"], "missing": ["libcudnn.so.9"]},
//!   "onnxruntime": {"path": "~/lib/…", "version": …, "build": …, "sha256": …, "providers": […]},
//!   "providers": [what selftest --json has],
//!   "error": "why there are none",
//!   "quarantine": {"file": …, "problem": …, "records": [{"provider", "since", "reason", …}]},
//!   "models": [{"name": "20b", "revision": …}]
//! }
//! ```
//!
//! What there is none of is `null`.

use std::path::Path;

use gptoss_onnx::kernels::best_kernel;
use serde_json::{Value, json};

use super::Outcome;
use super::privacy::Private;
use crate::cli::error::reason;
use crate::cli::install::open_stores;
use crate::cli::messages::message;
use crate::cli::{CliError, ExitStatus, Global, doctor, terminal};
use crate::model::{now_rfc3339, sha256_file};
use crate::runtime::{Provider, Quarantine, driver, library, memory, threads};

/// Version of the form above.
const SCHEMA: u32 = 1;

/// What the processor can do that kernels may use, as Linux calls it.
const FEATURES: [&str; 12] = [
    "sse4", "ssse3", "avx", "fma", "f16c", "bmi", "amx", "asimd", "sve", "i8mm", "bf16", "fphp",
];

/// Whether the report goes to standard output.
pub(super) fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

/// Writes the report. A file that is there is replaced.
pub(super) fn write(file: &Path, text: &str) -> Result<(), CliError> {
    let written = match is_stdout(file) {
        true => terminal::write_out(text.as_bytes()),
        false => std::fs::write(file, text),
    };
    written.map_err(|error| {
        let message = message!("cannot-write", why = reason(&error));
        CliError::new(ExitStatus::Failed, message)
    })
}

/// The report.
pub(super) fn text(
    global: &Global,
    quarantine: &Quarantine,
    outcome: &Result<Outcome, CliError>,
) -> String {
    let mut report = json!({
        "schema": SCHEMA,
        "gptoss": env!("CARGO_PKG_VERSION"),
        "written": now_rfc3339(),
        "system": system(),
        "processor": processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        "memory": {"total": memory::total(), "available": memory::available()},
        "gpu": gpu(),
        "onnxruntime": onnxruntime(),
        "providers": outcome.as_ref().ok().map(|outcome| &outcome.providers),
        "error": outcome.as_ref().err().map(ToString::to_string),
        "quarantine": in_quarantine(quarantine),
        "models": models(global),
    });
    Private::here().clean(&mut report);
    format!("{report:#}\n")
}

fn system() -> Value {
    let uname = rustix::system::uname();
    let kernel = [uname.sysname(), uname.release(), uname.machine()];
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    json!({
        "kernel": kernel.map(|part| part.to_string_lossy()).join(" "),
        "distribution": value_of(&release, "PRETTY_NAME=").map(|name| name.trim_matches('"')),
    })
}

fn processor(cpuinfo: &str) -> Value {
    let field = |name: &str| {
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start().strip_prefix(':')?.trim())
    };
    // x86 has flags, AArch64 Features.
    let all = field("flags").or_else(|| field("Features"));
    let used = |name: &&str| FEATURES.iter().any(|known| name.contains(known));
    let features: Vec<_> = all.unwrap_or_default().split(' ').filter(used).collect();
    json!({
        "model": field("model name"),
        "cores": threads::physical_cores(),
        "features": features,
        "kernels": best_kernel().isa().name(),
    })
}

/// The first line that begins so, without that.
fn value_of<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(beginning))
}

/// NVIDIA's, where the kernel has its driver.
fn gpu() -> Option<Value> {
    let driver = driver::version(Provider::Cuda)?;
    Some(json!({
        "driver": driver,
        "devices": driver::devices(Provider::Cuda),
        "missing": doctor::missing_cuda_libraries(),
    }))
}

fn onnxruntime() -> Option<Value> {
    let info = library::loaded()?;
    // A bare name is the system loader's to find.
    let sha256 = sha256_file(&info.path, |_| ())
        .ok()
        .map(|(_, sha256)| sha256);
    Some(json!({
        "path": info.path.display().to_string(),
        "version": info.version,
        "build": info.build,
        "sha256": sha256,
        "providers": info.providers,
    }))
}

fn in_quarantine(quarantine: &Quarantine) -> Value {
    let read = quarantine.read();
    let records: Vec<_> = read.iter().flatten().collect();
    let records: Vec<_> = records
        .into_iter()
        .map(|record| {
            let counts = Provider::named(&record.provider).and_then(|p| quarantine.holds(p));
            json!({
                "provider": record.provider,
                "since": record.since,
                "reason": record.reason,
                "driver": record.driver,
                "devices": record.devices,
                "onnxruntime": record.onnxruntime,
                "gptoss": record.gptoss,
                "counts": counts.as_ref() == Some(record),
            })
        })
        .collect();
    json!({
        "file": quarantine.file().map(|file| file.display().to_string()),
        "problem": read.as_ref().err(),
        "records": records,
    })
}

fn models(global: &Global) -> Option<Value> {
    let models = open_stores(global).ok()?.models();
    let model = |m: &crate::model::Installed| json!({"name": m.name, "revision": m.revision});
    Some(models.iter().map(model).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_described_by_what_kernels_may_use() {
        let intel = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu avx2 \
                     avx512_vnni ht amx_int8\n";
        let told = processor(intel);
        assert_eq!(told["model"], "Some CPU @ 2.0GHz");
        assert_eq!(told["features"], json!(["avx2", "avx512_vnni", "amx_int8"]));
        let arm = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n";
        let told = processor(arm);
        assert_eq!(told["features"], json!(["asimd", "asimddp", "i8mm"]));
        assert_eq!(told["model"], Value::Null);
        assert_eq!(processor("")["features"], json!([]));
    }

    #[test]
    fn the_report_is_one_document_whatever_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let global = Global {
            store: Some(folder.path().join("store")),
            config: None,
            offline: false,
            json: false,
        };
        let quarantine = Quarantine::in_folder(folder.path());
        std::fs::write(quarantine.file().unwrap(), "damaged").unwrap();
        let outcome = Err(CliError::new(ExitStatus::NotFound, "there is no library"));
        let report: Value = serde_json::from_str(&text(&global, &quarantine, &outcome)).unwrap();
        assert_eq!(report["schema"], SCHEMA);
        assert_eq!(report["error"], "there is no library");
        assert_eq!(report["providers"], Value::Null);
        assert_eq!(report["models"], json!([]));
        let problem = report["quarantine"]["problem"].as_str().unwrap();
        assert!(problem.contains("is ignored"), "{problem}");
        assert!(report["processor"]["cores"].as_u64().unwrap() > 0);
    }
}
