//! The operators inside ONNX Runtime, a node at a time.
//!
//! Needs the runtime's library, named by `ORT_DYLIB_PATH`.

mod linear;
mod model;
mod moe;

use std::sync::{Arc, OnceLock};

use gptoss_onnx::operators::{self, Control};
use ort::session::Session;

fn environment() -> &'static ort::environment::Environment {
    static ENVIRONMENT: OnceLock<ort::environment::Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let path = std::env::var_os("ORT_DYLIB_PATH")
            .expect("set ORT_DYLIB_PATH to the ONNX Runtime library to run these tests");
        ort::init_from(path)
            .unwrap()
            .with_telemetry(false)
            .build()
            .unwrap()
    })
}

/// A session of a model that uses our operators.
fn open(model: &[u8], control: &Arc<Control>) -> Result<Session, Box<dyn std::error::Error>> {
    let _opening = operators::opening();
    let mut builder = Session::builder(environment())?
        .with_intra_threads(2)?
        .with_operators(operators::domain(control)?)?;
    Ok(builder.commit_from_memory(model)?)
}

fn assert_close(got: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(got.len(), expected.len());
    let norm: f32 = expected.iter().map(|x| x * x).sum();
    let error: f32 = got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    let relative = (error / norm).sqrt();
    assert!(relative < limit, "relative error {relative}");
}
