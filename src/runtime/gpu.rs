//! What NVIDIA's management library says of the GPU. It comes with the driver and is
//! opened at run time: where there is no driver, nothing is said.

use nvml_wrapper::Nvml;
use nvml_wrapper::struct_wrappers::device::MemoryInfo;

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

/// Memory of the GPU that has most of it free; none where there is none, or none tells.
///
/// A session computes on the one that CUDA calls the first: the fastest of those that
/// `CUDA_VISIBLE_DEVICES` leaves it. NVML knows neither, and counts them as they are
/// plugged in. What does not fit in the roomiest fits nowhere.
pub fn memory() -> Option<GpuMemory> {
    let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init();
    let read = nvml.and_then(|nvml| {
        let memory = |i| nvml.device_by_index(i)?.memory_info();
        // One may be lost, and the others be well.
        Ok((0..nvml.device_count()?).flat_map(memory).collect())
    });
    let all: Vec<MemoryInfo> = read.unwrap_or_else(|error| {
        tracing::debug!("nothing is known of a GPU's memory: {error}");
        Vec::new()
    });
    roomiest(all.into_iter().map(|memory| GpuMemory {
        total: memory.total,
        free: memory.free,
    }))
}

fn roomiest(all: impl Iterator<Item = GpuMemory>) -> Option<GpuMemory> {
    all.max_by_key(|memory| memory.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_gpu_beside_a_large_one_is_no_limit() {
        let gpu = |total, free| GpuMemory { total, free };
        let [small, large, busy] = [gpu(4, 4), gpu(24, 20), gpu(80, 10)];
        assert_eq!(roomiest([small, large, busy].into_iter()), Some(large));
        assert_eq!(roomiest(std::iter::empty()), None);
    }
}
