//! What the tiles of all instruction sets share.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use super::mxfp4::{BLOCK_BYTES, Matrix};

/// Fetches the weights behind a tile while that one is being computed, a few
/// lines at a time so that they do not queue up.
pub(super) struct Ahead {
    blocks: *const u8,
    scales: *const u8,
    lines: usize,
    each: usize,
    next: usize,
}

impl Ahead {
    /// Fetches as much as `rows` of `w` take, from behind them, in `calls` of
    /// [`fetch`](Self::fetch).
    pub(super) fn new(w: &Matrix<'_>, rows: &Range<usize>, calls: usize) -> Self {
        let end = rows.end * w.row_blocks();
        Self::from(
            w.blocks().as_ptr().wrapping_add(end * BLOCK_BYTES),
            w.scales().as_ptr().wrapping_add(end),
            rows.len() * w.row_blocks() * BLOCK_BYTES,
            calls,
        )
    }

    /// Fetches `bytes` of weights from `blocks` on, and from `scales` on a 16th
    /// of that, in `calls` of [`fetch`](Self::fetch). Both may be any address.
    pub(super) fn from(blocks: *const u8, scales: *const u8, bytes: usize, calls: usize) -> Self {
        let lines = bytes.div_ceil(64);
        Self {
            blocks,
            scales,
            lines,
            each: lines.div_ceil(calls.max(1)),
            next: 0,
        }
    }

    #[inline(always)]
    pub(super) fn fetch(&mut self) {
        let end = self.lines.min(self.next + self.each);
        for line in self.next..end {
            prefetch::<2>(self.blocks.wrapping_add(line * 64));
            if line % 16 == 0 {
                prefetch::<2>(self.scales.wrapping_add(line * 4));
            }
        }
        self.next = end;
    }
}

/// Asks for the cache line at `at` in the cache of the first or of the second `LEVEL`.
#[inline(always)]
pub(super) fn prefetch<const LEVEL: usize>(at: *const u8) {
    const { assert!(LEVEL == 1 || LEVEL == 2) };
    // SAFETY: a prefetch may point anywhere, and SSE is always there.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match LEVEL {
            1 => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            _ => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
    // SAFETY: a prefetch may point anywhere.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "prfm pldl{level}keep, [{at}]",
            level = const LEVEL,
            at = in(reg) at.addr(),
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// A copy of up to `BLOCKS` blocks of rows that are too few for a vector of `LANES`.
#[cfg(target_arch = "x86_64")]
pub(super) struct Spare<const LANES: usize, const BLOCKS: usize> {
    pub(super) codes: [[[u8; BLOCK_BYTES]; BLOCKS]; LANES],
    pub(super) scales: [[u8; BLOCKS]; LANES],
}

#[cfg(target_arch = "x86_64")]
impl<const LANES: usize, const BLOCKS: usize> Spare<LANES, BLOCKS> {
    pub(super) fn new(w: &Matrix<'_>, rows: Range<usize>, blocks: &Range<usize>) -> Self {
        let mut spare = Self {
            codes: [[[0; BLOCK_BYTES]; BLOCKS]; LANES],
            scales: [[0; BLOCKS]; LANES],
        };
        for (lane, row) in rows.enumerate() {
            let codes = &w.row_bytes(row).as_chunks::<BLOCK_BYTES>().0[blocks.clone()];
            let scales = &w.row_scales(row)[blocks.clone()];
            spare.codes[lane][..blocks.len()].copy_from_slice(codes);
            spare.scales[lane][..blocks.len()].copy_from_slice(scales);
        }
        spare
    }
}
