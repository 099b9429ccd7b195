//! How far two sets of logits are apart.

/// Comparison of rows of logits with reference rows.
#[derive(Debug, Default)]
pub struct Comparison {
    /// KL divergence of each row, reference against candidate, in nats.
    divergences: Vec<f64>,
    /// Rows whose largest logit is at the same index.
    agreeing: usize,
    /// Largest absolute difference of two logits.
    pub max_difference: f64,
}

impl Comparison {
    /// Adds one row.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) {
        assert_eq!(reference.len(), candidate.len());
        assert!(
            candidate.iter().all(|value| value.is_finite()),
            "a logit is not a number"
        );
        self.divergences.push(divergence(reference, candidate));
        self.agreeing += usize::from(argmax(reference) == argmax(candidate));
        for (a, b) in reference.iter().zip(candidate) {
            self.max_difference = self.max_difference.max(f64::from((a - b).abs()));
        }
    }

    pub fn rows(&self) -> usize {
        self.divergences.len()
    }

    pub fn median_divergence(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn p95_divergence(&self) -> f64 {
        self.quantile(0.95)
    }

    pub fn max_divergence(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Share of rows with the same most likely token.
    pub fn top1(&self) -> f64 {
        self.agreeing as f64 / self.rows() as f64
    }

    /// Linear interpolation between the sorted values, as numpy does.
    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        let place = q * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * place.fract()
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} rows: KL median {:.3e}, p95 {:.3e}, max {:.3e}; top-1 {:.4}; max difference {:.3e}",
            self.rows(),
            self.median_divergence(),
            self.p95_divergence(),
            self.max_divergence(),
            self.top1(),
            self.max_difference
        )
    }
}

/// Index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    let best = row
        .iter()
        .enumerate()
        .rev()
        .max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a row has entries").0
}

fn divergence(reference: &[f32], candidate: &[f32]) -> f64 {
    let (p, q) = (log_softmax(reference), log_softmax(candidate));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Logarithms of the probabilities.
pub fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = f64::from(row[argmax(row)]);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
}

#[test]
fn equal_rows_do_not_diverge_and_shifted_ones_neither() {
    let mut comparison = Comparison::default();
    comparison.add(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
    comparison.add(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]);
    assert!(comparison.max_divergence().abs() < 1e-12);
    assert_eq!((comparison.top1(), comparison.max_difference), (1.0, 1.0));
}

#[test]
fn divergence_is_the_textbook_s() {
    let quarter = [0.25f32.ln(), 0.75f32.ln()];
    let half = [0.5f32.ln(), 0.5f32.ln()];
    let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
    assert!((divergence(&quarter, &half) - expected).abs() < 1e-6);
    assert_eq!(argmax(&[1.0, 5.0, 5.0]), 1);
}
