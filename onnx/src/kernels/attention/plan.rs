//! How a call is cut into parts: by sequences, heads of keys, then tokens, or
//! positions of a single token.

use std::ops::Range;

use super::{BLOCK, Inputs, Shape};

/// Query tokens of a part: their heads share what is loaded of the cache.
const TOKENS: usize = 16;
/// Positions of a part where a single token's work must feed all threads.
pub(super) const SPLIT: usize = 1024;

/// First position that the token at `position` sees, rounded down to a block.
pub(super) fn first_seen(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window) / BLOCK * BLOCK
}

/// The parts of a call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    cuts: Vec<Cut>,
    parts: usize,
    partial_len: usize,
    /// Floats that a split leaves for a head of keys.
    split_len: usize,
}

/// How a sequence is cut: `kv_heads * token_blocks * splits` parts.
#[derive(Debug)]
struct Cut {
    first_part: usize,
    first_token: usize,
    token_blocks: usize,
    /// Where there are several, there is one token.
    splits: usize,
    /// Where the splits leave what they came to.
    partial: usize,
}

/// What a part is about: which head of keys, tokens and positions.
pub(super) struct Place<'a> {
    pub kv_head: usize,
    /// Among those of the call.
    pub tokens: Range<usize>,
    /// Of the first token, in its sequence.
    pub first_position: usize,
    /// What of the cache is looked at.
    pub positions: Range<usize>,
    /// The sequence's table, and which of its blocks comes first there.
    pub blocks: &'a [i32],
    pub first_block: usize,
    pub first_split: bool,
    /// Where the result goes, if it is not a token's whole.
    pub partial: Option<usize>,
}

/// A token whose positions were split.
pub(super) struct SplitToken {
    pub token: usize,
    pub splits: usize,
    /// Where what they came to begins, `[kv_heads, splits, group, head_dim + 2]`.
    pub partial: usize,
}

impl Plan {
    /// Cuts a call, in place of the one before.
    pub fn cut(&mut self, shape: Shape, inputs: &Inputs<'_>) {
        self.cuts.clear();
        (self.parts, self.partial_len) = (0, 0);
        self.split_len = shape.group() * (shape.head_dim + 2);
        let mut first_token = 0;
        for sequence in inputs.sequences {
            let seen = sequence.past + 1 - first_seen(sequence.past, inputs.window);
            let cut = Cut {
                first_part: self.parts,
                first_token,
                token_blocks: sequence.tokens.div_ceil(TOKENS),
                splits: match sequence.tokens {
                    1 => seen.div_ceil(SPLIT),
                    _ => 1,
                },
                partial: self.partial_len,
            };
            first_token += sequence.tokens;
            self.parts += shape.kv_heads * cut.token_blocks * cut.splits;
            if cut.splits > 1 {
                self.partial_len += shape.kv_heads * cut.splits * self.split_len;
            }
            self.cuts.push(cut);
        }
    }

    pub fn parts(&self) -> usize {
        self.parts
    }

    pub fn partial_len(&self) -> usize {
        self.partial_len
    }

    /// What part `index` of the call that was cut is about.
    pub fn place<'a>(&self, index: usize, inputs: &Inputs<'a>) -> Place<'a> {
        let which = self.cuts.partition_point(|cut| cut.first_part <= index) - 1;
        let (cut, sequence) = (&self.cuts[which], &inputs.sequences[which]);
        let index = index - cut.first_part;
        let (outer, split) = (index / cut.splits, index % cut.splits);
        let (kv_head, block) = (outer / cut.token_blocks, outer % cut.token_blocks);
        let tokens = block * TOKENS..sequence.tokens.min((block + 1) * TOKENS);
        let first_position = sequence.past + tokens.start;
        let first = first_seen(first_position, inputs.window) + split * SPLIT;
        let end = sequence.past + tokens.end;
        Place {
            kv_head,
            tokens: cut.first_token + tokens.start..cut.first_token + tokens.end,
            first_position,
            positions: match cut.splits {
                1 => first..end,
                _ => first..end.min(first + SPLIT),
            },
            blocks: sequence.blocks,
            first_block: first_seen(sequence.past, inputs.window) / BLOCK,
            first_split: split == 0,
            partial: (cut.splits > 1).then(|| cut.partial + index * self.split_len),
        }
    }

    pub fn split_tokens(&self) -> impl Iterator<Item = SplitToken> + '_ {
        let split = self.cuts.iter().filter(|cut| cut.splits > 1);
        split.map(|cut| SplitToken {
            token: cut.first_token,
            splits: cut.splits,
            partial: cut.partial,
        })
    }
}
