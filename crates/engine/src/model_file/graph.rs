//! What a model file says of itself that ONNX Runtime does not tell: versions, external data, ranks left open, ZipMap.
//!
//! Read in the model's own process only: the file is not trusted.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::{
    messages::{Attribute, ModelProto, NodeProto, TensorProto, ValueInfo},
    zipmap::ZipMap,
};

/// Key of an external tensor's file (`onnx.TensorProto.external_data`).
const LOCATION: &str = "location";
/// `onnx.TensorProto.DataLocation`.
const EXTERNAL: i32 = 1;

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
        Ok(Self {
            ir_version: model.ir_version,
            opset: opset.map_or(0, |set| set.version),
            external: graph.initializer.iter().filter_map(TensorProto::file).collect(),
            open_ranks: values.filter(|value| value.is_rank_open()).map(|value| value.name.clone()).collect(),
            zipmaps: ZipMap::find(&graph.node)?,
            categories: graph.node.iter().filter_map(NodeProto::categories).collect(),
        })
    }
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
    fn is_rank_open(&self) -> bool {
        let tensor = self.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
        tensor.is_some_and(|tensor| tensor.shape.is_none())
    }
}
