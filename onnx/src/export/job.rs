//! Runs the recipes of a plan: reads published tensors, writes derived ones,
//! a slice of rows at a time.

use half::{bf16, f16};

use crate::checkpoint::{Checkpoint, Dtype, Float, TensorView};
use crate::graph::rope::{self, Table};
use crate::graph::{Content, Initializer, Job, Plan};
use crate::proto::DataType;
use crate::quantize::{
    NonFinite, SquaredError, Transposed, all_finite, columns, int4, int4_wide, int8, mxfp4, widen,
};

use super::error::JobError;
use super::experts::Tally;
use super::sink::{File, Place, Places, Sink, align};
use super::usable_in_place;

/// Bytes of output made before they are written.
const SLICE: usize = 8 << 20;
/// Alignment of tensors of a page and more, so that maps of them are too.
const PAGE: u64 = 4096;
/// Alignment of smaller tensors: a cache line.
const LINE: u64 = 64;

/// Writes the derived weights of a plan, in order.
pub(super) struct Runner<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    sinks: Sinks<'a>,
    /// Where the job at work writes.
    file: File,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
    tables: int4::Tables,
    tally: Tally,
}

/// Where derived weights go.
pub(super) struct Sinks<'a> {
    /// All, but for:
    pub weights: &'a mut dyn Sink,
    /// experts in MXFP4; to `weights` too where there is none.
    pub experts: Option<&'a mut dyn Sink>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        sinks: Sinks<'a>,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self {
            checkpoint,
            plan,
            sinks,
            file: File::Weights,
            progress,
            done: 0,
            tables: int4::Tables::default(),
            tally: Tally::default(),
        }
    }

    /// What quantizing the experts has cost.
    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Writes every derived tensor and says where each non-inline one is.
    pub(super) fn place_all(&mut self) -> Result<Places, JobError> {
        let plan = self.plan;
        let mut places = Places::new();
        let mut rest = plan.initializers.as_slice();
        while let Some(first) = rest.first() {
            let together = match &first.content {
                Content::Derived { job, .. } => {
                    let of_job = |i: &&Initializer| matches!(&i.content, Content::Derived { job: other, .. } if other == job);
                    rest.iter().take_while(of_job).count()
                }
                _ => 1,
            };
            let (now, later) = rest.split_at(together);
            rest = later;
            match &first.content {
                Content::Inline(_) => {}
                Content::Published(name) => {
                    let place = self.published(name, first)?;
                    places.insert(first.name.clone(), place);
                }
                Content::Derived { job, .. } => {
                    let made = self.run(&plan.jobs[*job], now)?;
                    places.extend(now.iter().map(|i| i.name.clone()).zip(made));
                }
            }
        }
        Ok(places)
    }

    fn published(&mut self, name: &str, of: &Initializer) -> Result<Place, JobError> {
        let view = self.tensor(name)?;
        if let Dtype::Float(float) = view.dtype {
            all_finite(float, view.bytes).map_err(|e| not_finite(name, 0, e))?;
        }
        if usable_in_place(of.dtype, &view) {
            return Ok(Place::InShard {
                shard: view.shard.to_owned(),
                offset: view.offset,
                length: view.bytes.len() as u64,
            });
        }
        let job = match (of.dtype, view.dtype) {
            (DataType::Bfloat16, Dtype::Float(Float::F16 | Float::F32)) => {
                Job::Bfloat16(name.to_owned())
            }
            _ => Job::Copy(name.to_owned()),
        };
        let made = self.run(&job, std::slice::from_ref(of))?;
        made.into_iter()
            .next()
            .ok_or_else(|| JobError::Incomplete(of.name.clone()))
    }

    /// Runs one job; `outputs` are the initializers it makes.
    fn run(&mut self, job: &Job, outputs: &[Initializer]) -> Result<Vec<Place>, JobError> {
        self.file = match job {
            Job::Mxfp4(_) => File::Experts,
            _ => File::Weights,
        };
        match job {
            Job::Widen(tensors) => self.constant(tensors, DataType::Float, outputs),
            Job::Halve(tensors) => self.constant(tensors, DataType::Float16, outputs),
            Job::Transpose(name) => self.one(outputs, |runner| {
                let (view, float) = runner.floats(name)?;
                let values = widen(float, view.bytes).map_err(|e| not_finite(name, 0, e))?;
                let columns = view.shape.last().copied().unwrap_or(1);
                let column = |c| values.iter().skip(c).step_by(columns).copied();
                let transposed: Vec<f32> = (0..columns).flat_map(column).collect();
                runner.write_floats(&transposed, DataType::Float)
            }),
            Job::Copy(name) => self.one(outputs, |runner| {
                let view = runner.tensor(name)?;
                runner.write(view.bytes)
            }),
            Job::Bfloat16(name) => self.one(outputs, |runner| {
                let (view, float) = runner.floats(name)?;
                let values = widen(float, view.bytes).map_err(|e| not_finite(name, 0, e))?;
                let narrow = values.iter().map(|v| bf16::from_f32(*v));
                let bytes: Vec<u8> = narrow.flat_map(bf16::to_le_bytes).collect();
                // The largest float32 are infinite in bfloat16.
                all_finite(Float::Bf16, &bytes).map_err(|e| not_finite(name, 0, e))?;
                runner.write(&bytes)
            }),
            Job::Int8 { tensors, layout } => self.int8(tensors, *layout, outputs),
            Job::Int4 { blocks, scales } => {
                self.int4([blocks, scales], outputs, int4::BLOCK, int4::quantize)
            }
            Job::Int4OfFloats(name) => self.experts(
                name,
                outputs,
                int4::BLOCK,
                int4::quantize_floats,
                single_bytes,
            ),
            Job::WideInt4 { blocks, scales } => {
                let quantize = |_: &int4::Tables,
                                row_blocks,
                                rows: &[u8],
                                exponents: &[u8],
                                weights: &mut [u8],
                                scales: &mut [f32]| {
                    int4_wide::quantize(row_blocks * int4::BLOCK, rows, exponents, weights, scales);
                };
                self.int4([blocks, scales], outputs, int4_wide::BLOCK, quantize)
            }
            Job::WideInt4OfFloats(name) => {
                let [_, scales] = pair(outputs)?;
                let bytes = |values: &[f32]| float_bytes(values, scales.dtype);
                let block = int4_wide::BLOCK;
                self.experts(name, outputs, block, int4_wide::quantize_floats, bytes)
            }
            Job::Mxfp4(name) => {
                let block = int4::BLOCK;
                self.experts(name, outputs, block, mxfp4::quantize, <[u8]>::to_vec)
            }
            Job::Mxfp4Columns { blocks, rows } => self.columns(blocks, *rows, outputs),
            Job::Mxfp4ColumnsOfFloats(name) => {
                let block = int4::BLOCK;
                self.experts(name, outputs, block, mxfp4_columns, <[u8]>::to_vec)
            }
            Job::Rope => self.rope(outputs),
        }
    }

    /// Float tensors, one after the other, as `to`.
    fn constant(
        &mut self,
        tensors: &[String],
        to: DataType,
        outputs: &[Initializer],
    ) -> Result<Vec<Place>, JobError> {
        self.one(outputs, |runner| {
            for name in tensors {
                let (view, float) = runner.floats(name)?;
                for (i, part) in view.bytes.chunks(SLICE).enumerate() {
                    let base = i * (SLICE / float.size());
                    let values = widen(float, part).map_err(|e| not_finite(name, base, e))?;
                    let bytes = float_bytes(&values, to);
                    if to == DataType::Float16 {
                        // bfloat16 goes far beyond what float16 holds.
                        let checked = all_finite(Float::F16, &bytes);
                        checked.map_err(|e| not_finite(name, base, e))?;
                    }
                    runner.write(&bytes)?;
                }
            }
            Ok(())
        })
    }

    fn int8(
        &mut self,
        tensors: &[String],
        layout: int8::Layout,
        outputs: &[Initializer],
    ) -> Result<Vec<Place>, JobError> {
        let [weights, scales] = pair(outputs)?;
        let to = scales.dtype;
        let mut all_scales = Vec::new();
        let weights = self.placed(weights, |runner| {
            for name in tensors {
                let (view, float) = runner.floats(name)?;
                let rows = (SLICE / layout.row_bytes()).max(1);
                let row = float.size() * layout.columns;
                for (i, part) in view.bytes.chunks(rows * row).enumerate() {
                    let count = part.len() / row;
                    let mut bytes = vec![0; count * layout.row_bytes()];
                    let mut scales = vec![0.0; count * layout.row_scales()];
                    int8::quantize(layout, float, part, &mut bytes, &mut scales)
                        .map_err(|e| not_finite(name, i * rows * layout.columns, e))?;
                    runner.write(&bytes)?;
                    all_scales.extend_from_slice(&scales);
                }
            }
            Ok(())
        })?;
        let scales = self.placed(scales, |runner| runner.write_floats(&all_scales, to))?;
        Ok(vec![weights, scales])
    }

    /// MXFP4 rows as int4 rows, with a scale for each `block` weights.
    /// `quantize(tables, row_blocks, blocks, exponents, weights, scales)` does some rows.
    fn int4(
        &mut self,
        [name, scales]: [&str; 2],
        outputs: &[Initializer],
        block: usize,
        quantize: impl Fn(&int4::Tables, usize, &[u8], &[u8], &mut [u8], &mut [f32]),
    ) -> Result<Vec<Place>, JobError> {
        let (blocks, exponents) = (self.tensor(name)?, self.tensor(scales)?);
        let [weights, scales] = pair(outputs)?;
        let row_blocks = exponents.shape.last().copied().unwrap_or(1);
        let row_scales = (row_blocks * int4::BLOCK).div_ceil(block);
        let rows = (SLICE / (row_blocks * int4::BLOCK_BYTES)).max(1);
        let to = scales.dtype;
        let mut all_scales = Vec::with_capacity(exponents.bytes.len());
        let weights = self.placed(weights, |runner| {
            let slices = blocks
                .bytes
                .chunks(rows * row_blocks * int4::BLOCK_BYTES)
                .zip(exponents.bytes.chunks(rows * row_blocks));
            for (i, (blocks, exponents)) in slices.enumerate() {
                let mut bytes = vec![0; blocks.len()];
                let mut scales = vec![0.0; exponents.len() / row_blocks * row_scales];
                let (weights, tables) = (bytes.as_mut_slice(), &runner.tables);
                quantize(tables, row_blocks, blocks, exponents, weights, &mut scales);
                if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
                    let row = (i * rows + at / row_scales) * row_blocks * int4::BLOCK;
                    let index = at % row_scales * block;
                    return Err(not_finite(name, row, NonFinite { index }));
                }
                runner.write(&bytes)?;
                all_scales.extend_from_slice(&scales);
            }
            Ok(())
        })?;
        let scales = self.placed(scales, |runner| runner.write_floats(&all_scales, to))?;
        Ok(vec![weights, scales])
    }

    /// MXFP4 with its rows as columns, an expert at a time.
    fn columns(
        &mut self,
        blocks: &str,
        rows: usize,
        outputs: &[Initializer],
    ) -> Result<Vec<Place>, JobError> {
        let blocks = self.tensor(blocks)?;
        let experts = blocks.shape.first().copied().unwrap_or(1).max(1);
        let size = blocks.bytes.len() / experts;
        let inputs = 2 * size / rows;
        self.one(outputs, |runner| {
            for expert in blocks.bytes.chunks_exact(size) {
                let mut bytes = vec![0; size];
                columns::from_rows(expert, inputs, rows, &mut bytes);
                runner.write(&bytes)?;
            }
            Ok(())
        })
    }

    /// Quantizes the experts `[E, K, N]` one after the other: their weights as they are
    /// made, then their scales.
    fn experts<S: Copy + Default>(
        &mut self,
        name: &str,
        outputs: &[Initializer],
        block: usize,
        quantize: impl Fn(Transposed<'_>, &mut [u8], &mut [S]) -> Result<SquaredError, NonFinite>,
        scale_bytes: impl Fn(&[S]) -> Vec<u8>,
    ) -> Result<Vec<Place>, JobError> {
        let (view, float) = self.floats(name)?;
        let [weights, scales] = pair(outputs)?;
        let &[experts, inputs, outputs] = view.shape else {
            return Err(JobError::Incomplete(name.to_owned()));
        };
        let count = outputs * inputs.div_ceil(block);
        let mut all_scales = Vec::with_capacity(experts * count);
        let weights = self.placed(weights, |runner| {
            let size = inputs * outputs * float.size();
            for (expert, bytes) in view.bytes.chunks_exact(size).enumerate() {
                let matrix = Transposed {
                    bytes,
                    float,
                    inputs,
                    outputs,
                };
                let mut weights = vec![0; inputs * outputs / 2];
                let mut scales = vec![S::default(); count];
                let error = quantize(matrix, &mut weights, &mut scales)
                    .map_err(|e| not_finite(name, expert * inputs * outputs, e))?;
                runner.tally.add(float, error);
                runner.write(&weights)?;
                // All experts of a model in bfloat16 may be more than there is memory.
                let part = expert * size..(expert + 1) * size;
                runner.checkpoint.release(name, part);
                all_scales.extend_from_slice(&scales);
            }
            Ok(())
        })?;
        let scales = self.placed(scales, |runner| {
            let mut parts = all_scales.chunks(SLICE / size_of::<S>());
            parts.try_for_each(|part| runner.write(&scale_bytes(part)))
        })?;
        Ok(vec![weights, scales])
    }

    fn rope(&mut self, outputs: &[Initializer]) -> Result<Vec<Place>, JobError> {
        let config = self.checkpoint.config();
        let frequencies = rope::frequencies(&config.rope, config.head_dim);
        let concentration = rope::concentration(&config.rope);
        let positions = config.max_position_embeddings;
        let tables = [Table::Cos, Table::Sin].into_iter().zip(outputs);
        tables
            .map(|(table, output)| {
                self.placed(output, |runner| {
                    let row = |p| rope::row(table, &frequencies, concentration, p);
                    for start in (0..positions).step_by(4096) {
                        let end = positions.min(start + 4096);
                        let values: Vec<f32> = (start..end).flat_map(row).collect();
                        runner.write_floats(&values, output.dtype)?;
                    }
                    Ok(())
                })
            })
            .collect()
    }

    fn one(
        &mut self,
        outputs: &[Initializer],
        body: impl FnOnce(&mut Self) -> Result<(), JobError>,
    ) -> Result<Vec<Place>, JobError> {
        match outputs {
            [output] => Ok(vec![self.placed(output, body)?]),
            _ => Err(incomplete(outputs)),
        }
    }

    /// Aligns, lets `body` write, and checks that it wrote what the shape says.
    fn placed(
        &mut self,
        output: &Initializer,
        body: impl FnOnce(&mut Self) -> Result<(), JobError>,
    ) -> Result<Place, JobError> {
        let wanted = output.byte_len();
        let alignment = if wanted < PAGE { LINE } else { PAGE };
        let file = self.file;
        let io = |source| JobError::Io { file, source };
        align(self.sink(), alignment).map_err(io)?;
        let offset = self.sink().position();
        body(self)?;
        let length = self.sink().position() - offset;
        if length != wanted {
            return Err(JobError::Incomplete(output.name.clone()));
        }
        Ok(Place::Written {
            file,
            offset,
            length,
        })
    }

    fn write_floats(&mut self, values: &[f32], to: DataType) -> Result<(), JobError> {
        let mut parts = values.chunks(SLICE / size_of::<f32>());
        parts.try_for_each(|part| self.write(&float_bytes(part, to)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        let file = self.file;
        let written = self.sink().write(bytes);
        written.map_err(|source| JobError::Io { file, source })?;
        self.done += bytes.len() as u64;
        (self.progress)(self.done);
        Ok(())
    }

    fn sink(&mut self) -> &mut dyn Sink {
        match (self.file, &mut self.sinks.experts) {
            (File::Experts, Some(experts)) => *experts,
            _ => self.sinks.weights,
        }
    }

    /// A tensor of floats, and which they are.
    fn floats(&self, name: &str) -> Result<(TensorView<'a>, Float), JobError> {
        let view = self.tensor(name)?;
        match view.dtype {
            Dtype::Float(float) => Ok((view, float)),
            Dtype::U8 => Err(JobError::Incomplete(name.to_owned())),
        }
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>, JobError> {
        let view = self.checkpoint.tensor(name);
        view.ok_or_else(|| JobError::Incomplete(name.to_owned()))
    }
}

fn pair(outputs: &[Initializer]) -> Result<[&Initializer; 2], JobError> {
    match outputs {
        [first, second] => Ok([first, second]),
        _ => Err(incomplete(outputs)),
    }
}

fn incomplete(outputs: &[Initializer]) -> JobError {
    let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
    JobError::Incomplete(names.join(", "))
}

fn not_finite(name: &str, base: usize, error: NonFinite) -> JobError {
    JobError::NonFinite {
        name: name.to_owned(),
        index: base + error.index,
    }
}

fn single_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The values as float16 or float32.
fn float_bytes(values: &[f32], to: DataType) -> Vec<u8> {
    match to {
        DataType::Float16 => {
            let halves = values.iter().map(|v| f16::from_f32(*v));
            halves.flat_map(f16::to_le_bytes).collect()
        }
        _ => single_bytes(values),
    }
}

/// Experts as MXFP4 with its rows as columns: u8 `[inputs, outputs/2]` and scales u8
/// `[outputs, inputs/32]`.
fn mxfp4_columns(
    matrix: Transposed<'_>,
    weights: &mut [u8],
    scales: &mut [u8],
) -> Result<SquaredError, NonFinite> {
    let mut rows = vec![0; weights.len()];
    let error = mxfp4::quantize(matrix, &mut rows, scales)?;
    columns::from_rows(&rows, matrix.inputs, matrix.outputs, weights);
    Ok(error)
}
