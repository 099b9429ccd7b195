//! `gptoss-ctl bench`: not how fast, but what it tells.

use std::process::{Command, Output};

use gptoss_onnx::export::Target;

use super::harness;

fn bench(arguments: &[&str]) -> Output {
    bench_in("C", arguments)
}

fn bench_in(locale: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .arg("bench")
        .arg(harness::revision("grid64", Target::Cpu))
        .args(arguments)
        .env("ORT_DYLIB_PATH", harness::library())
        .env("LC_ALL", locale)
        .output()
        .unwrap()
}

#[test]
fn json_has_the_keys_of_llama_bench() {
    let arguments = [
        "-p", "16,32", "-n", "4", "-d", "0,8", "-r", "3", "-t", "1", "--json",
    ];
    let output = bench(&arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = told.as_array().unwrap();
    let shapes: Vec<_> = tests
        .iter()
        .map(|t| ["n_prompt", "n_gen", "n_depth"].map(|key| t[key].as_u64().unwrap()))
        .collect();
    let expected = [
        [16, 0, 0],
        [32, 0, 0],
        [0, 4, 0],
        [16, 0, 8],
        [32, 0, 8],
        [0, 4, 8],
    ];
    assert_eq!(shapes, expected);
    for test in tests {
        assert_eq!(test["n_threads"], 1);
        let numbers = |key: &str| -> Vec<f64> {
            let list = test[key].as_array().unwrap();
            list.iter().map(|n| n.as_f64().unwrap()).collect()
        };
        let (times, rates) = (numbers("samples_ns"), numbers("samples_ts"));
        assert_eq!((times.len(), rates.len()), (3, 3));
        let tokens = (test["n_prompt"].as_f64().unwrap() + test["n_gen"].as_f64().unwrap()) * 1e9;
        for (time, rate) in times.iter().zip(&rates) {
            assert!((time * rate / tokens - 1.0).abs() < 1e-3);
        }
        let mean = rates.iter().sum::<f64>() / 3.0;
        assert!((test["avg_ts"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9);
        for key in [
            "avg_ns",
            "stddev_ns",
            "stddev_ts",
            "median_ts",
            "load_ms",
            "rss_anon",
            "rss_file",
        ] {
            assert!(test[key].is_number(), "{key}");
        }
        for key in ["build_commit", "model_filename", "model_type", "cpu_info"] {
            assert!(test[key].is_string(), "{key}");
        }
    }
}

/// In each language, and for programs.
#[test]
fn experts_on_the_disk_are_told_with_their_cost() {
    // Room for three or four of sixteen experts.
    let streamed = ["-p", "0", "-n", "6", "-r", "2", "--stream-experts=150k"];
    let output = bench(&[&streamed[..], &["--json"]].concat());
    assert!(output.status.success());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let cost = &told[0]["streamed"];
    let number = |key: &str| cost[key].as_f64().unwrap();
    assert!((1.0..=150_000.0).contains(&number("expert_memory")));
    assert!((0.0..0.9).contains(&number("hit_rate")));
    assert!(number("disk_bytes_per_step") > 0.0);
    let (rate, disk) = (
        number("disk_bytes_per_second"),
        number("disk_read_bytes_per_second"),
    );
    assert!((number("disk_share") * disk / rate - 1.0).abs() < 1e-6);
    assert!((0.0..=1.0).contains(&number("waited_share")));

    let output = bench_in("fr_FR.UTF-8", &streamed);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("experts sont sur le disque"), "{told}");
    let whole = bench(&["-p", "0", "-n", "1", "-r", "1", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert!(told[0]["streamed"].is_null());
    let refused = bench(&["--stream-experts=1k"]);
    assert!(!refused.status.success());
}

#[test]
fn people_get_a_table() {
    let output = bench(&["-p", "8", "-n", "2", "-r", "2"]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("| pp8 ") && table.contains("| tg2 "),
        "{table}"
    );
}

#[test]
fn around_the_table_people_read_their_language() {
    let output = bench_in("fr_FR.UTF-8", &["-p", "8", "-n", "0", "-r", "1", "-t", "1"]);
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    for part in [
        ", 1 fil d’exécution, contexte 8, ONNX Runtime ",
        "\u{a0}; 1 fil lit ",
        "| test             |             tokens/s |",
        "\npp\u{a0}: jetons de requête",
        "\ntg\u{a0}: jetons produits un à un",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
}

#[test]
fn nothing_to_measure_is_a_mistake() {
    for arguments in [&["-p", "0", "-n", "0"][..], &["-r", "0"], &["-p", "x"]] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn sequences_together_and_deep_caches_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("speed.svg");
    let arguments = [
        "-p",
        "0",
        "-n",
        "3",
        "-d",
        "0,700",
        "--parallel",
        "1,3",
        "--noise",
        "-r",
        "2",
        "--profile",
        "--json",
        "--plot",
    ];
    let output = bench(&[&arguments[..], &[plot.to_str().unwrap()]].concat());
    let profile = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{profile}");
    let tests: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = tests.as_array().unwrap();
    let shapes: Vec<_> = tests
        .iter()
        .map(|t| ["n_depth", "n_parallel"].map(|key| t[key].as_u64().unwrap()))
        .collect();
    assert_eq!(shapes, [[0, 1], [0, 3], [700, 1], [700, 3]]);
    for test in tests {
        let number = |key: &str| test[key].as_f64().unwrap();
        let tokens = 3.0 * number("n_parallel");
        let times = test["samples_ns"].as_array().unwrap();
        let rates = test["samples_ts"].as_array().unwrap();
        for (time, rate) in times.iter().zip(rates) {
            let product = time.as_f64().unwrap() * rate.as_f64().unwrap() / 1e9;
            assert!((product / tokens - 1.0).abs() < 1e-3, "{product} {tokens}");
        }
        // A token has its experts in each layer; tokens together may share some.
        let (experts, alone) = (
            number("experts_per_step"),
            tests[0]["experts_per_step"].as_f64(),
        );
        let streams = number("n_parallel");
        let alone = alone.unwrap();
        assert!(experts >= alone && experts <= alone * streams, "{experts}");
        assert!(number("weight_bytes_per_step") > 0.0 && number("read_bytes_per_second") > 1e8);
    }
    for operator in ["MoE", "Attention", "Linear", "whole runs"] {
        assert!(profile.contains(operator), "{profile}");
    }
    let drawn = std::fs::read_to_string(plot).unwrap();
    assert!(drawn.contains("tg3 x 3"), "{drawn}");
}

#[test]
fn a_replayed_answer_takes_fewer_steps_with_drafts() {
    let folder = tempfile::tempdir().unwrap();
    let (prompt, answer) = (folder.path().join("prompt"), folder.path().join("answer"));
    let text = "the tide rises, the tide falls, and twilight darkens. ";
    std::fs::write(&prompt, text).unwrap();
    std::fs::write(&answer, text.repeat(2)).unwrap();
    let files = [&prompt, &answer].map(|path| path.to_str().unwrap());
    let output = bench(&["--replay", files[0], files[1], "-r", "1", "--json"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |pointer: &str| told.pointer(pointer).unwrap().as_f64().unwrap();
    // The first token belongs to the prompt's step.
    let tokens = number("/n_gen");
    assert_eq!(tokens, 2.0 * number("/n_prompt") - 1.0);
    assert_eq!(number("/without/steps"), tokens);
    assert!(number("/with/steps") < tokens, "{told}");
    assert!((number("/tokens_per_step") * number("/with/steps") / tokens - 1.0).abs() < 1e-9);
    assert!(number("/gain") > 0.0);
}
