//! What experts on the disk cost a test, beside what the disk can give.

use std::time::Duration;

use gptoss_onnx::streaming::StreamCounts;
use serde_json::{Value, json};

use crate::cli::messages::{decimal, message, size};
use crate::runtime::{OrtBackend, streaming};

/// A test that has begun.
pub(super) struct Begun {
    counts: StreamCounts,
    /// Bytes a second that the disk gave before it.
    disk: f64,
}

/// What a test's steps took of the disk.
#[derive(Debug)]
pub(super) struct Streamed {
    counts: StreamCounts,
    steps: f64,
    seconds: f64,
    /// Bytes a second that the disk gives at best.
    disk: f64,
    /// Bytes of memory for experts.
    memory: u64,
}

impl Begun {
    /// Measures the disk, where experts are streamed.
    pub fn new(backend: &OrtBackend) -> Option<Self> {
        let stream = backend.stream()?;
        let disk = streaming::speed(stream.files());
        Some(Self {
            counts: stream.counts(),
            disk,
        })
    }

    /// The test has ended. The disk is measured again: it may be shared, and what it
    /// gave at best is what counts.
    pub fn end(self, backend: &OrtBackend, steps: f64, took: Duration) -> Streamed {
        let (counts, disk) = match backend.stream() {
            Some(stream) => (stream.counts(), streaming::speed(stream.files())),
            None => (self.counts, 0.0),
        };
        let report = backend.load_report();
        Streamed {
            counts: counts - self.counts,
            steps,
            seconds: took.as_secs_f64(),
            disk: self.disk.max(disk),
            memory: report.streamed.map_or(0, |streamed| streamed.memory),
        }
    }
}

impl Streamed {
    fn hit_rate(&self) -> f64 {
        self.counts.hits as f64 / self.counts.wanted.max(1) as f64
    }

    /// Bytes read from the disk a second.
    fn rate(&self) -> f64 {
        self.counts.bytes as f64 / self.seconds.max(1e-9)
    }

    /// The part of what the disk gives that was used.
    fn share(&self) -> f64 {
        self.rate() / self.disk.max(1.0)
    }

    /// The part of the time that computing waited for the disk.
    fn waited(&self) -> f64 {
        self.counts.waited.as_secs_f64() / self.seconds.max(1e-9)
    }

    fn step_bytes(&self) -> f64 {
        self.counts.bytes as f64 / self.steps.max(1.0)
    }

    /// For people.
    pub fn told(&self) -> String {
        message!(
            "bench-streamed",
            hits = decimal(100.0 * self.hit_rate(), 0),
            read = size(self.step_bytes() as u64),
            rate = decimal(self.rate() / 1e9, 2),
            disk = decimal(self.disk / 1e9, 2),
            share = decimal(100.0 * self.share(), 0),
            waited = decimal(100.0 * self.waited(), 0),
        )
    }

    /// For programs.
    pub fn entry(&self) -> Value {
        json!({
            "expert_memory": self.memory,
            "hit_rate": self.hit_rate(),
            "disk_bytes_per_step": self.step_bytes(),
            "disk_bytes_per_second": self.rate(),
            "disk_read_bytes_per_second": self.disk,
            "disk_share": self.share(),
            "waited_share": self.waited(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_and_of_what_the_disk_gives() {
        let streamed = Streamed {
            counts: StreamCounts {
                wanted: 200,
                hits: 150,
                bytes: 3_000_000_000,
                waited: Duration::from_millis(1500),
            },
            steps: 10.0,
            seconds: 2.0,
            disk: 2e9,
            memory: 5,
        };
        let entry = streamed.entry();
        for (key, value) in [
            ("hit_rate", 0.75),
            ("disk_bytes_per_step", 3e8),
            ("disk_bytes_per_second", 1.5e9),
            ("disk_share", 0.75),
            ("waited_share", 0.75),
        ] {
            assert_eq!(entry[key], value, "{key}");
        }
        let told = streamed.told();
        assert!(told.contains("300.0 MB") && told.contains("1.50"), "{told}");
    }
}
