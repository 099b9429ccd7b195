//! Buffers of numbers that begin on a cache line, so that vector loads of whole
//! lines never touch two.

use std::cell::RefCell;
use std::marker::PhantomData;

/// A cache line, and the widest vector.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Plain numbers: any bytes are a value.
///
/// # Safety
/// Every bit pattern is valid, and the size divides 64.
pub(super) unsafe trait Number: Copy {}
// SAFETY: so they are.
unsafe impl Number for i8 {}
// SAFETY: so they are.
unsafe impl Number for u16 {}
// SAFETY: so they are.
unsafe impl Number for i32 {}
// SAFETY: so they are.
unsafe impl Number for f32 {}

/// A growing buffer whose first element is aligned to 64 bytes.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            len: 0,
            element: PhantomData,
        }
    }
}

impl<T: Number> Aligned<T> {
    const EACH: usize = 64 / size_of::<T>();

    /// Makes it `len` elements long, old content first, zeros behind it.
    pub(super) fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(Self::EACH);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }

    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: `resize` keeps at least `len` initialized elements, of which
        // any bytes are a value; 64 is a multiple of their alignment.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Lends `len` floats of this thread's own memory, with any content.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Aligned<f32>> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(len);
        f(scratch.as_mut_slice())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_aligned_kept_and_zero_at_first() {
        let mut buffer = Aligned::<f32>::default();
        assert!(buffer.as_slice().is_empty());
        for len in [1, 16, 17, 1000] {
            buffer.resize(len);
            assert_eq!(buffer.as_slice().len(), len);
            assert_eq!(buffer.as_slice().as_ptr().addr() % 64, 0);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
        }
        buffer.as_mut_slice()[999] = 1.0;
        buffer.resize(10);
        buffer.resize(1000);
        assert_eq!(buffer.as_slice()[999], 1.0);
    }
}
