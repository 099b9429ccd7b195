//! The embedded model against its golden logits.

use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use gptoss_onnx::nano::{Golden, checkpoint, golden};
use serde_json::json;

use crate::host::{Feed, Host, Mode};
use crate::oracle::Oracle;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nano")
}

fn by_oracle(golden: &Golden) -> Vec<Vec<f32>> {
    let rows = Oracle::open(&folder()).logits(&golden.ids, &golden.positions);
    let narrow = |row: Vec<f64>| row.into_iter().map(|v| v as f32).collect();
    rows.into_iter().map(narrow).collect()
}

#[test]
fn golden_logits_are_the_oracles() {
    let golden = golden();
    let rows = by_oracle(&golden);
    let distance = golden.distance(rows.iter().map(Vec::as_slice));
    assert!(
        distance < 1e-4,
        "golden.json is of other weights ({distance}): run \
         `cargo test -p gptoss-onnx --test graph -- --ignored write_golden`"
    );
}

#[test]
fn every_target_is_within_the_tolerance() {
    let golden = golden();
    let checkpoint = checkpoint().expect("sound");
    for (target, mode, limit) in [
        (Target::Cpu, Mode::Shipped, Golden::tolerance("cpu")),
        (Target::Cpu, Mode::Exact, 0.04),
        (Target::Portable, Mode::Shipped, Golden::tolerance("cuda")),
        (Target::CudaInt4, Mode::Shipped, Golden::tolerance("cuda")),
    ] {
        let mut host = Host::in_memory(&checkpoint, target, mode, golden.ids.len());
        for feed in [Feed::Whole, Feed::Chunks(50), Feed::Chunks(1)] {
            let rows = host.logits(&golden.ids, &golden.positions, feed);
            let distance = golden.distance(rows.iter().map(Vec::as_slice));
            eprintln!("{target}, {mode:?}, {feed:?}: {distance:.4}");
            assert!(
                distance <= limit,
                "{target}, {mode:?}, {feed:?}: {distance}"
            );
        }
    }
}

/// Computes golden.json anew for the prompt in it; for new weights:
/// `cargo test -p gptoss-onnx --test graph write_golden -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden() {
    let golden = golden();
    // Four decimals are far finer than any tolerance.
    let rounded = |v: f32| (f64::from(v) * 1e4).round() / 1e4;
    let rows = by_oracle(&golden).into_iter();
    let rows: Vec<Vec<f64>> = rows
        .map(|row| row.into_iter().map(rounded).collect())
        .collect();
    let content = json!({
        "ids": golden.ids,
        "positions": golden.positions,
        "logits": rows,
    });
    std::fs::write(folder().join("golden.json"), content.to_string()).expect("golden.json");
}
