//! Inference engine: admission, scheduling, sampling; owns the model thread.

pub mod backend;

pub use backend::{Backend, BackendError, BackendInfo, Cancel, Logits, Wanted};
