//! Where keys and values come from: vectors of a head's part of a block, in
//! rows. Of keys a row is a group of 16, a vector one element of them; of values
//! a row is one of them, a vector 16 of its elements.

use std::ops::Range;

use half::f16;

use super::super::lanes::{LANES, Lanes};
use super::super::tile::prefetch;
use super::{BLOCK, Elements, LINE_GROUP};

/// Rows of vectors.
pub(super) trait Source<L: Lanes>: Copy {
    /// How many rows there are.
    fn rows(self) -> usize;

    /// A vector of a row.
    ///
    /// # Safety
    /// The processor has what `L` stands for, and there is such a vector.
    unsafe fn vector(self, row: usize, i: usize) -> L;
}

/// Numbers as they are.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, T> {
    vectors: &'a [[T; LANES]],
    width: usize,
}

impl<'a, T> Plain<'a, T> {
    /// In rows of `width` vectors.
    pub fn new(numbers: &'a [T], width: usize) -> Self {
        Self {
            vectors: numbers.as_chunks().0,
            width,
        }
    }

    #[inline(always)]
    fn whole_rows(&self) -> usize {
        self.vectors.len() / self.width
    }
}

impl<L: Lanes> Source<L> for Plain<'_, f16> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.whole_rows()
    }

    #[inline(always)]
    unsafe fn vector(self, row: usize, i: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::widen(self.vectors.get_unchecked(row * self.width + i)) }
    }
}

impl<L: Lanes> Source<L> for Plain<'_, f32> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.whole_rows()
    }

    #[inline(always)]
    unsafe fn vector(self, row: usize, i: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(self.vectors.get_unchecked(row * self.width + i)) }
    }
}

/// The scales, and the least values, of the same 16 elements of 64 positions.
pub(super) type Lines = [[f32; BLOCK]; 2];

/// Int8 elements and their lines: of keys if `KEYS`, else of values.
#[derive(Clone, Copy)]
pub(super) struct Lined<'a, const KEYS: bool> {
    elements: Plain<'a, u8>,
    lines: &'a [Lines],
}

impl<'a, const KEYS: bool> Lined<'a, KEYS> {
    /// In rows of `width` vectors.
    ///
    /// # Panics
    /// There are not lines for all of a row.
    pub fn new(elements: &'a [u8], lines: &'a [Lines], width: usize) -> Self {
        let groups = if KEYS { width / LINE_GROUP } else { width };
        assert!(lines.len() >= groups && elements.len() <= BLOCK * groups * LINE_GROUP);
        let elements = Plain::new(elements, width);
        Self { elements, lines }
    }
}

impl<L: Lanes, const KEYS: bool> Source<L> for Lined<'_, KEYS> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.elements.whole_rows()
    }

    #[inline(always)]
    unsafe fn vector(self, row: usize, i: usize) -> L {
        // SAFETY: the caller's promise; there are lines for all of a row, and
        // not more rows than 64 positions make.
        unsafe {
            let at = row * self.elements.width + i;
            let element = L::widen_uint8(self.elements.vectors.get_unchecked(at));
            let [scale, least] = if KEYS {
                let line = self.lines.get_unchecked(i / LINE_GROUP);
                let of = |numbers: &[f32; BLOCK]| L::load(numbers.as_chunks().0.get_unchecked(row));
                [of(&line[0]), of(&line[1])]
            } else {
                let line = self.lines.get_unchecked(i);
                let of = |numbers: &[f32; BLOCK]| L::splat(*numbers.get_unchecked(row));
                [of(&line[0]), of(&line[1])]
            };
            least.plus_product(scale, element)
        }
    }
}

/// The int8 elements of a head's part of a block, and its lines in single
/// precision.
#[inline(always)]
pub(super) fn unpack<'a, 'l>(
    part: &'a [u8],
    dim: usize,
    into: &'l mut [f32],
) -> (&'a [u8], &'l [Lines]) {
    let (elements, lines) = part.split_at(BLOCK * dim);
    for (number, bytes) in into.iter_mut().zip(lines.as_chunks().0) {
        *number = f32::from_bits(u32::from(u16::from_ne_bytes(*bytes)) << 16);
    }
    (elements, into.as_chunks::<BLOCK>().0.as_chunks().0)
}

impl Elements<'_> {
    /// A range of the keys (`side` 0) or of the values, to be fetched.
    #[inline(always)]
    pub(super) fn part(self, side: usize, range: Range<usize>) -> Ahead {
        match self {
            Self::F16(sides) => Ahead::of(&sides[side][range]),
            Self::F32(sides) => Ahead::of(&sides[side][range]),
            Self::Int8(sides) => Ahead::of(&sides[side][range]),
        }
    }
}

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// What is needed soon, to be fetched while something else is computed: left to
/// itself, the processor would wait for every block, as blocks lie anywhere and
/// values are read in columns.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    from: *const u8,
    lines: usize,
}

impl Ahead {
    pub const NOTHING: Self = Self {
        from: std::ptr::null(),
        lines: 0,
    };

    fn of<T>(numbers: &[T]) -> Self {
        Self {
            from: numbers.as_ptr().cast(),
            lines: size_of_val(numbers) / CACHE_LINE,
        }
    }

    /// Asks for some lines from the `first` on, of those there are. A block of half
    /// precision has half as many as there are steps.
    #[inline(always)]
    pub fn fetch(self, first: usize, count: usize) {
        if first + count <= self.lines {
            for line in first..first + count {
                prefetch::<1>(self.from.wrapping_add(line * CACHE_LINE));
            }
        }
    }
}
