//! Activations as int8, quantized dynamically: one scale per block of 32.

use super::aligned::Aligned;
use super::mxfp4::{BLOCK, CODE_OFFSET};

/// Blocks whose elements are stored together, see [`Int8Rows`].
pub const GROUP_BLOCKS: usize = 4;
/// Bytes of a group.
pub const GROUP_BYTES: usize = GROUP_BLOCKS * BLOCK;
/// Row scales are padded with zeros to a multiple of this many.
const SCALE_PADDING: usize = 16;

/// A block quantized: `x = q * 2 * half_scale`.
#[derive(Clone, Copy, Debug)]
pub struct Int8Block {
    /// Elements 0, 2, 4, …
    pub even: [i8; 16],
    /// Elements 1, 3, 5, …
    pub odd: [i8; 16],
    /// Half the scale, since weights are used as doubled codes.
    pub half_scale: f32,
    /// What cancels the offset of the weights' unsigned codes, for each four
    /// bytes of `even` and of `odd` together.
    pub corrections: [i32; 4],
}

impl Int8Block {
    /// Quantizes symmetrically to -127..=127, rounding half to even. A block
    /// with an infinity or a NaN gets a NaN scale, so it is not lost.
    #[inline(always)]
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        // Bits of an absolute value order like the value, NaN above all.
        let mut largest = 0u32;
        for value in x {
            largest = largest.max(value.to_bits() & 0x7fff_ffff);
        }
        let (inverse, half_scale) = Self::scales(f32::from_bits(largest));
        let mut block = Self {
            even: [0; 16],
            odd: [0; 16],
            half_scale,
            corrections: [0; 4],
        };
        for i in 0..16 {
            block.even[i] = round(x[2 * i] * inverse);
            block.odd[i] = round(x[2 * i + 1] * inverse);
        }
        for (lane, correction) in block.corrections.iter_mut().enumerate() {
            for i in lane * 4..lane * 4 + 4 {
                *correction -= i32::from(block.even[i]) + i32::from(block.odd[i]);
            }
            *correction *= i32::from(CODE_OFFSET);
        }
        block
    }

    /// What to multiply elements by, and half of what that is worth, when
    /// `largest` is their largest magnitude.
    #[inline(always)]
    pub(super) fn scales(largest: f32) -> (f32, f32) {
        if !largest.is_finite() {
            (0.0, f32::NAN)
        } else if largest < SMALLEST {
            (0.0, 0.0)
        } else {
            (127.0 / largest, largest / 254.0)
        }
    }
}

/// Blocks smaller than this count as zeros: their inverse would overflow.
const SMALLEST: f32 = 1e-36;

#[inline(always)]
pub(super) fn round(x: f32) -> i8 {
    // Adding and subtracting 1.5 * 2^23 rounds half to even, branch-free; the
    // low bits of the sum are the integer. |x| is at most 127 (or x is NaN).
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i8
}

/// Rows `[rows, k]` of int8 activations in the order the kernels read them.
///
/// Four blocks form a group of 128 bytes: their 64 even elements, then their
/// 64 odd ones, 16 a block, so that the low and the high nibbles of 64 bytes
/// of weights meet them lane by lane. Rows are padded with zeros to whole groups.
#[derive(Debug, Default)]
pub struct Int8Rows {
    rows: usize,
    blocks: usize,
    data: Aligned<i8>,
    half_scales: Aligned<f32>,
    corrections: Aligned<i32>,
    lane_corrections: Aligned<i32>,
}

impl Int8Rows {
    /// Room for `rows` rows of `k` elements; memory is reused. What was there
    /// stays until it is overwritten, padding is zero.
    pub fn reset(&mut self, rows: usize, k: usize) {
        if self.blocks != k / BLOCK {
            // Rows lie elsewhere now: old elements must not become padding.
            *self = Self::default();
        }
        self.rows = rows;
        self.blocks = k / BLOCK;
        let (data, scales) = (rows * self.data_stride(), rows * self.scale_stride());
        let lanes = rows * self.lane_stride();
        self.data.resize(data);
        self.half_scales.resize(scales);
        self.corrections.resize(scales);
        self.lane_corrections.resize(lanes);
    }

    /// Quantizes whole rows of f32.
    pub fn from_rows(x: &[f32], k: usize) -> Self {
        let mut rows = Self::default();
        rows.reset(x.len() / k, k);
        let writer = rows.writer();
        for (row, x) in x.chunks_exact(k).enumerate() {
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                // SAFETY: one thread writes, and row and block are in range.
                unsafe { writer.write(row, block, &Int8Block::quantize(x)) };
            }
        }
        rows
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of a row in blocks.
    pub fn row_blocks(&self) -> usize {
        self.blocks
    }

    fn data_stride(&self) -> usize {
        self.blocks.div_ceil(GROUP_BLOCKS) * GROUP_BYTES
    }

    fn scale_stride(&self) -> usize {
        self.blocks.next_multiple_of(SCALE_PADDING)
    }

    fn lane_stride(&self) -> usize {
        self.blocks.next_multiple_of(GROUP_BLOCKS) * 4
    }

    /// A row's elements, grouped; a multiple of 128 bytes.
    #[inline(always)]
    pub fn data(&self, row: usize) -> &[i8] {
        let stride = self.data_stride();
        &self.data.as_slice()[row * stride..(row + 1) * stride]
    }

    /// Half the scale of each block of a row, padded with zeros to a multiple of 16.
    #[inline(always)]
    pub fn half_scales(&self, row: usize) -> &[f32] {
        let stride = self.scale_stride();
        &self.half_scales.as_slice()[row * stride..(row + 1) * stride]
    }

    /// `-12 * sum(q)` of each block of a row, padded like the scales.
    #[inline(always)]
    pub fn corrections(&self, row: usize) -> &[i32] {
        let stride = self.scale_stride();
        &self.corrections.as_slice()[row * stride..(row + 1) * stride]
    }

    /// The same for each 32-bit lane of a block by itself: four even and the
    /// four odd elements beside them. Padded to whole groups. With these a
    /// lane's sum is exact before it is rounded to float32.
    #[inline(always)]
    pub fn lane_corrections(&self, row: usize) -> &[i32] {
        let stride = self.lane_stride();
        &self.lane_corrections.as_slice()[row * stride..(row + 1) * stride]
    }

    /// Element `i` of `row` as an integer, for tests and the scalar kernel.
    #[inline(always)]
    pub fn element(&self, row: usize, i: usize) -> i8 {
        let (block, i) = (i / BLOCK, i % BLOCK);
        self.data(row)[block_offset(block) + (i % 2) * (GROUP_BYTES / 2) + i / 2]
    }

    /// A handle through which several threads fill different blocks.
    pub fn writer(&mut self) -> Int8Writer<'_> {
        Int8Writer {
            data_stride: self.data_stride(),
            scale_stride: self.scale_stride(),
            lane_stride: self.lane_stride(),
            rows: self.rows,
            blocks: self.blocks,
            data: self.data.as_mut_slice().as_mut_ptr(),
            half_scales: self.half_scales.as_mut_slice().as_mut_ptr(),
            corrections: self.corrections.as_mut_slice().as_mut_ptr(),
            lane_corrections: self.lane_corrections.as_mut_slice().as_mut_ptr(),
            owner: std::marker::PhantomData,
        }
    }
}

/// The place of a block's first even element in its row.
#[inline(always)]
pub fn block_offset(block: usize) -> usize {
    (block / GROUP_BLOCKS) * GROUP_BYTES + (block % GROUP_BLOCKS) * 16
}

/// Writes blocks of an [`Int8Rows`] from several threads.
pub struct Int8Writer<'a> {
    rows: usize,
    blocks: usize,
    data_stride: usize,
    scale_stride: usize,
    lane_stride: usize,
    data: *mut i8,
    half_scales: *mut f32,
    corrections: *mut i32,
    lane_corrections: *mut i32,
    owner: std::marker::PhantomData<&'a mut Int8Rows>,
}

// SAFETY: the pointers come from an exclusive borrow that lives as long as the
// writer, and `write`'s contract keeps threads apart.
unsafe impl Sync for Int8Writer<'_> {}

impl Int8Writer<'_> {
    /// Stores one block.
    ///
    /// # Safety
    /// No other thread writes the same block of the same row meanwhile.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, block: usize, value: &Int8Block) {
        assert!(row < self.rows && block < self.blocks);
        // SAFETY: row and block are in range, so each offset is inside its
        // buffer; the caller keeps other threads off these elements.
        unsafe {
            let data = self.data.add(row * self.data_stride + block_offset(block));
            data.cast::<[i8; 16]>().write_unaligned(value.even);
            let odd = data.add(GROUP_BYTES / 2);
            odd.cast::<[i8; 16]>().write_unaligned(value.odd);
            let place = row * self.scale_stride + block;
            self.half_scales.add(place).write(value.half_scale);
            let correction = value.corrections.iter().sum();
            self.corrections.add(place).write(correction);
            self.lane_corrections
                .add(row * self.lane_stride + block * 4)
                .cast::<[i32; 4]>()
                .write(value.corrections);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_comes_back_within_half_a_step(
            x in proptest::array::uniform32(-1e4f32..1e4), exponent in -20i32..20
        ) {
            let x = x.map(|v| v * 2f32.powi(exponent));
            let rows = Int8Rows::from_rows(&x, 32);
            let step = 2.0 * rows.half_scales(0)[0];
            for (i, &value) in x.iter().enumerate() {
                let back = f32::from(rows.element(0, i)) * step;
                prop_assert!((back - value).abs() <= step * 0.5001);
            }
            let sum: i32 = (0..32).map(|i| i32::from(rows.element(0, i))).sum();
            prop_assert_eq!(rows.corrections(0)[0], -12 * sum);
            prop_assert_eq!(rows.lane_corrections(0).iter().sum::<i32>(), -12 * sum);
        }
    }

    #[test]
    fn padding_is_zero_after_other_shapes() {
        let ones = |blocks: usize| vec![1.0f32; 4 * blocks * BLOCK];
        let mut rows = Int8Rows::from_rows(&ones(8), 8 * BLOCK);
        for blocks in [5, 5, 7, 1] {
            rows.reset(4, blocks * BLOCK);
            let writer = rows.writer();
            for (i, x) in ones(blocks).as_chunks::<BLOCK>().0.iter().enumerate() {
                // SAFETY: one thread writes, and row and block are in range.
                unsafe { writer.write(i / blocks, i % blocks, &Int8Block::quantize(x)) };
            }
            for row in 0..4 {
                let sum: usize = rows.data(row).iter().map(|&q| q as usize).sum();
                assert_eq!(sum, 127 * blocks * BLOCK);
                assert!(rows.half_scales(row)[blocks..].iter().all(|&s| s == 0.0));
                assert!(
                    rows.lane_corrections(row)[4 * blocks..]
                        .iter()
                        .all(|&c| c == 0)
                );
            }
        }
    }

    #[test]
    fn extremes_keep_their_meaning() {
        let mut x = [0.0f32; 96];
        x[0] = f32::MAX;
        x[1] = -f32::MAX;
        x[40] = f32::NAN;
        x[64] = 1e-38;
        let rows = Int8Rows::from_rows(&x, 96);
        assert_eq!((rows.element(0, 0), rows.element(0, 1)), (127, -127));
        assert!(rows.half_scales(0)[1].is_nan());
        assert_eq!(rows.half_scales(0)[2], 0.0);
        assert!(rows.data(0)[96 + 16..128].iter().all(|&q| q == 0));
    }
}
