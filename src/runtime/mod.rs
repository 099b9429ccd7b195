//! Execution backends: ONNX Runtime and a scripted simulator.

pub mod simulated;

pub use simulated::SimulatedBackend;
