//! The model manager end to end: the real `gptoss-ctl` against a mirror of the
//! hub with faults, and against stores and checkpoints that are not as they
//! should be. After every failure the store must be what it was.

mod access;
mod bundle;
mod campaign;
mod care;
mod carriers;
mod faults;
mod finetune;
mod french;
mod fullsize;
mod harness;
mod hostile;
mod hub;
mod import;
mod installed;
mod kill;
mod languages;
mod large;
mod local;
mod mirror;
mod offline;
mod plan;
mod proxy;
mod pull;
mod ranges;
mod registry;
mod repair;
mod runtime;
mod runtime_install;
mod space;
mod stores;
mod token_registry;
mod trust;
mod wheels;

#[allow(dead_code, reason = "tests of the crate gptoss-onnx use all of it")]
#[path = "../../onnx/tests/graph/transformers.rs"]
mod transformers;

#[allow(dead_code, reason = "tests of the crate gptoss-onnx use all of it")]
#[path = "../../onnx/tests/graph/synthetic.rs"]
mod synthetic;
