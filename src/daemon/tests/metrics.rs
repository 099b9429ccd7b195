//! The text, read as strictly as OpenMetrics wants it.

use std::collections::BTreeMap;

use super::*;
use crate::engine::CacheUse;
use crate::session::Histogram;

fn numbers() -> Numbers {
    let mut first_token = Histogram {
        count: 3,
        sum: Duration::from_millis(400_151),
        ..Histogram::default()
    };
    first_token.buckets[0] = 1;
    first_token.buckets[2] = 1;
    Numbers {
        model: "20b".into(),
        availability: Availability::Ready {
            model: "20b".into(),
            slow: false,
        },
        engine: Statistics {
            refused: 4,
            prefill_tokens: 100,
            cached_tokens: 60,
            generated_tokens: 42,
            prefill_us: 1_500_000,
            decode_us: 2_250_000,
            waiting: 2,
            running: 1,
            cache: CacheUse {
                used: 5,
                total: 256,
            },
            ..Statistics::default()
        },
        outcomes: Outcomes {
            ended: BTreeMap::from([("stop", 7), ("abandoned", 1)]),
            first_token,
        },
        memory: Resident {
            anonymous: 1 << 20,
            file: 1 << 30,
        },
    }
}

/// Samples by name and labels. Panics where the text breaks a rule that readers
/// of either format hold it to.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut family: Option<(String, String)> = None;
    let mut samples = BTreeMap::new();
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, rest) = (words.next().unwrap(), words.next(), words.next());
            match word {
                "EOF" => family = None,
                "HELP" | "UNIT" => assert!(rest.is_some(), "{line}"),
                "TYPE" => {
                    let kind = rest.unwrap();
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    family = Some((name.unwrap().to_owned(), kind.to_owned()));
                    assert!(!families.contains(&family), "{line} comes twice");
                    families.push(family.clone());
                }
                other => panic!("{other} in {line}"),
            }
            continue;
        }
        let (name, kind) = family.clone().expect("a sample belongs to a family");
        let (key, value) = line.rsplit_once(' ').unwrap();
        let bare = key.split('{').next().unwrap();
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let fits = suffixes.iter().any(|s| bare == format!("{name}{s}"));
        assert!(fits, "{line} in {name}");
        let double = samples.insert(key.to_owned(), value.parse().unwrap());
        assert_eq!(double, None, "{line} comes twice");
    }
    samples
}

#[test]
fn every_number_is_there() {
    let samples = samples(&numbers().text());
    for (name, value) in [
        ("gptoss_availability{state=\"ready\"}", 1.0),
        ("gptoss_availability{state=\"idle\"}", 0.0),
        ("gptoss_model_loaded{model=\"20b\"}", 1.0),
        ("gptoss_requests_total{outcome=\"stop\"}", 7.0),
        ("gptoss_requests_total{outcome=\"abandoned\"}", 1.0),
        ("gptoss_requests_refused_total", 4.0),
        ("gptoss_requests_waiting", 2.0),
        ("gptoss_requests_running", 1.0),
        ("gptoss_first_token_seconds_sum", 400.151),
        ("gptoss_first_token_seconds_count", 3.0),
        ("gptoss_first_token_seconds_bucket{le=\"0.05\"}", 1.0),
        ("gptoss_first_token_seconds_bucket{le=\"0.1\"}", 1.0),
        ("gptoss_first_token_seconds_bucket{le=\"300.0\"}", 2.0),
        ("gptoss_first_token_seconds_bucket{le=\"+Inf\"}", 3.0),
        ("gptoss_prompt_tokens_total", 100.0),
        ("gptoss_cached_tokens_total", 60.0),
        ("gptoss_generated_tokens_total", 42.0),
        ("gptoss_prefill_seconds_total", 1.5),
        ("gptoss_decode_seconds_total", 2.25),
        ("gptoss_cache_blocks_used", 5.0),
        ("gptoss_cache_blocks", 256.0),
        ("gptoss_memory_own_bytes", 1_048_576.0),
        ("gptoss_memory_mapped_bytes", 1_073_741_824.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    }
}

#[test]
fn the_file_is_replaced_whole_and_readable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gptoss.prom");
    for text in ["a long first version\n", "second\n"] {
        replace(&path, text).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(replace(Path::new("/nowhere/gptoss.prom"), "").is_err());
}
