//! What the runtime must know of an exported model, from its own metadata.

use gptoss_onnx::proto::{DataType, ModelProto, NodeProto, TensorProto};
use prost::Message;

use super::error::RuntimeError;

/// Version of the export format that this program runs.
const FORMAT: &str = "1";

/// Facts of an exported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelFacts {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// Bytes of all weights, wherever they lie.
    pub weight_bytes: u64,
    /// Whether the cache holds half precision numbers.
    pub half_cache: bool,
    /// Query heads of an attention operator that keeps a whole matrix of
    /// scores, `None` where the graph has no such operator.
    pub score_heads: Option<usize>,
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
        Ok(Self {
            layers: number("gptoss.layers")?,
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
            half_cache: model
                .graph
                .iter()
                .flat_map(|graph| &graph.input)
                .any(|input| input.element() == Some(DataType::Float16 as i32)),
            score_heads: model
                .graph
                .iter()
                .flat_map(|graph| &graph.node)
                .find(|node| node.op_type.as_deref() == Some("GroupQueryAttention"))
                .and_then(query_heads),
        })
    }
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
            let stock = target == Target::Portable;
            assert_eq!(facts.score_heads, stock.then_some(config.heads));
            assert_eq!(facts.half_cache, !stock);
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
