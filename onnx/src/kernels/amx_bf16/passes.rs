//! Passes over a chunk, in assembly: what compilers know no tile registers for.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{FACTORS, Factors, PANEL, Piece, SIDE};
use crate::kernels::bf16_tiles::TILE_BLOCK;
use crate::kernels::dense::{self, Int8Matrix};
use crate::kernels::mxfp4::{BLOCK_BYTES, Matrix};
use crate::kernels::tile::prefetch;

/// Factors of a vector.
const VECTOR: usize = 16;
const _: () = assert!(FACTORS.is_multiple_of(VECTOR) && FACTORS * size_of::<u32>() == 128);

/// Weights that tiles are unpacked from.
pub(super) trait Weights {
    /// Bytes of 32 elements.
    const STEP_BYTES: usize;

    /// Rows.
    fn rows(&self) -> usize;

    /// Steps of a row.
    fn steps(&self) -> usize;

    /// The bytes of all rows.
    fn bytes(&self) -> *const u8;

    /// Makes the factors of `piece`, which may be several chunks. Answers whether tiles
    /// can hold its weights.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL; the piece is inside, `into` there.
    unsafe fn factors(&self, piece: &Piece, into: *mut Factors) -> bool;

    /// A row as it is multiplied.
    fn dequantize(&self, row: usize, into: &mut [f32]);

    /// `N` tiles of tokens times a chunk, while `E` tiles a step are unpacked.
    ///
    /// # Safety
    /// Everything that [`Job`] points to is there; this thread has [`Tiles`].
    unsafe fn run<const N: usize, const E: usize>(job: &Job);
}

/// A pass over a chunk: first `unpacking` steps that also unpack tiles of the next
/// chunk, then `plain` ones.
pub(super) struct Job {
    pub(super) unpacking: usize,
    pub(super) plain: usize,
    /// Whether `sums` holds nothing yet.
    pub(super) is_first: bool,
    pub(super) weights: *const u8,
    pub(super) tokens: [*const u16; 2],
    pub(super) sums: *mut f32,
    /// What is unpacked: from its first row, to the next one, with these factors.
    pub(super) source: *const u8,
    pub(super) stride: usize,
    pub(super) factors: *const u32,
    pub(super) unpacked: *mut u8,
    /// What is fetched meanwhile, as much as is unpacked. Any address.
    pub(super) ahead: *const u8,
}

/// Unpacks a row of 32 MXFP4 codes: a table gives their bits for a scale of 2^125,
/// from which the factor takes the rest of the exponent; what is zero stays so.
macro_rules! mxfp4_row {
    ($row:literal) => {
        concat!(
            "vbroadcasti32x4 {z0}, xmmword ptr [{source}]\n",
            "add {source}, {stride}\n",
            "vpsrlvw {z0}, {z0}, {a}\n",
            "vpermw {z0}, {z0}, {b}\n",
            "vpbroadcastd {z1}, dword ptr [{factors} + 128 * ",
            $row,
            "]\n",
            "vpsubusw {z0}, {z0}, {z1}\n",
            "vmovdqa64 zmmword ptr [{unpacked} + 64 * ",
            $row,
            "], {z0}\n",
        )
    };
}

/// Unpacks a row of 32 int8 weights and rounds their products with the factor.
macro_rules! int8_row {
    ($row:literal) => {
        concat!(
            "vpmovzxbd {z0}, xmmword ptr [{source}]\n",
            "vpmovzxbd {z1}, xmmword ptr [{source} + 16]\n",
            "add {source}, {stride}\n",
            "vpsubd {z0}, {z0}, {a}\n",
            "vpsubd {z1}, {z1}, {a}\n",
            "vbroadcastss {z2}, dword ptr [{factors} + 128 * ",
            $row,
            "]\n",
            "vcvtdq2ps {z0}, {z0}\n",
            "vcvtdq2ps {z1}, {z1}\n",
            "vmulps {z0}, {z0}, {z2}\n",
            "vmulps {z1}, {z1}, {z2}\n",
            "vcvtne2ps2bf16 {z0}, {z1}, {z0}\n",
            "vmovdqa64 zmmword ptr [{unpacked} + 64 * ",
            $row,
            "], {z0}\n",
        )
    };
}

/// These rows.
macro_rules! rows {
    ($one:ident $($row:literal)*) => { concat!($($one!($row),)* "") };
}

/// A step of two tiles of tokens; what is to be unpacked stands between products.
macro_rules! two {
    ($a:expr, $b:expr, $c:expr, $d:expr) => {
        concat!(
            "tileloadd tmm4, [{weights} + {row} * 1]\n",
            "tileloaddt1 tmm6, [{first} + {row} * 1]\n",
            $a,
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tileloadd tmm5, [{weights} + {row} * 1 + 1024]\n",
            $b,
            "tdpbf16ps tmm1, tmm5, tmm6\n",
            "tileloaddt1 tmm7, [{second} + {row} * 1]\n",
            $c,
            "tdpbf16ps tmm2, tmm4, tmm7\n",
            $d,
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            "add {weights}, 2048\n",
            "add {first}, 1024\n",
            "add {second}, 1024\n",
        )
    };
}

/// A step of one tile of tokens.
macro_rules! one {
    ($a:expr, $b:expr, $c:expr, $d:expr) => {
        concat!(
            "tileloadd tmm4, [{weights} + {row} * 1]\n",
            "tileloaddt1 tmm6, [{first} + {row} * 1]\n",
            $a,
            $b,
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tileloadd tmm5, [{weights} + {row} * 1 + 1024]\n",
            $c,
            $d,
            "tdpbf16ps tmm1, tmm5, tmm6\n",
            "add {weights}, 2048\n",
            "add {first}, 1024\n",
        )
    };
}

/// A step of no tokens.
macro_rules! none {
    ($a:expr, $b:expr, $c:expr, $d:expr) => {
        concat!($a, $b, $c, $d)
    };
}

/// A step, with a tile of 16 rows unpacked, with two, or with none.
macro_rules! step {
    ($tokens:ident, $row:ident, 1) => {
        $tokens!(
            rows!($row 0 1 2 3),
            rows!($row 4 5 6 7),
            rows!($row 8 9 10 11),
            rows!($row 12 13 14 15)
        )
    };
    ($tokens:ident, $row:ident, 2) => {
        $tokens!(
            rows!($row 0 1 2 3 4 5 6 7),
            rows!($row 8 9 10 11 12 13 14 15),
            rows!($row 16 17 18 19 20 21 22 23),
            rows!($row 24 25 26 27 28 29 30 31)
        )
    };
    ($tokens:ident, 0) => {
        $tokens!("", "", "", "")
    };
}

/// Sums of the first tile of tokens, or of two.
macro_rules! sums {
    (none, $load:ident) => { "" };
    (one, tilezero) => { "tilezero tmm0\ntilezero tmm1\n" };
    (two, tilezero) => { "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3\n" };
    (one, tileloadd) => {
        "tileloadd tmm0, [{sums} + {row} * 1]\ntileloadd tmm1, [{sums} + {row} * 1 + 1024]\n"
    };
    (two, tileloadd) => {
        "tileloadd tmm0, [{sums} + {row} * 1]\ntileloadd tmm1, [{sums} + {row} * 1 + 1024]\n\
         tileloadd tmm2, [{sums} + {row} * 1 + 2048]\ntileloadd tmm3, [{sums} + {row} * 1 + 3072]\n"
    };
    (one, tilestored) => {
        "tilestored [{sums} + {row} * 1], tmm0\ntilestored [{sums} + {row} * 1 + 1024], tmm1\n"
    };
    (two, tilestored) => {
        "tilestored [{sums} + {row} * 1], tmm0\ntilestored [{sums} + {row} * 1 + 1024], tmm1\n\
         tilestored [{sums} + {row} * 1 + 2048], tmm2\ntilestored [{sums} + {row} * 1 + 3072], tmm3\n"
    };
}

/// The assembly of [`Weights::run`].
macro_rules! run {
    ($job:expr, $tokens:ident, $row:ident, $tiles:tt, $a:expr, $b:expr) => {{
        let job: &Job = $job;
        let span = SIDE * $tiles * job.stride - Self::STEP_BYTES;
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "# {weights} {first} {second} {sums} {row} {a} {b} {z0} {z1} {z2}",
                "cmp byte ptr [{job} + {is_first}], 0",
                "je 2f",
                sums!($tokens, tilezero),
                "jmp 3f",
                "2:",
                sums!($tokens, tileloadd),
                "3:",
                "mov {n}, qword ptr [{job} + {unpacking}]",
                "test {n}, {n}",
                "jz 5f",
                "4:",
                step!($tokens, $row, $tiles),
                ".rept {lines}",
                "prefetcht1 [{ahead}]",
                "add {ahead}, 64",
                ".endr",
                "add {factors}, 4",
                "add {unpacked}, 2048",
                "sub {source}, {span}",
                "dec {n}",
                "jnz 4b",
                "5:",
                "mov {n}, qword ptr [{job} + {plain}]",
                "test {n}, {n}",
                "jz 7f",
                "6:",
                step!($tokens, 0),
                "dec {n}",
                "jnz 6b",
                "7:",
                sums!($tokens, tilestored),
                job = in(reg) job,
                is_first = const offset_of!(Job, is_first),
                unpacking = const offset_of!(Job, unpacking),
                plain = const offset_of!(Job, plain),
                lines = const SIDE * $tiles * Self::STEP_BYTES / 64,
                n = out(reg) _,
                weights = inout(reg) job.weights => _,
                first = inout(reg) job.tokens[0] => _,
                second = inout(reg) job.tokens[1] => _,
                sums = in(reg) job.sums,
                row = in(reg) 64usize,
                source = inout(reg) job.source => _,
                stride = in(reg) job.stride,
                span = in(reg) span,
                factors = inout(reg) job.factors => _,
                unpacked = inout(reg) job.unpacked => _,
                ahead = inout(reg) job.ahead => _,
                a = in(zmm_reg) $a,
                b = in(zmm_reg) $b,
                z0 = out(zmm_reg) _, z1 = out(zmm_reg) _, z2 = out(zmm_reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }};
}

/// [`Weights::run`] for each number of tiles.
macro_rules! run_any {
    ($job:expr, $n:ident, $e:ident, $row:ident, $a:expr, $b:expr) => {
        match ($n, $e) {
            (0, 1) => run!($job, none, $row, 1, $a, $b),
            (1, 1) => run!($job, one, $row, 1, $a, $b),
            (2, 1) => run!($job, two, $row, 1, $a, $b),
            (0, 2) => run!($job, none, $row, 2, $a, $b),
            (1, 2) => run!($job, one, $row, 2, $a, $b),
            (2, 2) => run!($job, two, $row, 2, $a, $b),
            _ => unreachable!("up to two tiles"),
        }
    };
}

impl Weights for Matrix<'_> {
    const STEP_BYTES: usize = BLOCK_BYTES;

    fn rows(&self) -> usize {
        Matrix::rows(self)
    }

    fn steps(&self) -> usize {
        self.row_blocks()
    }

    fn bytes(&self) -> *const u8 {
        self.blocks().as_ptr()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn factors(&self, piece: &Piece, into: *mut Factors) -> bool {
        let mut largest = _mm_setzero_si128();
        for row in 0..PANEL {
            let scales = &self.row_scales(piece.first_row + row)[piece.steps.clone()];
            prefetch::<2>(scales.as_ptr().wrapping_add(PANEL * self.row_blocks()));
            for (i, scales) in scales.chunks(VECTOR).enumerate() {
                let mask = !0 >> (VECTOR - scales.len());
                // SAFETY: the mask keeps the load inside; a row has so many factors.
                unsafe {
                    let into = (&raw mut (*into).0[row]).cast::<__m512i>().add(i);
                    let scales = _mm_maskz_loadu_epi8(mask, scales.as_ptr().cast());
                    largest = _mm_max_epu8(largest, scales);
                    let scales = _mm_max_epu8(scales, _mm_set1_epi8(SMALLEST as i8));
                    let less = _mm_subs_epu8(_mm_set1_epi8(LARGEST as i8), scales);
                    let less = _mm512_cvtepu8_epi32(less);
                    let twice = _mm512_or_si512(
                        _mm512_slli_epi32::<7>(less),
                        _mm512_slli_epi32::<23>(less),
                    );
                    _mm512_store_si512(into, twice);
                }
            }
        }
        let too_large = _mm_cmpgt_epu8_mask(largest, _mm_set1_epi8(LARGEST as i8));
        too_large == 0
    }

    fn dequantize(&self, row: usize, into: &mut [f32]) {
        self.dequantize_row(row, into);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn run<const N: usize, const E: usize>(job: &Job) {
        // SAFETY: the table has 32 elements.
        let table = unsafe { _mm512_loadu_si512(BITS.as_ptr().cast()) };
        let shifts = _mm512_mullo_epi16(
            _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0),
            _mm512_set1_epi64(4),
        );
        // The same in all four words of 64 bits.
        let shifts = _mm512_shuffle_epi8(
            shifts,
            _mm512_broadcast_i32x4(_mm_setr_epi8(
                0, 1, 0, 1, 0, 1, 0, 1, 8, 9, 8, 9, 8, 9, 8, 9,
            )),
        );
        run_any!(job, N, E, mxfp4_row, shifts, table);
    }
}

/// Scales that the table's exponents can be brought to. Smaller ones count as the
/// smallest: what they scale is below 2^-122 then as before.
const SMALLEST: u8 = 2;
const LARGEST: u8 = 252;

/// bf16 of each code times 2^(252 - 127), twice.
static BITS: [u16; 32] = bits();

const fn bits() -> [u16; 32] {
    // Exponents, and the highest bit below them.
    const MAGNITUDES: [u16; 8] = [
        0,
        (LARGEST as u16 - 1) << 7,
        (LARGEST as u16) << 7,
        (LARGEST as u16) << 7 | 64,
        (LARGEST as u16 + 1) << 7,
        (LARGEST as u16 + 1) << 7 | 64,
        (LARGEST as u16 + 2) << 7,
        (LARGEST as u16 + 2) << 7 | 64,
    ];
    let mut bits = [0; 32];
    let mut code = 1;
    while code < 8 {
        bits[code] = MAGNITUDES[code];
        bits[code + 8] = 0x8000 | MAGNITUDES[code];
        bits[code + 16] = bits[code];
        bits[code + 24] = bits[code + 8];
        code += 1;
    }
    bits
}

impl Weights for Int8Matrix<'_> {
    const STEP_BYTES: usize = TILE_BLOCK;

    fn rows(&self) -> usize {
        Int8Matrix::rows(self)
    }

    fn steps(&self) -> usize {
        self.row_blocks() * STEPS
    }

    fn bytes(&self) -> *const u8 {
        self.row_weights(0).as_ptr()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn factors(&self, piece: &Piece, into: *mut Factors) -> bool {
        let places = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        // The first step may be the second one of its block.
        let odd = (piece.steps.start % STEPS) as i32;
        let shift = _mm512_setr_epi32(
            0, odd, 0, odd, 0, odd, 0, odd, 0, odd, 0, odd, 0, odd, 0, odd,
        );
        let places = _mm512_add_epi32(places, shift);
        let blocks = piece.steps.start / STEPS..piece.steps.end.div_ceil(STEPS);
        for row in 0..PANEL {
            let scales = &self.row_scales(piece.first_row + row)[blocks.clone()];
            prefetch::<2>(
                scales
                    .as_ptr()
                    .wrapping_add(PANEL * self.row_blocks())
                    .cast(),
            );
            for i in 0..piece.steps.len().div_ceil(VECTOR) {
                let scales = &scales[i * VECTOR / STEPS..];
                let mask = !0 >> (VECTOR - scales.len().min(VECTOR));
                // SAFETY: the mask keeps the load inside; a row has so many factors.
                unsafe {
                    let into = (&raw mut (*into).0[row]).cast::<f32>().add(i * VECTOR);
                    let scales = _mm512_maskz_loadu_ps(mask, scales.as_ptr());
                    _mm512_store_ps(into, _mm512_permutexvar_ps(places, scales));
                }
            }
        }
        true
    }

    fn dequantize(&self, row: usize, into: &mut [f32]) {
        dense::round_row(self, row, into);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run<const N: usize, const E: usize>(job: &Job) {
        let zero = _mm512_set1_epi32(i32::from(dense::ZERO_POINT));
        run_any!(job, N, E, int8_row, zero, zero);
    }
}

/// Steps of a block of int8 weights.
const STEPS: usize = dense::BLOCK / TILE_BLOCK;
