//! The few ONNX messages the writer needs, as prost structs.
//!
//! Field numbers and enum values are facts of the format (`onnx.proto`,
//! IR version 10). Fields we never write are left out: protobuf skips what it
//! does not know, so a foreign model decodes too, but re-encoding it would
//! lose them. Only models written by this crate are ever re-encoded.

/// IR version written into every model.
pub const IR_VERSION: i64 = 10;
/// Version of the default operator set.
pub const OPSET: i64 = 21;

/// `TensorProto.DataType` values in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum DataType {
    /// IEEE float32.
    Float = 1,
    /// Unsigned byte.
    Uint8 = 2,
    /// Signed 32-bit integer.
    Int32 = 6,
    /// Signed 64-bit integer.
    Int64 = 7,
    /// IEEE float16.
    Float16 = 10,
    /// Truncated float32.
    Bfloat16 = 16,
    /// E8M0: an exponent, `2^(byte - 127)`.
    Float8E8M0 = 24,
}

impl DataType {
    /// Bytes of one element.
    pub fn size(self) -> u64 {
        match self {
            DataType::Uint8 | DataType::Float8E8M0 => 1,
            DataType::Bfloat16 | DataType::Float16 => 2,
            DataType::Float | DataType::Int32 => 4,
            DataType::Int64 => 8,
        }
    }
}

/// `TensorProto.DataLocation`: the data lies in another file.
pub const LOCATION_EXTERNAL: i32 = 1;

/// `AttributeProto.AttributeType` values in use.
pub mod attribute_type {
    /// One float.
    pub const FLOAT: i32 = 1;
    /// One integer.
    pub const INT: i32 = 2;
    /// One byte string.
    pub const STRING: i32 = 3;
    /// Integers.
    pub const INTS: i32 = 7;
}

/// A model: a graph and what it needs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelProto {
    /// Version of the format.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// Name of the tool that wrote it.
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    /// Version of that tool.
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets the nodes come from.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Free key and value pairs, in writing order.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// One operator set: a domain at a version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSetIdProto {
    /// Domain; empty for the standard operators.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// Version of the set.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// A key and a value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringStringEntryProto {
    /// The key.
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    /// The value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// A graph in topological order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphProto {
    /// Nodes, producers before consumers.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// One call of an operator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeProto {
    /// Names of the inputs; empty for an optional one left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the outputs.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Unique name.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// The operator.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Domain of the operator; empty for the standard ones.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
}

/// A named attribute; exactly one value is set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Float value.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// Integer value.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// String value.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// Integer values.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Which of the values is set, see [`attribute_type`].
    #[prost(int32, optional, tag = "20")]
    pub r#type: Option<i32>,
}

impl AttributeProto {
    /// A float attribute.
    pub fn float(name: &str, value: f32) -> Self {
        Self {
            f: Some(value),
            ..Self::typed(name, attribute_type::FLOAT)
        }
    }

    /// An integer attribute.
    pub fn int(name: &str, value: i64) -> Self {
        Self {
            i: Some(value),
            ..Self::typed(name, attribute_type::INT)
        }
    }

    /// A string attribute.
    pub fn string(name: &str, value: &str) -> Self {
        Self {
            s: Some(value.as_bytes().to_vec()),
            ..Self::typed(name, attribute_type::STRING)
        }
    }

    fn typed(name: &str, r#type: i32) -> Self {
        Self {
            name: Some(name.to_owned()),
            r#type: Some(r#type),
            ..Self::default()
        }
    }
}

/// A constant tensor, inline or in another file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// Element type, a [`DataType`].
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    /// Name.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// Little-endian elements, when inline.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// `location`, `offset` and `length`, when external.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// [`LOCATION_EXTERNAL`] when external.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

/// Name and type of an input or output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

impl ValueInfoProto {
    /// The element type of a tensor, a [`DataType`].
    pub fn element(&self) -> Option<i32> {
        self.r#type.as_ref()?.tensor_type.as_ref()?.elem_type
    }

    /// Whether it is a tensor of `element`.
    pub fn is_of(&self, element: DataType) -> bool {
        let tensor = self.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        tensor.is_some_and(|tensor| tensor.elem_type == Some(element as i32))
    }

    /// Makes it a tensor of `element`, if it is a tensor.
    pub fn set_element(&mut self, element: DataType) {
        if let Some(tensor) = self.tensor_mut() {
            tensor.elem_type = Some(element as i32);
        }
    }

    /// The innermost size of a tensor, if it is fixed.
    pub fn last_size_mut(&mut self) -> Option<&mut i64> {
        let shape = self.tensor_mut()?.shape.as_mut()?;
        shape.dim.last_mut()?.dim_value.as_mut()
    }

    fn tensor_mut(&mut self) -> Option<&mut TensorTypeProto> {
        self.r#type.as_mut()?.tensor_type.as_mut()
    }
}

/// The type of a value; only tensors occur.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// A tensor's type.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Element type and shape (`TypeProto.Tensor`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorTypeProto {
    /// Element type, a [`DataType`].
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// Dimensions, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One dimension (`TensorShapeProto.Dimension`): a size or a name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DimensionProto {
    /// A fixed size.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// A symbol.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn wire_bytes_follow_the_format() {
        let tensor = TensorProto {
            dims: vec![2, 3],
            data_type: Some(DataType::Uint8 as i32),
            name: Some("w".into()),
            raw_data: Some(vec![7; 2]),
            ..TensorProto::default()
        };
        // field 1 varint 2, 3; field 2 varint 2; field 8 "w"; field 9 bytes
        let expected = [8, 2, 8, 3, 16, 2, 66, 1, b'w', 74, 2, 7, 7];
        assert_eq!(tensor.encode_to_vec(), expected);

        let attribute = AttributeProto::int("k", 4).encode_to_vec();
        assert_eq!(attribute, [10, 1, b'k', 24, 4, 160, 1, 2]);
        let attribute = AttributeProto::string("a", "b").encode_to_vec();
        assert_eq!(attribute, [10, 1, b'a', 34, 1, b'b', 160, 1, 3]);
        let attribute = AttributeProto::float("f", 1.0).encode_to_vec();
        assert_eq!(attribute, [10, 1, b'f', 21, 0, 0, 128, 63, 160, 1, 1]);
    }
}
