//! The graph's inputs besides the cache, kept from one run to the next: steps
//! of as many tokens all have the same shapes.

use gptoss_onnx::graph::{BLOCKS, SEQUENCES, WINDOW_BLOCKS};
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::blocks::Sequences;
use crate::engine::backend::{Slice, Wanted};

/// The inputs of a run.
pub(super) struct Feed {
    /// i64 `[1, S]`.
    input_ids: Tensor<i64>,
    /// i64 `[P]`.
    logits_positions: Tensor<i64>,
    cache: CacheInputs,
    rows: usize,
    /// Whether a run may compute no logits at all.
    may_be_empty: bool,
}

/// What the run is told about the cache.
enum CacheInputs {
    Paged {
        /// i32 `[B, 2]`.
        sequences: Tensor<i32>,
        /// i32 `[B, M]`.
        blocks: Tensor<i32>,
        /// i32 `[B, W]`.
        window_blocks: Tensor<i32>,
    },
    Single {
        /// i32 `[1]`.
        seqlens_k: Tensor<i32>,
        /// i32, a scalar.
        total_sequence_length: Tensor<i32>,
    },
}

/// Makes the tensor anew if it has another shape.
fn reshape<T, const N: usize>(tensor: &mut Tensor<T>, shape: [usize; N]) -> Result<(), ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug,
{
    let same = tensor.shape().iter().map(|&n| n as usize).eq(shape);
    if !same {
        *tensor = Tensor::new(&Allocator::default(), shape)?;
    }
    Ok(())
}

impl Feed {
    /// For a cache made of blocks, or for one that is not. A device's kernels are not asked
    /// for empty tensors: where a run wants no logits, it is told to compute one row.
    pub fn new(paged: bool, may_be_empty: bool) -> Result<Self, ort::Error> {
        let allocator = Allocator::default();
        let table = || Tensor::new(&allocator, [1usize, 1]);
        Ok(Self {
            input_ids: Tensor::new(&allocator, [1usize, 1])?,
            logits_positions: Tensor::new(&allocator, [1usize])?,
            cache: match paged {
                true => CacheInputs::Paged {
                    sequences: Tensor::new(&allocator, [1usize, 2])?,
                    blocks: table()?,
                    window_blocks: table()?,
                },
                false => CacheInputs::Single {
                    seqlens_k: Tensor::new(&allocator, [1usize])?,
                    total_sequence_length: Tensor::new(&allocator, [0usize; 0])?,
                },
            },
            rows: 0,
            may_be_empty,
        })
    }

    /// Rows of logits that are wanted of the run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of logits that the run will compute.
    pub fn computed_rows(&self) -> usize {
        self.rows.max(usize::from(!self.may_be_empty))
    }

    /// Takes in the tokens and which logits are wanted.
    pub fn fill(&mut self, slices: &[Slice<'_>]) -> Result<(), ort::Error> {
        let fed = slices.iter().map(|slice| slice.tokens.len()).sum();
        reshape(&mut self.input_ids, [1, fed])?;
        let (_, ids) = self.input_ids.extract_tensor_mut();
        let tokens = slices.iter().flat_map(|slice| slice.tokens);
        for (id, &token) in ids.iter_mut().zip(tokens) {
            *id = i64::from(token);
        }
        self.rows = slices.iter().map(rows).sum();
        let computed = self.computed_rows();
        reshape(&mut self.logits_positions, [computed])?;
        if computed == 0 {
            return Ok(());
        }
        let (_, positions) = self.logits_positions.extract_tensor_mut();
        positions.fill(0);
        let (mut row, mut start) = (0, 0);
        for slice in slices {
            let places = &mut positions[row..row + rows(slice)];
            match slice.wanted {
                Wanted::None => {}
                Wanted::Last => places.fill((start + slice.tokens.len()) as i64 - 1),
                Wanted::At(wanted) => {
                    for (place, &position) in places.iter_mut().zip(wanted) {
                        *place = (start + position) as i64;
                    }
                }
            }
            row += rows(slice);
            start += slice.tokens.len();
        }
        Ok(())
    }

    /// Takes in where the sequences lie, for a cache made of blocks.
    pub fn fill_tables(
        &mut self,
        slices: &[Slice<'_>],
        kept: &Sequences,
    ) -> Result<(), ort::Error> {
        let CacheInputs::Paged {
            sequences,
            blocks,
            window_blocks,
        } = &mut self.cache
        else {
            return Ok(());
        };
        reshape(sequences, [slices.len(), 2])?;
        let (_, lengths) = sequences.extract_tensor_mut();
        for (length, slice) in lengths.as_chunks_mut::<2>().0.iter_mut().zip(slices) {
            let past = kept.length(slice.sequence.0);
            // Context windows are far below the limits of i32.
            *length = [slice.tokens.len() as i32, past as i32];
        }
        let tables = slices.iter().map(|slice| kept.tables(slice.sequence.0));
        fill_table(blocks, tables.clone().map(|(full, _)| full))?;
        fill_table(window_blocks, tables.map(|(_, window)| window))
    }

    /// Takes in where the sequence ends, for a cache that is not made of blocks.
    pub fn fill_length(&mut self, total: usize) {
        if let CacheInputs::Single {
            seqlens_k,
            total_sequence_length,
        } = &mut self.cache
        {
            // Context windows are far below the limits of i32.
            let total = total as i32;
            seqlens_k.extract_tensor_mut().1.fill(total - 1);
            total_sequence_length.extract_tensor_mut().1.fill(total);
        }
    }

    /// Binding again hands the new values to a provider that keeps copies.
    pub fn bind(&self, binding: &mut IoBinding) -> Result<(), ort::Error> {
        binding.bind_input("input_ids", &self.input_ids)?;
        binding.bind_input("logits_positions", &self.logits_positions)?;
        match &self.cache {
            CacheInputs::Paged {
                sequences,
                blocks,
                window_blocks,
            } => {
                binding.bind_input(SEQUENCES, sequences)?;
                binding.bind_input(BLOCKS, blocks)?;
                binding.bind_input(WINDOW_BLOCKS, window_blocks)
            }
            CacheInputs::Single {
                seqlens_k,
                total_sequence_length,
            } => {
                binding.bind_input("seqlens_k", seqlens_k)?;
                binding.bind_input("total_sequence_length", total_sequence_length)
            }
        }
    }
}

/// Rows of logits that a slice wants.
fn rows(slice: &Slice<'_>) -> usize {
    match slice.wanted {
        Wanted::None => 0,
        Wanted::Last => 1,
        Wanted::At(positions) => positions.len(),
    }
}

/// Fills `[B, M]` with a row for each sequence, the rest with -1.
fn fill_table<'a>(
    table: &mut Tensor<i32>,
    rows: impl ExactSizeIterator<Item = &'a [u32]> + Clone,
) -> Result<(), ort::Error> {
    let columns = rows.clone().map(<[u32]>::len).max().unwrap_or(0).max(1);
    reshape(table, [rows.len(), columns])?;
    let (_, cells) = table.extract_tensor_mut();
    cells.fill(-1);
    for (cells, row) in cells.chunks_exact_mut(columns).zip(rows) {
        for (cell, &block) in cells.iter_mut().zip(row) {
            *cell = block as i32;
        }
    }
    Ok(())
}
