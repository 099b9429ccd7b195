//! Attention with sinks over a key/value cache, after FlashAttention (arXiv
//! 2205.14135): scores of some keys at a time, softmax corrected as it goes, so
//! that no matrix of scores exists.
//!
//! The cache of a layer holds `[kv_heads, positions, head_dim]` elements a side,
//! float16, or float32 where exactness matters more than memory. Values lie in
//! that order. Keys lie in blocks of 16 positions, transposed, so that a vector
//! holds one element of 16 keys and no sum crosses its lanes:
//!
//! ```text
//! key[kv_head, position / 16, element, position % 16]
//! ```

mod part;

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::aligned::{Aligned, with_scratch};
use super::disjoint::Disjoint;
use super::parallel::{Parallel, run_parts};
use super::portable::exp;
use super::{KernelError, KernelSet};
use part::KEYS;

pub use part::{MOST_ROWS, Part};

/// Positions of a block of keys; a cache has a whole number of blocks.
pub const KEY_BLOCK: usize = 16;

/// Query tokens of a part: their heads share what is loaded of the cache.
const TOKENS: usize = 16;
/// Positions of a part where a single token's work must feed all threads.
const SPLIT: usize = 1024;
/// Tokens of a part where the work is per token.
const TOKEN_RUN: usize = 8;

/// Sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head, a multiple of 16.
    pub head_dim: usize,
    /// Positions of the cache, a multiple of [`KEY_BLOCK`].
    pub positions: usize,
}

impl Shape {
    /// Query heads that share keys and values.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of one side of the cache.
    pub fn cache_len(&self) -> usize {
        self.kv_heads * self.positions * self.head_dim
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
            && self.head_dim.is_multiple_of(16)
            && self.positions.is_multiple_of(KEY_BLOCK);
        if sound {
            return Ok(());
        }
        Err(KernelError::Shape(format!(
            "{self:?} needs heads in groups, heads of a multiple of 16 elements, and a cache of a \
             multiple of {KEY_BLOCK} positions"
        )))
    }
}

/// One side of a cache, to be read.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// Half precision.
    F16(&'a [f16]),
    /// Single precision.
    F32(&'a [f32]),
}

/// Both sides of a cache, to be written.
#[derive(Debug)]
pub enum Cache<'a> {
    /// Half precision.
    F16 {
        /// Keys.
        key: &'a mut [f16],
        /// Values.
        value: &'a mut [f16],
    },
    /// Single precision.
    F32 {
        /// Keys.
        key: &'a mut [f32],
        /// Values.
        value: &'a mut [f32],
    },
}

/// What a layer's attention takes besides the cache.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// f32 `[tokens, heads + 2 kv_heads, head_dim]`: queries, keys, values,
    /// before rotation.
    pub qkv: &'a [f32],
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
    /// Positions in the cache before these tokens.
    pub past: usize,
}

/// Memory that calls of [`attention`] reuse.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Rotated and scaled queries, `[kv_heads, tokens, group, head_dim]`.
    queries: Aligned<f32>,
    /// What parts of a token's positions came to, see [`Part::run`].
    partial: Aligned<f32>,
}

/// Appends the tokens' keys and values to the cache and writes what each token
/// attends to into `y`, f32 `[tokens, heads, head_dim]`.
///
/// # Errors
/// Sizes that do not fit, `cancel` set meanwhile, or a failure of the pool;
/// `y`, and the cache behind `past`, then hold nothing of use.
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
    let width = shape.group() * shape.head_dim;
    workspace.queries.resize(shape.kv_heads * tokens * width);
    let queries = Disjoint::new(workspace.queries.as_mut_slice());
    match &mut cache {
        Cache::F16 { key, value } => {
            append(shape, inputs, tokens, &queries, key, value, pool, cancel)?;
        }
        Cache::F32 { key, value } => {
            append(shape, inputs, tokens, &queries, key, value, pool, cancel)?;
        }
    }
    let (key, value) = match cache {
        Cache::F16 { key, value } => (Elements::F16(key), Elements::F16(value)),
        Cache::F32 { key, value } => (Elements::F32(key), Elements::F32(value)),
    };
    let plan = Plan::new(shape, inputs, tokens);
    workspace.partial.resize(plan.partial_len());
    let partial = Disjoint::new(workspace.partial.as_mut_slice());
    let queries = workspace.queries.as_slice();
    let y = Disjoint::new(y);
    run_parts(pool, cancel, plan.parts(), |index| {
        let place = plan.place(index);
        let (kv_head, first, count) = (place.kv_head, place.tokens.start, place.tokens.len());
        let part = Part {
            head_dim: shape.head_dim,
            group: shape.group(),
            key: one_head(key, shape, kv_head),
            value: one_head(value, shape, kv_head),
            queries: &queries[(kv_head * tokens + first) * width..][..count * width],
            sinks: &inputs.sinks[kv_head * shape.group()..][..shape.group()],
            first_position: inputs.past + first,
            window: inputs.window,
            with_sink: place.first_split,
            positions: place.positions,
        };
        with_scratch(part.scratch_len(), |scratch| {
            kernel.attend(&part, scratch);
            let results = &scratch[..part.rows() * plan.row_len];
            if plan.splits > 1 {
                let len = results.len();
                // SAFETY: each part has a place of its own.
                let to = unsafe { partial.slice(index * len..(index + 1) * len) };
                to.copy_from_slice(results);
                return;
            }
            for (i, row) in results.chunks(plan.row_len).enumerate() {
                let (token, head) = (first + i / shape.group(), i % shape.group());
                let start = token * shape.heads + kv_head * shape.group() + head;
                // SAFETY: parts differ in tokens or in heads.
                let y = unsafe { y.slice(start * shape.head_dim..(start + 1) * shape.head_dim) };
                divide(row, y);
            }
        });
    })?;
    if plan.splits > 1 {
        let partial = workspace.partial.as_slice();
        merge(shape, plan.splits, partial, &y);
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
    let (key, value) = match cache {
        Cache::F16 { key, value } => (key.len(), value.len()),
        Cache::F32 { key, value } => (key.len(), value.len()),
    };
    let total = inputs.past.checked_add(tokens);
    let table = inputs.cos.len() / (shape.head_dim / 2);
    let fits = inputs.qkv.len() == tokens * shape.qkv_width()
        && y.len() == tokens * shape.heads * shape.head_dim
        && key == shape.cache_len()
        && value == shape.cache_len()
        && inputs.sinks.len() == shape.heads
        && inputs.cos.len() == inputs.sin.len()
        && inputs.window > 0
        && total.is_some_and(|total| total <= shape.positions && total <= table);
    if fits {
        return Ok(());
    }
    Err(KernelError::Shape(format!(
        "{tokens} tokens after {} do not fit {shape:?} with {key} keys, {value} values, {} sinks, \
         {table} rotations and a window of {}",
        inputs.past,
        inputs.sinks.len(),
        inputs.window
    )))
}

/// A number the cache holds.
trait Element: Copy + Send + Sync {
    const ZERO: Self;
    fn narrow(from: &[f32], into: &mut [Self]);
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.convert_from_f32_slice(from);
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.copy_from_slice(from);
    }
}

/// Rotates queries and keys and stores keys and values.
#[allow(clippy::too_many_arguments)]
fn append<E: Element>(
    shape: Shape,
    inputs: &Inputs<'_>,
    tokens: usize,
    queries: &Disjoint<'_, f32>,
    key: &mut [E],
    value: &mut [E],
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    let (dim, group) = (shape.head_dim, shape.group());
    let (key, value) = (Disjoint::new(key), Disjoint::new(value));
    let one = |token: usize, rotated: &mut [f32], narrow: &mut [E]| {
        let position = inputs.past + token;
        let table = position * dim / 2..(position + 1) * dim / 2;
        let (cos, sin) = (&inputs.cos[table.clone()], &inputs.sin[table]);
        let heads = inputs.qkv[token * shape.qkv_width()..][..shape.qkv_width()].chunks_exact(dim);
        for (head, x) in heads.enumerate() {
            if head < shape.heads {
                let place = ((head / group) * tokens + token) * group + head % group;
                // SAFETY: this token's, of which only one part takes care.
                let q = unsafe { queries.slice(place * dim..(place + 1) * dim) };
                rotate(x, cos, sin, inputs.scale, q);
            } else if head < shape.heads + shape.kv_heads {
                rotate(x, cos, sin, 1.0, rotated);
                E::narrow(rotated, narrow);
                let first = (head - shape.heads) * shape.positions * dim
                    + position / KEY_BLOCK * KEY_BLOCK * dim
                    + position % KEY_BLOCK;
                for (i, element) in narrow.iter().enumerate() {
                    let at = first + i * KEY_BLOCK;
                    // SAFETY: as above.
                    let place = unsafe { key.slice(at..at + 1) };
                    place[0] = *element;
                }
            } else {
                let kv_head = head - shape.heads - shape.kv_heads;
                let at = (kv_head * shape.positions + position) * dim;
                // SAFETY: as above.
                E::narrow(x, unsafe { value.slice(at..at + dim) });
            }
        }
    };
    run_parts(pool, cancel, tokens.div_ceil(TOKEN_RUN), |part| {
        let (mut rotated, mut narrow) = (vec![0.0; dim], vec![E::ZERO; dim]);
        let first = part * TOKEN_RUN;
        for token in first..tokens.min(first + TOKEN_RUN) {
            one(token, &mut rotated, &mut narrow);
        }
    })
}

/// Rotates pairs of the first and the second half of `x`, and scales them.
fn rotate(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, into: &mut [f32]) {
    let (first, second) = x.split_at(x.len() / 2);
    let (into_first, into_second) = into.split_at_mut(x.len() / 2);
    for i in 0..first.len() {
        into_first[i] = (first[i] * cos[i] - second[i] * sin[i]) * scale;
        into_second[i] = (second[i] * cos[i] + first[i] * sin[i]) * scale;
    }
}

/// How a call is cut: by heads of keys, then tokens, or positions of one token.
struct Plan {
    kv_heads: usize,
    token_blocks: usize,
    splits: usize,
    tokens: usize,
    past: usize,
    window: usize,
    rows: usize,
    row_len: usize,
}

impl Plan {
    fn new(shape: Shape, inputs: &Inputs<'_>, tokens: usize) -> Self {
        let first_seen = first_seen(inputs.past, inputs.window);
        Self {
            kv_heads: shape.kv_heads,
            token_blocks: tokens.div_ceil(TOKENS),
            splits: match tokens {
                1 => (inputs.past + 1 - first_seen).div_ceil(SPLIT),
                _ => 1,
            },
            tokens,
            past: inputs.past,
            window: inputs.window,
            rows: shape.group(),
            row_len: shape.head_dim + 2,
        }
    }

    fn parts(&self) -> usize {
        self.kv_heads * self.token_blocks * self.splits
    }

    /// Where there are several splits, there is one token.
    fn partial_len(&self) -> usize {
        match self.splits {
            1 => 0,
            _ => self.parts() * self.rows * self.row_len,
        }
    }

    /// What part `index` is about.
    fn place(&self, index: usize) -> Place {
        let (outer, split) = (index / self.splits, index % self.splits);
        let (kv_head, block) = (outer / self.token_blocks, outer % self.token_blocks);
        let tokens = block * TOKENS..self.tokens.min((block + 1) * TOKENS);
        let first = first_seen(self.past + tokens.start, self.window) + split * SPLIT;
        let end = self.past + tokens.end;
        let positions = match self.splits {
            1 => first..end,
            _ => first..end.min(first + SPLIT),
        };
        Place {
            kv_head,
            tokens,
            positions,
            first_split: split == 0,
        }
    }
}

/// What a part is about: which head of keys, tokens and positions.
struct Place {
    kv_head: usize,
    tokens: Range<usize>,
    positions: Range<usize>,
    first_split: bool,
}

/// First position that the token at `position` sees, rounded down to where a
/// part may begin.
fn first_seen(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window) / KEYS * KEYS
}

fn one_head(side: Elements<'_>, shape: Shape, kv_head: usize) -> Elements<'_> {
    let len = shape.positions * shape.head_dim;
    let range = kv_head * len..(kv_head + 1) * len;
    match side {
        Elements::F16(all) => Elements::F16(&all[range]),
        Elements::F32(all) => Elements::F32(&all[range]),
    }
}

/// The mean of values: the weighted sum through the sum of weights.
fn divide(row: &[f32], y: &mut [f32]) {
    let (sums, total) = (&row[..y.len()], row[y.len() + 1]);
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = sum / total;
    }
}

/// Puts together what the splits of one token's positions came to.
fn merge(shape: Shape, splits: usize, partial: &[f32], y: &Disjoint<'_, f32>) {
    let (dim, group) = (shape.head_dim, shape.group());
    let len = group * (dim + 2);
    for head in 0..shape.heads {
        let row = |split: usize| {
            let part = head / group * splits + split;
            &partial[part * len + head % group * (dim + 2)..][..dim + 2]
        };
        let largest = (0..splits)
            .map(|split| row(split)[dim])
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
        // SAFETY: only this thread writes.
        let y = unsafe { y.slice(head * dim..(head + 1) * dim) };
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
