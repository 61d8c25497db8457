//! The Open Inference Protocol v2: its two faces, and what they and other predictions have in common.

mod body;
pub(crate) mod deadline;
pub(crate) mod grpc;
pub(crate) mod http_call;
pub(crate) mod json;
mod offload;
pub(crate) mod rest;
pub(crate) mod target;
pub(crate) mod wire;

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc};

use engine::tensor::BinaryFault;
use http_body_util::LengthLimitError;
use model_repository::{Model, ModelEntry};
use problem::{Kind, Problem};

/// What the protocol calls the kind of model that is served.
const PLATFORM: &str = "onnx_onnxv1";

/// The protocol's extensions that are offered.
const EXTENSIONS: &[&str] = &["model_repository", "statistics", "binary_tensor_data", "parameters"];

/// What the platform knows of a model beyond the protocol; gRPC has a field for it, and REST clients ignore what is new.
fn properties(model: &Model, entry: Option<&Arc<ModelEntry>>) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::from([
        ("version".to_owned(), model.version_text.clone()),
        ("sha256".to_owned(), model.identity.digest.to_string()),
    ]);
    if let Some(entry) = entry {
        properties.insert("description".to_owned(), entry.description.clone());
        properties.insert("aliases".to_owned(), entry.aliases_of(model.identity.version).collect::<Vec<_>>().join(","));
    }
    properties
}

/// A binary tensor's fault under the field that is wrong.
fn binary_problem(fault: &BinaryFault, place: impl fmt::Display) -> Problem {
    let field = if *fault == BinaryFault::Shape { format!("{place}.shape") } else { place.to_string() };
    Problem::new(Kind::InvalidArgument, fault.to_string()).field(field)
}

/// Whether a body ended because it was over a limit.
fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}
