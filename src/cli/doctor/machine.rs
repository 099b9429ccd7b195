//! Processor, memory, graphics processor.

use std::path::Path;

use gptoss_onnx::kernels::{Isa, best_kernel};

use super::Finding;
use crate::model::human_size;
use crate::runtime::{library, memory, threads};

/// What the CUDA provider of ONNX Runtime 1.31 loads, and who has it.
const CUDA_LIBRARIES: [(&str, &str); 6] = [
    ("libcuda.so.1", "NVIDIA's driver"),
    ("libcudart.so.13", "CUDA 13 (cuda-cudart-13-0)"),
    ("libcublas.so.13", "CUDA 13 (libcublas-13-0)"),
    ("libcublasLt.so.13", "CUDA 13 (libcublas-13-0)"),
    ("libcurand.so.10", "CUDA 13 (libcurand-13-0)"),
    ("libcudnn.so.9", "cuDNN 9 for CUDA 13 (libcudnn9-cuda-13)"),
];

/// Least memory for 20b: its weights, a context of 8192 and what works on them.
const MEMORY_OF_20B: u64 = 13_000_000_000;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![processor(), memory()];
    findings.extend(graphics());
    findings
}

fn processor() -> Finding {
    let isa = best_kernel().isa();
    let found = format!(
        "{} cores, kernels {}",
        threads::physical_cores(),
        isa.name()
    );
    match isa == Isa::Scalar {
        false => Finding::good("processor", found),
        true => Finding::note(
            "processor",
            found,
            "it has neither AVX2 nor dot products of NEON: plain loops compute, many times slower",
        ),
    }
}

fn memory() -> Finding {
    match memory::available() {
        None => Finding::note("memory", "the system does not tell", "see `free -h`"),
        Some(bytes) if bytes >= MEMORY_OF_20B => {
            Finding::good("memory", format!("{} available", human_size(bytes)))
        }
        Some(bytes) => Finding::note(
            "memory",
            format!("{} available", human_size(bytes)),
            format!(
                "20b wants {}: close programs, or raise the control group's limit",
                human_size(MEMORY_OF_20B)
            ),
        ),
    }
}

/// A GPU that is there should work; none is fine.
fn graphics() -> Vec<Finding> {
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    if driver.is_none() && !Path::new("/dev/nvidia0").exists() {
        let found = "no NVIDIA GPU is visible; the processor computes";
        return vec![Finding::good("gpu", found)];
    }
    let Some(driver) = driver else {
        return vec![Finding::wrong(
            "gpu",
            "/dev/nvidia0 is there and its driver is not loaded",
            "install NVIDIA's driver of this kernel, or `modprobe nvidia`",
        )];
    };
    let version = driver.lines().next().unwrap_or_default().trim().to_owned();
    let missing: Vec<_> = CUDA_LIBRARIES
        .iter()
        .filter(|(name, _)| !library::opens(Path::new(name)))
        .collect();
    let mut findings = vec![Finding::good("gpu", version)];
    for (name, package) in missing {
        findings.push(Finding::wrong(
            "gpu",
            format!("{name} cannot be loaded"),
            format!("install {package}"),
        ));
    }
    findings
}
