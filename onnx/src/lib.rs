//! The ONNX graph of OpenAI's gpt-oss models, and everything that defines it:
//! the checkpoint reader, the quantizers, the graph builder, the ONNX writer
//! and the custom operators with their kernels.

pub mod checkpoint;
pub mod export;
pub mod graph;
pub mod kernels;
pub mod nano;
pub mod operators;
pub mod proto;
pub mod quantize;
pub mod streaming;
