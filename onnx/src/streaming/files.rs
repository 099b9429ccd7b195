//! Where the experts of an exported model lie, and how they are read.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::StreamError;
use crate::graph::GPTOSS;
use crate::kernels::mxfp4::{BLOCK, BLOCK_BYTES};
use crate::proto::{LOCATION_EXTERNAL, ModelProto, NodeProto, TensorProto};

/// The tensors that an expert has a part of: blocks and scales of the gate and up
/// projection, blocks and scales of the down projection.
pub(super) const TENSORS: usize = 4;
/// Where they are among the inputs of `gptoss:MoE`.
const INPUTS: [usize; TENSORS] = [2, 3, 5, 6];
/// Direct reads begin, end and arrive at multiples of this many bytes: what every disk
/// takes, and a page.
const ALIGNMENT: u64 = 4096;

/// Where the experts of all layers of a model lie, and the files that hold them.
#[derive(Debug)]
pub struct ExpertFiles {
    files: Vec<WeightsFile>,
    layers: Vec<LayerFiles>,
    experts: usize,
}

/// Where the experts of a layer lie.
#[derive(Debug)]
pub(super) struct LayerFiles {
    /// Name of the first of its tensors, by which its node knows it.
    name: String,
    /// What its first expert's number among all layers' is.
    pub first: usize,
    /// How many it has.
    pub experts: usize,
    tensors: [TensorFile; TENSORS],
    /// Rows and row length of the gate and up projection, then of the down projection.
    pub shapes: [(usize, usize); 2],
}

/// Where a tensor of all experts of a layer lies.
#[derive(Debug, Clone, Copy)]
struct TensorFile {
    file: usize,
    offset: u64,
    /// Bytes of one expert.
    each: usize,
}

/// A part of a file that holds one tensor of one expert, made longer so that it can be
/// read directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    file: usize,
    /// Where the read begins, a multiple of [`ALIGNMENT`].
    start: u64,
    /// Bytes before the tensor's.
    pub skip: usize,
    /// Bytes of the tensor.
    pub len: usize,
}

impl ExpertFiles {
    /// Of the experts of `model`, whose external data is relative to `root`.
    ///
    /// # Errors
    /// The model has no experts, or they do not lie in files below `root` as
    /// `gptoss:MoE` needs them.
    pub fn locate(model: &ModelProto, root: &Path) -> Result<Self, StreamError> {
        let graph = model.graph.as_ref().ok_or(StreamError::NoExperts)?;
        let initializers = graph.initializer.iter();
        let initializers: HashMap<&str, &TensorProto> = initializers
            .map(|tensor| (tensor.name.as_deref().unwrap_or_default(), tensor))
            .collect();
        let mut located = Self {
            files: Vec::new(),
            layers: Vec::new(),
            experts: 0,
        };
        let ours = |node: &&NodeProto| {
            node.op_type.as_deref() == Some("MoE") && node.domain.as_deref() == Some(GPTOSS)
        };
        for node in graph.node.iter().filter(ours) {
            located.add(node, &initializers, root)?;
        }
        match located.layers.is_empty() {
            true => Err(StreamError::NoExperts),
            false => Ok(located),
        }
    }

    fn add(
        &mut self,
        node: &NodeProto,
        initializers: &HashMap<&str, &TensorProto>,
        root: &Path,
    ) -> Result<(), StreamError> {
        let mut parts = Vec::with_capacity(TENSORS);
        for input in INPUTS {
            let name = node.input.get(input).map(String::as_str);
            let name = name.unwrap_or_default();
            let tensor = initializers.get(name);
            parts.push(External::of(name, tensor.copied(), root)?);
        }
        let [gate_up, gate_up_scales, down, down_scales] =
            <[External; TENSORS]>::try_from(parts).expect("as many as there are inputs to look at");
        let shapes = [
            matrix_shape(&gate_up, &gate_up_scales)?,
            matrix_shape(&down, &down_scales)?,
        ];
        let experts = gate_up.dims[0];
        if down.dims[0] != experts {
            return Err(down.malformed("it has another number of experts"));
        }
        let name = gate_up.name.clone();
        let tensors = [gate_up, gate_up_scales, down, down_scales];
        let mut places = Vec::with_capacity(TENSORS);
        for tensor in &tensors {
            places.push(TensorFile {
                file: self.file(tensor)?,
                offset: tensor.offset,
                each: tensor.length / experts,
            });
        }
        self.layers.push(LayerFiles {
            name,
            first: self.experts,
            experts,
            tensors: <[TensorFile; TENSORS]>::try_from(places).expect("one for each tensor"),
            shapes,
        });
        self.experts += experts;
        Ok(())
    }

    /// The number of the file that holds `tensor`, opened once.
    fn file(&mut self, tensor: &External) -> Result<usize, StreamError> {
        let known = self.files.iter().position(|f| f.path == tensor.path);
        let index = match known {
            Some(index) => index,
            None => {
                self.files.push(WeightsFile::open(&tensor.path)?);
                self.files.len() - 1
            }
        };
        let end = tensor.offset.checked_add(tensor.length as u64);
        match end.is_some_and(|end| end <= self.files[index].len) {
            true => Ok(index),
            false => Err(tensor.malformed("it ends behind its file's end")),
        }
    }

    /// Layers that have experts.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Experts of all layers.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Bytes of the largest expert, of which all have the same size in the models there
    /// are.
    pub fn expert_bytes(&self) -> u64 {
        let of_layer = |layer: &LayerFiles| layer.tensors.iter().map(|t| t.each as u64).sum();
        self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// Bytes of memory that one expert takes when it is streamed.
    pub fn slot_bytes(&self) -> u64 {
        self.buffer_lengths().iter().map(|len| *len as u64).sum()
    }

    /// Room for each tensor of any expert, with what direct reads add at both ends.
    pub(super) fn buffer_lengths(&self) -> [usize; TENSORS] {
        std::array::from_fn(|tensor| {
            let each = self.layers.iter().map(|layer| layer.tensors[tensor].each);
            let longest = each.max().unwrap_or(0);
            longest.next_multiple_of(ALIGNMENT as usize) + ALIGNMENT as usize
        })
    }

    pub(super) fn layer(&self, index: usize) -> &LayerFiles {
        &self.layers[index]
    }

    /// The layer whose first tensor has this name.
    pub(super) fn layer_named(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// Where `tensor` of expert `expert` of a layer lies.
    pub(super) fn span(&self, layer: usize, expert: usize, tensor: usize) -> Span {
        let place = &self.layers[layer].tensors[tensor];
        let offset = place.offset + expert as u64 * place.each as u64;
        let skip = offset % ALIGNMENT;
        Span {
            file: place.file,
            start: offset - skip,
            skip: skip as usize,
            len: place.each,
        }
    }

    /// Reads a span into the begin of `buffer` and gives how many bytes came from the
    /// file.
    pub(super) fn read(&self, span: &Span, buffer: &mut [u8]) -> io::Result<usize> {
        let file = &self.files[span.file];
        let read = file.read(span, buffer);
        read.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.path.display())))
    }

    /// Bytes a second that the disk gives where `threads` threads read experts here and
    /// there for about `time`, past the page cache; 0 where it cannot be read.
    pub fn read_speed(&self, threads: usize, time: Duration) -> f64 {
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    let Ok(mut buffers) = buffers(self.buffer_lengths()) else {
                        return;
                    };
                    while started.elapsed() < time {
                        let turn = next.fetch_add(1, Ordering::Relaxed);
                        let Ok(read) = self.read_uncached(turn, &mut buffers) else {
                            return;
                        };
                        bytes.fetch_add(read as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        bytes.into_inner() as f64 / started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Reads the expert whose turn it is in an order that has no neighbours follow one
    /// another.
    fn read_uncached(&self, turn: usize, buffers: &mut [MmapMut]) -> io::Result<usize> {
        let mut expert = turn.wrapping_mul(7919) % self.experts;
        let mut layers = self.layers.iter().enumerate();
        let layer = layers.find(|(_, layer)| expert < layer.first + layer.experts);
        let (index, layer) = layer.ok_or(io::ErrorKind::NotFound)?;
        expert -= layer.first;
        let mut bytes = 0;
        for (tensor, buffer) in buffers.iter_mut().enumerate() {
            let span = self.span(index, expert, tensor);
            self.files[span.file].forget(&span);
            bytes += self.read(&span, buffer)?;
        }
        Ok(bytes)
    }
}

/// Page-aligned memory for each tensor of an expert.
pub(super) fn buffers(lengths: [usize; TENSORS]) -> io::Result<[MmapMut; TENSORS]> {
    let mut made = Vec::with_capacity(TENSORS);
    for length in lengths {
        let memory = MmapMut::map_anon(length)?;
        // Fewer pages to fill, to pin and to look up; a wish, which may be refused.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        made.push(memory);
    }
    Ok(<[MmapMut; TENSORS]>::try_from(made).expect("one for each length"))
}

/// A file of weights.
#[derive(Debug)]
struct WeightsFile {
    path: PathBuf,
    len: u64,
    /// Through the page cache.
    cached: File,
    /// Past it, where the file system can.
    direct: Option<File>,
    /// Set once a direct read was refused.
    refused: AtomicBool,
}

impl WeightsFile {
    fn open(path: &Path) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Open {
            path: path.to_owned(),
            source,
        };
        let open = |flags: rustix::fs::OFlags| {
            let flags = flags | rustix::fs::OFlags::NOFOLLOW;
            let mut options = File::options();
            options.read(true).custom_flags(flags.bits() as i32);
            options.open(path)
        };
        let cached = open(rustix::fs::OFlags::empty()).map_err(failed)?;
        #[cfg(target_os = "linux")]
        let direct = open(rustix::fs::OFlags::DIRECT).ok();
        #[cfg(not(target_os = "linux"))]
        let direct = None;
        Ok(Self {
            path: path.to_owned(),
            len: cached.metadata().map_err(failed)?.len(),
            cached,
            direct,
            refused: AtomicBool::new(false),
        })
    }

    fn read(&self, span: &Span, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = span.skip + span.len;
        if let Some(direct) = &self.direct
            && !self.refused.load(Ordering::Relaxed)
        {
            let whole = wanted.next_multiple_of(ALIGNMENT as usize);
            match fill(direct, span.start, &mut buffer[..whole], wanted) {
                // Said only now by some file systems.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                read => return read,
            }
        }
        fill(&self.cached, span.start, &mut buffer[..wanted], wanted)
    }

    /// Has the page cache forget a span, where reads go through it.
    fn forget(&self, span: &Span) {
        #[cfg(target_os = "linux")]
        if self.direct.is_none() || self.refused.load(Ordering::Relaxed) {
            let length = std::num::NonZeroU64::new((span.skip + span.len) as u64);
            let advice = rustix::fs::Advice::DontNeed;
            let _ = rustix::fs::fadvise(&self.cached, span.start, length, advice);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = span;
    }
}

/// Reads from `start` on until `buffer` is full, or the file ends behind the first
/// `wanted` bytes of it.
fn fill(file: &File, start: u64, buffer: &mut [u8], wanted: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < wanted {
        match file.read_at(&mut buffer[done..], start + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A direct read that ended between two multiples has met the file's end.
            Err(e) if done > 0 && e.kind() == io::ErrorKind::InvalidInput => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// A tensor in another file than the model's.
#[derive(Debug)]
struct External {
    name: String,
    dims: Vec<usize>,
    path: PathBuf,
    offset: u64,
    length: usize,
}

impl External {
    fn of(name: &str, tensor: Option<&TensorProto>, root: &Path) -> Result<Self, StreamError> {
        let malformed = |reason: &str| StreamError::Malformed {
            tensor: name.to_owned(),
            reason: reason.to_owned(),
        };
        let tensor = tensor.ok_or_else(|| malformed("it is no constant of the model"))?;
        if tensor.data_location != Some(LOCATION_EXTERNAL) {
            return Err(malformed("it is in the model itself, not in a file"));
        }
        let entry = |key: &str| {
            let mut entries = tensor.external_data.iter();
            let found = entries.find(|entry| entry.key.as_deref() == Some(key));
            found.and_then(|entry| entry.value.as_deref())
        };
        let location = entry("location").unwrap_or_default();
        let below = |part: Component<'_>| matches!(part, Component::Normal(_));
        if location.is_empty() || !Path::new(location).components().all(below) {
            return Err(malformed("its file is not below the model's folder"));
        }
        let number = |key: &str| entry(key).map_or(Some(0), |value| value.parse::<u64>().ok());
        let offset = number("offset").ok_or_else(|| malformed("its offset is no number"))?;
        let length = number("length").and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| malformed("its length is no number"))?;
        let dims = tensor.dims.iter().map(|&size| usize::try_from(size).ok());
        let dims: Option<Vec<usize>> = dims.collect();
        let dims = dims.filter(|dims| dims.iter().all(|&size| size > 0));
        let dims = dims.ok_or_else(|| malformed("its dimensions are not positive"))?;
        let bytes = dims.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        if bytes != Some(length) {
            return Err(malformed("its length is not that of its dimensions"));
        }
        Ok(Self {
            name: name.to_owned(),
            dims,
            path: root.join(location),
            offset,
            length,
        })
    }

    fn malformed(&self, reason: &str) -> StreamError {
        StreamError::Malformed {
            tensor: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Rows and row length of the matrix whose blocks `[E, N, K/32, 16]` and scales
/// `[E, N, K/32]` these are.
fn matrix_shape(blocks: &External, scales: &External) -> Result<(usize, usize), StreamError> {
    let [experts, rows, row_blocks, BLOCK_BYTES] = blocks.dims[..] else {
        return Err(blocks.malformed("its dimensions are not [E, N, K/32, 16]"));
    };
    if scales.dims != [experts, rows, row_blocks] {
        return Err(scales.malformed("its dimensions are not those of its blocks"));
    }
    Ok((rows, row_blocks * BLOCK))
}
