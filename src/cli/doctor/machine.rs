//! Processor, memory, graphics processor.

use std::path::Path;

use gptoss_onnx::kernels::{Isa, best_kernel};

use super::{Check, Finding};
use crate::cli::messages::{message, size};
use crate::runtime::system_libraries::{CUDA, CUDNN};
use crate::runtime::{Provider, driver, library, memory, threads};

/// NVIDIA's driver, as the CUDA provider of ONNX Runtime 1.31 loads it.
const DRIVER_LIBRARY: &str = "libcuda.so.1";

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
    let driver = driver::version(Provider::Cuda);
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
    let devices = match driver::devices(Provider::Cuda) {
        none if none.is_empty() => "?".to_owned(),
        devices => devices.join(", "),
    };
    let found = message!("doctor-gpu-driver", devices = devices, driver = driver);
    let mut findings = vec![Finding::good(Check::Gpu, found)];
    let missing = missing_cuda_libraries().into_iter();
    findings.extend(missing.map(|library| {
        let found = message!("doctor-gpu-unloadable", library = library);
        Finding::wrong(Check::Gpu, found, advice(library))
    }));
    findings
}

/// The libraries that ONNX Runtime's CUDA provider needs and the system's loader does not
/// find. The provider's file has no search path of its own: beside it is no place.
pub(in crate::cli) fn missing_cuda_libraries() -> Vec<&'static str> {
    let cuda = CUDA.iter().map(|(name, _)| *name);
    let all = [DRIVER_LIBRARY].into_iter().chain(cuda).chain([CUDNN.0]);
    all.filter(|name| !library::opens(Path::new(name)))
        .collect()
}

/// Which package brings a library.
fn advice(library: &str) -> String {
    let cuda = CUDA.iter().find(|(name, _)| *name == library);
    match cuda {
        _ if library == DRIVER_LIBRARY => message!("doctor-gpu-install-driver"),
        Some((_, package)) => message!("doctor-gpu-install-cuda", package = *package),
        None => message!("doctor-gpu-install-cudnn", package = CUDNN.1),
    }
}
