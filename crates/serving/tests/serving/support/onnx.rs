//! Writes small ONNX models: as much of `onnx.proto` as the tests need, so that no binary file has to be trusted.

use prost::Message;

/// `onnx.AttributeProto.AttributeType`.
const ATTRIBUTE_GRAPH: i32 = 5;

/// `onnx.TensorProto.DataType` by the protocol's names.
pub(crate) fn element(datatype: &str) -> i32 {
    match datatype {
        "FP32" => 1,
        "UINT8" => 2,
        "INT8" => 3,
        "UINT16" => 4,
        "INT16" => 5,
        "INT32" => 6,
        "INT64" => 7,
        "BYTES" => 8,
        "BOOL" => 9,
        "FP16" => 10,
        "FP64" => 11,
        "UINT32" => 12,
        "UINT64" => 13,
        "BF16" => 16,
        // No datatype of the protocol.
        "complex64" => 14,
        other => panic!("no such datatype: {other}"),
    }
}

/// One node: operator, inputs, outputs.
pub(crate) type NodeSpec<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Of a shape, a length that has the same name wherever it stands.
pub(crate) const SHARED: i64 = -2;

/// An input or output: name, datatype, shape with -1 for any length.
pub(crate) type ValueSpec<'a> = (&'a str, &'a str, &'a [i64]);

/// A model of these nodes.
pub(crate) fn model(nodes: &[NodeSpec<'_>], inputs: &[ValueSpec<'_>], outputs: &[ValueSpec<'_>]) -> Vec<u8> {
    model_with(nodes, inputs, outputs, Vec::new())
}

/// A model that adds one constant, which lies in another file.
pub(crate) fn plus_external(location: &str) -> Vec<u8> {
    plus(external(location))
}

/// A model of complex numbers, which the protocol does not know, with constants in these files.
pub(crate) fn complex_with_external(locations: &[&str]) -> Vec<u8> {
    let constant = |location: &&str| {
        let name = format!("of {location}");
        TensorProto { dims: vec![1], data_type: element("FP32"), name, ..external(location) }
    };
    let nodes: [NodeSpec<'_>; 1] = [("Add", &["a", "b"], &["c"])];
    let inputs = [("a", "complex64", &[-1_i64][..]), ("b", "complex64", &[-1_i64][..])];
    model_with(&nodes, &inputs, &[("c", "complex64", &[-1])], locations.iter().map(constant).collect())
}

/// A model that doubles `x` as often as `n` says, one time after the other.
pub(crate) fn repeated() -> Vec<u8> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let node = |op_type: &str, input: &[&str], output: &[&str]| NodeProto {
        input: names(input),
        output: names(output),
        op_type: op_type.to_owned(),
        attribute: vec![],
    };
    let body = GraphProto {
        node: vec![node("Identity", &["go_on"], &["goes_on"]), node("Add", &["s", "s"], &["t"])],
        name: "body".to_owned(),
        initializer: vec![],
        input: [("i", "INT64", &[][..]), ("go_on", "BOOL", &[]), ("s", "FP32", &[-1])].iter().map(value).collect(),
        output: [("goes_on", "BOOL", &[][..]), ("t", "FP32", &[-1])].iter().map(value).collect(),
    };
    let graph = GraphProto {
        node: vec![NodeProto {
            attribute: vec![AttributeProto { name: "body".to_owned(), graph: Some(body), kind: ATTRIBUTE_GRAPH }],
            ..node("Loop", &["n", "", "x"], &["y"])
        }],
        name: "test".to_owned(),
        initializer: vec![],
        input: [("n", "INT64", &[1_i64][..]), ("x", "FP32", &[-1])].iter().map(value).collect(),
        output: vec![value(&("y", "FP32", &[-1]))],
    };
    let opset = OperatorSetId { domain: String::new(), version: 17 };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset] }.encode_to_vec()
}

fn external(location: &str) -> TensorProto {
    let entry = |key: &str, value: &str| StringEntry { key: key.to_owned(), value: value.to_owned() };
    let external_data = vec![entry("location", location), entry("offset", "0"), entry("length", "4")];
    TensorProto { external_data, data_location: 1, ..TensorProto::default() }
}

/// The same model with the constant in it.
pub(crate) fn plus_one() -> Vec<u8> {
    plus(TensorProto { float_data: vec![1.0], ..TensorProto::default() })
}

/// The same model, which says that it is of these versions.
pub(crate) fn with_versions(model: &[u8], ir_version: i64, opset: i64) -> Vec<u8> {
    let mut model = ModelProto::decode(model).unwrap();
    model.ir_version = ir_version;
    model.opset_import = vec![OperatorSetId { domain: String::new(), version: opset }];
    model.encode_to_vec()
}

/// A model that answers with one of so many zeros, which are in it.
pub(crate) fn lookup(zeros: usize) -> Vec<u8> {
    let dims = vec![i64::try_from(zeros).unwrap()];
    let float_data = vec![0.0; zeros];
    let table =
        TensorProto { dims, data_type: element("FP32"), name: "c".to_owned(), float_data, ..Default::default() };
    model_with(&[("Gather", &["c", "i"], &["y"])], &[("i", "INT64", &[-1])], &[("y", "FP32", &[-1])], vec![table])
}

fn plus(constant: TensorProto) -> Vec<u8> {
    let constant = TensorProto { dims: vec![1], data_type: element("FP32"), name: "c".to_owned(), ..constant };
    model_with(&[("Add", &["x", "c"], &["y"])], &[("x", "FP32", &[-1])], &[("y", "FP32", &[-1])], vec![constant])
}

fn model_with(
    nodes: &[NodeSpec<'_>],
    inputs: &[ValueSpec<'_>],
    outputs: &[ValueSpec<'_>],
    constants: Vec<TensorProto>,
) -> Vec<u8> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let node = |(operator, inputs, outputs): &NodeSpec<'_>| NodeProto {
        input: names(inputs),
        output: names(outputs),
        op_type: (*operator).to_owned(),
        attribute: vec![],
    };
    let graph = GraphProto {
        node: nodes.iter().map(node).collect(),
        name: "test".to_owned(),
        initializer: constants,
        input: inputs.iter().map(value).collect(),
        output: outputs.iter().map(value).collect(),
    };
    let opset = OperatorSetId { domain: String::new(), version: 17 };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset] }.encode_to_vec()
}

fn value((name, datatype, shape): &ValueSpec<'_>) -> ValueInfoProto {
    let dimension = |(index, length): (usize, &i64)| match *length {
        -1 => Dimension { dim_value: None, dim_param: Some(format!("{name}_{index}")) },
        SHARED => Dimension { dim_value: None, dim_param: Some("N".to_owned()) },
        length => Dimension { dim_value: Some(length), dim_param: None },
    };
    let dim = shape.iter().enumerate().map(dimension).collect();
    let tensor_type = TensorTypeProto { elem_type: element(datatype), shape: Some(ShapeProto { dim }) };
    ValueInfoProto { name: (*name).to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetId>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetId {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "6")]
    graph: Option<GraphProto>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringEntry>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StringEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<ShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ShapeProto {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}
