//! The exported graphs against the reference implementation, and the backend
//! that runs them. README.md has the limits and where the data come from.

mod backend;
mod bench;
mod eval;
mod finetune;
mod harness;
mod library;
mod logits;
mod metrics;
mod reference;
mod sequences;
mod speculation;
mod streaming;
mod taught;

#[allow(dead_code, reason = "tests of the crate gptoss-onnx use all of it")]
#[path = "../../onnx/tests/graph/transformers.rs"]
mod transformers;
