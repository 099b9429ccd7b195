//! Times of one test's repetitions and what they say.

use std::time::Duration;

/// Times of the repetitions of one test, at least one.
#[derive(Debug, Clone)]
pub(super) struct Samples {
    tokens: usize,
    durations: Vec<Duration>,
}

impl Samples {
    pub fn new(tokens: usize, durations: Vec<Duration>) -> Self {
        Self { tokens, durations }
    }

    /// Nanoseconds of each repetition.
    pub fn nanoseconds(&self) -> Vec<f64> {
        let times = self.durations.iter();
        times.map(|time| time.as_nanos() as f64).collect()
    }

    /// Tokens per second of each repetition.
    pub fn rates(&self) -> Vec<f64> {
        let rate = |time: &Duration| self.tokens as f64 / time.as_secs_f64().max(1e-9);
        self.durations.iter().map(rate).collect()
    }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Sample standard deviation, 0 for fewer than two values.
pub(super) fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_the_usual_ones() {
        let values = [2.0, 4.0, 9.0];
        assert_eq!(mean(&values), 5.0);
        assert_eq!(deviation(&values), 13f64.sqrt());
        assert_eq!(deviation(&[7.0]), 0.0);
        assert_eq!(median(&values), 4.0);
        assert_eq!(median(&[1.0, 2.0, 3.0, 10.0]), 2.5);
    }

    #[test]
    fn rates_are_tokens_per_second() {
        let samples = Samples::new(10, vec![Duration::from_secs(2), Duration::from_secs(5)]);
        assert_eq!(samples.rates(), [5.0, 2.0]);
        assert_eq!(samples.nanoseconds(), [2e9, 5e9]);
    }
}
