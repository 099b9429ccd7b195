//! Runs the recipes of a plan: reads published tensors, writes derived ones,
//! a slice of rows at a time.

use crate::checkpoint::{Checkpoint, TensorView};
use crate::graph::rope::{self, Table};
use crate::graph::{Content, Initializer, Job, Plan};
use crate::proto::DataType;
use crate::quantize::{NonFinite, all_finite, int4, int8, widen};

use super::error::JobError;
use super::sink::{Place, Places, Sink, align};
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
    sink: &'a mut dyn Sink,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
    tables: int4::Tables,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        sink: &'a mut dyn Sink,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self {
            checkpoint,
            plan,
            sink,
            progress,
            done: 0,
            tables: int4::Tables::default(),
        }
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
        if of.dtype == DataType::Bfloat16 {
            all_finite(view.bytes).map_err(|e| not_finite(name, 0, e))?;
        }
        if usable_in_place(of.dtype, view.offset) {
            return Ok(Place::InShard {
                shard: view.shard.to_owned(),
                offset: view.offset,
                length: view.bytes.len() as u64,
            });
        }
        let job = Job::Copy(name.to_owned());
        let made = self.run(&job, std::slice::from_ref(of))?;
        made.into_iter()
            .next()
            .ok_or_else(|| JobError::Incomplete(of.name.clone()))
    }

    /// Runs one job; `outputs` are the initializers it makes.
    fn run(&mut self, job: &Job, outputs: &[Initializer]) -> Result<Vec<Place>, JobError> {
        match job {
            Job::Widen(tensors) => self.one(outputs, |runner| {
                for name in tensors {
                    let view = runner.tensor(name)?;
                    for part in view.bytes.chunks(SLICE) {
                        let base = (part.as_ptr().addr() - view.bytes.as_ptr().addr()) / 2;
                        let values = widen(part).map_err(|e| not_finite(name, base, e))?;
                        runner.write(&float_bytes(&values))?;
                    }
                }
                Ok(())
            }),
            Job::Transpose(name) => self.one(outputs, |runner| {
                let view = runner.tensor(name)?;
                let values = widen(view.bytes).map_err(|e| not_finite(name, 0, e))?;
                let columns = view.shape.last().copied().unwrap_or(1);
                let column = |c| values.iter().skip(c).step_by(columns).copied();
                let transposed: Vec<f32> = (0..columns).flat_map(column).collect();
                runner.write(&float_bytes(&transposed))
            }),
            Job::Copy(name) => self.one(outputs, |runner| {
                let view = runner.tensor(name)?;
                runner.write(view.bytes)
            }),
            Job::Int8 { tensors, layout } => self.int8(tensors, *layout, outputs),
            Job::Int4 { blocks, scales } => self.int4(blocks, scales, outputs),
            Job::Rope => self.rope(outputs),
        }
    }

    fn int8(
        &mut self,
        tensors: &[String],
        layout: int8::Layout,
        outputs: &[Initializer],
    ) -> Result<Vec<Place>, JobError> {
        let [weights, scales] = pair(outputs)?;
        let mut all_scales = Vec::new();
        let weights = self.placed(weights, |runner| {
            for name in tensors {
                let view = runner.tensor(name)?;
                let rows = (SLICE / layout.row_bytes()).max(1);
                for (i, part) in view.bytes.chunks(rows * 2 * layout.columns).enumerate() {
                    let count = part.len() / (2 * layout.columns);
                    let mut bytes = vec![0; count * layout.row_bytes()];
                    let mut scales = vec![0.0; count * layout.row_scales()];
                    int8::quantize(layout, part, &mut bytes, &mut scales)
                        .map_err(|e| not_finite(name, i * rows * layout.columns, e))?;
                    runner.write(&bytes)?;
                    all_scales.extend_from_slice(&scales);
                }
            }
            Ok(())
        })?;
        let scales = self.placed(scales, |runner| runner.write_floats(&all_scales))?;
        Ok(vec![weights, scales])
    }

    fn int4(
        &mut self,
        blocks: &str,
        scales: &str,
        outputs: &[Initializer],
    ) -> Result<Vec<Place>, JobError> {
        let (blocks, exponents) = (self.tensor(blocks)?, self.tensor(scales)?);
        let [weights, scales] = pair(outputs)?;
        let row_blocks = exponents.shape.last().copied().unwrap_or(1);
        let rows = (SLICE / (row_blocks * int4::BLOCK_BYTES)).max(1);
        let mut all_scales = Vec::with_capacity(exponents.bytes.len());
        let weights = self.placed(weights, |runner| {
            let slices = blocks
                .bytes
                .chunks(rows * row_blocks * int4::BLOCK_BYTES)
                .zip(exponents.bytes.chunks(rows * row_blocks));
            for (blocks, exponents) in slices {
                let mut bytes = vec![0; blocks.len()];
                let mut scales = vec![0.0; exponents.len()];
                let tables = &runner.tables;
                int4::quantize(
                    tables,
                    row_blocks,
                    blocks,
                    exponents,
                    &mut bytes,
                    &mut scales,
                );
                runner.write(&bytes)?;
                all_scales.extend_from_slice(&scales);
            }
            Ok(())
        })?;
        let scales = self.placed(scales, |runner| runner.write_floats(&all_scales))?;
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
                        runner.write_floats(&values)?;
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
        align(self.sink, if wanted < PAGE { LINE } else { PAGE }).map_err(JobError::Io)?;
        let offset = self.sink.position();
        body(self)?;
        let length = self.sink.position() - offset;
        if length != wanted {
            return Err(JobError::Incomplete(output.name.clone()));
        }
        Ok(Place::Written { offset, length })
    }

    fn write_floats(&mut self, values: &[f32]) -> Result<(), JobError> {
        let mut parts = values.chunks(SLICE / size_of::<f32>());
        parts.try_for_each(|part| self.write(&float_bytes(part)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.sink.write(bytes).map_err(JobError::Io)?;
        self.done += bytes.len() as u64;
        (self.progress)(self.done);
        Ok(())
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

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
