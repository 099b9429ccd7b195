//! A mixture-of-experts layer over MXFP4 weights.
//!
//! Tokens are grouped by expert. The gate and up projection of each group is
//! cut into runs of weight rows, which are the parts that threads take: a run
//! is read once, front to back, for all tokens of its group, and ends with the
//! gated activation of its rows. The down projection is cut likewise; its
//! products lie run by run until the last step sums each token's experts, so
//! that no two threads write to the same memory and sums have a fixed order.
//!
//! Where the weights are not in memory ([`Layer::supplied_by`]), groups are
//! computed as their experts come. Every product has its place whatever the order,
//! so the outcome is the same, bit for bit.

use std::slice::ChunksExact;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use half::bf16;

use super::activations::{Int8Rows, Int8Writer};
use super::aligned::{Aligned, with_scratch};
use super::bf16_tiles::{TILE_BLOCK, TILE_TOKENS};
use super::disjoint::Disjoint;
use super::mxfp4::{BLOCK, ExpertMatrices, Matrix};
use super::parallel::{Parallel, run_parts};
use super::portable::SwiGlu;
use super::routing::{Group, Routing};
use super::supply::{Expert, Supply, Wanted};
use super::{KernelError, KernelSet};
use tiled::Tiled;

/// Tokens computed together; longer inputs are cut, which bounds the workspace.
const MAX_TOKENS: usize = 512;
/// Assignments of one expert computed together: their activations fit in a
/// core's second-level cache beside a tile of weights.
const MAX_GROUP: usize = 256;
/// Groups up to this size are bound by reading weights, larger ones by arithmetic.
const FEW_TOKENS: usize = 4;
/// Weight rows of a part: enough to hide the cost of taking one, few enough
/// that threads finish together. Multiples of 64 (gate and up of one block).
const RUN_FEW: usize = 128;
const RUN_MANY: usize = 192;
/// Tokens of a part where the work is per token.
const TOKEN_RUN: usize = 8;

/// In what form activations meet the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Int8, one dynamic scale per 32 elements.
    #[default]
    Int8,
    /// Float32: exact up to rounding, and slow.
    Float32,
}

impl FromStr for Activations {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        match name {
            "int8" => Ok(Self::Int8),
            "float32" => Ok(Self::Float32),
            other => Err(KernelError::Shape(format!(
                "activations must be \"int8\" or \"float32\", not {other:?}"
            ))),
        }
    }
}

/// How a layer is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Experts a token goes to.
    pub experts_per_token: usize,
    /// The gated activation's constants.
    pub glu: SwiGlu,
    /// The form of the activations.
    pub activations: Activations,
}

/// The weights of a layer, borrowed.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    gate_up: ExpertMatrices<'a>,
    gate_up_bias: &'a [bf16],
    down: ExpertMatrices<'a>,
    down_bias: &'a [bf16],
    supply: Option<&'a dyn Supply>,
}

impl<'a> Layer<'a> {
    /// Puts together `gate_up` `[E, 2I, H]` (gates in even rows, ups in odd
    /// ones) with its bias `[E, 2I]`, and `down` `[E, H, I]` with its bias `[E, H]`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn new(
        gate_up: ExpertMatrices<'a>,
        gate_up_bias: &'a [bf16],
        down: ExpertMatrices<'a>,
        down_bias: &'a [bf16],
    ) -> Result<Self, KernelError> {
        let fits = gate_up.experts() == down.experts()
            && gate_up.rows() == 2 * down.k()
            && gate_up.k() == down.rows()
            && gate_up_bias.len() == gate_up.experts() * gate_up.rows()
            && down_bias.len() == down.experts() * down.rows();
        if !fits {
            return Err(KernelError::Shape(format!(
                "expert weights do not fit together: gate_up [{}, {}, {}] with {} biases, down [{}, {}, {}] with {}",
                gate_up.experts(),
                gate_up.rows(),
                gate_up.k(),
                gate_up_bias.len(),
                down.experts(),
                down.rows(),
                down.k(),
                down_bias.len()
            )));
        }
        Ok(Self {
            gate_up,
            gate_up_bias,
            down,
            down_bias,
            supply: None,
        })
    }

    /// The same layer, whose matrices are not read where they are but come from
    /// `supply`; its own ones say their sizes only.
    #[must_use]
    pub fn supplied_by(self, supply: &'a dyn Supply) -> Self {
        Self {
            supply: Some(supply),
            ..self
        }
    }

    /// The width of a token, `H`.
    pub fn hidden(&self) -> usize {
        self.gate_up.k()
    }

    /// The width between the projections, `I`.
    pub fn intermediate(&self) -> usize {
        self.down.k()
    }

    /// The number of experts, `E`.
    pub fn experts(&self) -> usize {
        self.gate_up.experts()
    }
}

/// Experts that can be computed now.
#[derive(Clone, Copy)]
enum Held<'a> {
    All(&'a Layer<'a>),
    Some(&'a [Expert<'a>]),
}

impl<'a> Held<'a> {
    fn gate_up(&self, expert: usize) -> Matrix<'a> {
        match self {
            Self::All(layer) => layer.gate_up.expert(expert),
            Self::Some(experts) => find(experts, expert).gate_up,
        }
    }

    fn down(&self, expert: usize) -> Matrix<'a> {
        match self {
            Self::All(layer) => layer.down.expert(expert),
            Self::Some(experts) => find(experts, expert).down,
        }
    }
}

fn find<'a>(experts: &[Expert<'a>], index: usize) -> Expert<'a> {
    let mut found = experts.iter().filter(|expert| expert.index == index);
    *found
        .next()
        .expect("groups are chosen by the experts that are there")
}

/// Buffers kept between calls. Their size is bounded by a fixed number of
/// tokens, whatever the input's length.
#[derive(Debug, Default)]
pub struct Workspace {
    routing: Routing,
    x: Int8Rows,
    hidden: Int8Rows,
    tiles: Tiled,
    hidden_float32: Aligned<f32>,
    products: Aligned<f32>,
    parts: Vec<Part>,
    ordinals: Vec<u32>,
}

impl Workspace {
    /// How many experts the last call read: of its last [`MAX_TOKENS`] tokens.
    pub fn experts_read(&self) -> usize {
        self.routing.experts()
    }
}

/// A run of weight rows for one group of tokens.
#[derive(Clone, Copy, Debug)]
struct Part {
    group: Group,
    first_row: usize,
    rows: usize,
}

/// Computes `y[t] = sum over t's experts e of weight * (down_e(swiglu(gate_up_e(x[t]))))`
/// for `x` `[tokens, H]`, `router_logits` `[tokens, E]` and `y` `[tokens, H]`.
///
/// # Errors
/// Sizes that do not fit, `cancel` set meanwhile, or a failure of the pool;
/// `y` then holds nothing of use.
#[allow(clippy::too_many_arguments)] // each is of a different kind and lifetime
pub fn mixture(
    kernel: &dyn KernelSet,
    layer: &Layer<'_>,
    options: &Options,
    x: &[f32],
    router_logits: &[f32],
    y: &mut [f32],
    workspace: &mut Workspace,
    pool: &dyn Parallel,
    cancel: &AtomicBool,
) -> Result<(), KernelError> {
    let (hidden, experts) = (layer.hidden(), layer.experts());
    let tokens = x.len() / hidden;
    if x.len() != tokens * hidden || y.len() != x.len() || router_logits.len() != tokens * experts {
        return Err(KernelError::Shape(format!(
            "x has {} elements, router_logits {} and y {}: they need [tokens, {hidden}], [tokens, {experts}] and [tokens, {hidden}]",
            x.len(),
            router_logits.len(),
            y.len()
        )));
    }
    if options.experts_per_token == 0 || options.experts_per_token > experts {
        return Err(KernelError::Shape(format!(
            "k is {}, which must be from 1 to the number of experts, {experts}",
            options.experts_per_token
        )));
    }
    let windows = x
        .chunks(MAX_TOKENS * hidden)
        .zip(router_logits.chunks(MAX_TOKENS * experts))
        .zip(y.chunks_mut(MAX_TOKENS * hidden));
    for ((x, router_logits), y) in windows {
        workspace
            .routing
            .route(router_logits, experts, options.experts_per_token, MAX_GROUP);
        let call = Call {
            kernel,
            layer,
            options,
            pool,
            cancel,
        };
        match options.activations {
            Activations::Int8 => call.int8(x, workspace)?,
            Activations::Float32 => call.float32(x, workspace)?,
        }
        call.combine(workspace, y)?;
    }
    Ok(())
}

/// What stays the same during one call.
struct Call<'a> {
    kernel: &'a dyn KernelSet,
    layer: &'a Layer<'a>,
    options: &'a Options,
    pool: &'a dyn Parallel,
    cancel: &'a AtomicBool,
}

impl Call<'_> {
    fn run(&self, parts: usize, task: impl Fn(usize) + Sync) -> Result<(), KernelError> {
        run_parts(self.pool, self.cancel, parts, task)
    }

    /// Fills `products` through int8 activations, or bf16 ones where they are faster.
    fn int8(&self, x: &[f32], workspace: &mut Workspace) -> Result<(), KernelError> {
        let Workspace {
            routing,
            x: quantized,
            hidden,
            tiles,
            products,
            parts,
            ordinals,
            ..
        } = workspace;
        let width = self.layer.hidden();
        let bf16 = self.kernel.bf16();
        tiles.choose(&routing.groups, bf16, self.layer);
        if let Some(bf16) = bf16 {
            tiles.pack(bf16, x, &routing.tokens, |parts, task| {
                self.run(parts, task)
            })?;
        }
        if tiles.groups.len() < routing.groups.len() {
            quantized.reset(x.len() / width, width);
            self.quantize(x, &quantized.writer())?;
            hidden.reset(routing.tokens.len(), self.layer.down.k());
        }
        let Tiled {
            groups: tiled,
            x: x_tiles,
            hidden: hidden_tiles,
        } = tiles;
        let by_bf16 = |group: Group| bf16.zip(tiled::find(tiled, group));
        self.make_room(routing, ordinals, products);
        self.as_they_come(routing, |groups, held| {
            let (writer, tile_writer) = (hidden.writer(), hidden_tiles.writer());
            self.gate_up(
                groups,
                parts,
                |part, products| {
                    let rows = part.first_row..part.first_row + part.rows;
                    let w = held.gate_up(part.group.expert);
                    if let Some((bf16, at)) = by_bf16(part.group) {
                        bf16.experts(&w, rows, x_tiles, at, products);
                    } else {
                        let tokens = &routing.tokens[part.group.start..][..part.group.len];
                        self.kernel.int8(&w, rows, quantized, tokens, products);
                    }
                },
                |part, index, first, activated| {
                    if let Some((bf16, at)) = by_bf16(part.group) {
                        let tile = at.tile + index / TILE_TOKENS;
                        let blocks = first / TILE_BLOCK..(first + part.rows / 2) / TILE_BLOCK;
                        let rows: Vec<&[f32]> = activated.collect();
                        // SAFETY: parts are disjoint, and runs are whole blocks.
                        unsafe { bf16.pack(&rows, &tile_writer, tile, blocks) };
                    } else {
                        for (i, values) in activated.enumerate() {
                            let assignment = part.group.start + index + i;
                            // SAFETY: as above.
                            unsafe {
                                self.kernel
                                    .quantize(values, &writer, assignment, first / BLOCK)
                            };
                        }
                    }
                },
            )?;
            self.down(groups, parts, ordinals, products, |part, places, out| {
                let w = held.down(part.group.expert);
                let rows = part.first_row..part.first_row + part.rows;
                if let Some((bf16, at)) = by_bf16(part.group) {
                    bf16.experts(&w, rows, hidden_tiles, at, out);
                } else {
                    self.kernel.int8(&w, rows, hidden, places, out);
                }
            })
        })
    }

    /// Fills `products` through float32 activations.
    fn float32(&self, x: &[f32], workspace: &mut Workspace) -> Result<(), KernelError> {
        let Workspace {
            routing,
            hidden_float32,
            products,
            parts,
            ordinals,
            ..
        } = workspace;
        let width = self.layer.down.k();
        hidden_float32.resize(routing.tokens.len() * width);
        self.make_room(routing, ordinals, products);
        self.as_they_come(routing, |groups, held| {
            let hidden = Disjoint::new(hidden_float32.as_mut_slice());
            self.gate_up(
                groups,
                parts,
                |part, products| {
                    let rows = part.first_row..part.first_row + part.rows;
                    let w = held.gate_up(part.group.expert);
                    let tokens = &routing.tokens[part.group.start..][..part.group.len];
                    self.kernel.float32(&w, rows, x, tokens, products);
                },
                |part, index, first, activated| {
                    for (i, values) in activated.enumerate() {
                        let start = (part.group.start + index + i) * width + first;
                        // SAFETY: parts are disjoint in assignments or in rows.
                        let place = unsafe { hidden.slice(start..start + values.len()) };
                        place.copy_from_slice(values);
                    }
                },
            )?;
            let hidden = hidden_float32.as_slice();
            self.down(groups, parts, ordinals, products, |part, places, out| {
                let w = held.down(part.group.expert);
                let rows = part.first_row..part.first_row + part.rows;
                self.kernel.float32(&w, rows, hidden, places, out);
            })
        })
    }

    /// Makes the products' memory as long as all assignments need.
    fn make_room(&self, routing: &Routing, ordinals: &mut Vec<u32>, products: &mut Aligned<f32>) {
        let assignments = routing.tokens.len();
        ordinals.extend(ordinals.len() as u32..assignments as u32);
        products.resize(assignments * self.layer.hidden());
    }

    /// Calls `compute` with groups whose experts are in memory, until it has had
    /// every group once: with all of them where nothing has to be waited for.
    fn as_they_come(
        &self,
        routing: &Routing,
        mut compute: impl FnMut(&[Group], Held<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let Some(supply) = self.layer.supply else {
            return compute(&routing.groups, Held::All(self.layer));
        };
        let of_one = routing.groups.chunk_by(|a, b| a.expert == b.expert);
        let wanted: Vec<Wanted> = of_one
            .map(|groups| Wanted {
                expert: groups[0].expert,
                tokens: groups.iter().map(|group| group.len).sum(),
            })
            .collect();
        let mut now = Vec::new();
        supply.supply(&wanted, self.cancel, &mut |experts| {
            let here = |group: &&Group| experts.iter().any(|e| e.index == group.expert);
            now.clear();
            now.extend(routing.groups.iter().filter(here));
            compute(&now, Held::Some(experts))
        })
    }

    /// Quantizes whole rows.
    fn quantize(&self, x: &[f32], into: &Int8Writer<'_>) -> Result<(), KernelError> {
        let width = self.layer.hidden();
        let tokens = x.len() / width;
        self.run(tokens.div_ceil(TOKEN_RUN), |part| {
            let first = part * TOKEN_RUN;
            for token in first..tokens.min(first + TOKEN_RUN) {
                let x = &x[token * width..][..width];
                // SAFETY: each token belongs to one part.
                unsafe { self.kernel.quantize(x, into, token, 0) };
            }
        })
    }

    /// Computes the gate and up projection of these groups by `multiply(part,
    /// products)`, and hands the activated runs of 16 of a group's assignments at a time
    /// to `store(part, the first one's place in the group, first element, runs)`.
    fn gate_up(
        &self,
        groups: &[Group],
        parts: &mut Vec<Part>,
        multiply: impl Fn(&Part, &mut [f32]) + Sync,
        store: impl Fn(&Part, usize, usize, ChunksExact<'_, f32>) + Sync,
    ) -> Result<(), KernelError> {
        let all_rows = self.layer.gate_up.rows();
        cut(groups, all_rows, parts);
        self.run(parts.len(), |index| {
            let part = &parts[index];
            let bias_start = part.group.expert * all_rows + part.first_row;
            let bias = &self.layer.gate_up_bias[bias_start..][..part.rows];
            let (first, len) = (part.first_row / 2, part.rows / 2);
            let products_len = part.group.len * part.rows;
            with_scratch(products_len + TILE_TOKENS * len, |scratch| {
                let (products, activated) = scratch.split_at_mut(products_len);
                multiply(part, products);
                for (i, products) in products.chunks(TILE_TOKENS * part.rows).enumerate() {
                    let activated = &mut activated[..products.len() / 2];
                    let each = products.chunks_exact(part.rows);
                    for (products, activated) in each.zip(activated.chunks_exact_mut(len)) {
                        self.kernel
                            .swiglu(products, bias, self.options.glu, activated);
                    }
                    store(part, i * TILE_TOKENS, first, activated.chunks_exact(len));
                }
            });
        })
    }

    /// Computes the down projection of these groups by `multiply(part,
    /// assignments, out)` into `products`: group after group, run after run,
    /// `[group.len, run]` each.
    fn down(
        &self,
        groups: &[Group],
        parts: &mut Vec<Part>,
        ordinals: &[u32],
        products: &mut Aligned<f32>,
        multiply: impl Fn(&Part, &[u32], &mut [f32]) + Sync,
    ) -> Result<(), KernelError> {
        let width = self.layer.hidden();
        cut(groups, width, parts);
        let products = Disjoint::new(products.as_mut_slice());
        self.run(parts.len(), |index| {
            let part = &parts[index];
            let start = products_start(part.group, part.first_row, width);
            let end = start + part.group.len * part.rows;
            // SAFETY: parts have disjoint ranges, see `products_start`.
            let out = unsafe { products.slice(start..end) };
            let places = &ordinals[part.group.start..][..part.group.len];
            multiply(part, places, out);
        })
    }

    /// Adds the down projection's bias and sums each token's experts into `y`.
    fn combine(&self, workspace: &Workspace, y: &mut [f32]) -> Result<(), KernelError> {
        let Workspace {
            routing, products, ..
        } = workspace;
        let k = self.options.experts_per_token;
        let width = self.layer.hidden();
        let tokens = y.len() / width;
        let y = Disjoint::new(y);
        self.run(tokens.div_ceil(TOKEN_RUN), |part| {
            let first = part * TOKEN_RUN;
            for token in first..tokens.min(first + TOKEN_RUN) {
                // SAFETY: each token belongs to one part.
                let y = unsafe { y.slice(token * width..(token + 1) * width) };
                y.fill(0.0);
                for choice in &routing.choices[token * k..][..k] {
                    let group = routing.groups[choice.group];
                    let bias = &self.layer.down_bias[group.expert * width..][..width];
                    let run = run_length(group);
                    for (i, (y, bias)) in y.chunks_mut(run).zip(bias.chunks(run)).enumerate() {
                        let start = products_start(group, i * run, width) + choice.index * y.len();
                        let x = &products.as_slice()[start..][..y.len()];
                        self.kernel.add_weighted(x, bias, choice.weight, y);
                    }
                }
            }
        })
    }
}

/// Where the products of a group's run that begins at `first_row` lie.
fn products_start(group: Group, first_row: usize, width: usize) -> usize {
    group.start * width + group.len * first_row
}

fn run_length(group: Group) -> usize {
    if group.len <= FEW_TOKENS {
        RUN_FEW
    } else {
        RUN_MANY
    }
}

/// Cuts `rows` weight rows of every group into runs.
fn cut(groups: &[Group], rows: usize, parts: &mut Vec<Part>) {
    parts.clear();
    for &group in groups {
        let run = run_length(group);
        parts.extend((0..rows).step_by(run).map(|first_row| Part {
            group,
            first_row,
            rows: run.min(rows - first_row),
        }));
    }
}

#[cfg(test)]
mod tests;
mod tiled;
