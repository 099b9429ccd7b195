//! What is done for each token once: rotating queries and keys, and writing
//! keys and values into the cache.

use std::sync::atomic::AtomicBool;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::super::KernelError;
use super::super::disjoint::Disjoint;
use super::super::parallel::{Parallel, run_parts};
use super::plan::first_seen;
use super::{BLOCK, Inputs, KEY_GROUP, Shape};

/// Tokens of a part.
const TOKEN_RUN: usize = 8;

/// A number the cache holds.
pub(super) trait Element: Copy + Send + Sync {
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

/// One token: where its numbers come from and where they go.
struct Token {
    /// Among those of the call.
    index: usize,
    /// In its sequence.
    position: usize,
    /// Block of the pool that it is written to.
    block: i32,
}

/// The tokens `first..end` of a call.
fn tokens<'a>(
    inputs: &'a Inputs<'_>,
    first: usize,
    end: usize,
) -> impl Iterator<Item = Token> + 'a {
    let mut before = 0;
    let sequences = inputs.sequences.iter().map(move |sequence| {
        before += sequence.tokens;
        (before - sequence.tokens, sequence)
    });
    sequences.flat_map(move |(start, sequence)| {
        let first_block = first_seen(sequence.past, inputs.window) / BLOCK;
        let inside = first.max(start)..end.min(start + sequence.tokens);
        inside.map(move |index| {
            let position = sequence.past + index - start;
            Token {
                index,
                position,
                block: sequence.blocks[position / BLOCK - first_block],
            }
        })
    })
}

/// Writes rotated and scaled queries to `queries`, `[kv_heads, tokens, group,
/// head_dim]`, and keys and values to their blocks.
#[allow(clippy::too_many_arguments)] // each is of a different kind and lifetime
pub(super) fn append<E: Element>(
    shape: Shape,
    inputs: &Inputs<'_>,
    count: usize,
    queries: &Disjoint<'_, f32>,
    key: &mut [E],
    value: &mut [E],
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    let (dim, group) = (shape.head_dim, shape.group());
    let (key, value) = (Disjoint::new(key), Disjoint::new(value));
    let one = |token: &Token, rotated: &mut [f32], narrow: &mut [E]| {
        let table = token.position * dim / 2..(token.position + 1) * dim / 2;
        let (cos, sin) = (&inputs.cos[table.clone()], &inputs.sin[table]);
        let place = token.position % BLOCK;
        let width = shape.qkv_width();
        let heads = inputs.qkv[token.index * width..][..width].chunks_exact(dim);
        for (head, x) in heads.enumerate() {
            if head < shape.heads {
                let row = ((head / group) * count + token.index) * group + head % group;
                // SAFETY: this token's, of which only one part takes care.
                let q = unsafe { queries.slice(row * dim..(row + 1) * dim) };
                rotate(x, cos, sin, inputs.scale, q);
            } else if head < shape.heads + shape.kv_heads {
                rotate(x, cos, sin, 1.0, rotated);
                E::narrow(rotated, narrow);
                let first = shape.head_start(token.block, head - shape.heads)
                    + place / KEY_GROUP * KEY_GROUP * dim
                    + place % KEY_GROUP;
                for (i, element) in narrow.iter().enumerate() {
                    let at = first + i * KEY_GROUP;
                    // SAFETY: as above; tables do not share what is written.
                    let place = unsafe { key.slice(at..at + 1) };
                    place[0] = *element;
                }
            } else {
                let kv_head = head - shape.heads - shape.kv_heads;
                let at = shape.head_start(token.block, kv_head) + place * dim;
                // SAFETY: as above.
                E::narrow(x, unsafe { value.slice(at..at + dim) });
            }
        }
    };
    run_parts(pool, cancel, count.div_ceil(TOKEN_RUN), |part| {
        let (mut rotated, mut narrow) = (vec![0.0; dim], vec![E::ZERO; dim]);
        let first = part * TOKEN_RUN;
        for token in tokens(inputs, first, count.min(first + TOKEN_RUN)) {
            one(&token, &mut rotated, &mut narrow);
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
