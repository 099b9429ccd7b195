//! Sixteen floats that are computed together: one vector, two, or an array.
//!
//! Left to itself, the compiler may find vectors across the wrong loop: it once
//! gathered what lies side by side, at a quarter of the speed.

use half::f16;

use super::portable::mul_add;

/// How many floats there are.
pub(super) const LANES: usize = 16;

/// Sixteen floats.
///
/// # Safety
/// Everything here may only be called where the processor has the instructions
/// that the implementation stands for.
pub(crate) trait Lanes: Copy {
    /// Whether a product is added without being rounded.
    const FMA: bool;
    /// Sixteen times the same.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn splat(x: f32) -> Self;
    /// Those in memory.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn load(from: &[f32; LANES]) -> Self;
    /// Those in memory, from half precision.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn widen(from: &[f16; LANES]) -> Self;
    /// Those in memory, from integers.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn widen_uint8(from: &[u8; LANES]) -> Self;
    /// Into memory.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn store(self, to: &mut [f32; LANES]);
    /// `self + a * b`.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
    /// Both added.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn plus(self, other: Self) -> Self;
    /// The larger of both; any of both where one is no number.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn larger(self, other: Self) -> Self;
}

/// For every processor.
impl Lanes for [f32; LANES] {
    const FMA: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: &[f32; LANES]) -> Self {
        *from
    }

    #[inline(always)]
    unsafe fn widen(from: &[f16; LANES]) -> Self {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn widen_uint8(from: &[u8; LANES]) -> Self {
        from.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [f32; LANES]) {
        *to = self;
    }

    #[inline(always)]
    unsafe fn plus_product(mut self, a: Self, b: Self) -> Self {
        for ((sum, a), b) in self.iter_mut().zip(a).zip(b) {
            *sum = mul_add::<false>(a, b, *sum);
        }
        self
    }

    #[inline(always)]
    unsafe fn plus(mut self, other: Self) -> Self {
        for (sum, x) in self.iter_mut().zip(other) {
            *sum += x;
        }
        self
    }

    #[inline(always)]
    unsafe fn larger(mut self, other: Self) -> Self {
        for (largest, x) in self.iter_mut().zip(other) {
            *largest = if *largest > x { *largest } else { x };
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes, f16};

    /// AVX-512F.
    impl Lanes for __m512 {
        const FMA: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn load(from: &[f32; LANES]) -> Self {
            // SAFETY: the caller's promise, and sixteen floats.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }

        #[inline(always)]
        unsafe fn widen(from: &[f16; LANES]) -> Self {
            // SAFETY: the caller's promise, and sixteen numbers of two bytes.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
        }

        #[inline(always)]
        unsafe fn widen_uint8(from: &[u8; LANES]) -> Self {
            // SAFETY: the caller's promise, and sixteen bytes.
            unsafe {
                let bytes = _mm_loadu_si128(from.as_ptr().cast());
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: the caller's promise, and room for sixteen floats.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self) }
        }

        #[inline(always)]
        unsafe fn plus_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn larger(self, other: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_max_ps(self, other) }
        }
    }

    /// AVX2, FMA and F16C.
    impl Lanes for [__m256; 2] {
        const FMA: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_set1_ps(x); 2] }
        }

        #[inline(always)]
        unsafe fn load(from: &[f32; LANES]) -> Self {
            let from = from.as_ptr();
            // SAFETY: the caller's promise, and sixteen floats.
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        }

        #[inline(always)]
        unsafe fn widen(from: &[f16; LANES]) -> Self {
            let from: *const __m128i = from.as_ptr().cast();
            // SAFETY: the caller's promise, and sixteen numbers of two bytes.
            unsafe {
                let halves = [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))];
                [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
            }
        }

        #[inline(always)]
        unsafe fn widen_uint8(from: &[u8; LANES]) -> Self {
            // SAFETY: the caller's promise, and sixteen bytes.
            [0, 8].map(|i| unsafe {
                let bytes = _mm_loadl_epi64(from.as_ptr().add(i).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
            })
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f32; LANES]) {
            let to = to.as_mut_ptr();
            // SAFETY: the caller's promise, and room for sixteen floats.
            unsafe {
                _mm256_storeu_ps(to, self[0]);
                _mm256_storeu_ps(to.add(8), self[1]);
            }
        }

        #[inline(always)]
        unsafe fn plus_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe {
                [
                    _mm256_fmadd_ps(a[0], b[0], self[0]),
                    _mm256_fmadd_ps(a[1], b[1], self[1]),
                ]
            }
        }

        #[inline(always)]
        unsafe fn plus(self, [a, b]: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_add_ps(self[0], a), _mm256_add_ps(self[1], b)] }
        }

        #[inline(always)]
        unsafe fn larger(self, [a, b]: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_max_ps(self[0], a), _mm256_max_ps(self[1], b)] }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::*;

    use super::super::neon_dot;
    use super::{LANES, Lanes, f16};

    /// NEON, which every processor of this architecture has.
    impl Lanes for [float32x4_t; 4] {
        const FMA: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { [vdupq_n_f32(x); 4] }
        }

        #[inline(always)]
        unsafe fn load(from: &[f32; LANES]) -> Self {
            let from = from.as_ptr();
            // SAFETY: the caller's promise, and sixteen floats.
            [0, 4, 8, 12].map(|i| unsafe { vld1q_f32(from.add(i)) })
        }

        #[inline(always)]
        unsafe fn widen(from: &[f16; LANES]) -> Self {
            let from: *const u16 = from.as_ptr().cast();
            // SAFETY: the caller's promise, and sixteen numbers of two bytes.
            let [a, b] = [0, 8].map(|i| unsafe { neon_dot::widen(vld1q_u16(from.add(i))) });
            [a[0], a[1], b[0], b[1]]
        }

        #[inline(always)]
        unsafe fn widen_uint8(from: &[u8; LANES]) -> Self {
            // SAFETY: the caller's promise, and sixteen bytes.
            unsafe {
                let [low, high] = [0, 8].map(|i| vmovl_u8(vld1_u8(from.as_ptr().add(i))));
                [
                    vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                    vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
                    vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                    vcvtq_f32_u32(vmovl_u16(vget_high_u16(high))),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f32; LANES]) {
            for (part, to) in self.into_iter().zip(to.as_chunks_mut::<4>().0) {
                // SAFETY: the caller's promise, and room for four floats.
                unsafe { vst1q_f32(to.as_mut_ptr(), part) };
            }
        }

        #[inline(always)]
        unsafe fn plus_product(mut self, a: Self, b: Self) -> Self {
            for (sum, (a, b)) in self.iter_mut().zip(a.into_iter().zip(b)) {
                // SAFETY: the caller's promise.
                *sum = unsafe { vfmaq_f32(*sum, a, b) };
            }
            self
        }

        #[inline(always)]
        unsafe fn plus(mut self, other: Self) -> Self {
            for (sum, x) in self.iter_mut().zip(other) {
                // SAFETY: the caller's promise.
                *sum = unsafe { vaddq_f32(*sum, x) };
            }
            self
        }

        #[inline(always)]
        unsafe fn larger(mut self, other: Self) -> Self {
            for (largest, x) in self.iter_mut().zip(other) {
                // SAFETY: the caller's promise.
                *largest = unsafe { vmaxq_f32(*largest, x) };
            }
            self
        }
    }
}
