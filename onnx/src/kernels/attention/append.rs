//! What is done for each token once: rotating queries and keys, and writing
//! keys and values into the cache.

use std::sync::atomic::AtomicBool;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::super::KernelError;
use super::super::disjoint::Disjoint;
use super::super::parallel::{Parallel, run_parts};
use super::plan::first_seen;
use super::{BLOCK, Inputs, KEY_GROUP, LINE_GROUP, Precision, Shape};

/// Tokens of a part.
const TOKEN_RUN: usize = 8;

/// A number the cache holds.
pub(super) trait Element: Copy + Default + Send + Sync {
    const PRECISION: Precision;
    /// Narrows a head; its lines, if there are any, follow the elements.
    fn narrow(from: &[f32], into: &mut [Self]);
}

impl Element for f16 {
    const PRECISION: Precision = Precision::F16;
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.convert_from_f32_slice(from);
    }
}

impl Element for f32 {
    const PRECISION: Precision = Precision::F32;
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.copy_from_slice(from);
    }
}

impl Element for u8 {
    const PRECISION: Precision = Precision::Int8;
    fn narrow(from: &[f32], into: &mut [Self]) {
        // Added to a small number, leaves it rounded in the lowest bits.
        const ROUND: f32 = 8_388_608.0;
        let (elements, lines) = into.split_at_mut(from.len());
        let groups = from.as_chunks::<LINE_GROUP>().0;
        let into = elements.as_chunks_mut::<LINE_GROUP>().0;
        for ((from, into), bytes) in groups.iter().zip(into).zip(lines.as_chunks_mut().0) {
            let [scale, least] = line(from);
            let factor = match scale.to_f32() {
                0.0 => 0.0,
                scale => scale.recip(),
            };
            let least_value = least.to_f32();
            for (into, x) in into.iter_mut().zip(from) {
                *into = ((x - least_value) * factor + ROUND).to_bits() as u8;
            }
            let [[a, b], [c, d]] = [scale.to_ne_bytes(), least.to_ne_bytes()];
            *bytes = [a, b, c, d];
        }
    }
}

/// Scale and least value such that all elements lie from 0 to 255 on the line; no
/// numbers if one of the elements is none.
fn line(elements: &[f32; LINE_GROUP]) -> [bf16; 2] {
    let least = elements
        .iter()
        .fold(f32::INFINITY, |a, &b| if a < b { a } else { b });
    let most = elements
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b });
    if !elements.iter().all(|x| x.is_finite()) {
        return [bf16::NAN; 2];
    }
    let least = not_above(least);
    // Minus what is not above minus x is not below x.
    let scale = -not_above((least.to_f32() - most) / 255.0);
    [scale, least]
}

/// The largest bfloat16 that is not above `x`, down to the least there is.
fn not_above(x: f32) -> bf16 {
    let cut = bf16::from_bits((x.to_bits() >> 16) as u16);
    match cut.to_f32() > x && cut != bf16::MIN {
        // Cut towards zero: one further from it.
        true => bf16::from_bits(cut.to_bits() + 1),
        false => cut,
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
pub(super) fn append<E: Element>(
    shape: Shape,
    inputs: &Inputs<'_>,
    count: usize,
    queries: &Disjoint<'_, f32>,
    cache: &mut [&mut [E]; 2],
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    let (dim, group) = (shape.head_dim, shape.group());
    let [key, value] = cache.each_mut().map(|side| Disjoint::new(side));
    let row_len = E::PRECISION.row_len(dim);
    let one = |token: &Token, rotated: &mut [f32], narrow: &mut [E]| {
        let table = token.position * dim / 2..(token.position + 1) * dim / 2;
        let (cos, sin) = (&inputs.cos[table.clone()], &inputs.sin[table]);
        let place = token.position % BLOCK;
        let write_lines = |side: &Disjoint<'_, E>, start: usize, lines: &[E]| {
            for (i, number) in lines.chunks_exact(size_of::<bf16>()).enumerate() {
                let at = start + BLOCK * dim + (i * BLOCK + place) * number.len();
                // SAFETY: this token's, which are none of its elements.
                unsafe { side.slice(at..at + number.len()) }.copy_from_slice(number);
            }
        };
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
                let start = shape.head_start(E::PRECISION, token.block, head - shape.heads);
                E::narrow(rotated, narrow);
                let first = start + place / KEY_GROUP * KEY_GROUP * dim + place % KEY_GROUP;
                for (i, element) in narrow[..dim].iter().enumerate() {
                    let at = first + i * KEY_GROUP;
                    // SAFETY: as above; tables do not share what is written.
                    let place = unsafe { key.slice(at..at + 1) };
                    place[0] = *element;
                }
                write_lines(&key, start, &narrow[dim..]);
            } else {
                let kv_head = head - shape.heads - shape.kv_heads;
                let start = shape.head_start(E::PRECISION, token.block, kv_head);
                E::narrow(x, narrow);
                let at = start + place * dim;
                // SAFETY: as above.
                unsafe { value.slice(at..at + dim) }.copy_from_slice(&narrow[..dim]);
                write_lines(&value, start, &narrow[dim..]);
            }
        }
    };
    run_parts(pool, cancel, count.div_ceil(TOKEN_RUN), |part| {
        let (mut rotated, mut narrow) = (vec![0.0; dim], vec![E::default(); row_len]);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The elements that int8 stands for, and how far apart they are.
    fn restored(from: &[f32; LINE_GROUP]) -> (Vec<f32>, f32) {
        let mut into = [0; LINE_GROUP + 4];
        u8::narrow(from, &mut into);
        let number = |at: usize| bf16::from_ne_bytes([into[at], into[at + 1]]).to_f32();
        let (scale, least) = (number(LINE_GROUP), number(LINE_GROUP + 2));
        let elements = into[..LINE_GROUP].iter();
        let values = elements.map(|&x| least + scale * f32::from(x)).collect();
        (values, scale)
    }

    proptest! {
        #[test]
        fn int8_is_half_a_step_away(
            from in prop::array::uniform16(-1f32..1.0), shift in -3f32..3.0, exponent in -30i32..30
        ) {
            let from = from.map(|x| (x + shift) * 2f32.powi(exponent));
            let (values, scale) = restored(&from);
            let bounds = from.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
            let largest = bounds.1.abs().max(bounds.0.abs());
            // A bfloat16 has 8 bits.
            prop_assert!(scale <= (bounds.1 - bounds.0 + largest / 128.0) / 255.0 * 1.01);
            for (x, value) in from.iter().zip(&values) {
                prop_assert!((x - value).abs() <= scale * 0.501 + largest * 1e-6, "{x}: {value}");
            }
        }
    }

    #[test]
    fn int8_keeps_what_is_simple() {
        for x in [
            0.0,
            -0.0,
            1.0,
            -2.5,
            f32::from(bf16::MAX),
            f32::from(bf16::MIN),
        ] {
            assert_eq!(restored(&[x; LINE_GROUP]).0, [x; LINE_GROUP]);
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut from = [1.0; LINE_GROUP];
            from[7] = x;
            assert!(restored(&from).0.iter().all(|x| x.is_nan()));
        }
    }
}
