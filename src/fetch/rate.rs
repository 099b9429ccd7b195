//! A bound on how fast all transfers together may be.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may be fetched at once after a pause, as the time it takes at the rate.
const BURST: Duration = Duration::from_millis(250);

/// Bytes a second, shared by every transfer that has it: a bucket of tokens that is
/// never seen, since what counts is when it will have paid for all that was taken.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    paid: Mutex<Instant>,
}

impl RateLimit {
    /// At most so many bytes a second; at least one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Pays for bytes that have come, by waiting. How long that was.
    pub(super) async fn wait(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(|e| e.into_inner());
            *paid = self.after(*paid, now, bytes);
            *paid
        };
        sleep_until(until).await;
        until.saturating_duration_since(now)
    }

    /// When everything is paid for, after so many more bytes.
    fn after(&self, paid: Instant, now: Instant, bytes: usize) -> Instant {
        let saved = now.checked_sub(BURST).unwrap_or(now);
        let price = bytes as f64 / self.bytes_per_second as f64;
        paid.max(saved) + Duration::from_secs_f64(price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_in_time() {
        let limit = RateLimit::new(1000);
        let start = Instant::now() + Duration::from_secs(3600);
        let mut paid = start;
        // However they come, and from however many transfers.
        for bytes in [500, 1, 499, 4000] {
            paid = limit.after(paid, start, bytes);
        }
        assert_eq!(paid - start, Duration::from_secs(5));
    }

    #[test]
    fn a_pause_is_made_up_for_only_in_part() {
        let limit = RateLimit::new(1000);
        let start = Instant::now() + Duration::from_secs(3600);
        let later = start + Duration::from_secs(60);
        let paid = limit.after(start, later, 1000);
        assert_eq!(paid - later, Duration::from_secs(1) - BURST);
    }

    #[test]
    fn any_rate_is_one() {
        for rate in [0, 1, u64::MAX] {
            let limit = RateLimit::new(rate);
            let now = Instant::now();
            assert!(limit.after(now, now, 1 << 20) >= now);
        }
    }
}
