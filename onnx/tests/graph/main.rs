//! Exported graphs, run by ONNX Runtime, against reference logits and against
//! an independent float64 implementation.

mod coreml;
mod cuda;
mod files;
mod finetune;
mod holes;
mod host;
mod judge;
mod large;
mod nano;
mod oracle;
mod parity;
mod shapes;
mod synthetic;
mod transformers;
