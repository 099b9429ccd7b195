//! Logits of both small checkpoints within the limits of README.md.

use gptoss::engine::Solo;
use gptoss::runtime::{Options, OrtBackend};
use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;

use super::harness;
use super::metrics::Comparison;
use super::reference::{self, Case};

/// How a prompt goes in.
#[derive(Debug, Clone, Copy)]
enum Feeding {
    /// In one run.
    Whole,
    /// In runs of this many tokens.
    Chunks(usize),
    /// Token by token.
    Single,
}

/// All rows of the reference: along the prompts and along the continuations.
fn compare(backend: &mut Solo<OrtBackend>, cases: &[Case], feeding: Feeding) -> Comparison {
    let mut comparison = Comparison::default();
    for case in cases {
        let continued = case.with_continuation();
        let along = case.continuation_positions();
        let sides = [
            (&case.ids, &case.positions, &case.logits),
            (&continued, &along, &case.continuation_logits),
        ];
        for (ids, positions, expected) in sides {
            let prefill = match feeding {
                Feeding::Single => 0,
                Feeding::Whole | Feeding::Chunks(_) => ids.len(),
            };
            let got = harness::logits(backend, ids, positions, prefill);
            for (expected, got) in expected.rows().into_iter().zip(got.rows()) {
                comparison.add(expected.as_slice().unwrap(), got.as_slice().unwrap());
            }
        }
    }
    comparison
}

fn options(target: Target, exact: bool, feeding: Feeding) -> Options {
    let prefill_chunk = match feeding {
        Feeding::Whole => 1024,
        Feeding::Chunks(chunk) => chunk,
        Feeding::Single => 1,
    };
    Options {
        prefill_chunk,
        ..harness::whole(target, exact)
    }
}

/// Float32 activations on `grid64`, whose weights every quantizer keeps.
fn exact(target: Target, feeding: Feeding) {
    let cases = reference::cases("grid64");
    let mut backend = harness::load("grid64", options(target, true, feeding));
    let comparison = compare(&mut backend, &cases, feeding);
    println!("grid64 {target} exact {feeding:?}: {comparison}");
    assert!(comparison.median_divergence() <= 1e-8, "{comparison}");
    assert!(comparison.max_divergence() <= 1e-5, "{comparison}");
    assert!(comparison.top1() >= 0.999, "{comparison}");
    assert!(comparison.max_difference <= 5e-3, "{comparison}");
    for (i, case) in cases.iter().enumerate() {
        let got = harness::continuation(&mut backend, &case.ids, case.greedy.len());
        assert!(case.accepts(&got, 2e-3), "prompt {i}: {got:?}");
    }
}

/// Limits for int8 activations: median and p95 of the divergence, top-1.
fn as_shipped(name: &'static str, feeding: Feeding, limits: [f64; 3]) {
    within(name, feeding, Precision::F16, limits);
}

/// The same with a cache of `kv_cache`.
fn within(name: &'static str, feeding: Feeding, kv_cache: Precision, limits: [f64; 3]) {
    let cases = reference::cases(name);
    let options = Options {
        kv_cache: Some(kv_cache),
        ..options(Target::Cpu, false, feeding)
    };
    let mut backend = harness::load(name, options);
    let comparison = compare(&mut backend, &cases, feeding);
    println!("{name} cpu as shipped, cache of {kv_cache:?}, {feeding:?}: {comparison}");
    let [median, p95, top1] = limits;
    assert!(comparison.median_divergence() <= median, "{comparison}");
    assert!(comparison.p95_divergence() <= p95, "{comparison}");
    assert!(comparison.top1() >= top1, "{comparison}");
}

const GRID64: [f64; 3] = [1.5e-3, 0.012, 0.96];
const RAND96: [f64; 3] = [0.012, 0.15, 0.90];

#[test]
fn portable_exact_prefill() {
    exact(Target::Portable, Feeding::Whole);
}

#[test]
fn portable_exact_chunks() {
    exact(Target::Portable, Feeding::Chunks(48));
}

#[test]
fn portable_exact_token_by_token() {
    exact(Target::Portable, Feeding::Single);
}

#[test]
fn cpu_exact_prefill() {
    exact(Target::Cpu, Feeding::Whole);
}

#[test]
fn cpu_exact_chunks() {
    exact(Target::Cpu, Feeding::Chunks(48));
}

#[test]
fn cpu_exact_token_by_token() {
    exact(Target::Cpu, Feeding::Single);
}

#[test]
fn grid64_as_shipped_prefill() {
    as_shipped("grid64", Feeding::Whole, GRID64);
}

#[test]
fn grid64_as_shipped_chunks() {
    as_shipped("grid64", Feeding::Chunks(48), GRID64);
}

#[test]
fn grid64_as_shipped_token_by_token() {
    as_shipped("grid64", Feeding::Single, GRID64);
}

#[test]
fn rand96_as_shipped_prefill() {
    as_shipped("rand96", Feeding::Whole, RAND96);
}

#[test]
fn rand96_as_shipped_chunks() {
    as_shipped("rand96", Feeding::Chunks(48), RAND96);
}

#[test]
fn rand96_as_shipped_token_by_token() {
    as_shipped("rand96", Feeding::Single, RAND96);
}

#[test]
fn grid64_with_an_int8_cache() {
    for feeding in [Feeding::Whole, Feeding::Chunks(48), Feeding::Single] {
        within("grid64", feeding, Precision::Int8, GRID64);
    }
}

#[test]
fn rand96_with_an_int8_cache() {
    for feeding in [Feeding::Whole, Feeding::Chunks(48), Feeding::Single] {
        within("rand96", feeding, Precision::Int8, RAND96);
    }
}

/// What an int8 cache adds to the error of everything else.
#[test]
fn the_error_of_an_int8_cache_alone() {
    let feeding = Feeding::Chunks(48);
    for (name, limit) in [("grid64", 1e-3), ("rand96", 1e-2)] {
        let cases = reference::cases(name);
        let [mut plain, mut int8] = [Precision::F32, Precision::Int8].map(|kv_cache| {
            let options = Options {
                kv_cache: Some(kv_cache),
                ..options(Target::Cpu, true, feeding)
            };
            harness::load(name, options)
        });
        let mut comparison = Comparison::default();
        for case in &cases {
            let expected = harness::logits(&mut plain, &case.ids, &case.positions, case.ids.len());
            let got = harness::logits(&mut int8, &case.ids, &case.positions, case.ids.len());
            for (expected, got) in expected.rows().into_iter().zip(got.rows()) {
                comparison.add(expected.as_slice().unwrap(), got.as_slice().unwrap());
            }
        }
        println!("{name} int8 cache against f32, exact otherwise: {comparison}");
        assert!(comparison.median_divergence() <= limit, "{comparison}");
        assert!(comparison.median_divergence() > 0.0);
    }
}
