//! The key/value cache: one tensor per layer and side, allocated once.
//!
//! Each tensor is bound both as the layer's past and as its present, so that
//! attention appends in place. The memory comes zeroed and lazily committed
//! from the system: a long context window costs what is really used of it.

use std::ptr::NonNull;

use gptoss_onnx::kernels::attention::KEY_BLOCK;
use memmap2::MmapMut;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{DynValue, TensorElementType};

use super::error::RuntimeError;

/// Shape of the cache of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CacheShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub positions: usize,
    pub head_dim: usize,
    /// Half precision numbers, else single precision.
    pub half: bool,
}

impl CacheShape {
    /// Sizes of one tensor, `[1, kv_heads, positions, head_dim]`.
    fn dimensions(&self) -> [usize; 4] {
        let positions = self.positions.next_multiple_of(KEY_BLOCK);
        [1, self.kv_heads, positions, self.head_dim]
    }

    fn tensor_bytes(&self) -> usize {
        let element = if self.half { 2 } else { 4 };
        self.dimensions().iter().product::<usize>() * element
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        2 * self.layers as u64 * self.tensor_bytes() as u64
    }
}

/// The tensors, in the order key, value of layer 0, key, value of layer 1, ….
pub(super) struct KvCache {
    // Before the memory they view: fields drop in order.
    tensors: Vec<DynValue>,
    _memory: MmapMut,
}

impl KvCache {
    /// Reserves the cache in main memory, all zero.
    pub fn new(shape: CacheShape) -> Result<Self, RuntimeError> {
        // Every tensor starts on a cache line of its own.
        let stride = shape.tensor_bytes().next_multiple_of(64);
        let length = (stride * 2 * shape.layers).max(1);
        let mut memory = MmapMut::map_anon(length).map_err(|error| {
            RuntimeError::Model(format!(
                "cannot reserve {length} bytes for the key/value cache: {error}; \
                 choose a smaller context window"
            ))
        })?;
        let tensors = (0..2 * shape.layers)
            .map(|i| {
                let bytes = &mut memory[i * stride..i * stride + shape.tensor_bytes()];
                // SAFETY: the mapping is owned by the cache, does not move, and
                // outlives the tensors; the slices do not overlap; Rust code
                // never touches the memory again.
                unsafe { tensor_over(bytes, shape) }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            tensors,
            _memory: memory,
        })
    }

    /// Binds every tensor as past and as present.
    pub fn bind(&mut self, binding: &mut IoBinding) -> Result<(), RuntimeError> {
        for (i, tensor) in self.tensors.iter_mut().enumerate() {
            let (layer, side) = (i / 2, if i % 2 == 0 { "key" } else { "value" });
            binding.bind_input(format!("past_key_values.{layer}.{side}"), tensor)?;
            binding.bind_output(format!("present.{layer}.{side}"), tensor)?;
        }
        Ok(())
    }
}

/// A tensor that views `bytes`.
///
/// # Safety
/// `bytes` must stay valid, unmoved and otherwise unused as long as the tensor
/// or anything bound to it lives.
unsafe fn tensor_over(bytes: &mut [u8], shape: CacheShape) -> Result<DynValue, RuntimeError> {
    let allocator = Allocator::default();
    let dimensions = shape.dimensions().map(|n| n as i64);
    let element = match shape.half {
        true => TensorElementType::Float16,
        false => TensorElementType::Float32,
    };
    let mut value = std::ptr::null_mut();
    // SAFETY: pointers and lengths describe live memory of the stated size,
    // aligned for either (a multiple of 64 from a page boundary).
    unsafe {
        ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
            allocator.memory_info().ptr(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            dimensions.as_ptr(),
            dimensions.len(),
            element.into(),
            &mut value,
        ))?;
    }
    let value = NonNull::new(value)
        .ok_or_else(|| RuntimeError::Ort("it made no tensor for the key/value cache".into()))?;
    // SAFETY: a fresh OrtValue that this function owns, and its allocator.
    Ok(unsafe { DynValue::from_ptr(value, Some(&allocator)) })
}
