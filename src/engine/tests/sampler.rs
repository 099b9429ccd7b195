//! The sampler against a naive reference, and against the distribution it
//! promises.

use proptest::prelude::*;

use super::*;

/// What the filters keep, by full sorts in f64: (id, probability), and the
/// distance of the nearest decision from tipping over.
fn reference(logits: &[f32], s: &Sampling) -> (Vec<(u32, f64)>, f64) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| (f64::from(l - max) / f64::from(s.temperature)).exp();
    let mut all: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.is_nan())
        .map(|(id, &l)| (id as u32, weight(l)))
        .collect();
    all.sort_by(|a, b| {
        let (x, y) = (logits[a.0 as usize], logits[b.0 as usize]);
        y.partial_cmp(&x).unwrap().then(a.0.cmp(&b.0))
    });
    let mut margin = f64::INFINITY;
    if s.top_k > 0 {
        all.truncate(s.top_k as usize);
    }
    if s.top_p < 1.0 {
        let mass: f64 = all.iter().map(|c| c.1).sum();
        let mut passed = 0.0;
        let mut keep = all.len();
        for (index, candidate) in all.iter().enumerate() {
            passed += candidate.1;
            margin = margin.min((passed / mass - f64::from(s.top_p)).abs());
            if passed >= f64::from(s.top_p) * mass {
                keep = index + 1;
                break;
            }
        }
        all.truncate(keep);
    }
    if s.min_p > 0.0 {
        for candidate in &all {
            let ratio = candidate.1 / f64::from(s.min_p);
            margin = margin.min((ratio - 1.0).abs());
        }
        all.retain(|c| c.1 >= f64::from(s.min_p));
    }
    let mass: f64 = all.iter().map(|c| c.1).sum();
    for candidate in &mut all {
        candidate.1 /= mass;
    }
    (all, margin)
}

fn sampler(settings: &Sampling) -> Sampler {
    let mut sampler = Sampler::default();
    sampler.begin(settings);
    sampler
}

/// Logits of `n` tokens that look like a model's: many low, few high.
fn row(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| {
            let u = random.unit();
            (-(1.0 - u).ln() - 4.0 + random.unit()) as f32
        })
        .collect()
}

fn settings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(1.0f32), 0.05f32..4.0];
    let top_p = prop_oneof![Just(1.0f32), 0.01f32..1.0];
    let top_k = prop_oneof![Just(0u32), 1u32..40, Just(1000)];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..1.0];
    (temperature, top_p, top_k, min_p, any::<u64>()).prop_map(
        |(temperature, top_p, top_k, min_p, seed)| Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            seed: Some(seed),
            logprobs: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The choice is the inverse of the reference's distribution function,
    /// taken in id order, at the same random number.
    #[test]
    fn equals_the_naive_reference(
        logits in proptest::collection::vec(
            prop_oneof![8 => -8f32..8.0, 1 => Just(2.0f32), 1 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN)],
            1..300,
        ),
        settings in settings(),
    ) {
        prop_assume!(logits.iter().any(|l| l.is_finite()));
        let (mut kept, margin) = reference(&logits, &settings);
        // f32 and f64 may decide a tie of masses differently.
        prop_assume!(margin > 1e-5);
        let choice = sampler(&settings).sample(&logits).unwrap();
        kept.sort_by_key(|c| c.0);
        let target = Random(settings.seed.unwrap()).unit();
        let mut passed = 0.0;
        let mut near = Vec::new();
        for &(id, p) in &kept {
            if target >= passed - 1e-5 && target <= passed + p + 1e-5 {
                near.push(id);
            }
            passed += p;
        }
        prop_assert!(near.contains(&choice), "{choice} is not among {near:?} of {kept:?}");
    }

    #[test]
    fn keep_best_is_a_truncated_sort(
        logits in proptest::collection::vec(prop_oneof![-4i8..4].prop_map(f32::from), 1..600),
        k in 0usize..80,
    ) {
        let mut best = Vec::new();
        keep_best(&logits, k, &mut best);
        best.sort_by(best_first);
        let mut all: Vec<_> = logits.iter().enumerate()
            .map(|(id, &logit)| Candidate { logit, id: id as u32, weight: 0.0 }).collect();
        all.sort_by(best_first);
        all.truncate(k);
        prop_assert_eq!(best, all);
    }

    #[test]
    fn greedy_takes_the_first_maximum(
        logits in proptest::collection::vec((-4i8..4).prop_map(f32::from), 1..100),
    ) {
        let choice = sampler(&Sampling::greedy()).sample(&logits).unwrap() as usize;
        prop_assert!(logits.iter().all(|&l| l <= logits[choice]));
        prop_assert!(logits[..choice].iter().all(|&l| l < logits[choice]));
    }

    #[test]
    fn logprobs_are_a_log_softmax(
        logits in proptest::collection::vec(-20f32..20.0, 1..200),
        count in 0usize..20,
    ) {
        let asked = Sampling { logprobs: Some(count), ..Sampling::greedy() };
        let mut sampler = sampler(&asked);
        let chosen = sampler.sample(&logits).unwrap();
        let got = sampler.logprobs(&logits, chosen).unwrap();
        let mass: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = |id: u32| (f64::from(logits[id as usize]) - mass.ln()) as f32;
        prop_assert!((got.chosen - expected(chosen)).abs() < 1e-4);
        prop_assert_eq!(got.top.len(), count.min(logits.len()));
        for pair in got.top.windows(2) {
            prop_assert!(pair[0].1 >= pair[1].1);
        }
        for &(id, logprob) in &got.top {
            prop_assert!((logprob - expected(id)).abs() < 1e-4);
        }
    }
}

/// Chi-squared of 40 000 draws against the reference, for every filter. The
/// seeds are fixed, so this cannot fail by chance.
#[test]
fn draws_follow_the_distribution() {
    let filters = [
        Sampling::default(),
        Sampling {
            temperature: 0.6,
            ..Sampling::default()
        },
        Sampling {
            top_k: 12,
            ..Sampling::default()
        },
        Sampling {
            top_p: 0.8,
            temperature: 1.7,
            ..Sampling::default()
        },
        Sampling {
            min_p: 0.05,
            ..Sampling::default()
        },
        Sampling {
            top_k: 30,
            top_p: 0.9,
            min_p: 0.02,
            temperature: 1.3,
            ..Sampling::default()
        },
    ];
    let logits = row(200, 7);
    for settings in filters {
        let settings = Sampling {
            seed: Some(42),
            ..settings
        };
        let (kept, _) = reference(&logits, &settings);
        let mut sampler = sampler(&settings);
        let mut counts = vec![0u32; logits.len()];
        let draws = 40_000;
        for _ in 0..draws {
            counts[sampler.sample(&logits).unwrap() as usize] += 1;
        }
        let drawn: u32 = kept.iter().map(|c| counts[c.0 as usize]).sum();
        assert_eq!(drawn, draws, "a token outside of the filters was drawn");
        let (mut chi, mut cells) = (0.0, 0.0);
        for &(id, p) in &kept {
            let expected = p * f64::from(draws);
            if expected >= 5.0 {
                chi += (f64::from(counts[id as usize]) - expected).powi(2) / expected;
                cells += 1.0;
            }
        }
        // Mean n, deviation sqrt(2 n): five of them.
        assert!(
            chi < cells + 5.0 * f64::sqrt(2.0 * cells),
            "chi-squared {chi} over {cells} cells with {settings:?}"
        );
    }
}

#[test]
fn a_seed_reproduces_the_sequence() {
    let logits = row(5000, 1);
    let draw = |seed| {
        let mut sampler = sampler(&Sampling {
            seed,
            ..Sampling::default()
        });
        (0..50)
            .map(|_| sampler.sample(&logits).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(Some(3)), draw(Some(3)));
    assert_ne!(draw(Some(3)), draw(Some(4)));
    assert_ne!(draw(None), draw(None));
}

/// The first outputs of SplitMix64 for seed 1234567, as published with the
/// algorithm: a seed means the same tokens in every version of this program.
#[test]
fn the_generator_is_splitmix64() {
    let mut random = Random(1_234_567);
    let expected = [
        6_457_827_717_110_365_317u64,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
    ];
    assert_eq!([random.next(), random.next(), random.next()], expected);
}

#[test]
fn the_exponential_is_close() {
    for step in 0..870_000 {
        let x = step as f32 * -1e-4;
        let exact = f64::from(x).exp();
        let error = (f64::from(exp_of_negative(x)) - exact).abs() / exact;
        assert!(error < 3e-7, "{x}: {error}");
    }
    assert_eq!(exp_of_negative(0.0), 1.0);
    for nothing in [-88.0, f32::MIN, f32::NEG_INFINITY, f32::NAN] {
        assert_eq!(exp_of_negative(nothing), 0.0);
    }
}

#[test]
fn extreme_temperatures_keep_their_meaning() {
    let logits = row(1000, 5);
    let greedy = sampler(&Sampling::greedy()).sample(&logits);
    let cold = Sampling {
        temperature: f32::MIN_POSITIVE / 8.0,
        ..Sampling::default()
    };
    assert_eq!(sampler(&cold).sample(&logits), greedy);
    let hot = Sampling {
        temperature: 100.0,
        seed: Some(1),
        ..Sampling::default()
    };
    let mut hot = sampler(&hot);
    let drawn: std::collections::HashSet<_> =
        (0..1000).map(|_| hot.sample(&logits).unwrap()).collect();
    assert!(drawn.len() > 550, "nearly uniform: {}", drawn.len());
}

#[test]
fn nothing_is_allocated_per_token() {
    let settings = Sampling {
        top_k: 50,
        top_p: 0.9,
        seed: Some(1),
        ..Sampling::default()
    };
    let mut sampler = sampler(&settings);
    let rows: Vec<_> = (0..8).map(|seed| row(20_000, seed)).collect();
    for row in &rows {
        sampler.sample(row).unwrap();
    }
    let memory = |s: &Sampler| {
        let (candidates, weights) = (s.candidates.as_ptr(), s.weights.as_ptr());
        (candidates, weights, s.sums.as_ptr(), s.masses.as_ptr())
    };
    let before = memory(&sampler);
    for row in &rows {
        sampler.sample(row).unwrap();
    }
    assert_eq!(before, memory(&sampler));
}

#[test]
fn nonsense_is_refused() {
    for row in [
        vec![],
        vec![f32::NAN; 4],
        vec![f32::NEG_INFINITY; 4],
        vec![1.0, f32::INFINITY],
    ] {
        for settings in [Sampling::greedy(), Sampling::default()] {
            assert_eq!(sampler(&settings).sample(&row), Err(NotFinite));
        }
    }
}

#[test]
fn ranges_are_checked() {
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        sampling.validate().map_err(|e| e.parameter)
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|s| s.temperature = 0.0), Ok(()));
    assert_eq!(with(|s| s.temperature = -0.1), Err("temperature"));
    assert_eq!(with(|s| s.temperature = f32::NAN), Err("temperature"));
    assert_eq!(with(|s| s.top_p = 0.0), Err("top-p"));
    assert_eq!(with(|s| s.top_p = 1.1), Err("top-p"));
    assert_eq!(with(|s| s.top_p = f32::NAN), Err("top-p"));
    assert_eq!(with(|s| s.min_p = 1.5), Err("min-p"));
    assert_eq!(with(|s| s.logprobs = Some(21)), Err("logprobs"));
}

/// A measurement: what a token of the published vocabulary costs.
/// `cargo test --release --lib sampler -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_published_vocabulary() {
    let logits = row(201_088, 3);
    let filters = [
        ("greedy", Sampling::greedy()),
        ("temperature 1", Sampling::default()),
        (
            "top-p 0.95",
            Sampling {
                top_p: 0.95,
                ..Sampling::default()
            },
        ),
        (
            "top-k 50",
            Sampling {
                top_k: 50,
                ..Sampling::default()
            },
        ),
        (
            "min-p 0.05",
            Sampling {
                min_p: 0.05,
                ..Sampling::default()
            },
        ),
    ];
    for (name, settings) in filters {
        let mut sampler = sampler(&settings);
        let once = |_| {
            let begun = std::time::Instant::now();
            sampler.sample(&logits).unwrap();
            begun.elapsed().as_micros()
        };
        // The least: what another process takes from it is not its cost.
        let least = (0..100).map(once).min().unwrap();
        println!("{name}: {least} µs");
    }
}
