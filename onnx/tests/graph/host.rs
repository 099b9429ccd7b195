//! ONNX Runtime as the tests drive it: one session, one cache.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use gptoss_onnx::checkpoint::{Checkpoint, Config, LayerType};
use gptoss_onnx::export::{ModelFile, Target, export, in_memory, in_memory_of, read_model};
use gptoss_onnx::graph::Plan;
use gptoss_onnx::kernels::attention::BLOCK;
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
    config: Config,
    cache: Vec<[DynTensor; 2]>,
    /// Whether the cache is one of blocks.
    paged: bool,
    window: usize,
    position: usize,
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

    /// Loads the self-contained model of a graph that is not quite what `target` is.
    pub fn of_plan(
        checkpoint: &Checkpoint,
        target: Target,
        plan: Plan,
        mode: Mode,
        window: usize,
    ) -> Self {
        let model = ModelFile {
            bytes: in_memory_of(checkpoint, target, plan).expect("an export"),
            external_root: PathBuf::new(),
        };
        Self::load(model, checkpoint, mode, window)
    }

    /// Loads a model that was made of a checkpoint, with a cache of `window` positions.
    pub fn load(model: ModelFile, checkpoint: &Checkpoint, mode: Mode, window: usize) -> Self {
        let model = match mode {
            Mode::Shipped => model,
            Mode::Exact => model.exact(),
        };
        let session = session(&model).expect("a session");
        let config = checkpoint.config().clone();
        let paged = session
            .inputs()
            .iter()
            .any(|input| input.name() == "blocks");
        let past = "past_key_values.0.key";
        let past = session.inputs().iter().find(|input| input.name() == past);
        let element = past.and_then(|input| input.dtype().tensor_type());
        let half = element.expect("a cache") == TensorElementType::Float16;
        let cache = (0..config.layers)
            .map(|layer| {
                let heads = config.kv_heads;
                let shape = match (paged, config.layer_types[layer]) {
                    (false, _) => [1, heads, window, config.head_dim],
                    (true, LayerType::Full) => [blocks(window), heads, BLOCK, config.head_dim],
                    (true, LayerType::Sliding) => [ring(&config), heads, BLOCK, config.head_dim],
                };
                let side = || cache_side(shape, half, paged);
                [side(), side()]
            })
            .collect();
        Self {
            session,
            config,
            cache,
            paged,
            window,
            position: 0,
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
        let ids: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
        let mut ids_tensor = Tensor::<i64>::new(&Allocator::default(), [1, ids.len()])?;
        ids_tensor.extract_tensor_mut().1.copy_from_slice(&ids);
        let mut positions = Tensor::<i64>::new(&Allocator::default(), [wanted.len()])?;
        if !wanted.is_empty() {
            let wanted: Vec<i64> = wanted.iter().map(|w| *w as i64).collect();
            positions.extract_tensor_mut().1.copy_from_slice(&wanted);
        }
        let mut binding = self.session.create_binding()?;
        binding.bind_input("input_ids", &ids_tensor)?;
        binding.bind_input("logits_positions", &positions)?;
        let state = self.state(tokens.len())?;
        for (name, tensor) in &state {
            binding.bind_input(*name, tensor)?;
        }
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
            .chunks_exact(self.config.vocab_size)
            .map(<[f32]>::to_vec)
            .collect();
        assert_eq!(rows.len(), wanted.len());
        Ok(rows)
    }
}

impl Host {
    /// What a run of `tokens` tokens is told about the cache. Blocks are used in
    /// the reverse of their order, those of sliding layers again and again.
    fn state(&self, tokens: usize) -> ort::Result<Vec<(&'static str, DynTensor)>> {
        let (past, total) = (self.position as i32, self.position + tokens);
        if !self.paged {
            let total = total as i32;
            return Ok(vec![
                ("seqlens_k", i32s([1usize], vec![total - 1])?),
                ("total_sequence_length", i32s([0usize; 0], vec![total])?),
            ]);
        }
        let last = blocks(self.window) as i32 - 1;
        let full: Vec<i32> = (0..blocks(total) as i32).map(|i| last - i).collect();
        let first = (self.position + 1).saturating_sub(self.config.sliding_window) / BLOCK;
        let ring = ring(&self.config);
        let window: Vec<i32> = (first..blocks(total))
            .map(|block| (ring - 1 - block % ring) as i32)
            .collect();
        let lengths = vec![tokens as i32, past];
        Ok(vec![
            ("sequences", i32s([1, 2], lengths)?),
            ("blocks", i32s([1, full.len()], full)?),
            ("window_blocks", i32s([1, window.len()], window)?),
        ])
    }
}

fn blocks(positions: usize) -> usize {
    positions.div_ceil(BLOCK)
}

/// Blocks that sliding layers go round in: enough for runs of 1500 tokens.
fn ring(config: &Config) -> usize {
    blocks(config.sliding_window + 1500) + 1
}

fn i32s<const N: usize>(shape: [usize; N], data: Vec<i32>) -> ort::Result<DynTensor> {
    Ok(Tensor::from_array((shape, data))?.upcast())
}

/// One side of a layer's cache. Ours is all NaN: what is read was written before. The
/// stock operator multiplies what is beyond the end by zero.
fn cache_side(shape: [usize; 4], half: bool, ours: bool) -> DynTensor {
    let allocator = Allocator::default();
    if half {
        let mut tensor = Tensor::<f16>::new(&allocator, shape).expect("cache tensor");
        let fill = if ours { f16::NAN } else { f16::ZERO };
        tensor.extract_tensor_mut().1.fill(fill);
        return tensor.upcast();
    }
    let mut tensor = Tensor::<f32>::new(&allocator, shape).expect("cache tensor");
    tensor.extract_tensor_mut().1.fill(0.0);
    tensor.upcast()
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

/// Opens a model on the processor.
pub fn session(model: &ModelFile) -> ort::Result<Session> {
    let control = Arc::default();
    let _opening = gptoss_onnx::operators::opening();
    let mut builder = Session::builder(environment())?
        .with_intra_threads(2)?
        .with_intra_op_spinning(false)?
        .with_operators(gptoss_onnx::operators::domain(&control)?)?;
    if !model.external_root.as_os_str().is_empty() {
        builder = builder.with_config_entry(
            "session.model_external_initializers_file_folder_path",
            model.external_root.to_str().expect("a UTF-8 path"),
        )?;
    }
    builder.commit_from_memory(&model.bytes)
}
