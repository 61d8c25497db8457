//! What a model file says of itself that ONNX Runtime does not tell: versions, external data, ranks left open, ZipMap, and what no version of
//! ONNX Runtime could make servable.
//!
//! Read in the model's own process only: the file is not trusted.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::{
    messages::{Attribute, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfo},
    zipmap::ZipMap,
};

/// Key of an external tensor's file (`onnx.TensorProto.external_data`).
const LOCATION: &str = "location";
/// `onnx.TensorProto.DataLocation`.
const EXTERNAL: i32 = 1;
/// Elements of `onnx.TensorProto.DataType` that no datatype of the protocol has.
const UNKNOWN_ELEMENTS: &[(i32, &str)] = &[
    (14, "complex64"),
    (15, "complex128"),
    (17, "float8e4m3fn"),
    (18, "float8e4m3fnuz"),
    (19, "float8e5m2"),
    (20, "float8e5m2fnuz"),
    (21, "uint4"),
    (22, "int4"),
    (23, "float4e2m1"),
    (24, "float8e8m0"),
    (25, "uint2"),
    (26, "int2"),
];

/// What is known of a model file.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) ir_version: i64,
    /// Of the default domain.
    pub(crate) opset: i64,
    /// The files beside the model that hold its weights.
    pub(crate) external: BTreeSet<String>,
    /// Inputs and outputs whose number of dimensions the file does not say.
    pub(crate) open_ranks: BTreeSet<String>,
    pub(crate) zipmaps: Vec<ZipMap>,
    /// What is wrong with its ZipMaps, so that they cannot be left out.
    pub(crate) zipmap_fault: Option<String>,
    /// Inputs and outputs that are no tensors of the protocol, a sentence for each, by what the file says of them.
    pub(crate) unserved: Vec<String>,
    /// The words that each encoder of categories knows, in the order of the nodes: exporters write them in the order of the columns.
    pub(crate) categories: Vec<Vec<String>>,
}

// === impl Graph ===

impl Graph {
    /// Reads a model file.
    pub(crate) fn read(model: Bytes) -> Result<Self, String> {
        let model = ModelProto::decode(model).map_err(|error| format!("not an ONNX model: {error}"))?;
        let graph = model.graph.unwrap_or_default();
        let opset = model.opset_import.iter().find(|set| matches!(&*set.domain, "" | "ai.onnx"));
        let values = graph.input.iter().chain(&graph.output);
        let (zipmaps, zipmap_fault) = match ZipMap::find(&graph.node) {
            Ok(zipmaps) => (zipmaps, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        Ok(Self {
            unserved: unserved(&graph, &zipmaps),
            ir_version: model.ir_version,
            opset: opset.map_or(0, |set| set.version),
            external: graph.initializer.iter().filter_map(TensorProto::file).collect(),
            open_ranks: values.filter(|value| value.is_rank_open()).map(|value| value.name.clone()).collect(),
            zipmaps,
            zipmap_fault,
            categories: graph.node.iter().filter_map(NodeProto::categories).collect(),
        })
    }
}

/// Maps of a ZipMap are left out, and inputs with a value of their own need not be given.
fn unserved(graph: &GraphProto, zipmaps: &[ZipMap]) -> Vec<String> {
    let has_value = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let inputs = graph.input.iter().filter(|value| !has_value(&value.name));
    let is_left_out = |name: &str| zipmaps.iter().any(|zipmap| zipmap.output == name);
    let outputs = graph.output.iter().filter(|value| !is_left_out(&value.name));
    inputs.chain(outputs).filter_map(ValueInfo::unserved).collect()
}

// === impl NodeProto, TensorProto, ValueInfo ===

impl NodeProto {
    fn categories(&self) -> Option<Vec<String>> {
        let wanted = match &*self.op_type {
            "OneHotEncoder" => "cats_strings",
            "LabelEncoder" => "keys_strings",
            _ => return None,
        };
        let attributes = self.attribute.iter().filter_map(|attribute| Attribute::decode(attribute.clone()).ok());
        let words: Vec<String> =
            attributes.filter(|it| it.name == wanted).flat_map(|it| it.texts().collect::<Vec<_>>()).collect();
        Some(words).filter(|words| !words.is_empty())
    }
}

impl TensorProto {
    fn file(&self) -> Option<String> {
        let location = self.external_data.iter().find(|entry| entry.key == LOCATION);
        location.filter(|_| self.data_location == EXTERNAL).map(|entry| entry.value.clone())
    }
}

impl ValueInfo {
    /// Why it cannot be served; none also where the file says nothing of its type.
    fn unserved(&self) -> Option<String> {
        let kind = self.r#type.as_ref()?;
        let kinds = [
            (kind.sequence.is_some(), "a sequence"),
            (kind.map.is_some(), "a map"),
            (kind.sparse_tensor.is_some(), "a sparse tensor"),
            (kind.optional.is_some(), "an optional value"),
        ];
        if let Some((_, kind)) = kinds.iter().find(|(is_kind, _)| *is_kind) {
            return Some(no_tensor(&self.name, kind));
        }
        let element = kind.tensor.as_ref()?.element;
        let (_, element) = UNKNOWN_ELEMENTS.iter().find(|(number, _)| *number == element)?;
        Some(unknown_element(&self.name, element))
    }

    fn is_rank_open(&self) -> bool {
        let tensor = self.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
        tensor.is_some_and(|tensor| tensor.shape.is_none())
    }
}

/// Of an input or output that is something else than a tensor.
pub(crate) fn no_tensor(name: &str, kind: &str) -> String {
    format!(
        "{name:?} is {kind}, not a tensor, and only tensors are served: export the model without it (scikit-learn: options={{'zipmap': False}})"
    )
}

/// Of an input or output whose elements have no name in the protocol.
pub(crate) fn unknown_element(name: &str, element: &str) -> String {
    format!("{name:?} has elements of type {element}, which the protocol does not know")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_file::messages::{TensorType, TypeProto};

    fn value(name: &str, kind: TypeProto) -> ValueInfo {
        ValueInfo { name: name.to_owned(), r#type: Some(kind) }
    }

    fn tensor(element: i32) -> TypeProto {
        TypeProto { tensor: Some(TensorType { element, shape: None }), ..TypeProto::default() }
    }

    /// All of them, and not the maps that are left out or an input that has a value in the file.
    #[test]
    fn each_input_and_output_that_is_no_tensor_of_the_protocol_is_told() {
        let sequence = || TypeProto { sequence: Some(Bytes::new()), ..TypeProto::default() };
        let zipmap = NodeProto {
            input: vec!["p".to_owned()],
            output: vec!["maps".to_owned()],
            op_type: "ZipMap".to_owned(),
            domain: "ai.onnx.ml".to_owned(),
            attribute: vec![],
        };
        let graph = GraphProto {
            node: vec![zipmap],
            initializer: vec![TensorProto { name: "weights".to_owned(), ..TensorProto::default() }],
            input: vec![value("x", tensor(1)), value("weights", tensor(22)), value("z", tensor(14))],
            output: vec![
                value("maps", sequence()),
                value("words", sequence()),
                value("m", TypeProto { map: Some(Bytes::new()), ..TypeProto::default() }),
                ValueInfo { name: "inferred".to_owned(), r#type: None },
            ],
        };
        let model = ModelProto { ir_version: 99, graph: Some(graph), opset_import: vec![] };
        let told = Graph::read(model.encode_to_vec().into()).unwrap().unserved;
        assert_eq!(told.len(), 3, "{told:?}");
        for (told, words) in
            told.iter().zip(["\"z\" has elements of type complex64", "\"words\" is a sequence", "\"m\" is a map"])
        {
            assert!(told.starts_with(words), "{told}");
        }
    }
}
