//! Loading the small checkpoints into this process.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use gptoss::engine::backend::{Solo, Wanted};
use gptoss::runtime::{self, Library, Options, OrtBackend};
use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{self, Target};
use ndarray::Array2;

use super::metrics::argmax;
use super::reference;

/// Loads ONNX Runtime once; without it no test here means anything.
pub fn start() {
    runtime::initialise(&Library::Installed(library())).expect("ONNX Runtime loads");
}

/// The library the tests use.
pub fn library() -> PathBuf {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("build/runtime")
        .join(runtime::library::FILE_NAME);
    let path = named.unwrap_or(built);
    assert!(
        path.is_file(),
        "{} is missing: run `make runtime`",
        path.display()
    );
    path
}

/// A revision folder with the checkpoint `name` and its export for `target`,
/// made once per run of the tests.
pub fn revision(name: &'static str, target: Target) -> PathBuf {
    static MADE: LazyLock<Mutex<Vec<PathBuf>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("parity")
        .join(format!("{name}-{target}"));
    if !made.contains(&folder) {
        make_revision(name, target, &folder);
        made.push(folder.clone());
    }
    folder
}

fn make_revision(name: &str, target: Target, folder: &Path) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
    std::fs::create_dir_all(folder).unwrap();
    for entry in std::fs::read_dir(reference::folder().join(name)).unwrap() {
        let source = entry.unwrap().path();
        std::fs::copy(&source, folder.join(source.file_name().unwrap())).unwrap();
    }
    let checkpoint = Checkpoint::open(folder).unwrap();
    let out = folder.join(target.to_string());
    export::export(&checkpoint, target, &out, &mut |_, _| {}).unwrap();
}

/// The checkpoint `name`, loaded.
pub fn load(name: &'static str, options: Options) -> Solo<OrtBackend> {
    start();
    Solo::new(OrtBackend::load(&revision(name, options.target), options).unwrap()).unwrap()
}

/// Options for `target` with everything in one run.
pub fn whole(target: Target, exact: bool) -> Options {
    Options {
        target,
        exact,
        context: 1024,
        prefill_chunk: 1024,
        ..Options::default()
    }
}

/// Rows of logits at `positions` of `ids`, of which the first `prefill` go in
/// at once and the others one by one.
pub fn logits(
    backend: &mut Solo<OrtBackend>,
    ids: &[u32],
    positions: &[usize],
    prefill: usize,
) -> Array2<f32> {
    backend.rewind(0);
    let (head, rest) = ids.split_at(prefill);
    let wanted: Vec<usize> = positions.iter().copied().filter(|&p| p < prefill).collect();
    let mut values = Vec::new();
    if !head.is_empty() {
        values.extend_from_slice(backend.forward(head, Wanted::At(&wanted)).unwrap().values);
    }
    for (i, &token) in rest.iter().enumerate() {
        let logits = backend.forward(&[token], Wanted::Last).unwrap();
        if positions.contains(&(prefill + i)) {
            values.extend_from_slice(logits.values);
        }
    }
    assert_eq!(backend.length(), ids.len());
    Array2::from_shape_vec((positions.len(), backend.info().vocab_size), values).unwrap()
}

/// The most likely continuation of `ids`, `count` tokens.
pub fn continuation(backend: &mut Solo<OrtBackend>, ids: &[u32], count: usize) -> Vec<u32> {
    backend.rewind(0);
    let mut tokens = Vec::new();
    let mut fed = ids.to_vec();
    while tokens.len() < count {
        let row = backend.forward(&fed, Wanted::Last).unwrap();
        let token = argmax(row.last().unwrap()) as u32;
        tokens.push(token);
        fed = vec![token];
    }
    tokens
}
