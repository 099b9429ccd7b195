//! Execution backends: ONNX Runtime, and a scripted simulator.
//!
//! [`library`] finds and loads ONNX Runtime, [`provider`] decides which
//! execution provider is trusted by [`proof`] and [`quarantine`], [`OrtBackend`] runs one exported model with
//! one preallocated KV cache behind [`Backend`](crate::engine::backend::Backend).

mod backend;
pub mod bandwidth;
mod blocks;
mod bounded;
mod cancel;
pub mod carried;
mod coreml;
pub mod cuda;
mod device_cache;
pub mod driver;
mod error;
#[cfg(debug_assertions)]
mod fault_injection;
#[cfg(not(debug_assertions))]
#[path = "no_fault_injection.rs"]
mod fault_injection;
mod feed;
pub mod gpu;
mod kv_cache;
mod layout;
pub mod library;
mod load;
pub mod memory;
mod memory_plan;
mod model_facts;
mod options;
pub mod pinned;
pub mod prefault;
pub mod proof;
pub mod provider;
pub mod quarantine;
mod self_test;
mod session;
pub mod simulated;
pub mod streaming;
pub mod system_libraries;
pub mod threads;
pub mod wheels;

pub use backend::OrtBackend;
pub use error::RuntimeError;
pub use fault_injection::failing_at_run;
pub use library::{Library, find, initialise};
pub use load::load;
pub use memory_plan::MemoryPlan;
pub use options::{DEFAULT_CONTEXT, DEFAULT_PREFILL_CHUNK, LoadReport, Options, Streamed};
pub use proof::{Distance, NotProven};
pub use provider::{Provider, ProviderChoice, ProviderReport, choose, prove, prove_anew};
pub use quarantine::Quarantine;
pub use simulated::SimulatedBackend;
pub use streaming::ExpertMemory;
