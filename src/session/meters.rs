//! What becomes of requests, counted since the daemon's start.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper ends of the histogram's buckets, in seconds.
pub const BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// Durations by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// How many there were up to the end of each of [`BUCKETS`] and beyond the
    /// one before it.
    pub buckets: [u64; BUCKETS.len()],
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
}

impl Histogram {
    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let fits = BUCKETS.iter().position(|end| seconds <= *end);
        if let Some(bucket) = fits.and_then(|index| self.buckets.get_mut(index)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += duration;
    }
}

/// The numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    /// Requests by how they ended: a finish reason, `abandoned` or `error`.
    pub ended: BTreeMap<&'static str, u64>,
    /// From the acceptance of a request to its first token.
    pub first_token: Histogram,
}

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<Outcomes>);

impl Meters {
    fn lock(&self) -> MutexGuard<'_, Outcomes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has ended.
    pub fn ended(&self, how: &'static str) {
        *self.lock().ended.entry(how).or_default() += 1;
    }

    /// A request has its first token.
    pub fn first_token(&self, after: Duration) {
        self.lock().first_token.observe(after);
    }

    /// The numbers so far.
    pub fn read(&self) -> Outcomes {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_one_bucket() {
        let meters = Meters::default();
        for millis in [50, 51, 400_000] {
            meters.first_token(Duration::from_millis(millis));
        }
        meters.ended("stop");
        meters.ended("stop");
        let now = meters.read();
        assert_eq!(now.first_token.buckets[..3], [1, 1, 0]);
        assert_eq!(now.first_token.buckets.iter().sum::<u64>(), 2);
        assert_eq!(now.first_token.count, 3);
        assert_eq!(now.first_token.sum, Duration::from_millis(400_101));
        assert_eq!(now.ended["stop"], 2);
    }
}
