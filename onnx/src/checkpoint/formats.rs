//! Which format a checkpoint's experts are in, by the names of its tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CheckpointError, Config, ExpertFormat, INDEX, SINGLE, parse_index, read_optional};

/// Largest header of a safetensors file, in bytes: the format's own limit.
const HEADER_MAX: u64 = 100_000_000;

/// What the names of a layer's experts say.
#[derive(Default)]
struct Found {
    mxfp4: bool,
    float: bool,
    /// A name of no known format.
    other: Option<String>,
}

/// The format of each layer's experts, from the names of all tensors.
///
/// Each layer is wholly in one format; layers may differ.
pub(super) fn of_layers<'a>(
    layers: usize,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<ExpertFormat>, CheckpointError> {
    let mut found: Vec<Found> = (0..layers).map(|_| Found::default()).collect();
    for name in names {
        let Some((layer, part)) = split(name) else {
            continue;
        };
        let Some(found) = found.get_mut(layer) else {
            continue;
        };
        match part {
            "gate_up_proj_blocks"
            | "gate_up_proj_scales"
            | "down_proj_blocks"
            | "down_proj_scales" => found.mxfp4 = true,
            "gate_up_proj" | "down_proj" => found.float = true,
            "gate_up_proj_bias" | "down_proj_bias" => {}
            _ => found.other = Some(name.to_owned()),
        }
    }
    let judged = found.into_iter().enumerate();
    judged.map(|(layer, found)| judge(layer, found)).collect()
}

fn judge(layer: usize, found: Found) -> Result<ExpertFormat, CheckpointError> {
    let reason = match (found.mxfp4, found.float, found.other) {
        (true, false, None) => return Ok(ExpertFormat::Mxfp4),
        (false, true, None) => return Ok(ExpertFormat::Float),
        (true, true, _) => "its experts are there both as MXFP4 and as floats; a layer must hold \
             one of them"
            .to_owned(),
        (_, _, Some(other)) => format!(
            "its experts are in no layout this program reads ({}): MXFP4 as published \
             (gate_up_proj_blocks, …) and floats as transformers saves them \
             (gate_up_proj, down_proj) are",
            other.escape_default().take(120).collect::<String>()
        ),
        (false, false, None) => "it has no experts, neither MXFP4 as published \
             (gate_up_proj_blocks, …) nor floats as transformers saves them \
             (gate_up_proj, down_proj)"
            .to_owned(),
    };
    Err(CheckpointError::Experts { layer, reason })
}

/// Layer and part of an expert tensor's name.
fn split(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = rest.strip_prefix("mlp.experts.")?;
    Some((layer.parse().ok()?, part))
}

/// How many layers of the checkpoint in `dir` hold their experts as floats, as
/// far as its small files tell: an export will write these. Large files need not
/// be there yet.
///
/// # Errors
/// The experts are in no format this crate reads.
pub fn float_layers(dir: &Path, config: &Config) -> Result<usize, CheckpointError> {
    let names: Vec<String> = match read_optional(dir, INDEX)? {
        Some(index) => parse_index(&index)?.into_keys().collect(),
        None => match header_names(&dir.join(SINGLE)) {
            Some(names) => names,
            // Nothing but config.json is there.
            None if config.quantized => return Ok(0),
            None => return Ok(config.layers),
        },
    };
    let formats = of_layers(config.layers, names.iter().map(String::as_str))?;
    let floats = formats.iter().filter(|f| **f == ExpertFormat::Float);
    Ok(floats.count())
}

/// Names in the header of a safetensors file; none where it cannot be read, which
/// opening the checkpoint reports better.
fn header_names(path: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Header(BTreeMap<String, IgnoredAny>);
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX {
        return None;
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let Header(entries) = serde_json::from_slice(&header).ok()?;
    Some(entries.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MXFP4: [&str; 6] = [
        "gate_up_proj_blocks",
        "gate_up_proj_scales",
        "gate_up_proj_bias",
        "down_proj_blocks",
        "down_proj_scales",
        "down_proj_bias",
    ];
    const FLOAT: [&str; 4] = [
        "gate_up_proj",
        "gate_up_proj_bias",
        "down_proj",
        "down_proj_bias",
    ];

    fn formats(layers: &[&[&str]]) -> Result<Vec<ExpertFormat>, CheckpointError> {
        let of_layer = |(layer, parts): (usize, &&[&str])| {
            let name = move |part: &&str| format!("model.layers.{layer}.mlp.experts.{part}");
            parts.iter().map(name).collect::<Vec<_>>()
        };
        let names: Vec<String> = layers.iter().enumerate().flat_map(of_layer).collect();
        let others = ["lm_head.weight", "model.layers.x.mlp.experts.down_proj"];
        let names = names.iter().map(String::as_str).chain(others);
        of_layers(layers.len(), names)
    }

    #[test]
    fn layers_may_differ() {
        assert_eq!(
            formats(&[&MXFP4, &FLOAT]).expect("both are known"),
            [ExpertFormat::Mxfp4, ExpertFormat::Float]
        );
    }

    #[test]
    fn a_layer_has_one_format() {
        let mixed = [&MXFP4[..3], &FLOAT[2..]].concat();
        let text = formats(&[&FLOAT, &mixed]).expect_err("mixed").to_string();
        assert!(text.contains("layer 1") && text.contains("both"), "{text}");
    }

    #[test]
    fn other_layouts_are_named() {
        let split = ["gate_up_projs.0.weight", "down_projs.0.weight"];
        let text = formats(&[&split]).expect_err("unknown").to_string();
        assert!(text.contains("projs.0.weight"), "{text}");
        let text = formats(&[&["down_proj_bias"]]).expect_err("none");
        assert!(text.to_string().contains("no experts"), "{text}");
        let blocks_of_others = [&FLOAT[..], &["down_proj.weight_scale"]].concat();
        assert!(formats(&[&blocks_of_others]).is_err());
    }
}
