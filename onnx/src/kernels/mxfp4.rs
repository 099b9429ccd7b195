//! The MXFP4 weight format, as published and used in place.
//!
//! A matrix `[N, K]` is stored as blocks of 32 elements along `K`: `blocks`
//! u8 `[N, K/32, 16]`, two 4-bit codes a byte, the even element in the low
//! nibble; `scales` u8 `[N, K/32]`, one power-of-two exponent (E8M0) a block.
//! An element is `CODES[nibble] * 2^(scale - 127)`.
//!
//! Source: OCP Microscaling Formats (MX) specification 1.0.

use std::ops::Range;

use super::KernelError;

/// Elements that share a scale.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 16;

/// Twice the value of each 4-bit code (E2M1, bit 3 the sign): whole numbers,
/// so that integer dot products are exact.
pub const DOUBLED_CODES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What makes every doubled code non-negative, for unsigned-by-signed products.
pub const CODE_OFFSET: i8 = 12;

/// `DOUBLED_CODES + CODE_OFFSET`, the table of the vector kernels.
pub const OFFSET_CODES: [u8; 16] = offset_codes();

const fn offset_codes() -> [u8; 16] {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (DOUBLED_CODES[code] + CODE_OFFSET) as u8;
        code += 1;
    }
    table
}

/// The value of an E8M0 exponent: `2^(scale - 127)`; 0 is the subnormal
/// `2^-127` and 255 is NaN.
#[inline(always)]
pub const fn scale_value(scale: u8) -> f32 {
    match scale {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        exponent => f32::from_bits((exponent as u32) << 23),
    }
}

/// A borrowed MXFP4 matrix `[rows, k]`, in the published layout, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    rows: usize,
    row_blocks: usize,
}

impl<'a> Matrix<'a> {
    /// Views `blocks` `[rows, k/32, 16]` and `scales` `[rows, k/32]`.
    ///
    /// # Errors
    /// `k` is not a positive multiple of 32, or a slice is not as long as the
    /// shape says.
    pub fn new(
        blocks: &'a [u8],
        scales: &'a [u8],
        rows: usize,
        k: usize,
    ) -> Result<Self, KernelError> {
        if k == 0 || !k.is_multiple_of(BLOCK) {
            return Err(KernelError::Shape(format!(
                "MXFP4 rows must be a positive multiple of {BLOCK} elements long, not {k}"
            )));
        }
        let row_blocks = k / BLOCK;
        let expected = rows.saturating_mul(row_blocks);
        if scales.len() != expected || blocks.len() / BLOCK_BYTES != expected {
            return Err(KernelError::Shape(format!(
                "an MXFP4 matrix [{rows}, {k}] needs {expected} blocks, found {} bytes of blocks and {} scales",
                blocks.len(),
                scales.len()
            )));
        }
        Ok(Self {
            blocks: &blocks[..expected * BLOCK_BYTES],
            scales,
            rows,
            row_blocks,
        })
    }

    /// The number of rows, `N`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of a row in elements, `K`.
    pub fn k(&self) -> usize {
        self.row_blocks * BLOCK
    }

    /// The length of a row in blocks, `K / 32`.
    pub fn row_blocks(&self) -> usize {
        self.row_blocks
    }

    /// The packed codes of all rows.
    pub fn blocks(&self) -> &'a [u8] {
        self.blocks
    }

    /// The exponents of all rows.
    pub fn scales(&self) -> &'a [u8] {
        self.scales
    }

    /// The packed codes of one row.
    #[inline(always)]
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        let len = self.row_blocks * BLOCK_BYTES;
        &self.blocks[row * len..(row + 1) * len]
    }

    /// The exponents of one row.
    #[inline(always)]
    pub fn row_scales(&self, row: usize) -> &'a [u8] {
        &self.scales[row * self.row_blocks..(row + 1) * self.row_blocks]
    }

    /// Writes one row as f32, in natural order.
    #[inline(always)]
    pub fn dequantize_row(&self, row: usize, into: &mut [f32]) {
        let codes = self.row_bytes(row).chunks_exact(BLOCK_BYTES);
        for ((block, &scale), out) in codes
            .zip(self.row_scales(row))
            .zip(into.chunks_exact_mut(BLOCK))
        {
            let scale = scale_value(scale);
            for (&byte, pair) in block.iter().zip(out.chunks_exact_mut(2)) {
                // Halving before the product keeps the largest exponents finite.
                pair[0] = f32::from(DOUBLED_CODES[usize::from(byte & 15)]) * 0.5 * scale;
                pair[1] = f32::from(DOUBLED_CODES[usize::from(byte >> 4)]) * 0.5 * scale;
            }
        }
    }
}

/// The matrices of all experts of a layer, `[experts, rows, k]`.
#[derive(Clone, Copy, Debug)]
pub struct ExpertMatrices<'a> {
    all: Matrix<'a>,
    experts: usize,
}

impl<'a> ExpertMatrices<'a> {
    /// Views `blocks` `[experts, rows, k/32, 16]` and `scales` `[experts, rows, k/32]`.
    ///
    /// # Errors
    /// As [`Matrix::new`], or there are no experts or no rows.
    pub fn new(
        blocks: &'a [u8],
        scales: &'a [u8],
        experts: usize,
        rows: usize,
        k: usize,
    ) -> Result<Self, KernelError> {
        if experts == 0 || rows == 0 {
            return Err(KernelError::Shape(
                "a layer needs at least one expert with at least one row".into(),
            ));
        }
        let all_rows = experts.saturating_mul(rows);
        let all = Matrix::new(blocks, scales, all_rows, k)?;
        Ok(Self { all, experts })
    }

    /// The number of experts.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// The rows of one expert.
    pub fn rows(&self) -> usize {
        self.all.rows / self.experts
    }

    /// The length of a row in elements.
    pub fn k(&self) -> usize {
        self.all.k()
    }

    /// One expert's matrix. `expert` must be below [`experts`](Self::experts).
    pub fn expert(&self, expert: usize) -> Matrix<'a> {
        let rows = self.rows();
        let blocks = |range: Range<usize>| range.start * rows..range.end * rows;
        let range = blocks(expert..expert + 1);
        let row_blocks = self.all.row_blocks;
        let row_bytes = row_blocks * BLOCK_BYTES;
        Matrix {
            blocks: &self.all.blocks[range.start * row_bytes..range.end * row_bytes],
            scales: &self.all.scales[range.start * row_blocks..range.end * row_blocks],
            rows,
            row_blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_group_decodes() {
        // Expert 0 of layer 0 of the published 20b checkpoint, first gate row.
        let bytes = [
            0x00, 0xc0, 0x80, 0xa9, 0x10, 0x1b, 0x81, 0x22, 0x93, 0xe4, 0xa0, 0xb2, 0x3b, 0x19,
            0xb2, 0x31,
        ];
        let matrix = Matrix::new(&bytes, &[0x7a], 1, 32).unwrap();
        let mut row = [0.0; 32];
        matrix.dequantize_row(0, &mut row);
        let step = 1.0 / 32.0;
        let expected = [
            0., 0., 0., -2., 0., 0., -0.5, -1., 0., 0.5, -1.5, 0.5, 0.5, 0., 1., 1., 1.5, -0.5, 2.,
            -4., 0., -1., 1., -1.5, -1.5, 1.5, -0.5, 0.5, 1., -1.5, 0.5, 1.5,
        ];
        assert_eq!(row.map(|v| v / step), expected);
    }

    #[test]
    fn exponents_cover_the_format() {
        for scale in 1..=254u8 {
            assert_eq!(
                f64::from(scale_value(scale)),
                2f64.powi(i32::from(scale) - 127)
            );
        }
        assert_eq!(f64::from(scale_value(0)), 2f64.powi(-127));
        assert!(scale_value(255).is_nan());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Matrix::new(&[0; 16], &[0], 1, 31).is_err());
        assert!(Matrix::new(&[0; 16], &[0], 1, 0).is_err());
        assert!(Matrix::new(&[0; 15], &[0], 1, 32).is_err());
        assert!(Matrix::new(&[0; 17], &[0, 0], 1, 32).is_err());
        assert!(ExpertMatrices::new(&[], &[], 0, 1, 32).is_err());
        assert!(ExpertMatrices::new(&[0; 32], &[0; 2], usize::MAX, 2, 32).is_err());
    }
}
