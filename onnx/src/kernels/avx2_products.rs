//! How AVX2 kernels multiply bytes: with and without dot product instructions.

use std::arch::x86_64::*;

use super::{Isa, avx2_dense, avx2_tile};

/// How bytes are multiplied: weights unsigned at most 24, activations signed.
pub(super) trait Products: Send + Sync + 'static {
    /// The instruction set.
    const ISA: Isa;

    /// Whether this processor has it.
    fn detect() -> bool;

    /// Adds four products to each 32-bit lane, or two to each 16-bit one.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(sum: __m256i, weights: __m256i, activations: __m256i) -> __m256i;

    /// A sum of at most five [`add`](Self::add)s from zero, in 32-bit lanes.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn widen(sum: __m256i) -> __m256i;

    /// Sums of four products of bytes around 128 and activations. `start` is
    /// what cancels the 128, for who multiplies bytes as they are.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add_bytes(
        weights: __m256i,
        activations: __m256i,
        start: impl Fn() -> __m256i,
    ) -> __m256i
    where
        Self: Sized;

    /// Adds the products of one block of a tile; see
    /// [`avx2_tile::add_block_any`], which it is by default.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn add_block<const V: usize>(
        weights: *const u8,
        data: *const i8,
        products: &mut [__m256i; V],
    ) where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { avx2_tile::add_block_any::<Self, V>(weights, data, products) }
    }
}

/// `vpmaddubsw`: sums of 16 bits, at most 5 * 2 * 24 * 127 = 30480.
#[derive(Debug)]
pub struct Maddubs;

impl Products for Maddubs {
    const ISA: Isa = Isa::Avx2;

    fn detect() -> bool {
        true
    }

    #[inline(always)]
    unsafe fn add(sum: __m256i, weights: __m256i, activations: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, activations)) }
    }

    #[inline(always)]
    unsafe fn widen(sum: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    unsafe fn add_bytes(
        weights: __m256i,
        activations: __m256i,
        _start: impl Fn() -> __m256i,
    ) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { avx2_dense::add_bytes_maddubs(weights, activations) }
    }

    #[inline(always)]
    unsafe fn add_block<const V: usize>(
        weights: *const u8,
        data: *const i8,
        products: &mut [__m256i; V],
    ) {
        // SAFETY: the caller's promise, and by the comparison `V` is four.
        unsafe {
            if V == 4 {
                let products = &mut *(&raw mut *products).cast::<[__m256i; 4]>();
                avx2_tile::add_block_maddubs(weights, data, products);
            } else {
                avx2_tile::add_block_any::<Self, V>(weights, data, products);
            }
        }
    }
}

/// `vpdpbusd` of 256 bits: AVX-VNNI's, or, to test the same code on processors
/// without that, AVX-512's.
#[derive(Debug)]
pub struct Vnni<const VEX: bool>;

impl<const VEX: bool> Products for Vnni<VEX> {
    const ISA: Isa = Isa::AvxVnni;

    fn detect() -> bool {
        if VEX {
            is_x86_feature_detected!("avxvnni")
        } else {
            is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
        }
    }

    #[inline(always)]
    unsafe fn add(sum: __m256i, weights: __m256i, activations: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { dpbusd::<VEX>(sum, weights, activations) }
    }

    #[inline(always)]
    unsafe fn widen(sum: __m256i) -> __m256i {
        sum
    }

    #[inline(always)]
    unsafe fn add_bytes(
        weights: __m256i,
        activations: __m256i,
        start: impl Fn() -> __m256i,
    ) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { dpbusd::<VEX>(start(), weights, activations) }
    }
}

/// `vpdpbusd` as assembly: the intrinsic is only inlined into functions that
/// enable the extension, and those around here serve [`Maddubs`] too.
///
/// # Safety
/// The processor has AVX-VNNI, or without `VEX` AVX-512 VNNI and VL.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dpbusd<const VEX: bool>(mut sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    macro_rules! dot_product {
        ($encoding:literal) => {
            std::arch::asm!(
                concat!("{{", $encoding, "}} vpdpbusd {s}, {w}, {x}"),
                s = inout(ymm_reg) sum,
                w = in(ymm_reg) weights,
                x = in(ymm_reg) x,
                options(pure, nomem, nostack, preserves_flags)
            )
        };
    }
    // SAFETY: the caller's promise; only `sum` changes.
    unsafe {
        if VEX {
            dot_product!("vex");
        } else {
            dot_product!("evex");
        }
    }
    sum
}
