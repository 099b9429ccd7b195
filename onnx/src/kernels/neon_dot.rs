//! What the NEON kernels share: instructions that the oldest supported compiler
//! has no stable function for, as assembly, and the decoding of MXFP4.

use std::arch::aarch64::*;
use std::arch::asm;

use super::mxfp4::DOUBLED_CODES;

/// Adds to each 32-bit lane of `sum` the products of its four bytes.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the feature is enabled; only `sum` changes.
    unsafe {
        asm!(
            "sdot {s:v}.4s, {a:v}.16b, {b:v}.16b",
            s = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same with four bytes of `b`, those of lane `LANE`, for all lanes of `a`.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn dot_lane<const LANE: usize>(
    mut sum: int32x4_t,
    a: int8x16_t,
    b: int8x16_t,
) -> int32x4_t {
    // SAFETY: the feature is enabled; only `sum` changes.
    unsafe {
        asm!(
            "sdot {s:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            s = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Eight float16 numbers as float32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: part of the feature; only the results change.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {x:v}.4h",
            "fcvtl2 {high:v}.4s, {x:v}.8h",
            x = in(vreg) halves,
            low = out(vreg) low,
            high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// Low and high nibbles of 16 bytes as doubled codes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn decode(packed: uint8x16_t) -> [int8x16_t; 2] {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { vld1q_s8(DOUBLED_CODES.as_ptr()) };
    [
        vqtbl1q_s8(table, vandq_u8(packed, vdupq_n_u8(15))),
        vqtbl1q_s8(table, vshrq_n_u8::<4>(packed)),
    ]
}

/// 16 E8M0 exponents as numbers; see [`super::mxfp4::scale_value`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale_values(exponents: uint8x16_t) -> [float32x4_t; 4] {
    // The upper halves of float32 numbers, of which the lower ones are zero.
    let halves = |shifted: uint16x8_t| {
        // Exponent 0 is the subnormal 2^-127, below which no other one comes.
        let bits = vmaxq_u16(shifted, vdupq_n_u16(0x0040));
        let bits = vorrq_u16(bits, vceqq_u16(shifted, vdupq_n_u16(255 << 7)));
        let zero = vdupq_n_u16(0);
        [
            vreinterpretq_f32_u16(vzip1q_u16(zero, bits)),
            vreinterpretq_f32_u16(vzip2q_u16(zero, bits)),
        ]
    };
    let [a, b] = halves(vshll_n_u8::<7>(vget_low_u8(exponents)));
    let [c, d] = halves(vshll_high_n_u8::<7>(exponents));
    [a, b, c, d]
}

/// Up to 16 bytes, zeros behind them.
///
/// # Safety
/// `left` bytes, or 16 if there are more, are readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_bytes(at: *const u8, left: usize) -> uint8x16_t {
    // SAFETY: the caller's promise; fewer bytes than a vector are copied first.
    unsafe {
        if left >= 16 {
            return vld1q_u8(at);
        }
        let mut bytes = [0u8; 16];
        at.copy_to_nonoverlapping(bytes.as_mut_ptr(), left);
        vld1q_u8(bytes.as_ptr())
    }
}

/// Four rows of 16 bytes as four columns: dword `i` of each row.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn transpose(rows: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let [a, b, c, d] = rows.map(|row| vreinterpretq_u32_u8(row));
    let doubles = |x, y| {
        [
            vreinterpretq_u64_u32(vtrn1q_u32(x, y)),
            vreinterpretq_u64_u32(vtrn2q_u32(x, y)),
        ]
    };
    let ([ab_even, ab_odd], [cd_even, cd_odd]) = (doubles(a, b), doubles(c, d));
    [
        vtrn1q_u64(ab_even, cd_even),
        vtrn1q_u64(ab_odd, cd_odd),
        vtrn2q_u64(ab_even, cd_even),
        vtrn2q_u64(ab_odd, cd_odd),
    ]
    .map(|column| vreinterpretq_u8_u64(column))
}
