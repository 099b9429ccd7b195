//! The ONNX messages the writer needs, as prost structs.
