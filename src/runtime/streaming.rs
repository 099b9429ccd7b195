//! Experts that stay on the disk: what that takes of memory, and what it costs.

use std::path::Path;
use std::time::Duration;

use gptoss_onnx::export::{self, Target};
use gptoss_onnx::proto::ModelProto;
use gptoss_onnx::streaming::{ExpertFiles, ExpertStream};
use prost::Message;
use serde::Serialize;

use super::error::RuntimeError;
use super::memory_plan::MemoryPlan;

/// How long the disk is read to say how fast it is.
pub const SPEED_TIME: Duration = Duration::from_millis(500);
/// Threads that read meanwhile: as many as a model's, which keep any disk busy.
const SPEED_THREADS: usize = 8;
/// The part of free memory that is left free unless said otherwise.
const SPARE: u64 = 16;

/// How much memory streamed experts may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertMemory {
    /// What is free besides the rest of the model when it is loaded, less a sixteenth
    /// of what is free in all.
    Free,
    /// So many bytes.
    Bytes(u64),
}

impl ExpertMemory {
    /// What a setting says, where 0 stands for what is free.
    pub fn from_setting(bytes: u64) -> Self {
        match bytes {
            0 => Self::Free,
            bytes => Self::Bytes(bytes),
        }
    }

    /// Bytes for experts where `have` bytes are free and the rest of the model takes
    /// `rest`.
    fn of(self, have: u64, rest: u64) -> u64 {
        match self {
            Self::Free => (have - have / SPARE).saturating_sub(rest),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The experts of a model that can be streamed; all zero where none can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Experts {
    /// Experts of all layers.
    pub count: u64,
    /// Bytes of one.
    pub bytes: u64,
    /// Experts of all layers that a token goes to.
    pub per_token: u64,
}

impl Experts {
    /// Bytes of all.
    pub fn total(&self) -> u64 {
        self.count.saturating_mul(self.bytes)
    }
}

/// What streaming is going to cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// Bytes of memory that everything but experts takes.
    pub resident: u64,
    /// Bytes of memory for experts.
    pub expert_memory: u64,
    /// The share of experts that is in memory: how often the one that is wanted is there,
    /// if the router likes all of them the same. It likes some of them better.
    pub hit_rate: f64,
    /// Bytes read from the disk for a token.
    pub disk_bytes_per_token: f64,
    /// What the disk gives in a second, where that was measured.
    pub disk_bytes_per_second: Option<f64>,
    /// Tokens generated in a second, at most: so many the disk has experts for.
    pub tokens_per_second: Option<f64>,
}

impl MemoryPlan {
    /// Bytes that everything but experts takes.
    pub fn without_experts(&self) -> u64 {
        self.total().saturating_sub(self.experts.total())
    }

    /// What streaming costs where `have` bytes are free and the disk gives `disk` bytes
    /// a second; none where the rest of the model leaves no room for two experts, or
    /// where there is nothing to stream.
    pub fn streamed(&self, memory: ExpertMemory, have: u64, disk: Option<f64>) -> Option<Forecast> {
        let (experts, resident) = (&self.experts, self.without_experts());
        let expert_memory = memory.of(have, resident).min(experts.total());
        let fits = resident.saturating_add(expert_memory) <= have;
        if experts.count == 0 || expert_memory < experts.bytes.saturating_mul(2) || !fits {
            return None;
        }
        let hit_rate = expert_memory as f64 / experts.total().max(1) as f64;
        let bytes = (1.0 - hit_rate) * experts.per_token as f64 * experts.bytes as f64;
        let disk = disk.filter(|speed| *speed > 0.0);
        Some(Forecast {
            resident,
            expert_memory,
            hit_rate,
            disk_bytes_per_token: bytes,
            disk_bytes_per_second: disk,
            tokens_per_second: disk.filter(|_| bytes > 0.0).map(|speed| speed / bytes),
        })
    }
}

/// Opens the experts of a model whose external data is relative to `root`, for as much
/// memory as was said, of `have` bytes that are free.
pub(super) fn open(
    model: &[u8],
    root: Option<&Path>,
    plan: &MemoryPlan,
    memory: ExpertMemory,
    have: Option<u64>,
) -> Result<ExpertStream, RuntimeError> {
    let unusable =
        |e: &dyn std::fmt::Display| RuntimeError::Model(format!("experts cannot be streamed: {e}"));
    let files = locate(model, root).map_err(|e| unusable(&e))?;
    let all = files.experts() as u64 * files.slot_bytes();
    let rest = plan.without_experts();
    let have = have.unwrap_or(u64::MAX);
    let bytes = memory.of(have, rest).min(all);
    let least = bytes.max(2 * files.slot_bytes());
    let need = rest.saturating_add(least);
    if need > have {
        return Err(RuntimeError::NotEnoughMemory {
            need,
            have,
            streamed: None,
        });
    }
    let stream = ExpertStream::new(files, bytes).map_err(|e| unusable(&e))?;
    tracing::info!(
        slots = stream.slots(),
        experts = stream.files().experts(),
        bytes,
        "experts are streamed from the disk; answers are slow"
    );
    Ok(stream)
}

fn locate(model: &[u8], root: Option<&Path>) -> Result<ExpertFiles, String> {
    let root = root.ok_or("the model is in memory as a whole")?;
    let model = ModelProto::decode(model).map_err(|e| e.to_string())?;
    ExpertFiles::locate(&model, root).map_err(|e| e.to_string())
}

/// Bytes a second that the disk gives of a model's experts; none where they do not lie
/// in files, or cannot be read.
pub(super) fn disk_speed(model: &[u8], root: Option<&Path>) -> Option<f64> {
    let files = locate(model, root).ok()?;
    Some(speed(&files)).filter(|speed| *speed > 0.0)
}

/// The same of an export in `revision`, a folder `<store>/models/<name>/<revision>`.
pub fn disk_speed_of(revision: &Path, target: Target) -> Option<f64> {
    let file = export::read_model(&revision.join(target.to_string())).ok()?;
    disk_speed(&file.bytes, Some(&file.external_root))
}

/// Bytes a second that the disk gives of these experts, read here and there and past
/// the page cache.
pub fn speed(files: &ExpertFiles) -> f64 {
    files.read_speed(SPEED_THREADS, SPEED_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the size of gpt-oss-20b.
    fn plan() -> MemoryPlan {
        let experts = Experts {
            count: 24 * 32,
            bytes: 13_219_200,
            per_token: 24 * 4,
        };
        MemoryPlan {
            context: 8192,
            weights: 12_100_000_000,
            cache: 400_000_000,
            workspace: 400 << 20,
            experts,
        }
    }

    #[test]
    fn a_forecast_is_what_the_disk_has_to_give() {
        let plan = plan();
        let rest = plan.without_experts();
        assert_eq!(rest + 768 * 13_219_200, plan.total());
        let half = 384 * 13_219_200;
        let forecast = plan.streamed(ExpertMemory::Bytes(half), 10_000_000_000, Some(1e9));
        let forecast = forecast.unwrap();
        assert_eq!((forecast.resident, forecast.expert_memory), (rest, half));
        assert!((forecast.hit_rate - 0.5).abs() < 1e-9);
        assert_eq!(forecast.disk_bytes_per_token, 48.0 * 13_219_200.0);
        let rate = forecast.tokens_per_second.unwrap();
        assert!((rate - 1e9 / (48.0 * 13_219_200.0)).abs() < 1e-9);
    }

    #[test]
    fn what_is_free_is_used_but_for_a_part() {
        let plan = plan();
        let have = 10_000_000_000;
        let forecast = plan.streamed(ExpertMemory::Free, have, None).unwrap();
        let used = forecast.resident + forecast.expert_memory;
        assert_eq!(used, have - have / 16);
        assert_eq!(forecast.tokens_per_second, None);
        let plenty = plan
            .streamed(ExpertMemory::Free, 1 << 40, Some(1e9))
            .unwrap();
        assert_eq!((plenty.hit_rate, plenty.tokens_per_second), (1.0, None));
    }

    #[test]
    fn what_cannot_be_is_not_promised() {
        let mut plan = plan();
        let rest = plan.without_experts();
        assert_eq!(plan.streamed(ExpertMemory::Free, rest, None), None);
        let too_much = ExpertMemory::Bytes(5_000_000_000);
        assert_eq!(plan.streamed(too_much, rest + 4_000_000_000, None), None);
        plan.experts = Experts::default();
        assert_eq!(plan.streamed(ExpertMemory::Free, 1 << 40, None), None);
    }
}
