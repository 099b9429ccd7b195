//! What a provider makes of the embedded model.

use std::borrow::Cow;

use gptoss_onnx::export::{self, Target};
use gptoss_onnx::nano;

use super::backend::OrtBackend;
use super::error::RuntimeError;
use super::fault_injection;
use super::options::Options;
use super::provider::Provider;
use crate::engine::backend::{Solo, Wanted};

/// Runs the embedded model on `provider`, in this process: how far its logits are from
/// the golden ones, infinite where they are no numbers. The error says why it cannot.
pub(super) fn run(provider: Provider) -> Result<f64, String> {
    let mut refused: Vec<String> = Vec::new();
    for &target in targets_for(provider) {
        match run_target(provider, target) {
            Ok(distance) => return Ok(distance),
            Err(why) if refused.contains(&why) => {}
            Err(why) => refused.push(why),
        }
    }
    Err(refused.join("; "))
}

fn run_target(provider: Provider, target: Target) -> Result<f64, String> {
    let golden = nano::golden();
    let checkpoint = nano::checkpoint().map_err(|error| error.to_string())?;
    let model = export::in_memory(&checkpoint, target).map_err(|e| e.to_string())?;
    let options = Options {
        model: "nano".into(),
        target,
        context: golden.ids.len(),
        provider,
        ..Options::default()
    };
    let backend = OrtBackend::from_model(&model, None, &options).map_err(reason)?;
    let mut backend = Solo::new(backend).ok_or("it has no sequence")?;
    let logits = backend
        .forward(&golden.ids, Wanted::At(&golden.positions))
        .map_err(|error| error.to_string())?;
    let rows = logits.rows();
    let rows: Vec<Cow<'_, [f32]>> = rows
        .map(|row| fault_injection::logits(provider, row))
        .collect();
    Ok(golden.distance(rows.iter().map(|row| &**row)))
}

/// Without the sentence around it that names the provider again.
fn reason(error: RuntimeError) -> String {
    match error {
        RuntimeError::ProviderUnusable { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// The exports that prove a provider, each where it refuses the one before: the CUDA
/// provider may have been built without MXFP4. The operators of target `cpu` run on the
/// processor only; the provider of CoreML takes some of the nodes between them.
fn targets_for(provider: Provider) -> &'static [Target] {
    match provider {
        _ if fault_injection::plays(provider) => &[Target::Cpu],
        Provider::Cuda => provider.targets(),
        Provider::Cpu => &[Target::Cpu],
        Provider::CoreMl => &[Target::Coreml],
    }
}
