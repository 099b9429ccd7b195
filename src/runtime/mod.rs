//! Execution backends: ONNX Runtime and a scripted simulator.
