//! Writes a checkpoint as an ONNX model with external data, reproducibly.
