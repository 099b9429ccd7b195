//! Interrupting a run of the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gptoss_onnx::operators::Control;
use gptoss_onnx::streaming::ExpertStream;
use ort::session::RunOptions;

use super::error::RuntimeError;
use crate::engine::backend::{BackendError, Cancel};

/// Interrupts a run between two operators through ONNX Runtime, and inside a
/// long one of ours through the flag it polls.
pub(super) struct RunCancel {
    pub control: Arc<Control>,
    pub options: RunOptions,
}

impl RunCancel {
    /// For a session whose experts come from `stream`, where they are streamed.
    pub fn new(stream: Option<ExpertStream>) -> Result<Self, RuntimeError> {
        let control = Control {
            stream,
            ..Control::default()
        };
        Ok(Self {
            control: Arc::new(control),
            options: RunOptions::new()?,
        })
    }

    pub fn check(&self) -> Result<(), BackendError> {
        match self.control.cancel.load(Ordering::Acquire) {
            true => Err(BackendError::Cancelled),
            false => Ok(()),
        }
    }
}

impl Cancel for RunCancel {
    fn cancel(&self) {
        self.control.cancel.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run cannot be interrupted");
        }
    }

    fn reset(&self) {
        if let Err(error) = self.options.unterminate() {
            tracing::warn!(%error, "an interruption cannot be taken back");
        }
        self.control.cancel.store(false, Ordering::Release);
    }
}
