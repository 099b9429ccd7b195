//! What the runtime must know of an exported model, from its own metadata.

use std::collections::{HashMap, HashSet};

use gptoss_onnx::export::FORMAT;
use gptoss_onnx::graph::{GPTOSS, ROPE_COS, ROPE_SIN, attention_precision};
use gptoss_onnx::kernels::attention::Precision;
use gptoss_onnx::proto::{DataType, ModelProto, NodeProto, TensorProto};
use prost::Message;

use super::error::RuntimeError;
use super::streaming::Experts;

/// Facts of an exported model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFacts {
    pub layers: usize,
    /// Of each layer whose cache is made of blocks: how many positions a token
    /// sees, `None` where it sees all. Empty where the cache is not.
    pub windows: Vec<Option<usize>>,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// Bytes of all weights, wherever they lie.
    pub weight_bytes: u64,
    /// What of them a step reads.
    pub step_weights: StepWeights,
    /// Experts that may stay on the disk.
    pub experts: Experts,
    /// What the cache is made of.
    pub cache: Precision,
    /// Query heads of an attention operator that keeps a whole matrix of
    /// scores, `None` where the graph has no such operator.
    pub score_heads: Option<usize>,
}

/// Bytes of weights that a step of one token reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StepWeights {
    /// In any case: all but experts, the embedding, and tables of which a step
    /// reads a row.
    pub dense: u64,
    /// For an expert of a layer.
    pub expert: u64,
}

impl ModelFacts {
    /// Reads the facts from the bytes of a `model.onnx`.
    pub fn read(model: &[u8]) -> Result<Self, RuntimeError> {
        let model = ModelProto::decode(model)
            .map_err(|error| foreign(format!("it is no ONNX model: {error}")))?;
        let text = |key: &str| {
            let found = model
                .metadata_props
                .iter()
                .find(|p| p.key.as_deref() == Some(key));
            found
                .and_then(|property| property.value.as_deref())
                .ok_or_else(|| foreign(format!("its metadata lack {key}")))
        };
        let format = text("gptoss.format")?;
        if format != FORMAT {
            return Err(foreign(format!(
                "its format is {format}, this program runs format {FORMAT}"
            )));
        }
        let number = |key: &str| {
            let value = text(key)?;
            match value.parse::<usize>() {
                Ok(number) if (1..=1 << 24).contains(&number) => Ok(number),
                _ => Err(foreign(format!("its metadata say {key} = {value:?}"))),
            }
        };
        let layers = number("gptoss.layers")?;
        Ok(Self {
            layers,
            windows: windows(&model, layers)?,
            kv_heads: number("gptoss.kv_heads")?,
            head_dim: number("gptoss.head_dim")?,
            vocab_size: number("gptoss.vocab_size")?,
            max_positions: number("gptoss.max_positions")?,
            weight_bytes: model
                .graph
                .iter()
                .flat_map(|graph| &graph.initializer)
                .map(stored_bytes)
                .sum(),
            step_weights: step_weights(&model),
            experts: experts(&model),
            cache: attention_nodes(&model)
                .next()
                .map_or_else(|| stock_cache(&model), |(precision, _)| precision),
            score_heads: model
                .graph
                .iter()
                .flat_map(|graph| &graph.node)
                .find(|node| node.op_type.as_deref() == Some("GroupQueryAttention"))
                .and_then(query_heads),
        })
    }
}

/// The nodes of our attention, each with what its cache is made of.
fn attention_nodes(model: &ModelProto) -> impl Iterator<Item = (Precision, &NodeProto)> {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.filter_map(|node| Some((attention_precision(node)?, node)))
}

/// What the cache of the stock attention is made of.
fn stock_cache(model: &ModelProto) -> Precision {
    let mut inputs = model.graph.iter().flat_map(|graph| &graph.input);
    let cache = inputs.find(|input| input.name.as_deref() == Some("past_key_values.0.key"));
    match cache.is_some_and(|input| input.is_of(DataType::Float16)) {
        true => Precision::F16,
        false => Precision::F32,
    }
}

/// The windows of the nodes of our attention, of which there is one a layer.
fn windows(model: &ModelProto, layers: usize) -> Result<Vec<Option<usize>>, RuntimeError> {
    let windows: Vec<_> = attention_nodes(model)
        .map(|(_, node)| local_window(node))
        .collect();
    let mut sizes = windows.iter().flatten();
    let first = sizes.next();
    if !(windows.is_empty() || windows.len() == layers) || sizes.any(|size| Some(size) != first) {
        return Err(foreign("its layers and their windows do not fit".into()));
    }
    Ok(windows)
}

fn step_weights(model: &ModelProto) -> StepWeights {
    let Some(graph) = &model.graph else {
        return StepWeights::default();
    };
    let is_experts = |node: &&NodeProto| {
        let operator = node.op_type.as_deref().unwrap_or_default();
        ["MoE", "QMoE"].contains(&operator)
    };
    // Input, router scores, weights ….
    let experts = graph.node.iter().filter(is_experts);
    let experts: HashSet<&str> = experts
        .flat_map(|node| node.input.iter().skip(2))
        .map(String::as_str)
        .collect();
    let lookup = graph.node.iter().filter(|node| {
        let operator = node.op_type.as_deref().unwrap_or_default();
        operator == "GatherBlockQuantized"
    });
    let looked_up: HashSet<&str> = lookup
        .flat_map(|node| node.input.iter())
        .map(String::as_str)
        .chain([ROPE_COS, ROPE_SIN])
        .collect();
    let layers = graph.node.iter().filter(is_experts).count() as u64;
    let (mut dense, mut all_experts, mut count) = (0, 0, 1);
    for tensor in &graph.initializer {
        let name = tensor.name.as_deref().unwrap_or_default();
        if experts.contains(name) {
            all_experts += stored_bytes(tensor);
            count = tensor.dims.first().map_or(1, |&n| n.max(1) as u64);
        } else if !looked_up.contains(name) {
            dense += stored_bytes(tensor);
        }
    }
    StepWeights {
        dense,
        expert: all_experts / (layers.max(1) * count),
    }
}

/// The experts of our own operator: bytes of their blocks and scales, not of the biases.
fn experts(model: &ModelProto) -> Experts {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let ours = nodes.filter(|node| {
        node.op_type.as_deref() == Some("MoE") && node.domain.as_deref() == Some(GPTOSS)
    });
    let tensors = model.graph.iter().flat_map(|graph| &graph.initializer);
    let tensors: HashMap<&str, &TensorProto> = tensors
        .map(|tensor| (tensor.name.as_deref().unwrap_or_default(), tensor))
        .collect();
    let mut all = Experts::default();
    let mut bytes = 0;
    for node in ours {
        let weights = [2, 3, 5, 6].map(|input| node.input.get(input));
        let weights = weights.into_iter().flatten();
        let weights = weights.filter_map(|name| tensors.get(name.as_str()));
        let mut count = 0;
        for tensor in weights {
            count = tensor.dims.first().map_or(0, |&n| n.max(0) as u64);
            bytes += stored_bytes(tensor);
        }
        all.count += count;
        let chosen = node
            .attribute
            .iter()
            .find(|a| a.name.as_deref() == Some("k"));
        let chosen = chosen.and_then(|a| a.i).unwrap_or(0);
        all.per_token += chosen.max(0) as u64;
    }
    all.bytes = bytes / all.count.max(1);
    all
}

fn local_window(node: &NodeProto) -> Option<usize> {
    let mut attributes = node.attribute.iter();
    let size = attributes.find(|a| a.name.as_deref() == Some("local_window_size"))?;
    usize::try_from(size.i?).ok().filter(|&size| size > 0)
}

fn query_heads(node: &NodeProto) -> Option<usize> {
    let mut attributes = node.attribute.iter();
    let heads = attributes.find(|a| a.name.as_deref() == Some("num_heads"))?;
    usize::try_from(heads.i?).ok().filter(|&heads| heads > 0)
}

/// Bytes of a tensor, in the model or in another file.
fn stored_bytes(tensor: &TensorProto) -> u64 {
    let length = tensor
        .external_data
        .iter()
        .find(|e| e.key.as_deref() == Some("length"));
    let external = length.and_then(|entry| entry.value.as_deref()?.parse().ok());
    external.unwrap_or(tensor.raw_data.as_ref().map_or(0, |data| data.len() as u64))
}

fn foreign(reason: String) -> RuntimeError {
    RuntimeError::Model(format!(
        "model.onnx was not made by a compatible gptoss: {reason}; \
         export the model again with `gptoss-ctl export`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptoss_onnx::checkpoint::LayerType;
    use gptoss_onnx::export::{self, Target};
    use gptoss_onnx::nano;

    #[test]
    fn nano_tells_its_facts() {
        let checkpoint = nano::checkpoint().unwrap();
        let config = checkpoint.config();
        for target in Target::ALL {
            let model = export::in_memory(&checkpoint, target).unwrap();
            let facts = ModelFacts::read(&model).unwrap();
            assert_eq!(facts.layers, config.layers);
            assert_eq!(facts.vocab_size, config.vocab_size);
            let stock = !target.has_our_operators();
            assert_eq!(facts.score_heads, stock.then_some(config.heads));
            let cache = target.fixed_cache().unwrap_or_default();
            assert_eq!(facts.cache, cache);
            let sliding = facts.windows.iter().flatten().count();
            let layers = config.layer_types.iter();
            let expected = layers.filter(|layer| **layer == LayerType::Sliding);
            assert_eq!(sliding, if stock { 0 } else { expected.count() });
            let weights = facts.step_weights;
            let experts = (config.layers * config.experts) as u64 * weights.expert;
            assert!(weights.expert > 0 && weights.dense > 0);
            assert!(weights.dense + experts < facts.weight_bytes);
            let size = model.len() as u64;
            assert!(facts.weight_bytes < size && facts.weight_bytes > size / 2);
        }
    }

    #[test]
    fn other_models_are_refused() {
        assert!(ModelFacts::read(b"no protobuf").is_err());
        let error = ModelFacts::read(b"").unwrap_err().to_string();
        assert!(error.contains("gptoss.format"), "{error}");
    }
}
