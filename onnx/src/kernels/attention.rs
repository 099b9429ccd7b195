//! Attention with sinks over a paged key/value cache, after FlashAttention
//! (arXiv 2205.14135) and PagedAttention (arXiv 2309.06180): scores of some keys
//! at a time, softmax corrected as it goes, so that no matrix of scores exists.
//!
//! The cache of a layer is a pool of blocks of 64 positions,
//! `[blocks, kv_heads, 64, head_dim]` elements a side, see [`Precision`]. A
//! sequence's blocks lie anywhere in the pool, in the order that its table says;
//! sequences that begin alike may share blocks. Values lie in that order. Keys
//! lie in groups of 16 positions, transposed, so that a vector holds one element
//! of 16 keys and no sum crosses its lanes:
//!
//! ```text
//! value[block, kv_head, position, element]
//! key[block, kv_head, position / 16, element, position % 16]
//! ```
//!
//! Of int8, 16 elements of a position share a line from the least of them to the
//! largest, `least + scale * element`, whose two bfloat16, in the processor's order
//! of bytes, follow the elements of a head's block. A side is `[blocks, kv_heads,
//! 64, head_dim * 5 / 4]` bytes:
//!
//! ```text
//! [block, kv_head]:  64 * head_dim elements as above
//!                    line[element / 16, (scale, least), position]
//! ```
//!
//! One scale for all of a head, or lines for 32 elements, miss the limits that the
//! parity tests set.

mod append;
mod part;
mod plan;
mod source;

use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use half::{bf16, f16};

use super::aligned::{Aligned, with_scratch};
use super::disjoint::Disjoint;
use super::parallel::{Parallel, run_parts};
use super::portable::exp;
use super::{KernelError, KernelSet};
use append::append;
use plan::{Plan, first_seen};

pub use part::{MOST_ROWS, Part};

/// Positions of a block of the cache.
pub const BLOCK: usize = 64;
/// Positions of a group of transposed keys.
const KEY_GROUP: usize = 16;
/// Int8 elements that share a line.
const LINE_GROUP: usize = 16;
/// Bytes of a line.
const LINE_BYTES: usize = 2 * size_of::<bf16>();

/// Sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head, a multiple of 16.
    pub head_dim: usize,
    /// Blocks of the pool.
    pub blocks: usize,
}

impl Shape {
    /// Query heads that share keys and values.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of one side of the cache, lines included.
    pub fn cache_len(&self, precision: Precision) -> usize {
        self.blocks * self.kv_heads * BLOCK * precision.row_len(self.head_dim)
    }

    /// Index of the first element of a head in a block of the cache.
    fn head_start(&self, precision: Precision, block: i32, kv_head: usize) -> usize {
        (block as usize * self.kv_heads + kv_head) * BLOCK * precision.row_len(self.head_dim)
    }

    /// Elements of a token's queries, keys and values together.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn check(&self) -> Result<(), KernelError> {
        let sound = self.kv_heads > 0
            && self.heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && self.head_dim > 0
            && self.head_dim.is_multiple_of(16);
        if sound {
            return Ok(());
        }
        Err(KernelError::Shape(format!(
            "{self:?} needs heads in groups, and of a multiple of 16 elements"
        )))
    }
}

/// What a cache is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Half precision.
    #[default]
    F16,
    /// Single precision, where exactness matters more than memory.
    F32,
    /// Int8 between the least and the largest of 16 elements: 5/8 of the memory.
    Int8,
}

impl Precision {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::F16, Self::F32, Self::Int8];

    /// Its name: `f16`, `f32` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }

    /// Elements that a head of a position takes, its lines included.
    pub fn row_len(self, head_dim: usize) -> usize {
        match self {
            Self::F16 | Self::F32 => head_dim,
            Self::Int8 => head_dim + head_dim / LINE_GROUP * LINE_BYTES,
        }
    }

    /// The elements of a head, of how many [`row_len`](Self::row_len) is told.
    pub fn head_dim(self, row_len: usize) -> usize {
        match self {
            Self::F16 | Self::F32 => row_len,
            Self::Int8 => row_len / self.row_len(LINE_GROUP) * LINE_GROUP,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => size_of::<f16>(),
            Self::F32 => size_of::<f32>(),
            Self::Int8 => size_of::<u8>(),
        }
    }
}

impl FromStr for Precision {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| {
            KernelError::Shape(format!("a cache is of f16, f32 or int8, not {name:?}"))
        })
    }
}

/// Both sides of a cache, to be read: keys, values.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// See [`Precision::F16`].
    F16([&'a [f16]; 2]),
    /// See [`Precision::F32`].
    F32([&'a [f32]; 2]),
    /// See [`Precision::Int8`].
    Int8([&'a [u8]; 2]),
}

impl Elements<'_> {
    fn precision(self) -> Precision {
        match self {
            Self::F16(_) => Precision::F16,
            Self::F32(_) => Precision::F32,
            Self::Int8(_) => Precision::Int8,
        }
    }
}

/// Both sides of a cache, to be written: keys, values.
#[derive(Debug)]
pub enum Cache<'a> {
    /// See [`Precision::F16`].
    F16([&'a mut [f16]; 2]),
    /// See [`Precision::F32`].
    F32([&'a mut [f32]; 2]),
    /// See [`Precision::Int8`].
    Int8([&'a mut [u8]; 2]),
}

impl Cache<'_> {
    fn precision(&self) -> Precision {
        match self {
            Self::F16(_) => Precision::F16,
            Self::F32(_) => Precision::F32,
            Self::Int8(_) => Precision::Int8,
        }
    }

    /// Elements of the sides.
    fn lens(&self) -> [usize; 2] {
        match self {
            Self::F16(sides) => sides.each_ref().map(|side| side.len()),
            Self::F32(sides) => sides.each_ref().map(|side| side.len()),
            Self::Int8(sides) => sides.each_ref().map(|side| side.len()),
        }
    }
}

/// Some tokens that follow one another in a sequence, and where its cache lies.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// How many tokens, at least one.
    pub tokens: usize,
    /// Positions in the cache before them.
    pub past: usize,
    /// The sequence's blocks in the pool, from the one that holds the first
    /// position that the first of the tokens sees.
    pub blocks: &'a [i32],
}

/// What a layer's attention takes besides the cache.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// f32 `[tokens, heads + 2 kv_heads, head_dim]`: queries, keys, values,
    /// before rotation; one sequence's tokens after the other's.
    pub qkv: &'a [f32],
    /// Whose they are.
    pub sequences: &'a [Sequence<'a>],
    /// Cosines and sines, `[.., head_dim / 2]`: see [`crate::graph::rope`].
    pub cos: &'a [f32],
    /// See `cos`.
    pub sin: &'a [f32],
    /// A score a head that takes part in the softmax and has no value.
    pub sinks: &'a [f32],
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a token sees, its own included.
    pub window: usize,
}

/// Memory that calls of [`attention`] reuse.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Rotated and scaled queries, `[kv_heads, tokens, group, head_dim]`.
    queries: Aligned<f32>,
    /// What parts of a token's positions came to, see [`Part::run`].
    partial: Aligned<f32>,
    plan: Plan,
    /// Which blocks of the pool a call writes, a bit each.
    written: Vec<u64>,
}

/// Appends the tokens' keys and values to the cache and writes what each token
/// attends to into `y`, f32 `[tokens, heads, head_dim]`.
///
/// # Errors
/// Sizes that do not fit, a table with blocks that are not there, two places to
/// be written in one block, `cancel` set meanwhile, or a failure of the thread
/// pool; `y`, and the cache behind each `past`, then hold nothing of use.
#[allow(clippy::too_many_arguments)] // each is of a different kind and lifetime
pub fn attention(
    kernel: &dyn KernelSet,
    shape: Shape,
    inputs: &Inputs<'_>,
    mut cache: Cache<'_>,
    y: &mut [f32],
    workspace: &mut Workspace,
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    shape.check()?;
    let tokens = inputs.qkv.len() / shape.qkv_width();
    check(shape, inputs, &cache, tokens, y)?;
    check_tables(shape, inputs, &mut workspace.written)?;
    let width = shape.group() * shape.head_dim;
    workspace.queries.resize(shape.kv_heads * tokens * width);
    let queries = Disjoint::new(workspace.queries.as_mut_slice());
    match &mut cache {
        Cache::F16(sides) => append(shape, inputs, tokens, &queries, sides, pool, cancel)?,
        Cache::F32(sides) => append(shape, inputs, tokens, &queries, sides, pool, cancel)?,
        Cache::Int8(sides) => append(shape, inputs, tokens, &queries, sides, pool, cancel)?,
    }
    let cache = match cache {
        Cache::F16(sides) => Elements::F16(sides.map(|side| &*side)),
        Cache::F32(sides) => Elements::F32(sides.map(|side| &*side)),
        Cache::Int8(sides) => Elements::Int8(sides.map(|side| &*side)),
    };
    let plan = &mut workspace.plan;
    plan.cut(shape, inputs);
    workspace.partial.resize(plan.partial_len());
    let partial = Disjoint::new(workspace.partial.as_mut_slice());
    let queries = workspace.queries.as_slice();
    let y = Disjoint::new(y);
    let row_len = shape.head_dim + 2;
    run_parts(pool, cancel, plan.parts(), |index| {
        let place = plan.place(index, inputs);
        let (kv_head, first, count) = (place.kv_head, place.tokens.start, place.tokens.len());
        let part = Part {
            shape,
            kv_head,
            cache,
            blocks: place.blocks,
            first_block: place.first_block,
            queries: &queries[(kv_head * tokens + first) * width..][..count * width],
            sinks: &inputs.sinks[kv_head * shape.group()..][..shape.group()],
            first_position: place.first_position,
            window: inputs.window,
            with_sink: place.first_split,
            positions: place.positions,
        };
        with_scratch(part.scratch_len(), |scratch| {
            kernel.attend(&part, scratch);
            let results = &scratch[..part.rows() * row_len];
            if let Some(start) = place.partial {
                // SAFETY: each part has a place of its own.
                let to = unsafe { partial.slice(start..start + results.len()) };
                to.copy_from_slice(results);
                return;
            }
            for (i, row) in results.chunks(row_len).enumerate() {
                let (token, head) = (first + i / shape.group(), i % shape.group());
                let start = token * shape.heads + kv_head * shape.group() + head;
                // SAFETY: parts differ in tokens or in heads.
                let y = unsafe { y.slice(start * shape.head_dim..(start + 1) * shape.head_dim) };
                divide(row, y);
            }
        });
    })?;
    let partial = workspace.partial.as_slice();
    for split in workspace.plan.split_tokens() {
        let width = shape.heads * shape.head_dim;
        // SAFETY: no other part is in use any more.
        let y = unsafe { y.slice(split.token * width..(split.token + 1) * width) };
        merge(shape, split.splits, &partial[split.partial..], y);
    }
    Ok(())
}

fn check(
    shape: Shape,
    inputs: &Inputs<'_>,
    cache: &Cache<'_>,
    tokens: usize,
    y: &[f32],
) -> Result<(), KernelError> {
    let cache_len = shape.cache_len(cache.precision());
    let table = inputs.cos.len() / (shape.head_dim / 2);
    let given = inputs.sequences.iter().try_fold(0, |sum: usize, sequence| {
        let total = sequence.past.checked_add(sequence.tokens)?;
        (sequence.tokens > 0 && total <= table).then(|| sum.checked_add(sequence.tokens))?
    });
    let fits = inputs.qkv.len() == tokens * shape.qkv_width()
        && y.len() == tokens * shape.heads * shape.head_dim
        && cache.lens() == [cache_len; 2]
        && inputs.sinks.len() == shape.heads
        && inputs.cos.len() == inputs.sin.len()
        && inputs.window > 0
        && given == Some(tokens);
    if fits {
        return Ok(());
    }
    Err(KernelError::Shape(format!(
        "{tokens} tokens of sequences {:?} do not fit {shape:?} with a cache of {:?} {:?} elements, \
         {} sinks, {table} rotations and a window of {}",
        inputs.sequences,
        cache.lens(),
        cache.precision(),
        inputs.sinks.len(),
        inputs.window
    )))
}

/// Looks at all blocks that will be read or written, so that no thread writes
/// where another one does.
fn check_tables(
    shape: Shape,
    inputs: &Inputs<'_>,
    written: &mut Vec<u64>,
) -> Result<(), KernelError> {
    written.clear();
    written.resize(shape.blocks.div_ceil(64), 0);
    for sequence in inputs.sequences {
        let first = first_seen(sequence.past, inputs.window) / BLOCK;
        let end = (sequence.past + sequence.tokens).div_ceil(BLOCK);
        let used = sequence.blocks.get(..end - first);
        let sound = used.is_some_and(|used| {
            let inside = |&block: &i32| usize::try_from(block).is_ok_and(|b| b < shape.blocks);
            used.iter().all(inside)
                && used[sequence.past / BLOCK - first..].iter().all(|&block| {
                    let (word, bit) = (block as usize / 64, 1 << (block % 64));
                    let fresh = written[word] & bit == 0;
                    written[word] |= bit;
                    fresh
                })
        });
        if !sound {
            return Err(KernelError::Shape(format!(
                "the table {:?} lacks one of the {} blocks from {first} on, names one beyond {}, \
                 or shares one that is written",
                sequence.blocks,
                end - first,
                shape.blocks
            )));
        }
    }
    Ok(())
}

/// The mean of values: the weighted sum through the sum of weights.
fn divide(row: &[f32], y: &mut [f32]) {
    let (sums, total) = (&row[..y.len()], row[y.len() + 1]);
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = sum / total;
    }
}

/// Puts together what the splits of one token's positions came to.
fn merge(shape: Shape, splits: usize, partial: &[f32], y: &mut [f32]) {
    let (dim, group) = (shape.head_dim, shape.group());
    let len = group * (dim + 2);
    for (head, y) in y.chunks_exact_mut(dim).enumerate() {
        let row = |split: usize| {
            let part = head / group * splits + split;
            &partial[part * len + head % group * (dim + 2)..][..dim + 2]
        };
        let largest = (0..splits)
            .map(|split| row(split)[dim])
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
        y.fill(0.0);
        let mut total = 0.0;
        for split in 0..splits {
            let row = row(split);
            let factor = exp::<false>(row[dim] - largest);
            total += row[dim + 1] * factor;
            for (y, x) in y.iter_mut().zip(row) {
                *y += x * factor;
            }
        }
        y.iter_mut().for_each(|y| *y /= total);
    }
}

#[cfg(test)]
mod tests;
