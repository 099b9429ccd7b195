//! What NVIDIA's management library says of the GPU. It comes with the driver and is
//! opened at run time: where there is no driver, nothing is said.

use nvml_wrapper::Nvml;

/// The driver's library. The name without a number, which the crate looks for, is only
/// in packages for development.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    /// All of it.
    pub total: u64,
    /// What nothing holds yet.
    pub free: u64,
}

/// Memory of the first GPU, the one that a session computes on; none where there is none,
/// or it does not tell.
pub fn memory() -> Option<GpuMemory> {
    let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init();
    let read = nvml.and_then(|nvml| nvml.device_by_index(0)?.memory_info());
    match read {
        Ok(memory) => Some(GpuMemory {
            total: memory.total,
            free: memory.free,
        }),
        Err(error) => {
            tracing::debug!("nothing is known of a GPU's memory: {error}");
            None
        }
    }
}
