//! Numerical kernels of the custom operators, chosen at run time by instruction set.
//!
//! [`experts`] computes a mixture-of-experts layer from MXFP4 weights in the
//! published layout ([`mxfp4`]), [`dense`] products with int8 weights, and
//! [`attention`] what its name says. What depends on the processor is behind
//! [`KernelSet`]; every implementation is tested against the scalar one.

use std::ops::Range;

use half::bf16;

pub mod activations;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_bf16;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_dense;
#[cfg(target_arch = "x86_64")]
mod avx2_products;
#[cfg(target_arch = "x86_64")]
mod avx2_tile;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_dense;
#[cfg(target_arch = "x86_64")]
mod avx512_tile;
pub mod bf16_tiles;
pub mod dense;
mod disjoint;
pub mod experts;
mod lanes;
pub mod mxfp4;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dense;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
#[cfg(target_arch = "aarch64")]
mod neon_experts;
#[cfg(target_arch = "aarch64")]
mod neon_tile;
pub mod parallel;
pub mod portable;
pub mod reading;
mod routing;
mod scalar;
pub mod supply;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tile;

use activations::{Int8Rows, Int8Writer};
use bf16_tiles::Bf16Products;
use dense::{DenseRows, DenseWriter, Int8Matrix};
use mxfp4::Matrix;
use portable::SwiGlu;

/// Why a kernel did not compute.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Sizes that do not fit together.
    #[error("{0}")]
    Shape(String),
    /// The cancel flag was set.
    #[error("cancelled")]
    Cancelled,
    /// A part panicked; the message went to the panic hook.
    #[error("a kernel panicked; this is a bug, please report it")]
    Panicked,
    /// The thread pool failed.
    #[error("the thread pool failed: {0}")]
    Pool(String),
    /// Weights could not be brought into memory.
    #[error("{0}")]
    Weights(String),
}

/// An instruction set that a kernel is written for, from the slowest up within
/// an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// The same with VBMI.
    Avx512Vbmi,
    /// The same with tiles of bf16, which multiply many tokens.
    AmxBf16,
    /// AArch64 with dot products of bytes.
    NeonDot,
}

impl Isa {
    /// All, from the slowest up.
    pub const ALL: [Self; 7] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Avx512Vbmi,
        Self::AmxBf16,
        Self::NeonDot,
    ];

    /// The name used in logs and in `GPTOSS_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Vbmi => "avx512vbmi",
            Self::AmxBf16 => "amxbf16",
            Self::NeonDot => "neondot",
        }
    }
}

/// The processor-dependent part of [`experts`], [`dense`] and [`attention`].
///
/// The defaults are portable loops; implementations override them to compile
/// the same loops for their instruction set, and give [`int8`](Self::int8).
pub trait KernelSet: Send + Sync {
    /// The instruction set.
    fn isa(&self) -> Isa;

    /// `out[t, r] = w[rows.start + r] . x[tokens[t]]` with int8 activations;
    /// `out` is `[tokens.len(), rows.len()]`. Integer sums within a block are
    /// exact; across blocks float32, in any order.
    ///
    /// # Panics
    /// The sizes do not fit together, or `rows` or `tokens` are out of range.
    fn int8(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &Int8Rows,
        tokens: &[u32],
        out: &mut [f32],
    );

    /// The same with float32 activations `x` `[.., k]`.
    ///
    /// # Panics
    /// As [`int8`](Self::int8).
    fn float32(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &[f32],
        tokens: &[u32],
        out: &mut [f32],
    );

    /// Products of many tokens through bf16 activations, where they are faster than
    /// [`int8`](Self::int8).
    fn bf16(&self) -> Option<&'static dyn Bf16Products> {
        None
    }

    /// See [`portable::swiglu`].
    fn swiglu(&self, gate_up: &[f32], bias: &[bf16], glu: SwiGlu, out: &mut [f32]) {
        portable::swiglu::<false>(gate_up, bias, glu, out);
    }

    /// See [`portable::add_weighted`].
    fn add_weighted(&self, x: &[f32], bias: &[bf16], weight: f32, y: &mut [f32]) {
        portable::add_weighted::<false>(x, bias, weight, y);
    }

    /// Quantizes `x` (whole blocks) into `row` from `first_block` on.
    ///
    /// # Safety
    /// No other thread writes the same blocks meanwhile.
    unsafe fn quantize(&self, x: &[f32], into: &Int8Writer<'_>, row: usize, first_block: usize) {
        // SAFETY: the caller's promise.
        unsafe { portable::quantize(x, into, row, first_block) }
    }

    /// `out[t, r] = w[rows.start + r] . x[tokens.start + t]`; `out` is
    /// `[tokens.len(), rows.len()]`. Integer sums within a block are exact;
    /// across blocks float32, in any order.
    ///
    /// # Panics
    /// The sizes do not fit together, or `rows` or `tokens` are out of range.
    fn dense_int8(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &DenseRows,
        tokens: Range<usize>,
        out: &mut [f32],
    ) {
        dense::int8(w, rows, x, tokens, out);
    }

    /// The same with float32 activations `x` `[.., k]`.
    ///
    /// # Panics
    /// As [`dense_int8`](Self::dense_int8).
    fn dense_float32(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &[f32],
        k: usize,
        tokens: Range<usize>,
        out: &mut [f32],
    ) {
        dense::float32(w, rows, x, k, tokens, out);
    }

    /// See [`dense::quantize`].
    ///
    /// # Safety
    /// No other thread writes the same row meanwhile.
    unsafe fn dense_quantize(&self, x: &[f32], into: &DenseWriter<'_>, row: usize) {
        // SAFETY: the caller's promise.
        unsafe { dense::quantize(x, into, row) }
    }

    /// Computes a part of a layer's attention into the front of `scratch`, see
    /// [`attention`].
    fn attend(&self, part: &attention::Part<'_>, scratch: &mut [f32]) {
        // SAFETY: every processor has arrays.
        unsafe { part.run::<[f32; lanes::LANES], 4, 1>(scratch) }
    }
}

/// Panics unless everything that pointers are made from below is in range.
fn check(w: &Matrix<'_>, rows: &Range<usize>, x: &Int8Rows, tokens: &[u32], out: &[f32]) {
    assert!(rows.start <= rows.end && rows.end <= w.rows());
    assert_eq!(x.row_blocks(), w.row_blocks());
    assert!(tokens.iter().all(|&token| (token as usize) < x.rows()));
    assert_eq!(out.len(), tokens.len() * rows.len());
}

/// Level of the cache that weights are fetched into ahead of their use.
///
/// A fetch into the first level occupies one of its few miss buffers until memory
/// answers, which holds up all other loads; the second level has more. Experts read
/// by two threads (`cargo bench -p gptoss-onnx --bench experts`):
///
/// | processor | into the first | into the second |
/// |---|---|---|
/// | AMD, Zen 4 | 19.5 GB/s | 27.6 to 29.9 GB/s |
/// | Intel, Sapphire Rapids | 20.9 to 21.3 GB/s | 23.0 to 25.3 GB/s |
/// | Intel, Cascade Lake | at memory's speed | |
#[cfg(target_arch = "x86_64")]
fn prefetch_level() -> usize {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Tiles, which Intel's servers have had since Sapphire Rapids.
    const AMX_TILE: u32 = 1 << 24;
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    let is_amd = matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine");
    let has_tiles = vendor.eax >= 7 && __cpuid_count(7, 0).edx & AMX_TILE != 0;
    if is_amd || has_tiles { 2 } else { 1 }
}

/// The kernel for `isa`, or none where this processor or build lacks it.
pub fn kernel(isa: Isa) -> Option<&'static dyn KernelSet> {
    match isa {
        Isa::Scalar => Some(&scalar::Scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::detect::<avx2_products::Maddubs>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::detect::<avx2_products::Vnni<true>>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::detect::<false>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vbmi => avx512::detect::<true>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AmxBf16 => avx512::detect_amx(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neon::Neon::detect().map(|k| k as _),
        _ => None,
    }
}

/// The fastest kernel of this processor, or the one that the environment
/// variable `GPTOSS_ISA` names, where it exists here.
pub fn best_kernel() -> &'static dyn KernelSet {
    let wanted = std::env::var("GPTOSS_ISA").ok();
    let forced = wanted.as_deref().and_then(|name| {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        let kernel = isa.and_then(kernel);
        if kernel.is_none() {
            tracing::warn!(
                name,
                "GPTOSS_ISA names no instruction set of this processor"
            );
        }
        kernel
    });
    forced
        .or_else(|| Isa::ALL.into_iter().rev().find_map(kernel))
        .unwrap_or(&scalar::Scalar)
}
