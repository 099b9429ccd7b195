//! How much disk and memory the work needs, before it begins.

use std::path::Path;

use serde::Deserialize;

use super::StoreError;

/// `13.79 GB`, in powers of ten, as disks are sold.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        1 => format!("{value:.0} kB"),
        2 => format!("{value:.1} MB"),
        _ => format!("{value:.2} {}", UNITS[unit]),
    }
}

/// Bytes this user may still write where `path` is, or will be.
///
/// # Errors
/// [`StoreError::Io`].
pub fn available_space(path: &Path) -> Result<u64, StoreError> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(path);
    let stat = rustix::fs::statvfs(existing)
        .map_err(|e| StoreError::io("ask for the free space of", existing)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses work that needs more space than there is.
///
/// # Errors
/// [`StoreError::NoSpace`] with the numbers.
pub fn require_space(path: &Path, what: &str, needed: u64) -> Result<(), StoreError> {
    let available = available_space(path)?;
    if needed <= available {
        return Ok(());
    }
    Err(StoreError::NoSpace {
        path: path.to_owned(),
        what: what.to_owned(),
        needed,
        available,
    })
}

/// The numbers of a `config.json` that decide how large an export is, and how much
/// memory it takes. A catalog says them of models that are not there yet.
///
/// Values from outside: all arithmetic saturates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Dimensions {
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: u64,
    head_dim: u64,
    num_local_experts: u64,
    vocab_size: u64,
    max_position_embeddings: u64,
    sliding_window: u64,
    /// `sliding_attention` or `full_attention`, one a layer; in turns where absent.
    #[serde(default)]
    layer_types: Vec<String>,
    /// Experts a token goes to in a layer.
    #[serde(default = "four")]
    num_experts_per_tok: u64,
}

/// What all published models have, and catalogs need not say.
fn four() -> u64 {
    4
}

/// What the key/value cache of a model depends on. All numbers are small enough
/// for their products to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDimensions {
    /// Of each layer: how many positions a token sees, `None` where it sees all.
    pub windows: Vec<Option<usize>>,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub max_positions: usize,
}

/// In how many bytes a target's export stores what.
struct Stored {
    /// A number of its graph's float type, scales among them.
    float: u64,
    /// Weights of an int8 matrix that share a scale.
    block: u64,
    /// Weights of an expert that share a scale; two of them are a byte.
    expert_block: u64,
    /// Such a scale.
    expert_scale: u64,
    /// A number of an expert's bias.
    expert_bias: u64,
}

impl Stored {
    fn of(target: &str) -> Self {
        let (float, block) = match target {
            "cpu" | "coreml" | "portable" => (4, 64),
            _ => (2, 32),
        };
        let (expert_block, expert_scale) = match target {
            // MXFP4.
            "cpu" | "coreml" | "cuda" => (32, 1),
            // int4, as in the next.
            "portable" => (32, 4),
            _ => (64, 2),
        };
        Self {
            float,
            block,
            expert_block,
            expert_scale,
            expert_bias: if target == "portable" { 4 } else { 2 },
        }
    }
}

impl Dimensions {
    /// Reads them from a `config.json`; none where it does not have them, which
    /// the checkpoint reader reports better.
    pub fn from_config(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Bytes of what an export holds of a checkpoint but its experts, as the graph's
    /// builder makes it: int8 matrices, each weight a byte and a scale for each block of
    /// them, the last one filled up; the rest in the graph's floats.
    fn dense(&self, target: &str) -> u64 {
        let hidden = self.hidden_size;
        let Stored { float, block, .. } = Stored::of(target);
        let int8 = |rows: u64, columns: u64| {
            let blocks = rows.saturating_mul(columns.div_ceil(block));
            blocks.saturating_mul(block + float)
        };
        let query = self.num_attention_heads.saturating_mul(self.head_dim);
        let kv = self.num_key_value_heads.saturating_mul(self.head_dim);
        let qkv = kv.saturating_mul(2).saturating_add(query);
        // Attention's projections and their biases: in float16 for CoreML, but for the
        // last layer's second.
        let ours = |rows: u64, columns: u64| {
            int8(rows, columns).saturating_add(rows.saturating_mul(float))
        };
        let half = |rows: u64, columns: u64| {
            rows.saturating_mul(columns.saturating_add(1))
                .saturating_mul(2)
        };
        let (first, second) = match target {
            "coreml" => (half(qkv, hidden), half(hidden, query)),
            _ => (ours(qkv, hidden), ours(hidden, query)),
        };
        // Two norms, sinks.
        let floats = hidden
            .saturating_mul(2)
            .saturating_add(self.num_attention_heads);
        // With its bias, and in float32 everywhere.
        let router = self
            .num_local_experts
            .saturating_mul(hidden.saturating_add(1))
            .saturating_mul(4);
        let per_layer = first
            .saturating_add(second)
            .saturating_add(floats.saturating_mul(float))
            .saturating_add(router);
        // The embedding's blocks are of 32 weights and not filled up.
        let embedding = hidden.saturating_add((hidden / 32).saturating_mul(float));
        // The last norm, and what the first one, in float32 everywhere, has more.
        let norms = hidden.saturating_mul(4);
        per_layer
            .saturating_mul(self.num_hidden_layers)
            .saturating_sub(second)
            .saturating_add(ours(hidden, query))
            .saturating_add(self.vocab_size.saturating_mul(embedding))
            .saturating_add(int8(self.vocab_size, hidden))
            .saturating_add(norms)
            .saturating_add(self.rotary(float))
    }

    /// Bytes of the experts of some layers, biases included.
    fn experts(&self, target: &str, layers: u64) -> u64 {
        let stored = Stored::of(target);
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let matrix = |rows: u64, columns: u64| {
            let scales = columns.div_ceil(stored.expert_block);
            let row = (columns / 2).saturating_add(scales.saturating_mul(stored.expert_scale));
            rows.saturating_mul(row.saturating_add(stored.expert_bias))
        };
        matrix(inner.saturating_mul(2), hidden)
            .saturating_add(matrix(hidden, inner))
            .saturating_mul(self.num_local_experts)
            .saturating_mul(layers)
    }

    /// Cosines and sines of every position and half a head.
    fn rotary(&self, float: u64) -> u64 {
        self.max_position_embeddings
            .saturating_mul(self.head_dim)
            .saturating_mul(float)
    }

    /// Bytes of the weights that a loaded export for `target` keeps in memory.
    pub fn weight_bytes(&self, target: &str) -> u64 {
        self.dense(target)
            .saturating_add(self.experts(target, self.num_hidden_layers))
    }

    /// What its cache depends on; none where the numbers are those of no model.
    pub fn cache(&self) -> Option<CacheDimensions> {
        let within = |value: u64, most: u64| {
            let fits = (1..=most).contains(&value);
            usize::try_from(value).ok().filter(|_| fits)
        };
        let layers = within(self.num_hidden_layers, 1024)?;
        let window = within(self.sliding_window, 1 << 24)?;
        let slides = |layer: usize| match self.layer_types.get(layer) {
            Some(kind) => kind == "sliding_attention",
            None => layer.is_multiple_of(2),
        };
        Some(CacheDimensions {
            windows: (0..layers).map(|i| slides(i).then_some(window)).collect(),
            kv_heads: within(self.num_key_value_heads, 1024)?,
            head_dim: within(self.head_dim, 512)?,
            max_positions: within(self.max_position_embeddings, 1 << 20)?,
        })
    }

    /// Of the experts of all layers, where they stay in MXFP4: how many there are, the
    /// bytes of one without its biases, and how many of them a token goes to.
    pub fn expert_sizes(&self) -> (u64, u64, u64) {
        let layers = self.num_hidden_layers;
        let weights = [self.intermediate_size, self.hidden_size];
        let weights = weights.into_iter().fold(3, u64::saturating_mul);
        (
            layers.saturating_mul(self.num_local_experts),
            (weights / 32).saturating_mul(17),
            layers.saturating_mul(self.num_experts_per_tok),
        )
    }

    /// The bytes an export for `target` writes at most, of a checkpoint that holds the
    /// experts of `float_layers` layers as floats.
    ///
    /// `cpu`: experts in MXFP4 stay where they are, floats become MXFP4. Others: all
    /// experts, whatever they were.
    pub fn export_bytes(&self, target: &str, float_layers: u64) -> u64 {
        let written = match target {
            "cpu" | "coreml" => float_layers,
            _ => self.num_hidden_layers,
        };
        // The graph itself, and the gaps before tensors, which begin at pages.
        let rest = self.num_hidden_layers.saturating_mul(128 << 10);
        self.dense(target)
            .saturating_add(self.experts(target, written))
            .saturating_add(rest)
            .saturating_add(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(999), "999 B");
        assert_eq!(human_size(36_355), "36 kB");
        assert_eq!(human_size(13_761_316_904), "13.76 GB");
        assert_eq!(human_size(u64::MAX), "18446.74 PB");
    }

    #[test]
    fn the_export_of_20b_for_cpu() {
        let config = br#"{"hidden_size":2880,"intermediate_size":2880,"num_hidden_layers":24,
            "num_attention_heads":64,"num_key_value_heads":8,"head_dim":64,
            "num_local_experts":32,"vocab_size":201088,"max_position_embeddings":131072,
            "sliding_window":128}"#;
        let dimensions = Dimensions::from_config(config).unwrap();
        let needed = dimensions.export_bytes("cpu", 0);
        assert!((1_987_000_000..1_993_000_000).contains(&needed), "{needed}");
        assert_eq!(dimensions.expert_sizes(), (768, 13_219_200, 96));
        // A fine-tune of it: all of its experts are written as well, 10.17 GB.
        let with_experts = dimensions.export_bytes("cpu", 24) - needed;
        assert!(
            (10_160_000_000..10_170_000_000).contains(&with_experts),
            "{with_experts}"
        );
    }

    #[test]
    fn absurd_dimensions_do_not_overflow() {
        let config = format!(
            r#"{{"hidden_size":{0},"intermediate_size":{0},"num_hidden_layers":{0},
            "num_attention_heads":{0},"num_key_value_heads":{0},"head_dim":{0},
            "num_local_experts":{0},"vocab_size":{0},"max_position_embeddings":{0},
            "sliding_window":{0}}}"#,
            u64::MAX
        );
        let dimensions = Dimensions::from_config(config.as_bytes()).unwrap();
        assert_eq!(dimensions.export_bytes("cpu", u64::MAX), u64::MAX);
        assert_eq!(dimensions.export_bytes("portable", 0), u64::MAX);
        assert_eq!(dimensions.weight_bytes("cpu"), u64::MAX);
        assert_eq!(dimensions.cache(), None);
        assert_eq!(dimensions.expert_sizes().0, u64::MAX);
    }

    #[test]
    fn too_little_space_is_refused_with_numbers() {
        let error = require_space(Path::new("/"), "the test", u64::MAX).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }));
        assert!(error.to_string().contains("18446.74 PB"), "{error}");
        require_space(Path::new("/no/such/folder/yet"), "the test", 0).unwrap();
    }
}
