//! ONNX models of one node, byte by byte: each function returns a field with
//! its number and content.

/// Element types, as in TensorProto.
pub const FLOAT: i64 = 1;
pub const UINT8: i64 = 2;
pub const BFLOAT16: i64 = 16;

pub fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

pub fn float(field: u64, value: f32) -> Vec<u8> {
    [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let len = varint(content.len() as u64);
    [varint(field << 3 | 2), len, content.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// AttributeProto: name 1, the value, type 20.
pub fn attribute(name: &str, value: Vec<u8>, kind: i64) -> Vec<u8> {
    bytes(5, [bytes(1, name), value, number(20, kind)].concat())
}

pub fn int(name: &str, value: i64) -> Vec<u8> {
    attribute(name, number(3, value), 2)
}

pub fn real(name: &str, value: f32) -> Vec<u8> {
    attribute(name, float(2, value), 1)
}

pub fn string(name: &str, value: &str) -> Vec<u8> {
    attribute(name, bytes(4, value), 3)
}

/// ValueInfoProto of a tensor with unknown sizes.
fn tensor(field: u64, name: &str, element: i64, dimensions: usize) -> Vec<u8> {
    let sizes: Vec<u8> = (0..dimensions)
        .flat_map(|i| bytes(1, bytes(2, format!("{name}_{i}"))))
        .collect();
    let tensor = [number(1, element), bytes(2, sizes)].concat();
    bytes(field, [bytes(1, name), bytes(2, bytes(1, tensor))].concat())
}

/// ModelProto of one node `gptoss:OPERATOR` with output `y`. Its inputs, of a
/// name, an element type and a number of dimensions each, are all fed at run
/// time.
pub fn node(operator: &str, inputs: &[(&str, i64, usize)], attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node: Vec<u8> = inputs
        .iter()
        .flat_map(|(name, ..)| bytes(1, name))
        .collect();
    for (field, text) in [(2, "y"), (3, "node"), (4, operator), (7, "gptoss")] {
        node.extend(bytes(field, text));
    }
    node.extend(attributes.concat());
    let mut graph = [bytes(1, node), bytes(2, "test")].concat();
    for (name, element, dimensions) in inputs {
        graph.extend(tensor(11, name, *element, *dimensions));
    }
    graph.extend(tensor(12, "y", FLOAT, inputs[0].2));
    let opset = |domain, version| bytes(8, [bytes(1, domain), number(2, version)].concat());
    let opsets = [opset("", 21), opset("gptoss", 1)].concat();
    [number(1, 10), bytes(7, graph), opsets].concat()
}
