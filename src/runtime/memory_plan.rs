//! What a model will hold in memory, before it is loaded.

use std::path::Path;

use gptoss_onnx::export::{self, Target};
use serde::Serialize;

use super::error::RuntimeError;
use super::layout::Layout;
use super::model_facts::{ModelFacts, StepWeights};
use super::options::Options;
use super::provider::Provider;
use super::streaming::{ExpertMemory, Experts};
use crate::model::Dimensions;

/// Activations, scratch memory, the library itself and ourselves, in bytes.
const WORKSPACE: u64 = 400 << 20;

/// What CUDA, its libraries' kernels and their scratch memory hold on a GPU, in bytes;
/// estimated, as no GPU was at hand.
const GPU_WORKSPACE: u64 = 1 << 30;

/// Most times that a layer's experts are held again, as float16, while a prompt is
/// computed: GPUs before Blackwell have no MXFP4 of their own, 17 bytes for 32 weights.
///
/// Source: ONNX Runtime, `docs/contrib_ops/cuda/moe_qmoe.md`, section 4.3.
const UNPACKED: u64 = 4;

/// Bytes that a loaded model holds once its whole context is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Positions of a context window; what the model was made for is the most.
    pub context: usize,
    /// Weights: mapped from the model's files, shared with the page cache.
    pub weights: u64,
    /// Key/value cache.
    pub cache: u64,
    /// Everything else.
    pub workspace: u64,
    /// Experts among the weights, which may stay on the disk.
    #[serde(skip)]
    pub experts: Experts,
}

impl MemoryPlan {
    /// Of the model that `options` are for, from its export in `revision`, a folder
    /// `<store>/models/<name>/<revision>`.
    ///
    /// # Errors
    /// There is no such export, or it is another program's.
    pub fn of_export(revision: &Path, options: &Options) -> Result<Self, RuntimeError> {
        let folder = revision.join(options.target.to_string());
        let file =
            export::read_model(&folder).map_err(|error| RuntimeError::Model(error.to_string()))?;
        let file = match options.kv_cache {
            Some(precision) => file.with_cache(precision),
            None => file,
        };
        Ok(Self::of(&ModelFacts::read(&file.bytes)?, options))
    }

    /// Of a checkpoint that is not exported, or not even there; none where the
    /// numbers are those of no model.
    pub fn of_dimensions(dimensions: &Dimensions, options: &Options) -> Option<Self> {
        let cache = dimensions.cache()?;
        let fixed = options.target.fixed_cache();
        let facts = ModelFacts {
            layers: cache.windows.len(),
            windows: match fixed {
                Some(_) => Vec::new(),
                None => cache.windows,
            },
            kv_heads: cache.kv_heads,
            head_dim: cache.head_dim,
            vocab_size: 0,
            max_positions: cache.max_positions,
            weight_bytes: dimensions.weight_bytes(options.target.name()),
            step_weights: StepWeights::default(),
            experts: match options.target {
                Target::Cpu | Target::Coreml => experts_of(dimensions),
                _ => Experts::default(),
            },
            cache: fixed.or(options.kv_cache).unwrap_or_default(),
            score_heads: None,
        };
        Some(Self::of(&facts, options))
    }

    pub(super) fn of(facts: &ModelFacts, options: &Options) -> Self {
        let context = options.context.clamp(1, facts.max_positions);
        let layout = Layout::new(facts, context, options);
        Self {
            context,
            weights: facts.weight_bytes,
            cache: layout.shape(facts, context).bytes(),
            workspace: workspace(facts, options),
            experts: facts.experts,
        }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.cache)
            .saturating_add(self.workspace)
    }

    /// Refuses what does not fit in the memory that `provider` computes in. For the
    /// processor's it says what streaming would cost from a disk of that speed, which is
    /// asked for only then.
    pub(super) fn check(
        &self,
        provider: Provider,
        disk_speed: impl FnOnce() -> Option<f64>,
    ) -> Result<(), RuntimeError> {
        let need = self.total();
        match (provider, provider.available_memory()) {
            (Provider::Cuda, Some(have)) if need > have => {
                Err(RuntimeError::NotEnoughGpuMemory { need, have })
            }
            (_, Some(have)) if need > have => Err(self.refusal(have, disk_speed)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, have: u64, disk_speed: impl FnOnce() -> Option<f64>) -> RuntimeError {
        let possible = self.streamed(ExpertMemory::Free, have, None).is_some();
        let disk = possible.then(disk_speed).flatten();
        RuntimeError::NotEnoughMemory {
            need: self.total(),
            have,
            streamed: disk.and_then(|disk| self.streamed(ExpertMemory::Free, have, Some(disk))),
        }
    }
}

fn experts_of(dimensions: &Dimensions) -> Experts {
    let (count, bytes, per_token) = dimensions.expert_sizes();
    Experts {
        count,
        bytes,
        per_token,
    }
}

fn workspace(facts: &ModelFacts, options: &Options) -> u64 {
    match (options.provider, options.target) {
        (Provider::Cuda, Target::Cuda) => {
            let layer = facts.weight_bytes / facts.layers.max(1) as u64;
            GPU_WORKSPACE.saturating_add(layer.saturating_mul(UNPACKED))
        }
        (Provider::Cuda, _) => GPU_WORKSPACE,
        _ => WORKSPACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptoss_onnx::checkpoint::Checkpoint;
    use gptoss_onnx::kernels::attention::Precision;
    use gptoss_onnx::nano;

    /// Of a checkpoint and of its export.
    fn both(options: &Options) -> (MemoryPlan, MemoryPlan) {
        let checkpoint = Checkpoint::from_static(nano::files()).unwrap();
        let model = export::in_memory(&checkpoint, options.target).unwrap();
        let model = ModelFacts::read(&model).unwrap();
        let planned = MemoryPlan::of_dimensions(&dimensions(), options);
        (planned.unwrap(), MemoryPlan::of(&model, options))
    }

    fn dimensions() -> Dimensions {
        let mut files = nano::files().iter();
        let config = files.find(|(path, _)| *path == "config.json").unwrap().1;
        Dimensions::from_config(config).unwrap()
    }

    #[test]
    fn a_checkpoint_says_what_its_export_will() {
        for target in Target::ALL {
            for context in [1, 4096, 1 << 20] {
                for sequences in [1, 4] {
                    let (planned, found) = both(&Options {
                        target,
                        context,
                        sequences,
                        ..Options::default()
                    });
                    assert_eq!(planned.context, found.context);
                    assert_eq!(planned.experts, found.experts, "{target}");
                    assert_eq!(planned.cache, found.cache, "{target} {context} {sequences}");
                    // The graph's own constants, a few numbers, are not planned.
                    let more = found.weights.checked_sub(planned.weights);
                    assert!(more.is_some_and(|more| more < 256), "{target}: {more:?}");
                }
            }
        }
    }

    #[test]
    fn a_gpu_holds_a_layers_experts_twice() {
        let workspace = |provider, target| {
            let options = Options {
                provider,
                target,
                ..Options::default()
            };
            let plan = MemoryPlan::of_dimensions(&dimensions(), &options).unwrap();
            (plan.weights, plan.workspace)
        };
        assert_eq!(workspace(Provider::Cpu, Target::CudaInt4).1, WORKSPACE);
        assert_eq!(workspace(Provider::Cuda, Target::CudaInt4).1, GPU_WORKSPACE);
        let (weights, with_mxfp4) = workspace(Provider::Cuda, Target::Cuda);
        assert_eq!(with_mxfp4, GPU_WORKSPACE + weights / 3 * 4);
    }

    #[test]
    fn a_smaller_cache_is_planned_smaller() {
        let bytes = |kv_cache| {
            let options = Options {
                kv_cache: Some(kv_cache),
                ..Options::default()
            };
            let plan = MemoryPlan::of_dimensions(&dimensions(), &options).unwrap();
            assert_eq!(plan.total(), plan.weights + plan.cache + plan.workspace);
            plan.cache
        };
        assert_eq!(bytes(Precision::F16) * 5, bytes(Precision::Int8) * 8);
    }

    #[test]
    fn too_little_memory_is_told_with_numbers() {
        let mut plan = MemoryPlan {
            context: 1,
            weights: 15_000_000_000,
            cache: 0,
            workspace: 0,
            experts: Experts::default(),
        };
        let unasked = || panic!("there is nothing to stream");
        let error = plan.refusal(8_000_000_000, unasked);
        let message = error.to_string();
        assert!(
            message.contains("15.0 GB") && message.contains("8.0 GB"),
            "{message}"
        );
        assert!(!message.contains("stream-experts"), "{message}");
        plan.experts = Experts {
            count: 1000,
            bytes: 12_000_000,
            per_token: 100,
        };
        // 7.5 of 8.0 GB are used, 4.5 of them for 12.0 GB of experts.
        let error = plan.refusal(8_000_000_000, || Some(1.5e9));
        let message = error.to_string();
        for told in ["stream-experts", "38 %", "0.75 GB", "2.0 tokens", "1.50 GB"] {
            assert!(message.contains(told), "{told}: {message}");
        }
        // Without files that could be read there is no such way.
        let error = plan.refusal(8_000_000_000, || None);
        assert!(!error.to_string().contains("stream-experts"), "{error}");
        let (need, have) = (15_000_000_000, 8_000_000_000);
        let message = RuntimeError::NotEnoughGpuMemory { need, have }.to_string();
        assert!(message.contains("15.0 GB") && message.contains("8.0 GB"));
        plan.weights = u64::MAX;
        assert!(plan.check(Provider::Cpu, || None).is_err());
        plan.weights = 1;
        assert!(plan.check(Provider::Cpu, || None).is_ok());
    }
}
