use gptoss_onnx::checkpoint::{Config, Elements, ExpertFormat, TensorSpec, expected};
use gptoss_onnx::graph::{self, Content, Initializer};
use serde_json::{Value, json};

use super::*;
use crate::model::{Catalog, CatalogModel};

/// Layers and experts of the published models.
const PUBLISHED: [(&str, usize, usize); 2] = [("20b", 24, 32), ("120b", 36, 128)];

fn catalogued(name: &str) -> CatalogModel {
    Catalog::builtin().get(name).unwrap().clone()
}

/// A published model's `config.json`, as far as anybody here reads it.
fn config_json(layers: usize, experts: usize) -> Value {
    let kinds = ["sliding_attention", "full_attention"];
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
        "attention_bias": true, "tie_word_embeddings": false,
        "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": layers,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
        "num_local_experts": experts, "num_experts_per_tok": 4, "vocab_size": 201_088,
        "max_position_embeddings": 131_072, "sliding_window": 128,
        "layer_types": (0..layers).map(|i| kinds[i % 2]).collect::<Vec<_>>(),
        "rms_norm_eps": 1e-5, "rope_theta": 150_000, "swiglu_limit": 7.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 4096, "truncate": false,
        },
        "quantization_config": {"quant_method": "mxfp4"},
    })
}

fn config(layers: usize, experts: usize) -> Config {
    let json = config_json(layers, experts).to_string();
    Config::parse(json.as_bytes(), None).unwrap()
}

/// Bytes of a published tensor: bf16, or the bytes of MXFP4.
fn bytes(spec: &TensorSpec) -> u64 {
    let width = match spec.elements {
        Elements::Bytes => 1,
        Elements::Floats => 2,
    };
    spec.shape.iter().product::<usize>() as u64 * width
}

/// The catalog's sizes and the reader's shapes have different sources: what the
/// shards have beyond the tensors are their headers, a line for each tensor.
#[test]
fn published_shards_are_as_large_as_the_tensors_the_reader_expects() {
    for (name, layers, experts) in PUBLISHED {
        let model = catalogued(name);
        let shards = model.files.iter();
        let shards = shards.filter(|f| f.path.ends_with(".safetensors"));
        let published: u64 = shards.map(|f| f.size).sum();
        let formats = vec![ExpertFormat::Mxfp4; layers];
        let tensors = expected(&config(layers, experts), &formats);
        let headers = published - tensors.iter().map(bytes).sum::<u64>();
        let each = headers as f64 / tensors.len() as f64;
        assert!((100.0..130.0).contains(&each), "{name}: {each} bytes");
    }
}

#[test]
fn the_catalogs_dimensions_are_those_of_the_configuration() {
    for (name, layers, experts) in PUBLISHED {
        let mut json = config_json(layers, experts);
        let told = Dimensions::from_config(json.to_string().as_bytes()).unwrap();
        let catalogued = catalogued(name).dimensions.unwrap();
        assert_eq!(catalogued.cache(), told.cache(), "in turns where not said");
        json.as_object_mut().unwrap().remove("layer_types");
        let told = Dimensions::from_config(json.to_string().as_bytes());
        assert_eq!(Some(catalogued), told, "{name}");
    }
}

/// What the graph's builder makes of the full shapes, without a weight of them.
#[test]
fn a_published_model_is_planned_as_its_graph_is_built() {
    for (name, layers, experts) in PUBLISHED {
        let dimensions = catalogued(name).dimensions.unwrap();
        let config = config(layers, experts);
        let formats = vec![ExpertFormat::Mxfp4; layers];
        for target in Target::ALL {
            let graph = graph::build(&config, &formats, target);
            let sum = |wanted: fn(&Content) -> bool| -> u64 {
                let of_kind = graph.initializers.iter().filter(|i| wanted(&i.content));
                of_kind.map(Initializer::byte_len).sum()
            };
            let held = sum(|content| !matches!(content, Content::Inline(_)));
            assert_eq!(
                dimensions.weight_bytes(target.name()),
                held,
                "{name} {target}"
            );
            let written = match target {
                Target::Cpu | Target::Coreml => {
                    sum(|content| matches!(content, Content::Derived { .. }))
                }
                // Files of their own: what is published is copied.
                _ => held,
            };
            let planned = dimensions.export_bytes(target.name(), 0);
            let more = planned - written;
            assert!(more < written / 100, "{name} {target}: {more} of {written}");
        }
    }
}

#[test]
fn a_forecast_says_both_numbers() {
    let plan = MemoryPlan {
        context: 8192,
        weights: 12_000_000_000,
        cache: 200_000_000,
        workspace: 400_000_000,
        experts: runtime::streaming::Experts::default(),
    };
    let told = forecast(&plan, Some(14_000_000_000));
    assert!(told.contains("12.60 GB of memory with a context of 8192"));
    assert!(told.ends_with("; 14.00 GB are available"), "{told}");
    let told = forecast(&plan, Some(8_000_000_000));
    assert!(told.contains("only 8.00 GB are available"), "{told}");
}

#[test]
fn what_is_too_much_may_stay_on_the_disk() {
    let plan = MemoryPlan {
        context: 8192,
        weights: 12_000_000_000,
        cache: 200_000_000,
        workspace: 400_000_000,
        experts: runtime::streaming::Experts {
            count: 768,
            bytes: 13_000_000,
            per_token: 96,
        },
    };
    let mut options = Options::default();
    let notes = forecasts(&plan, &options, Some(14_000_000_000));
    assert_eq!(notes.len(), 1);
    let notes = forecasts(&plan, &options, Some(8_000_000_000));
    assert!(notes[0].contains("refused") && notes[1].contains("stream-experts"));
    let little = forecasts(&plan, &options, Some(2_000_000_000));
    assert_eq!(little.len(), 1, "nor does the rest fit");
    options.stream_experts = Some(ExpertMemory::Free);
    let notes = forecasts(&plan, &options, Some(8_000_000_000));
    assert!(
        !notes[0].contains("refused") && notes.len() == 1,
        "{notes:?}"
    );
}
