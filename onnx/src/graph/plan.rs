//! What a graph is before its weights are written: nodes, and for each
//! initializer the recipe that makes its bytes from the checkpoint.

use crate::proto::{
    AttributeProto, DataType, DimensionProto, GraphProto, NodeProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::quantize::int8;

/// A graph whose weights are still to be made.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes, inputs and outputs; no initializers yet.
    pub graph: GraphProto,
    /// The initializers, in writing order.
    pub initializers: Vec<Initializer>,
    /// Recipes for those that are derived, in writing order.
    pub jobs: Vec<Job>,
}

/// A constant of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initializer {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub dtype: DataType,
    /// Shape.
    pub dims: Vec<i64>,
    /// Where its bytes are.
    pub content: Content,
}

impl Initializer {
    /// Bytes of all its elements.
    pub fn byte_len(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product::<u64>() * self.dtype.size()
    }
}

/// Where an initializer's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the model itself.
    Inline(Vec<u8>),
    /// In the checkpoint, used in place: the published tensor of that name.
    Published(String),
    /// Made by a job: the `output`-th tensor it writes.
    Derived {
        /// Index into [`Plan::jobs`].
        job: usize,
        /// Which of its outputs.
        output: usize,
    },
}

/// How to make one or two initializers from published tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Float tensors, widened to float32, one after the other.
    Widen(Vec<String>),
    /// Float tensors, rounded to float16, one after the other.
    Halve(Vec<String>),
    /// A float matrix `[rows, columns]`, as float32 `[columns, rows]`.
    Transpose(String),
    /// A tensor's bytes as they are.
    Copy(String),
    /// A tensor of another float type, rounded to bfloat16.
    Bfloat16(String),
    /// Float matrices, stacked, as int8 blocks: weights, then scales, of whichever
    /// float type they are declared.
    Int8 {
        /// The matrices, all of the same width.
        tensors: Vec<String>,
        /// Blocks and padding.
        layout: int8::Layout,
    },
    /// MXFP4 as int4 blocks: weights, then scales.
    Int4 {
        /// The blocks, u8 `[E, N, K/32, 16]`.
        blocks: String,
        /// The E8M0 scales, u8 `[E, N, K/32]`.
        scales: String,
    },
    /// Experts that are floats `[E, K, N]`, as MXFP4 in the published layout: blocks
    /// u8 `[E, N, K/32, 16]`, then scales u8 `[E, N, K/32]`.
    Mxfp4(String),
    /// Experts that are floats `[E, K, N]`, as int4 blocks `[E, N, K/2]`: weights,
    /// then scales.
    Int4OfFloats(String),
    /// MXFP4 blocks u8 `[E, N, K/32, 16]`, with their rows as columns: u8 `[E, K, N/2]`.
    Mxfp4Columns {
        /// The blocks.
        blocks: String,
        /// Rows of an expert's matrix, N.
        rows: usize,
    },
    /// Experts that are floats `[E, K, N]`, as MXFP4 with rows as columns: u8
    /// `[E, K, N/2]`, then scales u8 `[E, N, K/32]`.
    Mxfp4ColumnsOfFloats(String),
    /// MXFP4 as int4 in blocks of 64: weights u8 `[E, N, K/2]`, then scales, which
    /// float16 holds, `[E, N, ceil(K/64)]`, of whichever float type they are declared.
    WideInt4 {
        /// The blocks, u8 `[E, N, K/32, 16]`.
        blocks: String,
        /// The E8M0 scales, u8 `[E, N, K/32]`.
        scales: String,
    },
    /// Experts that are floats `[E, K, N]`, as int4 in blocks of 64, likewise.
    WideInt4OfFloats(String),
    /// YaRN's cosines, then its sines, of whichever float type they are declared.
    Rope,
}

impl Plan {
    /// Adds a node. An empty input name leaves out an optional input.
    pub(super) fn node(
        &mut self,
        operator: (&str, &str),
        name: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        let (domain, op_type) = operator;
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        self.graph.node.push(NodeProto {
            input: owned(inputs),
            output: owned(outputs),
            name: Some(name.to_owned()),
            op_type: Some(op_type.to_owned()),
            attribute: attributes,
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
        });
    }

    /// Adds a small constant kept in the model itself.
    pub(super) fn inline_i64(&mut self, name: &str, dims: &[i64], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, DataType::Int64, dims, Content::Inline(bytes));
    }

    /// Adds a float scalar kept in the model itself.
    pub(super) fn inline_f32(&mut self, name: &str, value: f32) {
        let bytes = value.to_le_bytes().to_vec();
        self.push(name, DataType::Float, &[], Content::Inline(bytes));
    }

    /// Adds float32 constants kept in the model itself.
    pub(super) fn inline_f32s(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = [values.len() as i64];
        self.push(name, DataType::Float, &dims, Content::Inline(bytes));
    }

    /// Adds a published tensor used in place, under its own name.
    pub(super) fn published(&mut self, name: &str, dtype: DataType, dims: &[i64]) {
        self.push(name, dtype, dims, Content::Published(name.to_owned()));
    }

    /// Adds the tensors a job makes, in the order it writes them.
    pub(super) fn derived(&mut self, job: Job, outputs: &[(&str, DataType, &[i64])]) {
        let index = self.jobs.len();
        self.jobs.push(job);
        for (output, (name, dtype, dims)) in outputs.iter().enumerate() {
            let content = Content::Derived { job: index, output };
            self.push(name, *dtype, dims, content);
        }
    }

    fn push(&mut self, name: &str, dtype: DataType, dims: &[i64], content: Content) {
        self.initializers.push(Initializer {
            name: name.to_owned(),
            dtype,
            dims: dims.to_vec(),
            content,
        });
    }

    /// Declares an input of the graph.
    pub(super) fn input(&mut self, name: &str, dtype: DataType, dims: &[Dim]) {
        self.graph.input.push(value_info(name, dtype, dims));
    }

    /// Declares an output of the graph.
    pub(super) fn output(&mut self, name: &str, dtype: DataType, dims: &[Dim]) {
        self.graph.output.push(value_info(name, dtype, dims));
    }
}

/// One dimension of an input or output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A symbol.
    Named(&'static str),
}

fn value_info(name: &str, dtype: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = |dim: &Dim| match *dim {
        Dim::Fixed(size) => DimensionProto {
            dim_value: Some(size as i64),
            dim_param: None,
        },
        Dim::Named(symbol) => DimensionProto {
            dim_value: None,
            dim_param: Some(symbol.to_owned()),
        },
    };
    let tensor = TensorTypeProto {
        elem_type: Some(dtype as i32),
        shape: Some(TensorShapeProto {
            dim: dims.iter().map(dim).collect(),
        }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}
