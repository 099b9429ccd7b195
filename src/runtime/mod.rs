//! Execution backends: ONNX Runtime, and a scripted simulator.
//!
//! [`library`] finds and loads ONNX Runtime, [`provider`] decides which
//! execution provider is trusted, [`OrtBackend`] runs one exported model with
//! one preallocated KV cache behind [`Backend`](crate::engine::backend::Backend).

mod backend;
pub mod bandwidth;
mod blocks;
mod cancel;
pub mod carried;
mod device_cache;
mod error;
mod feed;
pub mod gpu;
mod kv_cache;
mod layout;
pub mod library;
pub mod memory;
mod memory_plan;
mod model_facts;
mod options;
pub mod pinned;
pub mod prefault;
pub mod provider;
mod self_test;
mod session;
pub mod simulated;
pub mod threads;

pub use backend::OrtBackend;
pub use error::RuntimeError;
pub use library::{Library, find, initialise};
pub use memory_plan::MemoryPlan;
pub use options::{DEFAULT_CONTEXT, DEFAULT_PREFILL_CHUNK, LoadReport, Options};
pub use provider::{Provider, ProviderChoice, ProviderReport, choose, prove};
pub use simulated::SimulatedBackend;
