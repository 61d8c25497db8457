//! An inference answer of the REST protocol, written straight into its bytes.

use axum::{body::Body, response::Response};
use engine::tensor::{Tensor, encode_binary, encoded_len};
use http::{HeaderValue, header};
use model_repository::Model;
use problem::{Kind, Problem};

use super::request::{InferRequest, JSON_LENGTH_HEADER};
use crate::protocol::json::write_data;

/// Writes the outputs in the forms that were asked for.
pub(crate) fn write(
    model: &Model,
    id: Option<&str>,
    wanted: &[usize],
    binary: &[bool],
    outputs: &[Tensor],
) -> Result<Response, Problem> {
    let mut body = Vec::with_capacity(256 + outputs.iter().map(|output| output.data().len() * 16).sum::<usize>());
    body.extend_from_slice(b"{\"model_name\":");
    write_text(model.identity.name.as_str(), &mut body);
    body.extend_from_slice(b",\"model_version\":");
    write_text(&model.version_text, &mut body);
    if let Some(id) = id {
        body.extend_from_slice(b",\"id\":");
        write_text(id, &mut body);
    }
    body.extend_from_slice(b",\"outputs\":[");
    for (index, ((output, position), binary)) in outputs.iter().zip(wanted).zip(binary).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let name = model.signature.outputs.get(*position).map_or("", |spec| &spec.name);
        write_output(name, output, *binary, &mut body)?;
    }
    body.extend_from_slice(b"]}");
    let json_length = body.len();
    let in_binary = || outputs.iter().zip(binary).filter(|(_, binary)| **binary).map(|(output, _)| output);
    for output in in_binary() {
        encode_binary(output.data(), &mut body);
    }
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    if in_binary().next().is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(JSON_LENGTH_HEADER, HeaderValue::from(json_length));
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(response)
}

fn write_output(name: &str, output: &Tensor, binary: bool, body: &mut Vec<u8>) -> Result<(), Problem> {
    body.extend_from_slice(b"{\"name\":");
    write_text(name, body);
    body.extend_from_slice(b",\"datatype\":\"");
    body.extend_from_slice(output.datatype().as_str().as_bytes());
    body.extend_from_slice(b"\",\"shape\":");
    write_number_list(output.shape(), body);
    if binary {
        body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        body.extend_from_slice(encoded_len(output.data()).to_string().as_bytes());
        body.extend_from_slice(b"}}");
        return Ok(());
    }
    body.extend_from_slice(b",\"data\":");
    write_data(output.data(), body).map_err(|fault| {
        Problem::new(Kind::InvalidArgument, format!("the output {name:?}: {fault}")).field("outputs")
    })?;
    body.push(b'}');
    Ok(())
}

fn write_text(text: &str, body: &mut Vec<u8>) {
    serde_json::to_writer(body, text).expect("a string always serialises into memory");
}

fn write_number_list(numbers: &[i64], body: &mut Vec<u8>) {
    serde_json::to_writer(body, numbers).expect("numbers always serialise into memory");
}

/// The part of a request that its answer needs, once its inputs were given away.
pub(crate) struct Reply {
    id: Option<String>,
    wanted: Vec<usize>,
    binary: Vec<bool>,
}

// === impl Reply ===

impl Reply {
    pub(crate) fn of(request: &mut InferRequest) -> Self {
        Self { id: request.id.take(), wanted: request.call.wanted.clone(), binary: std::mem::take(&mut request.binary) }
    }

    pub(crate) fn write(&self, model: &Model, outputs: &[Tensor]) -> Result<Response, Problem> {
        write(model, self.id.as_deref(), &self.wanted, &self.binary, outputs)
    }
}
