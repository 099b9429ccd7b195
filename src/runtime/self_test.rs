//! Proof that a provider computes what it should: the embedded model's logits.

use gptoss_onnx::export::{self, Target};
use gptoss_onnx::nano::{self, Golden};

use super::backend::OrtBackend;
use super::error::RuntimeError;
use super::options::Options;
use super::provider::Provider;
use crate::engine::backend::{Solo, Wanted};

/// Runs the embedded model on `provider` and compares with its golden logits;
/// the error says what was wrong.
pub(super) fn run(provider: Provider) -> Result<(), String> {
    let golden = nano::golden();
    let checkpoint = nano::checkpoint().map_err(|error| error.to_string())?;
    let model = export::in_memory(&checkpoint, target_for(provider)).map_err(|e| e.to_string())?;
    let options = Options {
        model: "nano".into(),
        context: golden.ids.len(),
        provider,
        ..Options::default()
    };
    let backend = OrtBackend::from_model(&model, None, &options).map_err(reason)?;
    let mut backend = Solo::new(backend).ok_or("it has no sequence")?;
    let logits = backend
        .forward(&golden.ids, Wanted::At(&golden.positions))
        .map_err(|error| error.to_string())?;
    judge(
        golden.distance(logits.rows()),
        Golden::tolerance(&provider.to_string()),
    )
}

/// Without the sentence around it that names the provider again.
fn reason(error: RuntimeError) -> String {
    match error {
        RuntimeError::ProviderUnusable { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// The operators of the target `cpu` run on the processor only.
fn target_for(provider: Provider) -> Target {
    match provider {
        Provider::Cpu => Target::Cpu,
        Provider::Cuda | Provider::CoreMl => Target::Portable,
    }
}

fn judge(distance: f64, tolerance: f64) -> Result<(), String> {
    tracing::debug!(distance, tolerance, "self-test");
    // Not `>`: a distance that is no number is wrong too.
    if distance <= tolerance {
        Ok(())
    } else {
        Err(format!(
            "its self-test gave wrong logits: distance {distance:.3} from the golden ones, \
             {tolerance} is allowed"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_logits_are_told() {
        assert!(judge(0.06, 0.12).is_ok());
        assert!(judge(0.5, 0.12).unwrap_err().contains("0.500"));
        assert!(judge(f64::INFINITY, 0.12).is_err());
        assert!(judge(f64::NAN, 0.12).is_err());
    }
}
