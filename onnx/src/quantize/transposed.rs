//! Reads matrices whose rows are inputs by the blocks of inputs that the quantized
//! formats have along their rows, which are outputs.

use std::ops::Range;

use crate::checkpoint::Float;

/// Inputs of a block in most formats.
pub(super) const BLOCK: usize = 32;
/// Outputs that are read at a time: two cache lines of each of 32 rows.
const STRIP: usize = 64;

/// A float matrix `[inputs, outputs]`, little-endian and row-major.
#[derive(Debug, Clone, Copy)]
pub struct Transposed<'a> {
    /// Its elements.
    pub bytes: &'a [u8],
    /// Their type.
    pub float: Float,
    /// Rows, a multiple of 32.
    pub inputs: usize,
    /// Columns.
    pub outputs: usize,
}

impl Transposed<'_> {
    /// Visits the blocks of `B` inputs of some outputs, each with its output, counted
    /// from the first of them, and its place along the inputs. Those of an output come
    /// in order; what the last lacks is zero.
    pub(super) fn blocks<const B: usize>(
        &self,
        outputs: Range<usize>,
        mut visit: impl FnMut(usize, usize, &[f32; B]),
    ) {
        let size = self.float.size();
        let mut tile = [[0.0; STRIP]; B];
        for place in 0..self.inputs.div_ceil(B) {
            let rows = B.min(self.inputs - place * B);
            tile[rows..].fill([0.0; STRIP]);
            for start in outputs.clone().step_by(STRIP) {
                let count = STRIP.min(outputs.end - start);
                for (row, into) in tile[..rows].iter_mut().enumerate() {
                    let at = ((place * B + row) * self.outputs + start) * size;
                    let source = &self.bytes[at..at + count * size];
                    self.float.widen_into(source, &mut into[..count]);
                }
                for column in 0..count {
                    let block = tile.each_ref().map(|row| row[column]);
                    visit(start - outputs.start + column, place, &block);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_visited_in_its_place() {
        visited_in_place::<32>(64);
        visited_in_place::<64>(128);
        // Half of the last block is missing.
        visited_in_place::<64>(160);
    }

    fn visited_in_place<const B: usize>(inputs: usize) {
        let outputs = 150;
        let value = |input: usize, output: usize| (input * 1000 + output) as f32;
        let bytes: Vec<u8> = (0..inputs)
            .flat_map(|i| (0..outputs).flat_map(move |o| value(i, o).to_le_bytes()))
            .collect();
        let matrix = Transposed {
            bytes: &bytes,
            float: Float::F32,
            inputs,
            outputs,
        };
        let mut seen = vec![0; outputs];
        matrix.blocks::<B>(7..150, |output, place, block| {
            assert_eq!(place, seen[output], "in order");
            seen[output] += 1;
            for (i, found) in block.iter().enumerate() {
                let input = place * B + i;
                let expected = if input < inputs {
                    value(input, output + 7)
                } else {
                    0.0
                };
                assert_eq!(*found, expected);
            }
        });
        let (visited, rest) = seen.split_at(143);
        assert!(visited.iter().all(|n| *n == inputs.div_ceil(B)) && rest.iter().all(|n| *n == 0));
    }
}
