//! Every kernel against the scalar one, and the scalar one against float64.

use half::bf16;
use proptest::prelude::*;

use super::activations::Int8Rows;
use super::bf16_tiles::{Bf16Products, Bf16Tiles, Order, TILE_TOKENS, TokensAt};
use super::mxfp4::{BLOCK, BLOCK_BYTES, DOUBLED_CODES, Matrix};
use super::portable::SwiGlu;
use super::{Isa, KernelSet, kernel};

/// Numbers without a pattern, the same for the same seed (splitmix64).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    pub(super) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Weights and activations of a product.
#[derive(Debug)]
struct Case {
    rows: usize,
    k: usize,
    /// Begins with `skew` bytes that are not part of the matrix, and ends exactly.
    blocks: Vec<u8>,
    scales: Vec<u8>,
    skew: usize,
    x: Vec<f32>,
    tokens: Vec<u32>,
    range: std::ops::Range<usize>,
}

/// What exponents a case uses.
#[derive(Clone, Copy, Debug)]
enum Exponents {
    Usual,
    All,
}

impl Case {
    fn new(shape: (usize, usize, usize), exponents: Exponents, seed: u64) -> Self {
        let (rows, row_blocks, tokens) = shape;
        let mut random = Random(seed);
        let skew = random.below(64);
        let k = row_blocks * BLOCK;
        let mut blocks = random.bytes(skew + rows * row_blocks * BLOCK_BYTES);
        if random.below(4) == 0 {
            // A row of zeros, negative ones included, and one of the largest codes.
            let zeros = skew + random.below(rows) * row_blocks * BLOCK_BYTES;
            blocks[zeros..][..row_blocks * BLOCK_BYTES].fill(0x80);
            let large = skew + random.below(rows) * row_blocks * BLOCK_BYTES;
            blocks[large..][..row_blocks * BLOCK_BYTES].fill(0xf7);
        }
        let scales = (0..skew + rows * row_blocks)
            .map(|_| match exponents {
                Exponents::Usual => 110 + random.below(20) as u8,
                // Up to 2^100: products of larger ones leave float32.
                Exponents::All => random.below(228) as u8,
            })
            .collect();
        let all_tokens = tokens + random.below(3);
        let mut x = random.floats(all_tokens * k);
        for x in x.chunks_exact_mut(BLOCK) {
            match random.below(12) {
                0 => x.fill(0.0),
                1 => x.fill(-1.0),
                2 => x[0] = 1000.0,
                _ => {}
            }
        }
        let first = random.below(rows);
        let range = first..first + 1 + random.below(rows - first);
        Self {
            rows,
            k,
            blocks,
            scales,
            skew,
            x,
            tokens: (0..tokens)
                .map(|_| random.below(all_tokens) as u32)
                .collect(),
            range,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        let (blocks, scales) = (&self.blocks[self.skew..], &self.scales[self.skew..]);
        Matrix::new(blocks, scales, self.rows, self.k).unwrap()
    }

    fn int8(&self, kernel: &dyn KernelSet) -> Vec<f32> {
        let mut x = Int8Rows::default();
        x.reset(self.x.len() / self.k, self.k);
        let writer = x.writer();
        for (row, values) in self.x.chunks_exact(self.k).enumerate() {
            // SAFETY: one thread writes.
            unsafe { kernel.quantize(values, &writer, row, 0) };
        }
        // Old content must not shine through.
        let mut out = vec![f32::NAN; self.tokens.len() * self.range.len()];
        kernel.int8(
            &self.matrix(),
            self.range.clone(),
            &x,
            &self.tokens,
            &mut out,
        );
        out
    }

    fn float32(&self, kernel: &dyn KernelSet) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.tokens.len() * self.range.len()];
        let (w, rows) = (self.matrix(), self.range.clone());
        kernel.float32(&w, rows, &self.x, &self.tokens, &mut out);
        out
    }

    /// Of each kernel with products of bf16.
    fn bf16(&self) -> Vec<(&'static str, Vec<f32>)> {
        let row = |&token: &u32| &self.x[token as usize * self.k..][..self.k];
        let rows: Vec<&[f32]> = self.tokens.iter().map(row).collect();
        let product = |(name, kernel): (&'static str, &dyn Bf16Products)| {
            let mut x = Bf16Tiles::default();
            // A tile before the ones in question.
            let tiles = 1 + rows.len().div_ceil(TILE_TOKENS);
            x.reset(tiles, self.k, Order::Nibbles);
            let (blocks, writer) = (x.blocks(), x.writer());
            for (i, rows) in rows.chunks(TILE_TOKENS).enumerate() {
                // SAFETY: one thread writes.
                unsafe { kernel.pack(rows, &writer, 1 + i, 0..blocks) };
            }
            for (token, row) in rows.iter().enumerate() {
                for (i, &value) in row.iter().enumerate() {
                    let packed = x.element(1 + token / TILE_TOKENS, token % TILE_TOKENS, i);
                    let expected = bf16::from_f32(value).to_f32();
                    assert!(
                        packed == expected || packed.is_nan() && value.is_nan(),
                        "{name}"
                    );
                }
            }
            // Old content must not shine through.
            let mut out = vec![f32::NAN; rows.len() * self.range.len()];
            let at = TokensAt {
                tile: 1,
                len: rows.len(),
            };
            kernel.experts(&self.matrix(), self.range.clone(), &x, at, &mut out);
            (name, out)
        };
        bf16_kernels().into_iter().map(product).collect()
    }

    /// In float64: each product and the sum of its terms' magnitudes.
    fn exact(&self, activation: impl Fn(usize, usize) -> f64) -> Vec<(f64, f64)> {
        let w = self.matrix();
        let mut out = Vec::new();
        for &token in &self.tokens {
            for row in self.range.clone() {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for i in 0..self.k {
                    let byte = w.row_bytes(row)[i / 2];
                    let code = if i % 2 == 0 { byte & 15 } else { byte >> 4 };
                    let value = f64::from(DOUBLED_CODES[usize::from(code)]) / 2.0;
                    let scale = i32::from(w.row_scales(row)[i / BLOCK]) - 127;
                    let term = value * 2f64.powi(scale) * activation(token as usize, i);
                    sum += term;
                    magnitude += term.abs();
                }
                out.push((sum, magnitude));
            }
        }
        out
    }
}

fn assert_close(got: &[f32], exact: &[(f64, f64)], what: &str) {
    assert_eq!(got.len(), exact.len());
    for (i, (&got, &(exact, magnitude))) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(got) - exact).abs();
        // The last term: below 2^-126 float32 loses bits.
        assert!(
            error <= 4e-6 * magnitude + 1e-40,
            "{what} at {i}: {got} instead of {exact} (terms sum to {magnitude})"
        );
    }
}

/// All kernels of this processor, and AVX-VNNI's code over AVX-512's instruction.
pub(super) fn kernels() -> impl Iterator<Item = &'static dyn KernelSet> {
    let kernels = Isa::ALL.into_iter().filter_map(kernel);
    #[cfg(target_arch = "x86_64")]
    let kernels = kernels.chain(super::avx2::detect::<super::avx2_products::Vnni<false>>());
    kernels
}

/// Who emulates a processor says which kernels it must have.
#[test]
fn expected_kernels_are_here() {
    if let Ok(expected) = std::env::var("GPTOSS_EXPECTED_KERNELS") {
        let names: Vec<_> = kernels().map(|kernel| kernel.isa().name()).collect();
        assert_eq!(names.join(","), expected);
    }
}

fn compare(case: &Case) {
    let quantized = Int8Rows::from_rows(&case.x, case.k);
    let int8 = case.exact(|token, i| {
        let step = 2.0 * f64::from(quantized.half_scales(token)[i / BLOCK]);
        f64::from(quantized.element(token, i)) * step
    });
    let float32 = case.exact(|token, i| f64::from(case.x[token * case.k + i]));
    for kernel in kernels() {
        let name = kernel.isa().name();
        assert_close(&case.int8(kernel), &int8, &format!("{name} int8"));
        assert_close(&case.float32(kernel), &float32, &format!("{name} float32"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn kernels_agree_with_float64(
        rows in 1usize..120, row_blocks in 1usize..24, tokens in 1usize..20, seed in any::<u64>()
    ) {
        compare(&Case::new((rows, row_blocks, tokens), Exponents::Usual, seed));
    }

    #[test]
    fn all_exponents_agree_with_float64(
        rows in 1usize..60, row_blocks in 1usize..20, tokens in 1usize..12, seed in any::<u64>()
    ) {
        compare(&Case::new((rows, row_blocks, tokens), Exponents::All, seed));
    }
}

#[test]
fn full_width_agrees() {
    for (rows, tokens) in [(50, 1), (49, 8), (113, 9), (96, 33)] {
        compare(&Case::new((rows, 90, tokens), Exponents::Usual, 7));
        compare(&Case::new((rows, 89, tokens), Exponents::All, 8));
    }
}

#[test]
fn a_nan_scale_spoils_its_row_alone() {
    let mut case = Case::new((40, 5, 1), Exponents::Usual, 3);
    let place = case.skew + 20 * 5 + 4;
    case.scales[place] = 255;
    case.range = 0..40;
    for tokens in [vec![0], vec![0; 12]] {
        case.tokens = tokens;
        for kernel in kernels() {
            for out in [case.int8(kernel), case.float32(kernel)] {
                for (i, value) in out.iter().enumerate() {
                    let name = kernel.isa().name();
                    assert_eq!(value.is_nan(), i % 40 == 20, "{name}, element {i}");
                }
            }
        }
    }
}

#[test]
fn what_tiles_cannot_hold_is_not_lost() {
    // A scale of NaN, one that leads beyond float32, and an activation of NaN.
    let mut case = Case::new((100, 9, 37), Exponents::Usual, 3);
    case.range = 0..100;
    let place = |row: usize, block: usize| case.skew + row * 9 + block;
    let (nan, large) = (place(20, 4), place(70, 8));
    (case.scales[nan], case.scales[large]) = (255, 254);
    let blocks = case.skew + (70 * 9 + 8) * BLOCK_BYTES;
    case.blocks[blocks..][..BLOCK_BYTES].fill(0x77);
    for (i, token) in case.tokens.iter_mut().enumerate() {
        *token = u32::from(i == 33);
    }
    case.x.truncate(case.k);
    case.x.extend([1.0; 9 * BLOCK]);
    case.x[0] = f32::NAN;
    for (name, out) in case.bf16() {
        for (i, value) in out.iter().enumerate() {
            let (token, row) = (i / 100, i % 100);
            let is_finite = token == 33 && row != 20 && row != 70;
            assert_eq!(value.is_finite(), is_finite, "{name}: {value} at {i}");
            assert!(
                value.is_nan() || is_finite || row == 70,
                "{name}: {value} at {i}"
            );
        }
    }
}

#[test]
fn elementwise_loops_agree() {
    let mut random = Random(11);
    for len in [1, 7, 32, 96, 1440] {
        let gate_up: Vec<f32> = random.floats(2 * len).iter().map(|x| x * 12.0).collect();
        let bias: Vec<bf16> = random
            .floats(2 * len)
            .into_iter()
            .map(bf16::from_f32)
            .collect();
        let run = |kernel: &dyn KernelSet| {
            let mut out = vec![0.5; len];
            kernel.swiglu(&gate_up, &bias, SwiGlu::default(), &mut out);
            let glu = out.clone();
            kernel.add_weighted(&gate_up[..len], &bias[..len], 0.3, &mut out);
            (glu, out)
        };
        let (glu, sum) = run(kernel(Isa::Scalar).unwrap());
        for kernel in kernels() {
            let (g, s) = run(kernel);
            for (a, b) in g.iter().chain(&s).zip(glu.iter().chain(&sum)) {
                assert!(
                    (a - b).abs() <= 2e-6 * b.abs().max(1.0),
                    "{}",
                    kernel.isa().name()
                );
            }
        }
    }
}

#[test]
fn quantization_is_the_same_everywhere() {
    let mut random = Random(5);
    let mut x: Vec<f32> = (0..7 * 160)
        .map(|i| random.float() * 10f32.powi(i / 40 - 14))
        .collect();
    x[40] = f32::NAN;
    x[200] = f32::NEG_INFINITY;
    x[320..352].fill(0.0);
    (x[400], x[401]) = (f32::MAX, -f32::MAX);
    let expected = Int8Rows::from_rows(&x, 160);
    for kernel in kernels() {
        let mut rows = Int8Rows::default();
        rows.reset(7, 160);
        let writer = rows.writer();
        for (row, x) in x.chunks_exact(160).enumerate() {
            // SAFETY: one thread writes.
            unsafe { kernel.quantize(x, &writer, row, 0) };
        }
        for row in 0..7 {
            assert_eq!(
                rows.data(row),
                expected.data(row),
                "{}",
                kernel.isa().name()
            );
            let bits = |rows: &Int8Rows| {
                rows.half_scales(row)
                    .iter()
                    .map(|s| s.to_bits())
                    .collect::<Vec<_>>()
            };
            assert_eq!(bits(&rows), bits(&expected));
            assert_eq!(rows.corrections(row), expected.corrections(row));
            assert_eq!(rows.lane_corrections(row), expected.lane_corrections(row));
        }
    }
}

/// bf16 tiles, and the reference of their products.
struct Reference;

impl super::bf16_tiles::Bf16Products for Reference {
    fn experts_from(&self) -> usize {
        1
    }

    fn dense_from(&self) -> usize {
        1
    }
}

/// The kernels with products of bf16, or a word about that there are none.
pub(super) fn bf16_kernels() -> Vec<(&'static str, &'static dyn Bf16Products)> {
    let here = Isa::ALL.into_iter().filter_map(kernel);
    let mut all: Vec<_> = here
        .filter_map(|kernel| Some((kernel.isa().name(), kernel.bf16()?)))
        .collect();
    if all.is_empty() {
        println!("skipped but for the reference: this processor has no tiles of bf16");
    }
    all.push(("reference", &Reference));
    all
}

fn compare_bf16(case: &Case) {
    let rounded = |token: usize, i: usize| bf16::from_f32(case.x[token * case.k + i]).to_f64();
    let exact = case.exact(rounded);
    let largest = case.x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let tiny = case.k as f64 * f64::from(largest) * 2f64.powi(-122);
    for (name, out) in case.bf16() {
        for (i, (&got, &(exact, magnitude))) in out.iter().zip(&exact).enumerate() {
            let error = (f64::from(got) - exact).abs();
            assert!(
                error <= 2e-5 * magnitude + tiny,
                "{name} at {i}: {got} instead of {exact} (terms sum to {magnitude})"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bf16_agrees_with_float64(
        rows in 1usize..120, row_blocks in 1usize..40, tokens in 1usize..70, seed in any::<u64>()
    ) {
        compare_bf16(&Case::new((rows, row_blocks, tokens), Exponents::Usual, seed));
    }

    #[test]
    fn bf16_of_all_exponents_agrees_with_float64(
        rows in 1usize..80, row_blocks in 1usize..20, tokens in 1usize..40, seed in any::<u64>()
    ) {
        compare_bf16(&Case::new((rows, row_blocks, tokens), Exponents::All, seed));
    }
}

#[test]
fn bf16_of_full_width_agrees() {
    for (rows, tokens) in [(50, 1), (64, 16), (113, 33), (96, 64), (32, 256)] {
        compare_bf16(&Case::new((rows, 90, tokens), Exponents::Usual, 7));
        compare_bf16(&Case::new((rows, 89, tokens), Exponents::All, 8));
    }
}
