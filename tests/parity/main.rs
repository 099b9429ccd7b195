//! The exported graphs against the reference implementation, and the backend
//! that runs them. README.md has the limits and where the data come from.

mod backend;
mod bench;
mod eval;
mod harness;
mod library;
mod logits;
mod metrics;
mod reference;
mod sequences;
mod speculation;
mod taught;
