//! Activations as bf16, in the tiles that matrix extensions multiply.
//!
//! Sums of bf16 products are float32 over a whole row, whatever scales the weights
//! have, where int8 needs one of its own for each block. A tile has 16 tokens, whose
//! elements lie in pairs; that is the right operand of Intel's `tdpbf16ps`:
//!
//! ```text
//! tile: [block of 32 elements][pair: 16][token: 16][2]   1 KiB a block
//! ```

use std::ops::Range;

use half::bf16;

use super::aligned::Aligned;
use super::dense::{self, Int8Matrix};
use super::disjoint::Disjoint;
use super::mxfp4::Matrix;

/// Tokens of a tile.
pub const TILE_TOKENS: usize = 16;
/// Elements of a block, whose pairs follow each other.
pub const TILE_BLOCK: usize = 32;
/// Elements of a block of all tokens.
pub(super) const TILE_LEN: usize = TILE_TOKENS * TILE_BLOCK;

/// In what order the elements of a block lie: that in which weights are unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Their own.
    #[default]
    Natural,
    /// 0, 4, 8, …, 28, then 1, 5, …: the lowest nibble of each 16 bits of an MXFP4
    /// block, then the one above it, and so on.
    Nibbles,
}

impl Order {
    /// The element at each place.
    pub const fn elements(self) -> [u16; TILE_BLOCK] {
        let mut elements = [0; TILE_BLOCK];
        let mut place = 0;
        while place < TILE_BLOCK {
            elements[place] = match self {
                Self::Natural => place,
                Self::Nibbles => 4 * (place % 8) + place / 8,
            } as u16;
            place += 1;
        }
        elements
    }
}

/// Tiles of `blocks * 32` elements.
#[derive(Debug, Default)]
pub struct Bf16Tiles {
    tiles: usize,
    blocks: usize,
    order: Order,
    data: Aligned<u16>,
}

impl Bf16Tiles {
    /// Room for `tiles` tiles of `k` elements, with any content; memory is reused.
    pub fn reset(&mut self, tiles: usize, k: usize, order: Order) {
        self.tiles = tiles;
        self.blocks = k.div_ceil(TILE_BLOCK);
        self.order = order;
        self.data.resize(tiles * self.blocks * TILE_LEN);
    }

    /// The number of tiles.
    pub fn tiles(&self) -> usize {
        self.tiles
    }

    /// The length of a row in blocks of 32.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The order within blocks.
    pub fn order(&self) -> Order {
        self.order
    }

    /// The elements of `tile`, aligned to 64 bytes.
    pub fn data(&self, tile: usize) -> &[u16] {
        &self.data.as_slice()[tile * self.blocks * TILE_LEN..][..self.blocks * TILE_LEN]
    }

    /// Element `i` of the `token`th of a tile, for the reference.
    pub fn element(&self, tile: usize, token: usize, i: usize) -> f32 {
        let of_block = match self.order {
            Order::Natural => i % TILE_BLOCK,
            Order::Nibbles => i % TILE_BLOCK / 4 + i % 4 * 8,
        };
        let pair = i / TILE_BLOCK * TILE_BLOCK / 2 + of_block / 2;
        let place = (pair * TILE_TOKENS + token) * 2 + of_block % 2;
        bf16::from_bits(self.data(tile)[place]).to_f32()
    }

    /// A handle through which several threads fill different blocks.
    pub fn writer(&mut self) -> Bf16Writer<'_> {
        Bf16Writer {
            blocks: self.blocks,
            order: self.order,
            data: Disjoint::new(self.data.as_mut_slice()),
        }
    }
}

/// Writes blocks of a [`Bf16Tiles`] from several threads.
pub struct Bf16Writer<'a> {
    blocks: usize,
    order: Order,
    data: Disjoint<'a, u16>,
}

impl Bf16Writer<'_> {
    /// The order within blocks; asked by the kernels of x86 alone.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// One block of a tile.
    ///
    /// # Safety
    /// No other thread uses the same block meanwhile.
    ///
    /// # Panics
    /// There is no such block.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn block(&self, tile: usize, block: usize) -> &mut [u16; TILE_LEN] {
        assert!(block < self.blocks);
        let start = (tile * self.blocks + block) * TILE_LEN;
        // SAFETY: the caller's promise.
        let block = unsafe { self.data.slice(start..start + TILE_LEN) };
        block.try_into().expect("a block was asked for")
    }
}

/// The length of rows that can be packed into so many blocks.
pub(super) fn check_rows(rows: &[&[f32]], blocks: &Range<usize>) -> usize {
    assert!(rows.len() <= TILE_TOKENS);
    let len = rows.first().map_or(0, |row| row.len());
    assert!(rows.iter().all(|row| row.len() == len));
    assert!(len <= blocks.len() * TILE_BLOCK);
    len
}

/// See [`Bf16Products::pack`].
///
/// # Safety
/// As there.
unsafe fn pack(rows: &[&[f32]], into: &Bf16Writer<'_>, tile: usize, blocks: Range<usize>) {
    let len = check_rows(rows, &blocks);
    let elements = into.order.elements();
    for (block, place) in blocks.enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { into.block(tile, place) };
        for (token, row) in rows.iter().enumerate() {
            let row = &row[len.min(block * TILE_BLOCK)..];
            for (place, &element) in elements.iter().enumerate() {
                let value = row.get(usize::from(element)).copied().unwrap_or(0.0);
                let place = (place / 2 * TILE_TOKENS + token) * 2 + place % 2;
                out[place] = bf16::from_f32(value).to_bits();
            }
        }
    }
}

/// Tokens of a product: `len` from the begin of `tile` on.
#[derive(Clone, Copy, Debug)]
pub struct TokensAt {
    /// Their first tile.
    pub tile: usize,
    /// How many.
    pub len: usize,
}

/// Products of many tokens at once. The defaults are the reference.
pub trait Bf16Products: Send + Sync {
    /// From how many tokens of an expert on these are faster than int8.
    fn experts_from(&self) -> usize;

    /// The same of a dense product.
    fn dense_from(&self) -> usize;

    /// `out[t, r] = w[rows.start + r] . x[t]` for the tokens `at`; `out` is
    /// `[at.len, rows.len()]`. Products are exact but for weights below 2^-126, which
    /// may count as zero; sums are float32, in any order.
    ///
    /// # Panics
    /// The sizes or the order ([`Order::Nibbles`]) do not fit together, or rows or
    /// tokens are out of range.
    fn experts(
        &self,
        w: &Matrix<'_>,
        rows: Range<usize>,
        x: &Bf16Tiles,
        at: TokensAt,
        out: &mut [f32],
    ) {
        check((w.rows(), w.k(), Order::Nibbles), &rows, x, at, out);
        let width = rows.len();
        let dequantize = |row, into: &mut [f32]| w.dequantize_row(row, into);
        multiply(dequantize, rows, x, at, out, width);
    }

    /// The same of int8 weights, which are rounded to bf16 as well, and
    /// [`Order::Natural`].
    ///
    /// # Panics
    /// As [`experts`](Self::experts).
    fn dense(
        &self,
        w: &Int8Matrix<'_>,
        rows: Range<usize>,
        x: &Bf16Tiles,
        at: TokensAt,
        out: &mut [f32],
    ) {
        let k = w.row_blocks() * dense::BLOCK;
        check((w.rows(), k, Order::Natural), &rows, x, at, out);
        let width = rows.len();
        let dequantize = |row, into: &mut [f32]| dense::round_row(w, row, into);
        multiply(dequantize, rows, x, at, out, width);
    }

    /// Rounds `rows`, at most 16 of equal length, into these `blocks` of `tile`, and
    /// zeros behind them. Places of tokens beyond keep any content: no other token's
    /// products depend on them.
    ///
    /// # Safety
    /// No other thread uses the same blocks meanwhile.
    ///
    /// # Panics
    /// More than 16 rows, rows of different lengths or longer than the blocks, or
    /// blocks that there are not.
    unsafe fn pack(
        &self,
        rows: &[&[f32]],
        into: &Bf16Writer<'_>,
        tile: usize,
        blocks: Range<usize>,
    ) {
        // SAFETY: the caller's promise.
        unsafe { pack(rows, into, tile, blocks) }
    }
}

/// Panics unless everything that pointers are made from is in range, for weights of
/// so many rows of `k` elements.
pub(super) fn check(
    (all_rows, k, order): (usize, usize, Order),
    rows: &Range<usize>,
    x: &Bf16Tiles,
    at: TokensAt,
    out: &[f32],
) {
    assert!(rows.start <= rows.end && rows.end <= all_rows);
    assert_eq!((x.blocks() * TILE_BLOCK, x.order()), (k, order));
    assert!(at.tile + at.len.div_ceil(TILE_TOKENS) <= x.tiles());
    assert_eq!(out.len(), at.len * rows.len());
}

/// The reference: `out[t * width + r]` from rows that `dequantize` gives.
pub(super) fn multiply(
    dequantize: impl Fn(usize, &mut [f32]),
    rows: Range<usize>,
    x: &Bf16Tiles,
    at: TokensAt,
    out: &mut [f32],
    width: usize,
) {
    let mut weights = vec![0.0f32; x.blocks() * TILE_BLOCK];
    let elements = x.order().elements();
    for (column, row) in rows.enumerate() {
        dequantize(row, &mut weights);
        for first in (0..at.len).step_by(TILE_TOKENS) {
            let data = x.data(at.tile + first / TILE_TOKENS);
            let mut sums = [0.0f64; TILE_TOKENS];
            for (weights, data) in weights
                .as_chunks::<TILE_BLOCK>()
                .0
                .iter()
                .zip(data.as_chunks::<TILE_LEN>().0)
            {
                for (place, &element) in elements.iter().enumerate() {
                    let pair = &data[place / 2 * 2 * TILE_TOKENS..][..2 * TILE_TOKENS];
                    for (token, sum) in sums.iter_mut().enumerate() {
                        let x = bf16::from_bits(pair[2 * token + place % 2]).to_f32();
                        *sum += f64::from(weights[usize::from(element)]) * f64::from(x);
                    }
                }
            }
            for (token, sum) in (first..at.len).zip(sums) {
                out[token * width + column] = sum as f32;
            }
        }
    }
}
