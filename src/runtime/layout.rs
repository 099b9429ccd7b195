//! How the key/value cache of a model is laid out.

use gptoss_onnx::kernels::attention::BLOCK;

use super::blocks::PoolSizes;
use super::kv_cache::{CacheShape, LayerShape};
use super::model_facts::ModelFacts;
use super::options::Options;

/// Positions that the blocks of several sequences hold beyond one context
/// window: room for what others say, and for prompts that come again.
const SPARE_POSITIONS: usize = 8192;

/// Made of blocks, or one piece for one sequence.
pub(super) enum Layout {
    Paged {
        sizes: PoolSizes,
        window: Option<usize>,
        sequences: usize,
    },
    Single,
}

impl Layout {
    pub fn new(facts: &ModelFacts, context: usize, options: &Options) -> Self {
        if facts.windows.is_empty() {
            return Self::Single;
        }
        let window = facts.windows.iter().flatten().copied().next();
        let sequences = options.sequences.max(1);
        let spare = match sequences {
            1 => 0,
            _ => context.min(SPARE_POSITIONS),
        };
        let positions = options.cache_positions.unwrap_or(context + spare);
        let positions = positions.max(context);
        let chunk = options.prefill_chunk.max(1);
        Self::Paged {
            sizes: PoolSizes::new(positions, window, sequences, chunk),
            window,
            sequences,
        }
    }

    pub fn is_paged(&self) -> bool {
        matches!(self, Self::Paged { .. })
    }

    pub fn sequences(&self) -> usize {
        match self {
            Self::Paged { sequences, .. } => *sequences,
            Self::Single => 1,
        }
    }

    pub fn shape(&self, facts: &ModelFacts, context: usize) -> CacheShape {
        let layer = |layer: usize| {
            let window = facts.windows.get(layer).copied().flatten().is_some();
            let (blocks, positions) = match self {
                Self::Single => (1, context),
                Self::Paged { sizes, .. } if window => (sizes.window, BLOCK),
                Self::Paged { sizes, .. } => (sizes.full, BLOCK),
            };
            LayerShape {
                dimensions: [
                    blocks,
                    facts.kv_heads,
                    positions,
                    facts.cache.row_len(facts.head_dim),
                ],
                window,
            }
        };
        CacheShape {
            layers: (0..facts.layers).map(layer).collect(),
            precision: facts.cache,
        }
    }
}
