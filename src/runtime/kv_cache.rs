//! The key/value cache's memory: one tensor per layer and side, allocated once.
//!
//! Each tensor is bound both as the layer's past and as its present, so that
//! attention appends in place. The memory comes zeroed and lazily committed
//! from the system: a long context window costs what is really used of it.

use std::ops::Range;
use std::ptr::NonNull;

use gptoss_onnx::kernels::attention::Precision;
use gptoss_onnx::operators::cache_element;
use memmap2::MmapRaw;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{DynValue, Value, ValueTypeMarker};

use super::blocks::BlockCopy;
use super::error::RuntimeError;
use crate::platform;

/// Shape of the cache of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CacheShape {
    pub layers: Vec<LayerShape>,
    pub precision: Precision,
}

/// Shape of one side of a layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerShape {
    /// `[blocks, kv_heads, positions of a block, elements of a head]`; a cache
    /// that is not paged is one block.
    pub dimensions: [usize; 4],
    /// Whether the layer has a sliding window.
    pub window: bool,
}

impl CacheShape {
    fn side_bytes(&self, layer: LayerShape) -> usize {
        layer.dimensions.iter().product::<usize>() * self.precision.bytes()
    }

    /// Whether each tensor is one block of float16, for one sequence.
    pub fn is_one_piece(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.all(|layer| layer.dimensions[0] == 1) && self.precision == Precision::F16
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        let sides = self.layers.iter().map(|&layer| self.side_bytes(layer));
        2 * sides.sum::<usize>() as u64
    }

    /// Where each tensor lies: key, value of layer 0, key, value of layer 1, ….
    /// Each starts on a cache line of its own.
    fn places(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let sides = self.layers.iter().flat_map(|&layer| [layer; 2]);
        sides
            .map(|layer| {
                let start = end;
                end += self.side_bytes(layer).next_multiple_of(64);
                start..start + self.side_bytes(layer)
            })
            .collect()
    }
}

/// The tensors, in the order key, value of layer 0, key, value of layer 1, ….
pub(super) struct KvCache {
    // Before the memory they view: fields drop in order.
    tensors: Vec<DynValue>,
    shape: CacheShape,
    places: Vec<Range<usize>>,
    memory: MmapRaw,
}

impl KvCache {
    /// Reserves the cache in main memory, all zero.
    pub fn new(shape: CacheShape) -> Result<Self, RuntimeError> {
        let places = shape.places();
        let length = places.last().map_or(0, |place| place.end).max(1);
        let memory = memmap2::MmapMut::map_anon(length).map_err(|error| {
            RuntimeError::Model(format!(
                "cannot reserve {length} bytes for the key/value cache: {error}; \
                 choose a smaller context window"
            ))
        })?;
        let memory = MmapRaw::from(memory);
        advise_huge_pages(&memory, &shape, &places);
        let tensors = places
            .iter()
            .enumerate()
            .map(|(i, place)| {
                let dimensions = shape.layers[i / 2].dimensions;
                // SAFETY: the mapping is owned by the cache, does not move, and
                // outlives the tensors; the places do not overlap; between
                // runs, only `copy` touches the memory besides.
                unsafe {
                    let start = memory.as_mut_ptr().add(place.start);
                    tensor_over(start, place.len(), dimensions, shape.precision)
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            tensors,
            shape,
            places,
            memory,
        })
    }

    /// Binds every tensor as past and as present.
    pub fn bind(&mut self, binding: &mut IoBinding) -> Result<(), RuntimeError> {
        for (i, tensor) in self.tensors.iter_mut().enumerate() {
            bind_side(binding, i, tensor)?;
        }
        Ok(())
    }

    /// Fills blocks of all layers of a kind with small numbers.
    pub fn fill_with_noise(&mut self, window: bool, blocks: &[u32]) {
        // Upper bytes of numbers that are small and finite in half and in single
        // precision, lines of int8 ones included; the lower ones may be anything.
        const UPPER: [u8; 4] = [0x2c, 0xac, 0x2e, 0xae];
        let mut random = 0x9e37_79b9_u32;
        for (i, place) in self.places.iter().enumerate() {
            let layer = self.shape.layers[i / 2];
            if layer.window != window {
                continue;
            }
            let count = layer.dimensions[0];
            let bytes = place.len() / count.max(1);
            for &block in blocks {
                let block = block as usize;
                assert!(block < count, "block {block} of {count}");
                // SAFETY: the block is inside of the tensor's place in the
                // mapping; `self` is borrowed exclusively, so that no run uses
                // the tensors.
                let content = unsafe {
                    let start = self.memory.as_mut_ptr().add(place.start + block * bytes);
                    std::slice::from_raw_parts_mut(start, bytes)
                };
                for number in content.as_chunks_mut::<2>().0 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *number = [(random >> 16) as u8, UPPER[(random >> 30) as usize]];
                }
            }
        }
    }

    /// Gives the memory of blocks, of all layers of a kind, back to the system;
    /// they are zero when they are used again. What shares a page with others
    /// stays.
    pub fn release(&mut self, window: bool, blocks: &[u32]) {
        let runs = runs(blocks);
        for (i, place) in self.places.iter().enumerate() {
            let layer = self.shape.layers[i / 2];
            if layer.window != window {
                continue;
            }
            let count = layer.dimensions[0];
            let bytes = place.len() / count.max(1);
            for run in &runs {
                assert!(run.end <= count, "blocks {run:?} of {count}");
                let start = place.start + run.start * bytes;
                let end = place.start + run.end * bytes;
                self.release_bytes(start..end);
            }
        }
    }

    /// The same for the whole pages among some of its bytes.
    fn release_bytes(&self, bytes: Range<usize>) {
        let page = rustix::param::page_size();
        let start = bytes.start.next_multiple_of(page);
        let end = bytes.end / page * page;
        if start >= end {
            return;
        }
        // SAFETY: the pages are inside of the mapping, which is anonymous and
        // private; the callers borrow `self` exclusively, so that no run uses
        // the tensors, and what they view stays mapped and becomes zero.
        let advised = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.memory
                .unchecked_advise_range(advice, start, end - start)
        };
        if let Err(error) = advised {
            tracing::debug!("the system does not take memory back: {error}");
        }
    }

    /// Gives back everything.
    pub fn release_all(&mut self) {
        let end = self.places.last().map_or(0, |place| place.end);
        self.release_bytes(0..end);
    }

    /// Copies a block in all layers of its kind.
    ///
    /// # Panics
    /// A block that is not in the pool.
    pub fn copy(&mut self, copy: BlockCopy) {
        for (i, place) in self.places.iter().enumerate() {
            let layer = self.shape.layers[i / 2];
            if layer.window != copy.window {
                continue;
            }
            let blocks = layer.dimensions[0];
            let bytes = place.len() / blocks.max(1);
            let (from, to) = (copy.from as usize, copy.to as usize);
            assert!(from < blocks && to < blocks && from != to, "{copy:?}");
            // SAFETY: both blocks are inside of the tensor's place in the
            // mapping, and differ; `self` is borrowed exclusively, so that no
            // run uses the tensors.
            unsafe {
                let start = self.memory.as_mut_ptr().add(place.start);
                std::ptr::copy_nonoverlapping(
                    start.add(from * bytes),
                    start.add(to * bytes),
                    bytes,
                );
            }
        }
    }
}

/// Binds the `i`-th tensor, of key, value of layer 0, key, value of layer 1, …, as past
/// and as present.
pub(super) fn bind_side<T: ValueTypeMarker + ?Sized>(
    binding: &mut IoBinding,
    i: usize,
    tensor: &mut Value<T>,
) -> Result<(), RuntimeError> {
    let (layer, side) = (i / 2, if i.is_multiple_of(2) { "key" } else { "value" });
    binding.bind_input(format!("past_key_values.{layer}.{side}"), tensor)?;
    binding.bind_output(format!("present.{layer}.{side}"), tensor)?;
    Ok(())
}

/// Bytes of a huge page where there are any.
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages where a layer remembers everything: a step reads all of that,
/// a head and a block here, a head and a block there, and would look up an address
/// for every 4 kB (a tenth of attention's time). Costs up to a huge page a tensor;
/// rings stay as small as they are.
fn advise_huge_pages(memory: &MmapRaw, shape: &CacheShape, places: &[Range<usize>]) {
    let page = rustix::param::page_size();
    for (place, layer) in places.iter().zip(shape.layers.iter().flat_map(|l| [l; 2])) {
        if layer.window || place.len() < 2 * HUGE_PAGE {
            continue;
        }
        let (start, end) = (place.start / page * page, place.end / page * page);
        if let Err(error) = platform::advise_huge_pages(memory, start, end - start) {
            return tracing::debug!("no huge pages for the cache: {error}");
        }
    }
}

/// Numbers that follow one another, as ranges.
fn runs(blocks: &[u32]) -> Vec<Range<usize>> {
    let mut blocks = blocks.to_vec();
    blocks.sort_unstable();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for block in blocks {
        let block = block as usize;
        match runs.last_mut() {
            Some(run) if run.end == block => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

/// A tensor that views the `length` bytes at `start`.
///
/// # Safety
/// They must stay valid and unmoved as long as the tensor or anything bound to
/// it lives, and be used by nobody else during a run.
unsafe fn tensor_over(
    start: *mut u8,
    length: usize,
    dimensions: [usize; 4],
    precision: Precision,
) -> Result<DynValue, RuntimeError> {
    let allocator = Allocator::default();
    let dimensions = dimensions.map(|n| n as i64);
    let mut value = std::ptr::null_mut();
    // SAFETY: pointers and lengths describe live memory of the stated size,
    // aligned for any (a multiple of 64 from a page boundary).
    unsafe {
        ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
            allocator.memory_info().ptr(),
            start.cast(),
            length,
            dimensions.as_ptr(),
            dimensions.len(),
            cache_element(precision).into(),
            &mut value,
        ))?;
    }
    let value = NonNull::new(value)
        .ok_or_else(|| RuntimeError::Ort("it made no tensor for the key/value cache".into()))?;
    // SAFETY: a fresh OrtValue that this function owns, and its allocator.
    Ok(unsafe { DynValue::from_ptr(value, Some(&allocator)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_one_another_are_one_run() {
        assert_eq!(runs(&[7, 1, 2, 0, 5]), [0..3, 5..6, 7..8]);
        assert!(runs(&[]).is_empty());
    }
}
