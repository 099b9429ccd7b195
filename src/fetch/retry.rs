//! How long to wait before another attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(20);

/// The wait after `idle` attempts in a row that brought no byte: doubling
/// from a quarter of a second to twenty, with jitter, or what the server asks
/// for within a minute. None after an attempt that brought some.
pub(super) fn delay(idle: u32, asked: Option<Duration>) -> Duration {
    if let Some(asked) = asked {
        return asked.min(Duration::from_secs(60));
    }
    if idle == 0 {
        return Duration::ZERO;
    }
    let full = FIRST
        .saturating_mul(1u32 << (idle - 1).min(16))
        .min(LONGEST);
    // Every `RandomState` has fresh keys: enough to keep clients apart.
    let percent = (RandomState::new().hash_one(idle) % 51) as u32;
    full * (50 + percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_stays_bounded() {
        assert_eq!(delay(0, None), Duration::ZERO);
        for idle in 1..100 {
            let wait = delay(idle, None);
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "{idle}: {wait:?}");
        }
        assert!(delay(8, None) >= LONGEST / 2);
        let hour = Duration::from_secs(3600);
        assert_eq!(delay(1, Some(hour)), Duration::from_secs(60));
    }
}
