//! Distance between logits, and the limits of tests/parity/README.md.

/// Rows of reference logits against rows of candidates.
#[derive(Default)]
pub struct Judge {
    kl: Vec<f64>,
    same_top: usize,
    max_difference: f64,
}

/// The figures of one comparison.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Median KL of reference against candidate.
    pub median_kl: f64,
    /// 95th percentile of the KL.
    pub p95_kl: f64,
    /// Largest KL.
    pub max_kl: f64,
    /// Share of rows with the same most likely token.
    pub top1: f64,
    /// Largest difference of a logit.
    pub max_difference: f64,
}

impl Judge {
    /// Adds one row.
    pub fn row(&mut self, reference: &[f64], candidate: &[f32]) {
        assert_eq!(reference.len(), candidate.len());
        assert!(candidate.iter().all(|c| c.is_finite()), "logits are finite");
        let candidate: Vec<f64> = candidate.iter().map(|c| f64::from(*c)).collect();
        let (p, q) = (log_softmax(reference), log_softmax(&candidate));
        let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        self.kl.push(kl);
        self.same_top += usize::from(argmax(reference) == argmax(&candidate));
        for (r, c) in reference.iter().zip(&candidate) {
            self.max_difference = self.max_difference.max((r - c).abs());
        }
    }

    pub fn figures(mut self) -> Figures {
        self.kl.sort_by(f64::total_cmp);
        let rows = self.kl.len();
        assert!(rows > 0, "nothing was compared");
        let at = |share: f64| self.kl[((rows - 1) as f64 * share).round() as usize];
        Figures {
            median_kl: at(0.5),
            p95_kl: at(0.95),
            max_kl: at(1.0),
            top1: self.same_top as f64 / rows as f64,
            max_difference: self.max_difference,
        }
    }
}

impl Figures {
    /// Limits for float32 activations on a lossless checkpoint.
    pub fn assert_exact(&self, what: &str) {
        eprintln!("{what}: {self:?}");
        assert!(self.median_kl <= 1e-8, "{what}: {self:?}");
        assert!(self.max_kl <= 1e-5, "{what}: {self:?}");
        assert!(self.top1 >= 0.999, "{what}: {self:?}");
        assert!(self.max_difference <= 5e-3, "{what}: {self:?}");
    }

    /// Limits for int8 activations: median KL, 95th percentile, top-1.
    pub fn assert_within(&self, what: &str, median: f64, p95: f64, top1: f64) {
        eprintln!("{what}: {self:?}");
        assert!(self.median_kl <= median, "{what}: {self:?}");
        assert!(self.p95_kl <= p95, "{what}: {self:?}");
        assert!(self.top1 >= top1, "{what}: {self:?}");
    }
}

/// Index of the largest value.
pub fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = row.iter().map(|v| (v - largest).exp()).sum();
    row.iter().map(|v| v - largest - total.ln()).collect()
}
