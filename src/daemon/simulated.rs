//! The loader behind `--simulate`.

use std::sync::Arc;
use std::time::Duration;

use crate::harmony::Tokenizer;
use crate::runtime::simulated::{self, LoadFailure, Script, SimulatedBackend};
use crate::session::{LoadedModel, Loader, ModelSummary, ProviderInfo, Unavailable};

/// One model, installed under the script's name.
pub struct SimulatedLoader {
    script: Script,
}

impl SimulatedLoader {
    /// A loader that follows `script`.
    pub fn new(script: Script) -> Self {
        Self { script }
    }

    fn failure(&self) -> Option<Unavailable> {
        let message = "the script says so".to_owned();
        Some(match self.script.load_failure? {
            LoadFailure::NoRuntime => Unavailable::NoRuntime {
                library: "libsimulated.so".into(),
                message,
            },
            LoadFailure::NotEnoughMemory => Unavailable::NotEnoughMemory {
                need: 2,
                have: 1,
                message,
            },
            LoadFailure::SelfTestFailed => Unavailable::SelfTestFailed {
                provider: "simulated".into(),
                message,
            },
        })
    }
}

impl Loader for SimulatedLoader {
    fn models(&self) -> Vec<ModelSummary> {
        vec![ModelSummary {
            name: self.script.model.clone(),
            revision: "0".into(),
            size: 0,
            target: "simulated".into(),
            verified_at: String::new(),
        }]
    }

    fn resolve(&self, name: Option<&str>) -> Result<String, Unavailable> {
        match name {
            Some(name) if name != self.script.model => Err(Unavailable::NoModel(format!(
                "there is no model {name:?}; the simulator has {:?}",
                self.script.model
            ))),
            _ => Ok(self.script.model.clone()),
        }
    }

    fn probe(&self, _model: &str) -> Result<(), Unavailable> {
        Ok(())
    }

    fn tokenizer(&self, _model: &str) -> Result<Arc<Tokenizer>, Unavailable> {
        let tokenizer = Tokenizer::from_bytes(&simulated::tokenizer_json());
        let tokenizer = tokenizer.map_err(|e| Unavailable::Failed(e.to_string()))?;
        Ok(Arc::new(tokenizer))
    }

    fn context_window(&self, _model: &str) -> Result<usize, Unavailable> {
        Ok(self.script.context_window)
    }

    fn prove_again(&self) -> Result<(), Unavailable> {
        match self.script.fails_after_sleep {
            true => Err(Unavailable::SelfTestFailed {
                provider: "simulated".into(),
                message: "the script says so".into(),
            }),
            false => Ok(()),
        }
    }

    fn load(
        &self,
        _model: &str,
        progress: &mut dyn FnMut(f64),
    ) -> Result<LoadedModel, Unavailable> {
        let steps = 10;
        for step in 0..steps {
            progress(f64::from(step) / f64::from(steps));
            std::thread::sleep(Duration::from_millis(self.script.load_delay_ms) / steps);
        }
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        Ok(LoadedModel {
            backend: Box::new(SimulatedBackend::new(self.script.clone())),
            provider: ProviderInfo {
                name: "simulated".into(),
                rejected: Vec::new(),
                streamed: None,
            },
            on_device: self.script.on_device,
            replaceable: false,
        })
    }
}
