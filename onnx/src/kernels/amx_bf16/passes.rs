//! Passes over a chunk, in assembly: what compilers know no tile registers for.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{FACTORS, Factors, PANEL, Piece, SIDE};
use crate::kernels::bf16_tiles::TILE_BLOCK;
use crate::kernels::dense::{self, Int8Matrix};
use crate::kernels::mxfp4::{self, BLOCK_BYTES, DOUBLED_CODES, Matrix};
use crate::kernels::tile::prefetch;

/// Factors of a vector.
const VECTOR: usize = 16;
const _: () = assert!(FACTORS.is_multiple_of(VECTOR) && FACTORS * size_of::<u32>() == 128);

/// Weights that tiles are unpacked from.
pub(super) trait Weights {
    /// Bytes of 32 elements.
    const STEP_BYTES: usize;
    /// Bytes of their factor.
    const FACTOR_BYTES: usize;

    /// Rows.
    fn rows(&self) -> usize;

    /// Steps of a row.
    fn steps(&self) -> usize;

    /// The bytes of all rows.
    fn bytes(&self) -> *const u8;

    /// Whether tiles can hold the weights of the panel that begins at this row.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL.
    unsafe fn fit(&self, first_row: usize) -> bool;

    /// Makes the factors of `piece`, which may be several chunks, where they are not
    /// read as they lie.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL; the piece is inside, `into` there.
    unsafe fn factors(&self, piece: &Piece, into: *mut Factors);

    /// Where the factor of `row` and `step` lies, of which `made` is the place in what
    /// [`factors`](Self::factors) made, and how far behind it the next row's.
    fn factor(&self, row: usize, step: usize, made: *const u32) -> (*const u8, usize);

    /// A row as it is multiplied.
    fn dequantize(&self, row: usize, into: &mut [f32]);

    /// `N` tiles of tokens times a chunk, while `E` tiles a step are unpacked. Counts the
    /// job's steps down.
    ///
    /// # Safety
    /// Everything that [`Job`] points to is there; this thread has [`Tiles`].
    unsafe fn run<const N: usize, const E: usize>(job: &mut Job);
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
    pub(super) factors: *const u8,
    pub(super) factor_stride: usize,
    pub(super) unpacked: *mut u8,
    /// From behind the last row of a step to the next step's first; [`Weights::run`]
    /// sets them.
    pub(super) span: usize,
    pub(super) factor_span: usize,
    /// What is fetched meanwhile, as much as is unpacked. Any address.
    pub(super) ahead: *const u8,
}

/// Unpacks a row of 32 MXFP4 codes: the table of their scale gives their bits. Rows
/// find the codes' bits in turns by `$by`: two instructions for two ports.
macro_rules! mxfp4_row {
    ($row:literal, $by:literal) => {
        concat!(
            "movzx {t:e}, byte ptr [{factors}]\n",
            "vbroadcasti32x4 {z0}, xmmword ptr [{source}]\n",
            "add {factors}, {factor_stride}\n",
            "add {source}, {stride}\n",
            "shl {t:e}, 6\n",
            $by,
            "vpermw {z0}, {z0}, zmmword ptr [{table} + {t}]\n",
            "vmovdqa64 zmmword ptr [{unpacked} + 64 * ",
            $row,
            "], {z0}\n",
        )
    };
    ($even:literal $odd:literal) => {
        concat!(
            mxfp4_row!($even, "vpsrlvw {z0}, {z0}, {a}\n"),
            mxfp4_row!($odd, "vpmultishiftqb {z0}, {b}, {z0}\n"),
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
            "vbroadcastss {z2}, dword ptr [{factors}]\n",
            "add {factors}, {factor_stride}\n",
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
    ($even:literal $odd:literal) => {
        concat!(int8_row!($even), int8_row!($odd))
    };
}

/// These rows.
macro_rules! rows {
    ($two:ident $($even:literal $odd:literal)*) => { concat!($($two!($even $odd),)* "") };
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
    (none, $instruction:ident) => {
        ""
    };
    (one, tilezero) => {
        "tilezero tmm0\ntilezero tmm1\n"
    };
    (two, tilezero) => {
        "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3\n"
    };
    (one, tileloadd) => {
        "tileloadd tmm0, [{t} + {row} * 1]\ntileloadd tmm1, [{t} + {row} * 1 + 1024]\n"
    };
    (two, tileloadd) => {
        "tileloadd tmm0, [{t} + {row} * 1]\ntileloadd tmm1, [{t} + {row} * 1 + 1024]\n\
         tileloadd tmm2, [{t} + {row} * 1 + 2048]\ntileloadd tmm3, [{t} + {row} * 1 + 3072]\n"
    };
    (one, tilestored) => {
        "tilestored [{t} + {row} * 1], tmm0\ntilestored [{t} + {row} * 1 + 1024], tmm1\n"
    };
    (two, tilestored) => {
        "tilestored [{t} + {row} * 1], tmm0\ntilestored [{t} + {row} * 1 + 1024], tmm1\n\
         tilestored [{t} + {row} * 1 + 2048], tmm2\ntilestored [{t} + {row} * 1 + 3072], tmm3\n"
    };
}

/// The assembly of [`Weights::run`]. What is rarely needed stays in the job, since
/// registers are few.
macro_rules! run {
    ($job:expr, $tokens:ident, $row:ident, $tiles:tt, $a:expr, $b:expr, $table:expr) => {{
        let job: &mut Job = $job;
        job.span = SIDE * $tiles * job.stride - Self::STEP_BYTES;
        job.factor_span = SIDE * $tiles * job.factor_stride - Self::FACTOR_BYTES;
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "# {weights} {first} {second} {row} {t} {table} {a} {b} {z0} {z1} {z2}",
                "mov {t}, qword ptr [{job} + {sums}]",
                "cmp byte ptr [{job} + {is_first}], 0",
                "je 2f",
                sums!($tokens, tilezero),
                "jmp 3f",
                "2:",
                sums!($tokens, tileloadd),
                "3:",
                "cmp qword ptr [{job} + {unpacking}], 0",
                "jz 5f",
                "4:",
                step!($tokens, $row, $tiles),
                ".rept {lines}",
                "prefetcht1 [{ahead}]",
                "add {ahead}, 64",
                ".endr",
                "sub {factors}, qword ptr [{job} + {factor_span}]",
                "add {unpacked}, 2048",
                "sub {source}, qword ptr [{job} + {span}]",
                "dec qword ptr [{job} + {unpacking}]",
                "jnz 4b",
                "5:",
                "cmp qword ptr [{job} + {plain}], 0",
                "jz 7f",
                "6:",
                step!($tokens, 0),
                "dec qword ptr [{job} + {plain}]",
                "jnz 6b",
                "7:",
                "mov {t}, qword ptr [{job} + {sums}]",
                sums!($tokens, tilestored),
                job = in(reg) &raw mut *job,
                sums = const offset_of!(Job, sums),
                is_first = const offset_of!(Job, is_first),
                unpacking = const offset_of!(Job, unpacking),
                plain = const offset_of!(Job, plain),
                span = const offset_of!(Job, span),
                factor_span = const offset_of!(Job, factor_span),
                lines = const SIDE * $tiles * Self::STEP_BYTES / 64,
                weights = inout(reg) job.weights => _,
                first = inout(reg) job.tokens[0] => _,
                second = inout(reg) job.tokens[1] => _,
                row = in(reg) 64usize,
                source = inout(reg) job.source => _,
                stride = in(reg) job.stride,
                factors = inout(reg) job.factors => _,
                factor_stride = in(reg) job.factor_stride,
                unpacked = inout(reg) job.unpacked => _,
                ahead = inout(reg) job.ahead => _,
                table = in(reg) $table,
                t = out(reg) _,
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
    ($job:expr, $n:ident, $e:ident, $row:ident, $a:expr, $b:expr, $table:expr) => {
        match ($n, $e) {
            (0, 1) => run!($job, none, $row, 1, $a, $b, $table),
            (1, 1) => run!($job, one, $row, 1, $a, $b, $table),
            (2, 1) => run!($job, two, $row, 1, $a, $b, $table),
            (0, 2) => run!($job, none, $row, 2, $a, $b, $table),
            (1, 2) => run!($job, one, $row, 2, $a, $b, $table),
            (2, 2) => run!($job, two, $row, 2, $a, $b, $table),
            _ => unreachable!("up to two tiles"),
        }
    };
}

impl Weights for Matrix<'_> {
    const STEP_BYTES: usize = BLOCK_BYTES;
    const FACTOR_BYTES: usize = 1;

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
    unsafe fn fit(&self, first_row: usize) -> bool {
        let first = first_row * self.row_blocks();
        let scales = &self.scales()[first..][..PANEL * self.row_blocks()];
        for line in scales.chunks(64) {
            prefetch::<2>(line.as_ptr().wrapping_add(scales.len()));
        }
        scales.iter().fold(0, |largest, &scale| largest.max(scale)) <= LARGEST
    }

    unsafe fn factors(&self, _: &Piece, _: *mut Factors) {}

    fn factor(&self, row: usize, step: usize, _: *const u32) -> (*const u8, usize) {
        let stride = self.row_blocks();
        (self.scales()[row * stride + step..].as_ptr(), stride)
    }

    fn dequantize(&self, row: usize, into: &mut [f32]) {
        self.dequantize_row(row, into);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn run<const N: usize, const E: usize>(job: &mut Job) {
        let of_lanes = |lanes: [i64; 4]| {
            let [a, b, c, d] = lanes;
            _mm512_setr_epi64(a, a, b, b, c, c, d, d)
        };
        // Each 16 bytes take another nibble of each 16 bits: by a shift of all 16 bits,
        // or as the eight bits that begin there.
        let shifts = of_lanes([0, 4, 8, 12].map(|shift| shift * 0x0001_0001_0001_0001));
        let windows = of_lanes(
            [0, 4, 8, 12].map(|shift| 0x3030_2020_1010_0000 + shift * 0x0101_0101_0101_0101),
        );
        run_any!(job, N, E, mxfp4_row, shifts, windows, BITS.0.as_ptr());
    }
}

/// The largest scale with which no code is beyond bf16.
const LARGEST: u8 = 252;

/// bf16 of each code, for each scale: twice, since the bit above a code may be any.
/// Tiles take denormal numbers for zero. Scales beyond the largest give zeros, whose
/// sums are of no use.
#[repr(align(64))]
struct Bits([[u16; 32]; 256]);

static BITS: Bits = bits();

const fn bits() -> Bits {
    let mut bits = [[0; 32]; 256];
    let mut scale = 0;
    while scale <= LARGEST as usize {
        let mut code = 0;
        while code < 32 {
            let value = DOUBLED_CODES[code % 16] as f32 / 2.0 * mxfp4::scale_value(scale as u8);
            bits[scale][code] = (value.to_bits() >> 16) as u16;
            code += 1;
        }
        scale += 1;
    }
    Bits(bits)
}

impl Weights for Int8Matrix<'_> {
    const STEP_BYTES: usize = TILE_BLOCK;
    const FACTOR_BYTES: usize = size_of::<f32>();

    fn rows(&self) -> usize {
        Int8Matrix::rows(self)
    }

    fn steps(&self) -> usize {
        self.row_blocks() * STEPS
    }

    fn bytes(&self) -> *const u8 {
        self.row_weights(0).as_ptr()
    }

    unsafe fn fit(&self, _: usize) -> bool {
        true
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn factors(&self, piece: &Piece, into: *mut Factors) {
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
    }

    fn factor(&self, _: usize, _: usize, made: *const u32) -> (*const u8, usize) {
        (made.cast(), size_of::<[u32; FACTORS]>())
    }

    fn dequantize(&self, row: usize, into: &mut [f32]) {
        dense::round_row(self, row, into);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run<const N: usize, const E: usize>(job: &mut Job) {
        let zero = _mm512_set1_epi32(i32::from(dense::ZERO_POINT));
        run_any!(job, N, E, int8_row, zero, zero, std::ptr::null::<u8>());
    }
}

/// Steps of a block of int8 weights.
const STEPS: usize = dense::BLOCK / TILE_BLOCK;
