//! What the tiles of all instruction sets share.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
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
        let lines = (rows.len() * w.row_blocks() * BLOCK_BYTES).div_ceil(64);
        Self {
            blocks: w.blocks().as_ptr().wrapping_add(end * BLOCK_BYTES),
            scales: w.scales().as_ptr().wrapping_add(end),
            lines,
            each: lines.div_ceil(calls.max(1)),
            next: 0,
        }
    }

    #[inline(always)]
    pub(super) fn fetch(&mut self) {
        let end = self.lines.min(self.next + self.each);
        for line in self.next..end {
            // SAFETY: a prefetch may point anywhere, and SSE is always there.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(self.blocks.wrapping_add(line * 64).cast());
                if line % 16 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(self.scales.wrapping_add(line * 4).cast());
                }
            }
        }
        self.next = end;
    }
}

/// A copy of up to `BLOCKS` blocks of rows that are too few for a vector of `LANES`.
pub(super) struct Spare<const LANES: usize, const BLOCKS: usize> {
    pub(super) codes: [[[u8; BLOCK_BYTES]; BLOCKS]; LANES],
    pub(super) scales: [[u8; BLOCKS]; LANES],
}

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
