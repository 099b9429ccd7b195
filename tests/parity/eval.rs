//! `gptoss-ctl eval`, the program itself.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use gptoss::harmony::Tokenizer;
use gptoss_onnx::export::Target;
use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;
use serde_json::json;

use super::metrics::{Comparison, log_softmax};
use super::{harness, reference};

fn eval(model: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .arg("eval")
        .arg(model)
        .args(arguments)
        .env("ORT_DYLIB_PATH", harness::library())
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exact logits and greedy continuations of `grid64` through the files that
/// the command reads and writes; odd prompts go in token by token half-way.
fn parity(target: Target, chunk: &str) {
    let cases = reference::cases("grid64");
    let folder = tempfile::tempdir().unwrap();
    let (tokens, out) = (folder.path().join("F.json"), folder.path().join("OUT.npz"));
    let entries: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(i, case)| match i % 2 {
            0 => json!({"ids": case.ids, "positions": case.positions}),
            _ => {
                json!({"ids": case.ids, "positions": case.positions, "prefill": case.ids.len() / 2})
            }
        })
        .collect();
    std::fs::write(&tokens, serde_json::to_vec(&entries).unwrap()).unwrap();
    let output = eval(
        &harness::revision("grid64", target),
        &[
            "--tokens",
            tokens.to_str().unwrap(),
            "--logits",
            out.to_str().unwrap(),
            "--target",
            &target.to_string(),
            "--exact",
            "--greedy",
            "64",
            "--chunk",
            chunk,
        ],
    );
    assert!(output.status.success(), "{}", message(&output));

    let mut archive = NpzReader::new(File::open(&out).unwrap()).unwrap();
    let mut comparison = Comparison::default();
    for (i, case) in cases.iter().enumerate() {
        let logits: Array2<f32> = archive.by_name(&format!("p{i}_logits")).unwrap();
        assert_eq!(logits.dim(), case.logits.dim());
        for (expected, got) in case.logits.rows().into_iter().zip(logits.rows()) {
            comparison.add(expected.as_slice().unwrap(), got.as_slice().unwrap());
        }
        let greedy: Array1<i64> = archive.by_name(&format!("p{i}_greedy")).unwrap();
        let greedy: Vec<u32> = greedy.iter().map(|&t| u32::try_from(t).unwrap()).collect();
        assert_eq!(greedy.len(), 64);
        assert!(case.accepts(&greedy, 2e-3), "prompt {i}: {greedy:?}");
    }
    println!("grid64 {target} exact through eval: {comparison}");
    assert!(comparison.median_divergence() <= 1e-8, "{comparison}");
    assert!(comparison.max_divergence() <= 1e-5, "{comparison}");
    assert!(comparison.top1() >= 0.999, "{comparison}");
    assert!(comparison.max_difference <= 5e-3, "{comparison}");
}

#[test]
fn portable_in_one_prefill() {
    parity(Target::Portable, "1024");
}

#[test]
fn cpu_in_chunks() {
    parity(Target::Cpu, "64");
}

#[test]
fn mistakes_are_told_and_write_nothing() {
    let model = harness::revision("grid64", Target::Cpu);
    let folder = tempfile::tempdir().unwrap();
    let (tokens, out) = (folder.path().join("F.json"), folder.path().join("OUT.npz"));
    for (text, code, told) in [
        ("{", 2, "expected a list"),
        (r#"[{"ids": [1, 2], "positions": [5]}]"#, 2, "position 5"),
        (r#"[{"ids": [1, -2]}]"#, 2, "-2"),
        (
            r#"[{"ids": [1, 1024]}]"#,
            1,
            "1024 is outside the vocabulary",
        ),
        (
            r#"[{"ids": [1]}, {"ids": [1, 2, 3, 4, 5]}]"#,
            1,
            "prompt 1: 5 tokens do not fit",
        ),
    ] {
        std::fs::write(&tokens, text).unwrap();
        let output = eval(
            &model,
            &[
                "--tokens",
                tokens.to_str().unwrap(),
                "--logits",
                out.to_str().unwrap(),
                "--context",
                "4",
            ],
        );
        let message = message(&output);
        assert_eq!(output.status.code(), Some(code), "{text}: {message}");
        assert!(message.contains(told), "{text}: {message}");
        assert!(!out.exists());
    }
}

#[test]
fn unknown_models_and_files_are_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("absent");
    let out = folder.path().join("OUT.npz");
    let arguments = [
        "--tokens",
        missing.to_str().unwrap(),
        "--logits",
        out.to_str().unwrap(),
    ];
    for model in [missing.as_path(), &harness::revision("grid64", Target::Cpu)] {
        let output = eval(model, &arguments);
        assert_eq!(output.status.code(), Some(3), "{}", message(&output));
        assert!(message(&output).contains("absent"), "{}", message(&output));
    }
}

/// Against the same sum made from logits of one whole run.
#[test]
fn perplexity_is_that_of_the_logits() {
    let model = harness::revision("grid64", Target::Cpu);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    let text = "The quick brown fox jumps over the lazy dog. Voilà, ça suffit. ".repeat(3);
    std::fs::write(&file, &text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .args([
            "eval",
            "--json",
            "--exact",
            "--context",
            "100",
            "--perplexity",
        ])
        .args([&file, &model])
        .env("ORT_DYLIB_PATH", harness::library())
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", message(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    let tokenizer = Tokenizer::from_file(&model.join("tokenizer.json")).unwrap();
    let tokens = tokenizer.encode(&text);
    let mut backend = harness::load("grid64", harness::whole(Target::Cpu, true));
    let (mut sum, mut scored) = (0.0, 0);
    for window in tokens.chunks(100) {
        let all: Vec<usize> = (0..window.len()).collect();
        let rows = harness::logits(&mut backend, window, &all, window.len());
        for (row, &next) in rows.rows().into_iter().zip(&window[1..]) {
            sum -= log_softmax(row.as_slice().unwrap())[next as usize];
            scored += 1;
        }
    }
    assert_eq!(told["scored"], scored);
    let mean = sum / f64::from(scored);
    assert!(
        (told["mean_nll"].as_f64().unwrap() - mean).abs() < 1e-4,
        "{told} {mean}"
    );
    assert!((told["perplexity"].as_f64().unwrap().ln() - mean).abs() < 1e-4);
}

#[test]
fn one_input_is_needed() {
    let model = harness::revision("grid64", Target::Cpu);
    for arguments in [&[][..], &["--tokens", "F.json"], &["--logits", "OUT.npz"]] {
        assert_eq!(
            eval(&model, arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
