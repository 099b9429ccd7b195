//! The two checkpoints with reference logits, see tests/parity/README.md.

use std::fs::File;
use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;

use crate::host::{Feed, Host, Mode};
use crate::judge::{Figures, Judge, argmax};
use crate::oracle::Oracle;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity")
}

/// One prompt, its greedy continuation, and the reference's logits.
pub struct Case {
    /// Prompt and continuation.
    ids: Vec<u32>,
    positions: Vec<usize>,
    logits: Vec<Vec<f64>>,
    /// Positions whose most likely token was clear, by more than 2e-3.
    clear: Vec<(usize, u32)>,
}

pub fn cases(name: &str) -> Vec<Case> {
    let path = folder().join(format!("{name}.ref.npz"));
    let mut npz = NpzReader::new(File::open(path).expect("reference")).expect("npz");
    (0..6).map(|i| case(&mut npz, i)).collect()
}

fn case(npz: &mut NpzReader<File>, i: usize) -> Case {
    let mut ints = |key: &str| -> Vec<i64> {
        let array: Array1<i64> = npz.by_name(&format!("p{i}_{key}")).expect(key);
        array.to_vec()
    };
    let (ids, greedy) = (ints("ids"), ints("greedy"));
    let prompt = ints("pos");
    // Steps of the continuation; step 0 is predicted by the prompt's last token.
    let last = ids.len() as i64 - 1;
    let continued: Vec<i64> = ints("tfpos").iter().map(|step| last + step).collect();
    let mut floats = |key: &str| -> Vec<Vec<f64>> {
        let array: Array2<f32> = npz.by_name(&format!("p{i}_{key}")).expect(key);
        let rows = array.rows().into_iter();
        rows.map(|row| row.iter().map(|v| f64::from(*v)).collect())
            .collect()
    };
    let (prompt_logits, continued_logits) = (floats("logits"), floats("tflogits"));
    let margin: Array1<f32> = npz.by_name(&format!("p{i}_margin")).expect("margin");

    let mut rows: Vec<(usize, Vec<f64>)> = Vec::new();
    let all = prompt.iter().zip(prompt_logits);
    for (position, logits) in all.chain(continued.iter().zip(continued_logits)) {
        let position = *position as usize;
        if rows.iter().all(|(known, _)| *known != position) {
            rows.push((position, logits));
        }
    }
    rows.sort_by_key(|(position, _)| *position);
    let clear = continued
        .iter()
        .zip(&greedy)
        .zip(&margin)
        .filter(|(_, margin)| **margin > 2e-3)
        .map(|((position, token), _)| (*position as usize, *token as u32))
        .collect();
    let (positions, logits) = rows.into_iter().unzip();
    let fed = ids.iter().chain(&greedy).map(|id| *id as u32);
    Case {
        ids: fed.collect(),
        positions,
        logits,
        clear,
    }
}

pub const WINDOW: usize = 800;

/// Feeds every case; greedy tokens must match where `greedy` says so.
pub fn compare(host: &mut Host, cases: &[Case], feed: Feed, greedy: bool) -> Figures {
    let mut judge = Judge::default();
    for case in cases {
        let rows = host.logits(&case.ids, &case.positions, feed);
        for ((reference, row), position) in case.logits.iter().zip(&rows).zip(&case.positions) {
            judge.row(reference, row);
            let clear = case.clear.iter().find(|(at, _)| at == position);
            if let Some((_, token)) = clear.filter(|_| greedy) {
                let wide: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
                assert_eq!(argmax(&wide), *token as usize, "greedy token at {position}");
            }
        }
    }
    judge.figures()
}

pub const FEEDS: [(&str, Feed); 4] = [
    ("prefill", Feed::Whole),
    ("chunks of 37", Feed::Chunks(37)),
    ("chunks of 256", Feed::Chunks(256)),
    ("token by token", Feed::Chunks(1)),
];

fn exact_on_grid64(target: Target) {
    let cases = cases("grid64");
    let mut host = Host::export(&folder().join("grid64"), target, Mode::Exact, WINDOW);
    for (name, feed) in FEEDS {
        let figures = compare(&mut host, &cases, feed, true);
        figures.assert_exact(&format!("{target} exact, grid64, {name}"));
    }
}

#[test]
fn portable_is_exact_on_grid64() {
    exact_on_grid64(Target::Portable);
}

#[test]
fn cpu_is_exact_on_grid64() {
    exact_on_grid64(Target::Cpu);
}

fn shipped(name: &str, target: Target, (median, p95, top1): (f64, f64, f64)) {
    let cases = cases(name);
    let mut host = Host::export(&folder().join(name), target, Mode::Shipped, WINDOW);
    for (fed, feed) in FEEDS {
        let figures = compare(&mut host, &cases, feed, false);
        figures.assert_within(
            &format!("{target} as shipped, {name}, {fed}"),
            median,
            p95,
            top1,
        );
    }
}

#[test]
fn cpu_as_shipped_is_near_on_grid64() {
    shipped("grid64", Target::Cpu, (1.5e-3, 0.012, 0.96));
}

#[test]
fn portable_as_shipped_is_near_on_grid64() {
    shipped("grid64", Target::Portable, (1.5e-3, 0.012, 0.96));
}

#[test]
fn cpu_as_shipped_is_near_on_rand96() {
    shipped("rand96", Target::Cpu, (0.012, 0.15, 0.90));
}

#[test]
fn the_self_contained_model_is_the_same() {
    let dir = folder().join("grid64");
    let checkpoint = gptoss_onnx::checkpoint::Checkpoint::open(&dir).expect("sound");
    let ids: Vec<u32> = (0..40).collect();
    for target in Target::ALL
        .into_iter()
        .filter(|t| t.runs_on_the_processor())
    {
        let mut from_files = Host::export(&dir, target, Mode::Shipped, 64);
        let mut in_memory = Host::in_memory(&checkpoint, target, Mode::Shipped, 64);
        let positions = [0, 17, 39];
        let a = from_files.logits(&ids, &positions, Feed::Whole);
        let b = in_memory.logits(&ids, &positions, Feed::Whole);
        assert_eq!(a, b, "{target}");
    }
}

/// The oracle itself, against both references.
#[test]
fn oracle_equals_both_references() {
    for name in ["grid64", "rand96"] {
        let oracle = Oracle::open(&folder().join(name));
        let mut judge = Judge::default();
        for case in cases(name) {
            let rows = oracle.logits(&case.ids, &case.positions);
            for (reference, row) in case.logits.iter().zip(rows) {
                let row: Vec<f32> = row.iter().map(|v| *v as f32).collect();
                judge.row(reference, &row);
            }
        }
        judge.figures().assert_exact(&format!("oracle, {name}"));
    }
}
