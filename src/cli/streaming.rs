//! Experts on the disk, on the command line: how much memory they get, what it costs.

use super::messages::{decimal, message, size};
use super::size;
use crate::runtime::ExpertMemory;
use crate::runtime::streaming::Forecast;

/// The word for what is free.
pub(super) const FREE: &str = "free";

/// `free`, or a size: memory for experts.
pub(super) fn expert_memory(text: &str) -> Result<ExpertMemory, String> {
    match text {
        FREE => Ok(ExpertMemory::Free),
        text => size::bytes(text).map(ExpertMemory::Bytes),
    }
}

/// What `plan` says of it.
pub(super) fn told(forecast: &Forecast, context: usize) -> String {
    let percent = decimal(100.0 * forecast.hit_rate, 0);
    let (rest, memory) = (size(forecast.resident), size(forecast.expert_memory));
    let read = size(forecast.disk_bytes_per_token as u64);
    match (forecast.tokens_per_second, forecast.disk_bytes_per_second) {
        (Some(rate), Some(disk)) => message!(
            "plan-streamed-at",
            context = context,
            rest = rest,
            memory = memory,
            percent = percent,
            read = read,
            rate = decimal(rate, 1),
            disk = size(disk as u64),
        ),
        _ => message!(
            "plan-streamed",
            context = context,
            rest = rest,
            memory = memory,
            percent = percent,
            read = read,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_size_or_what_is_free() {
        assert_eq!(expert_memory("free"), Ok(ExpertMemory::Free));
        assert_eq!(expert_memory("6G"), Ok(ExpertMemory::Bytes(6_000_000_000)));
        assert!(expert_memory("much").is_err());
    }

    #[test]
    fn the_cost_is_told_where_it_is_known() {
        let mut forecast = Forecast {
            resident: 3_000_000_000,
            expert_memory: 6_500_000_000,
            hit_rate: 0.64,
            disk_bytes_per_token: 456_000_000.0,
            disk_bytes_per_second: Some(1.5e9),
            tokens_per_second: Some(3.29),
        };
        let text = told(&forecast, 8192);
        for part in [
            "8192", "3.00 GB", "6.50 GB", "64 %", "456.0 MB", "3.3", "1.50 GB",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        forecast.tokens_per_second = None;
        assert!(!told(&forecast, 8192).contains("1.50 GB"));
    }
}
