//! ONNX Runtime as the tests drive it: one session, one cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{ModelFile, Target, export, in_memory, read_model};
use gptoss_onnx::kernels::attention::KEY_BLOCK;
use half::f16;
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::Session;
use ort::value::{DynTensor, Tensor, TensorElementType};

/// Where `make runtime` puts the library.
const FETCHED: &str = "build/runtime/libonnxruntime.so.1.31.1";

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let library = std::env::var_os("ORT_DYLIB_PATH")
            .map_or_else(|| workspace.join(FETCHED), PathBuf::from);
        assert!(
            library.exists(),
            "no ONNX Runtime at {}: run `make runtime`, or set ORT_DYLIB_PATH",
            library.display()
        );
        // SAFETY: tests of this binary read no environment variables on
        // other threads but through std, which locks.
        unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
        let builder = ort::init_from(&library).expect("the library loads");
        builder
            .with_telemetry(false)
            .build()
            .expect("an environment")
    })
}

/// A loaded model with its cache.
pub struct Host {
    session: Session,
    cache: Vec<[DynTensor; 2]>,
    window: usize,
    position: usize,
    vocab: usize,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As exported: int8 activations.
    Shipped,
    /// float32 activations.
    Exact,
}

impl Host {
    /// Exports the checkpoint in `dir` to a temporary folder and loads it with
    /// a cache of `window` positions.
    pub fn export(dir: &Path, target: Target, mode: Mode, window: usize) -> Self {
        let revision = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(dir).expect("checkpoint folder") {
            let entry = entry.expect("folder entry");
            if entry.path().is_file() {
                let to = revision.path().join(entry.file_name());
                std::fs::hard_link(entry.path(), &to)
                    .or_else(|_| std::fs::copy(entry.path(), &to).map(drop))
                    .expect("a copy of the checkpoint");
            }
        }
        let checkpoint = Checkpoint::open(revision.path()).expect("a sound checkpoint");
        let out = revision.path().join(target.name());
        export(&checkpoint, target, &out, &mut |_, _| ()).expect("an export");
        let model = read_model(&out).expect("a sound export");
        Self::load(model, &checkpoint, mode, window)
    }

    /// Loads the self-contained model.
    pub fn in_memory(checkpoint: &Checkpoint, target: Target, mode: Mode, window: usize) -> Self {
        let model = ModelFile {
            bytes: in_memory(checkpoint, target).expect("an export"),
            external_root: PathBuf::new(),
        };
        Self::load(model, checkpoint, mode, window)
    }

    fn load(model: ModelFile, checkpoint: &Checkpoint, mode: Mode, window: usize) -> Self {
        let model = match mode {
            Mode::Shipped => model,
            Mode::Exact => model.exact(),
        };
        let session = session(&model).expect("a session");
        let config = checkpoint.config();
        let positions = window.next_multiple_of(KEY_BLOCK);
        let shape = [1, config.kv_heads, positions, config.head_dim];
        let past = "past_key_values.0.key";
        let past = session.inputs().iter().find(|input| input.name() == past);
        let element = past.and_then(|input| input.dtype().tensor_type());
        let allocator = Allocator::default();
        let empty = || match element.expect("a cache") {
            TensorElementType::Float16 => {
                let mut tensor = Tensor::<f16>::new(&allocator, shape).expect("cache tensor");
                tensor.extract_tensor_mut().1.fill(f16::ZERO);
                tensor.upcast()
            }
            _ => {
                let mut tensor = Tensor::<f32>::new(&allocator, shape).expect("cache tensor");
                tensor.extract_tensor_mut().1.fill(0.0);
                tensor.upcast()
            }
        };
        Self {
            session,
            cache: (0..config.layers).map(|_| [empty(), empty()]).collect(),
            window,
            position: 0,
            vocab: config.vocab_size,
        }
    }

    /// Forgets everything.
    pub fn rewind(&mut self) {
        self.position = 0;
    }

    /// Appends tokens; logits of those at `wanted`, one row each.
    pub fn forward(&mut self, tokens: &[u32], wanted: &[usize]) -> Vec<Vec<f32>> {
        assert!(self.position + tokens.len() <= self.window, "cache is full");
        let rows = self.run(tokens, wanted).expect("a run");
        self.position += tokens.len();
        rows
    }

    fn run(&mut self, tokens: &[u32], wanted: &[usize]) -> ort::Result<Vec<Vec<f32>>> {
        let total = (self.position + tokens.len()) as i32;
        let ids: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
        let mut ids_tensor = Tensor::<i64>::new(&Allocator::default(), [1, ids.len()])?;
        ids_tensor.extract_tensor_mut().1.copy_from_slice(&ids);
        let mut positions = Tensor::<i64>::new(&Allocator::default(), [wanted.len()])?;
        if !wanted.is_empty() {
            let wanted: Vec<i64> = wanted.iter().map(|w| *w as i64).collect();
            positions.extract_tensor_mut().1.copy_from_slice(&wanted);
        }
        let seqlens = Tensor::from_array(([1usize], vec![total - 1]))?;
        let length = Tensor::from_array(((), vec![total]))?;
        let mut binding = self.session.create_binding()?;
        binding.bind_input("input_ids", &ids_tensor)?;
        binding.bind_input("logits_positions", &positions)?;
        binding.bind_input("seqlens_k", &seqlens)?;
        binding.bind_input("total_sequence_length", &length)?;
        for (layer, tensors) in self.cache.iter_mut().enumerate() {
            for (part, tensor) in ["key", "value"].into_iter().zip(tensors) {
                binding.bind_input(format!("past_key_values.{layer}.{part}"), &*tensor)?;
                binding.bind_output(format!("present.{layer}.{part}"), tensor)?;
            }
        }
        let allocator = Allocator::default();
        binding.bind_output_to_device("logits", allocator.memory_info())?;
        let outputs = self.session.run_binding(&binding)?;
        let (_, values) = outputs["logits"].try_extract_tensor::<f32>()?;
        let rows: Vec<Vec<f32>> = values
            .chunks_exact(self.vocab)
            .map(<[f32]>::to_vec)
            .collect();
        assert_eq!(rows.len(), wanted.len());
        Ok(rows)
    }
}

/// How a prompt is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// All at once.
    Whole,
    /// In slices of so many tokens; a slice without wanted positions asks for
    /// no logits.
    Chunks(usize),
}

impl Host {
    /// Feeds a sequence from the start: logits at `positions`, ascending.
    pub fn logits(&mut self, ids: &[u32], positions: &[usize], feed: Feed) -> Vec<Vec<f32>> {
        self.rewind();
        let size = match feed {
            Feed::Whole => ids.len(),
            Feed::Chunks(size) => size,
        };
        let mut rows = Vec::new();
        for (i, chunk) in ids.chunks(size).enumerate() {
            let start = i * size;
            let wanted: Vec<usize> = positions
                .iter()
                .filter(|p| (start..start + chunk.len()).contains(p))
                .map(|p| p - start)
                .collect();
            rows.extend(self.forward(chunk, &wanted));
        }
        rows
    }
}

fn session(model: &ModelFile) -> ort::Result<Session> {
    let cancel = Arc::new(AtomicBool::new(false));
    let _opening = gptoss_onnx::operators::opening();
    let mut builder = Session::builder(environment())?
        .with_intra_threads(2)?
        .with_intra_op_spinning(false)?
        .with_operators(gptoss_onnx::operators::domain(cancel)?)?;
    if !model.external_root.as_os_str().is_empty() {
        builder = builder.with_config_entry(
            "session.model_external_initializers_file_folder_path",
            model.external_root.to_str().expect("a UTF-8 path"),
        )?;
    }
    builder.commit_from_memory(&model.bytes)
}
