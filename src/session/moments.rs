//! When what happened to a request, as its reader saw it: for requests that end
//! before the engine says how long it took.

use std::time::{Duration, Instant};

use super::event::UsageNumbers;

/// Moments of a request, as far as it has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    begun: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Moments {
    /// Of one that begins now.
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
        }
    }

    /// How long ago it began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Its prompt is being computed; the first time counts.
    pub fn started(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// A token came.
    pub fn token(&mut self) {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
    }

    /// Fills in what lies between them: up to now, where it came no further.
    pub fn fill(&self, usage: &mut UsageNumbers) {
        let between = |from: Instant, to: Option<Instant>| {
            let time = to.map_or_else(|| from.elapsed(), |to| to.saturating_duration_since(from));
            millis(time)
        };
        usage.queue_ms = between(self.begun, self.started);
        usage.prefill_ms = self.started.map_or(0, |at| between(at, self.first_token));
        usage.decode_ms = self
            .first_token
            .map_or(0, |at| between(at, self.last_token));
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_came_nowhere_was_in_the_queue() {
        let mut moments = Moments::begin();
        std::thread::sleep(Duration::from_millis(3));
        let mut usage = UsageNumbers::default();
        moments.fill(&mut usage);
        assert!(usage.queue_ms >= 3 && usage.prefill_ms == 0 && usage.decode_ms == 0);
        moments.started();
        std::thread::sleep(Duration::from_millis(3));
        moments.token();
        std::thread::sleep(Duration::from_millis(3));
        moments.token();
        moments.fill(&mut usage);
        assert!(usage.prefill_ms >= 3 && usage.decode_ms >= 3, "{usage:?}");
    }
}
