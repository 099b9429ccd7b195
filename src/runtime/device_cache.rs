//! The key/value cache in the memory of the device that computes.
//!
//! Each tensor is bound both as a layer's past and as its present, as in main memory, so
//! that nothing of the cache is copied from one step to the next. It is allocated whole
//! and zeroed: memory of a device is not, and may hold what others left there.

use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::error::RuntimeError;
use super::kv_cache::{CacheShape, bind_side};

/// The tensors, f16 `[1, KVH, T, D]`, in the order key, value of layer 0, key, value of
/// layer 1, ….
pub(super) struct DeviceCache {
    tensors: Vec<Tensor<f16>>,
}

impl DeviceCache {
    /// Allocates the cache where `session` computes, on the first such device.
    pub fn new(
        session: &Session,
        device: AllocationDevice<'static>,
        shape: &CacheShape,
    ) -> Result<Self, RuntimeError> {
        let memory = MemoryInfo::new(device, 0, AllocatorType::Device, MemoryType::Default)?;
        let allocator = Allocator::new(session, memory)?;
        let mut zeros: Option<Tensor<f16>> = None;
        let sides = shape.layers.iter().flat_map(|layer| [layer.dimensions; 2]);
        let tensors = sides.map(|dimensions| {
            let same =
                |zeros: &Tensor<f16>| zeros.shape().iter().map(|&n| n as usize).eq(dimensions);
            let zeros = match zeros.take().filter(same) {
                Some(tensor) => zeros.insert(tensor),
                None => {
                    let mut tensor = Tensor::<f16>::new(&Allocator::default(), dimensions)?;
                    tensor.extract_tensor_mut().1.fill(f16::ZERO);
                    zeros.insert(tensor)
                }
            };
            let mut tensor = Tensor::<f16>::new(&allocator, dimensions)?;
            zeros.copy_into(&mut tensor)?;
            Ok(tensor)
        });
        Ok(Self {
            tensors: tensors.collect::<Result<_, RuntimeError>>()?,
        })
    }

    /// Binds every tensor as past and as present.
    pub fn bind(&mut self, binding: &mut IoBinding) -> Result<(), RuntimeError> {
        for (i, tensor) in self.tensors.iter_mut().enumerate() {
            bind_side(binding, i, tensor)?;
        }
        Ok(())
    }
}
