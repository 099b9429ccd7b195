use super::*;
use crate::checkpoint::Float;
use crate::kernels::mxfp4::BLOCK_BYTES;
use crate::kernels::mxfp4::scale_value;
use half::{bf16, f16};
use proptest::prelude::*;

const CODES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Quantizes one block; codes and scale.
fn block(values: &[f32; BLOCK]) -> ([u8; BLOCK], u8, SquaredError) {
    let mut bytes = [0; BLOCK_BYTES];
    let (scale, error) = quantize_block(values, &mut bytes).expect("finite");
    let codes = std::array::from_fn(|i| bytes[i / 2] >> (4 * (i % 2)) & 15);
    (codes, scale, error)
}

fn codes_of(values: &[f32]) -> (Vec<u8>, u8) {
    let mut all = [0.0; BLOCK];
    all[..values.len()].copy_from_slice(values);
    let (codes, scale, _) = block(&all);
    (codes[..values.len()].to_vec(), scale)
}

/// Squared error of rounding to the nearest at an exponent, in float64.
fn error_at(values: &[f32; BLOCK], exponent: i32) -> f64 {
    let unit = 2f64.powi(exponent);
    let off = |v: &f32| {
        let away = |code: &f64| (f64::from(v.abs()) - code * unit).abs();
        CODES.iter().map(away).fold(f64::INFINITY, f64::min).powi(2)
    };
    values.iter().map(off).sum()
}

/// By the format's definition, with signed zeros as transformers' table has them.
fn dequantized(codes: &[u8; BLOCK], scale: u8) -> [f32; BLOCK] {
    codes.map(|code| {
        let magnitude = CODES[usize::from(code & 7)] * 2f64.powi(i32::from(scale) - BIAS);
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        (sign * magnitude) as f32
    })
}

#[test]
fn ties_go_to_the_even_code() {
    // 6 fixes the exponent at 0.
    let ties = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.75, -5.0];
    let (codes, scale) = codes_of(&ties);
    assert_eq!(scale, 127);
    assert_eq!(codes, [7, 0, 2, 2, 4, 4, 6, 6, 10, 14]);
}

#[test]
fn every_value_goes_to_the_nearest() {
    for i in 0..=6 * 512 {
        let magnitude = i as f32 / 512.0;
        let nearest = CODES.iter().map(|c| (f64::from(magnitude) - c).abs());
        let distance = (f64::from(magnitude) - f64::from(round(magnitude))).abs();
        assert_eq!(
            distance,
            nearest.fold(f64::INFINITY, f64::min),
            "{magnitude}"
        );
    }
    assert_eq!(round(15.9), 6.0);
}

#[test]
fn the_nearer_of_the_exponents_wins() {
    // The specification's exponent is 0 and cuts 7 to 6; one above, 7 is 3½ and
    // becomes 8, which is as far, and the ones are exact in both.
    assert_eq!(codes_of(&[7.0, 1.0]).1, 127);
    // 7.5 is nearer to 8 than to 6.
    assert_eq!(codes_of(&[7.5, 1.0]).1, 128);
    // Many weights of a quarter are worth cutting 4 to 3.
    let mut values = [0.25; BLOCK];
    values[0] = 4.0;
    let (codes, scale, error) = block(&values);
    assert_eq!((codes[0], codes[1], scale), (7, 1, 126));
    assert_eq!(error.error, 1.0);
}

#[test]
fn zeros_keep_their_signs() {
    let (codes, scale) = codes_of(&[0.0, -0.0]);
    assert_eq!((codes.as_slice(), scale), (&[0, 8][..], 0));
    // What is rounded to zero as well, as in the published weights.
    assert_eq!(codes_of(&[6.0, -0.01]).0, [7, 8]);
}

#[test]
fn the_ends_of_the_range() {
    // The least of all steps is 2^-128, a bfloat16 subnormal.
    let least = 2f32.powi(-128);
    assert_eq!(codes_of(&[least, -3.0 * least]), (vec![1, 11], 0));
    assert_eq!(codes_of(&[2f32.powi(-133)]), (vec![0], 0));
    assert_eq!(codes_of(&[f32::from_bits(1)]), (vec![0], 0));
    // Nothing finite becomes infinite: 8 · 2^125 would be.
    let (codes, scale) = codes_of(&[f32::MAX, bf16::MIN.to_f32()]);
    assert_eq!((codes, scale), (vec![7, 15], 252));
    assert!((scale_value(252) * 6.0).is_finite());
}

#[test]
fn infinities_and_nan_are_found() {
    let (inputs, outputs) = (64, 70);
    for (bad, at) in [
        (f32::NAN, 69),
        (f32::INFINITY, 64 * 70 - 1),
        (f32::NEG_INFINITY, 0),
    ] {
        let mut values = vec![0.5; inputs * outputs];
        values[at] = bad;
        // A second one must not be named instead.
        values[inputs * outputs - 1] = if at == 0 { f32::NAN } else { bad };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = Transposed {
            bytes: &bytes,
            float: Float::F32,
            inputs,
            outputs,
        };
        let (mut blocks, mut scales) = (vec![0; inputs * outputs / 2], vec![0; 2 * outputs]);
        let error = quantize(matrix, &mut blocks, &mut scales).expect_err("not finite");
        assert_eq!(error.index, at);
    }
}

#[test]
fn the_published_group_comes_back() {
    // Expert 0 of layer 0 of the published 20b checkpoint, first gate row.
    let bytes = [
        0x00, 0xc0, 0x80, 0xa9, 0x10, 0x1b, 0x81, 0x22, 0x93, 0xe4, 0xa0, 0xb2, 0x3b, 0x19, 0xb2,
        0x31,
    ];
    let codes = std::array::from_fn(|i| bytes[i / 2] >> (4 * (i % 2)) & 15);
    let (again, scale, error) = block(&dequantized(&codes, 0x7a));
    assert_eq!((again, scale, error.error), (codes, 0x7a, 0.0));
}

/// Normal weights, as networks have them: what MXFP4 costs.
#[test]
fn a_sound_error_on_normal_weights() {
    let mut state = 1u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let (mut ours, mut specified) = (SquaredError::default(), 0.0);
    for _ in 0..4096 {
        let values = [0; BLOCK].map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0);
        let (_, _, error) = block(&values);
        ours += error;
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        specified += error_at(&values, floor_log2(largest.to_bits()) - 2);
    }
    let relative = ours.relative_rms();
    assert!((0.10..0.12).contains(&relative), "{relative}");
    let of_specified = (specified / ours.total).sqrt();
    assert!(relative < 0.97 * of_specified, "{relative} {of_specified}");
}

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -8.0f32..8.0,
        2 => -0.5f32..0.5,
        1 => any::<f32>().prop_filter("finite", |v| v.is_finite()),
        1 => (0u32..0x0100_0000).prop_map(f32::from_bits),
        1 => Just(0.0f32),
    ]
}

fn any_values() -> impl Strategy<Value = [f32; BLOCK]> {
    let one_range = prop::array::uniform32(-8.0f32..8.0);
    let spikes = (
        prop::array::uniform32(-2.0f32..2.0),
        0usize..32,
        2.0f32..9.0,
    );
    let spikes = spikes.prop_map(|(mut values, at, spike)| {
        values[at] = spike;
        values
    });
    prop_oneof![one_range, spikes, prop::array::uniform32(any_value())]
}

proptest! {
    /// No other scale of the whole format is better.
    #[test]
    fn the_error_is_the_least(values in any_values()) {
        let (codes, scale, error) = block(&values);
        let of = i32::from(scale) - BIAS;
        let found = error_at(&values, of);
        let least = (LOWEST..=HIGHEST).map(|e| error_at(&values, e)).fold(f64::INFINITY, f64::min);
        prop_assert!(found <= least * (1.0 + 1e-5), "{found:e} {least:e} at {of}");
        // And what is reported is that of the bytes.
        let back = dequantized(&codes, scale);
        let pairs = values.iter().zip(back);
        let written: f64 = pairs.map(|(v, b)| (f64::from(*v) - f64::from(b)).powi(2)).sum();
        prop_assert!((written - error.error).abs() <= 1e-5 * written, "{written:e} {error:?}");
    }

    /// Weights from MXFP4 come back, in every float type that holds them; and the bytes
    /// do where the block's largest code is 4 or 6.
    #[test]
    fn mxfp4_is_lossless(codes in prop::array::uniform32(0u8..16), largest in 0u8..8, scale in 0u8..=252) {
        let codes = codes.map(|c| c & 8 | (c & 7).min(largest));
        let values = dequantized(&codes, scale);
        let narrow = values.map(|v| bf16::from_f32(v).to_f32());
        prop_assert_eq!(narrow.map(f32::to_bits), values.map(f32::to_bits), "bfloat16 is exact");
        let (again, of, error) = block(&values);
        prop_assert_eq!(dequantized(&again, of).map(f32::to_bits), values.map(f32::to_bits));
        prop_assert_eq!(error.error, 0.0);
        if codes.iter().any(|c| c & 7 >= 6) {
            prop_assert_eq!((again, of), (codes, scale));
        }
    }

    /// Every type, any shape, any number of threads: the same bytes.
    #[test]
    fn threads_change_nothing(
        inputs in 1usize..4,
        outputs in 1usize..140,
        seed in any::<u32>(),
    ) {
        let inputs = 32 * inputs;
        let value = |i: usize| {
            let word = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
            f16::from_f32((word >> 8) as f32 / (1 << 22) as f32 - 2.0).to_f32()
        };
        let values: Vec<f32> = (0..inputs * outputs).map(value).collect();
        let as_f16 = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let as_f32: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let run = |threads: usize, float: Float, bytes: &Vec<u8>| {
            let matrix = Transposed { bytes, float, inputs, outputs };
            let mut blocks = vec![0; inputs * outputs / 2];
            let mut scales = vec![0; inputs / 32 * outputs];
            let threads = NonZero::new(threads).expect("some");
            let error = quantize_on(threads, matrix, &mut blocks, &mut scales).expect("finite");
            (blocks, scales, error)
        };
        let one = run(1, Float::F32, &as_f32);
        for threads in [2, 3, 16] {
            prop_assert_eq!(&run(threads, Float::F32, &as_f32), &one);
        }
        prop_assert_eq!(&run(2, Float::F16, &as_f16), &one);
        // Output by output, by its own block.
        for output in 0..outputs {
            let column = std::array::from_fn(|i| values[i * outputs + output]);
            let mut bytes = [0; BLOCK_BYTES];
            let (scale, _) = quantize_block(&column, &mut bytes).expect("finite");
            let at = output * (inputs / 32);
            prop_assert_eq!(one.1[at], scale);
            prop_assert_eq!(&one.0[at * BLOCK_BYTES..][..BLOCK_BYTES], &bytes);
        }
    }
}
