//! Processor, memory, graphics processor.

use std::path::Path;

use gptoss_onnx::kernels::{Isa, best_kernel};

use super::{Check, Finding};
use crate::cli::messages::{message, size};
use crate::runtime::{library, memory, threads};

/// NVIDIA's driver, as the CUDA provider of ONNX Runtime 1.31 loads it.
const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// What it loads of CUDA 13, and which package has it.
const CUDA_LIBRARIES: [(&str, &str); 4] = [
    ("libcudart.so.13", "cuda-cudart-13-0"),
    ("libcublas.so.13", "libcublas-13-0"),
    ("libcublasLt.so.13", "libcublas-13-0"),
    ("libcurand.so.10", "libcurand-13-0"),
];

/// What it loads besides, and which package has it.
const CUDNN: (&str, &str) = ("libcudnn.so.9", "libcudnn9-cuda-13");

/// Least memory for 20b: its weights, a context of 8192 and what works on them.
const MEMORY_OF_20B: u64 = 13_000_000_000;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![processor(), memory()];
    findings.extend(graphics());
    findings
}

fn processor() -> Finding {
    let isa = best_kernel().isa();
    let cores = threads::physical_cores();
    let found = message!("doctor-cores", cores = cores, kernels = isa.name());
    match isa == Isa::Scalar {
        false => Finding::good(Check::Processor, found),
        true => Finding::note(Check::Processor, found, message!("doctor-scalar")),
    }
}

fn memory() -> Finding {
    let found = |bytes| message!("doctor-memory-available", size = size(bytes));
    match memory::available() {
        None => Finding::note(
            Check::Memory,
            message!("doctor-memory-unknown"),
            message!("doctor-memory-see"),
        ),
        Some(bytes) if bytes >= MEMORY_OF_20B => Finding::good(Check::Memory, found(bytes)),
        Some(bytes) => Finding::note(
            Check::Memory,
            found(bytes),
            message!("doctor-memory-wanted", size = size(MEMORY_OF_20B)),
        ),
    }
}

/// A GPU that is there should work; none is fine.
fn graphics() -> Vec<Finding> {
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    if driver.is_none() && !Path::new("/dev/nvidia0").exists() {
        return vec![Finding::good(Check::Gpu, message!("doctor-gpu-none"))];
    }
    let Some(driver) = driver else {
        return vec![Finding::wrong(
            Check::Gpu,
            message!("doctor-gpu-no-driver"),
            message!("doctor-gpu-load-driver"),
        )];
    };
    let version = driver.lines().next().unwrap_or_default().trim().to_owned();
    let mut findings = vec![Finding::good(Check::Gpu, version)];
    findings.extend(missing_libraries());
    findings
}

fn missing_libraries() -> Vec<Finding> {
    let mut libraries = vec![(DRIVER_LIBRARY, message!("doctor-gpu-install-driver"))];
    libraries.extend(CUDA_LIBRARIES.map(|(name, package)| {
        let advice = message!("doctor-gpu-install-cuda", package = package);
        (name, advice)
    }));
    let (name, package) = CUDNN;
    libraries.push((
        name,
        message!("doctor-gpu-install-cudnn", package = package),
    ));
    let missing = libraries
        .into_iter()
        .filter(|(name, _)| !library::opens(Path::new(name)));
    missing
        .map(|(name, advice)| {
            let found = message!("doctor-gpu-unloadable", library = name);
            Finding::wrong(Check::Gpu, found, advice)
        })
        .collect()
}
