//! The REST face of the inference protocol: thin handlers, each behind the action it declares in [`crate::routes`].

mod metadata;
pub(crate) mod openapi;
mod request;
mod response;

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use engine::{Signature, tensor::Tensor};
use http::{HeaderMap, HeaderValue, StatusCode};
use model_repository::Model;
use problem::{Inference, Kind, Problem};

use crate::{
    app::App,
    desired_state::Requester,
    protocol::{
        body,
        http_call::HttpCall,
        json::{Fault, Reader, ValueKind},
        target::Target,
        wire::{fill, read_parameters},
    },
};

use request::{InferRequest, JSON_LENGTH_HEADER};
use response::Reply;

type RestResult = Result<Response, Inference>;

/// The last segment of every path of statistics, and perhaps the name of a model.
const STATISTICS: &str = "stats";

/// Bodies that only steer are small.
const CONTROL_BYTES_MAX: usize = 64 << 10;

// --- health ---

pub(crate) async fn live() -> RestResult {
    Ok(json(StatusCode::OK, &serde_json::json!({ "live": true })))
}

pub(crate) async fn ready(State(app): State<App>) -> RestResult {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(json(status, &serde_json::json!({ "ready": ready })))
}

pub(crate) async fn model_ready(State(app): State<App>, target: Target) -> RestResult {
    let model = app.repository.resolve(&target.model, &target.version)?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "name": model.identity.name.as_str(), "ready": true })))
}

// --- metadata ---

pub(crate) async fn server_metadata() -> RestResult {
    Ok(json(StatusCode::OK, &metadata::server()))
}

pub(crate) async fn model_metadata(State(app): State<App>, target: Target) -> RestResult {
    let model = app.repository.resolve(&target.model, &target.version)?;
    let snapshot = app.repository.snapshot();
    Ok(json(StatusCode::OK, &metadata::model(&model, snapshot.entry(&target.model))))
}

pub(crate) async fn statistics(State(app): State<App>, target: Target) -> RestResult {
    let models = app.repository.snapshot().serving(&target.model, &target.version)?;
    Ok(json(StatusCode::OK, &metadata::statistics(&models)))
}

/// Of all models. A model may be called `stats`, and then this is the path of its metadata too: the answer is both.
pub(crate) async fn all_statistics(State(app): State<App>) -> RestResult {
    let snapshot = app.repository.snapshot();
    let models = snapshot.serving("", "")?;
    let statistics = metadata::statistics(&models);
    match (snapshot.entry(STATISTICS), snapshot.resolve(STATISTICS, "")) {
        (Some(entry), Ok(model)) => {
            Ok(json(StatusCode::OK, &metadata::model_and_statistics(&model, entry, statistics)))
        }
        _ => Ok(json(StatusCode::OK, &statistics)),
    }
}

// --- inference ---

pub(crate) async fn infer(State(app): State<App>, target: Target, request: Request) -> RestResult {
    let json_length = json_length(request.headers());
    let read = |body: Bytes, signature: &Signature| {
        let mut request = InferRequest::read(body, json_length?, signature)?;
        let reply = Reply::of(&mut request);
        Ok((request.call, reply))
    };
    let write = |reply: Reply, model: &Model, outputs: &[Tensor]| reply.write(model, outputs);
    Ok(HttpCall::read(&app, &target, request).await?.answer(&app, read, write).await?)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    let refuse = |detail: String| Problem::new(Kind::InvalidArgument, detail).field(JSON_LENGTH_HEADER);
    let mut values = headers.get_all(JSON_LENGTH_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if let Some(other) = values.find(|other| *other != value) {
        return Err(refuse(format!("is given twice, as {} and as {}", shown(value), shown(other))));
    }
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or_else(|| refuse(format!("must be a number of bytes written in digits, not {}", shown(value))))
}

fn shown(value: &HeaderValue) -> String {
    let text: String = String::from_utf8_lossy(value.as_bytes()).chars().take(32).collect();
    format!("{text:?}")
}

// --- repository ---

pub(crate) async fn index(State(app): State<App>, request: Request) -> RestResult {
    let mut only_ready = None;
    let body = control_body(request).await?;
    read_control(&body, |reader, key| match key {
        "ready" => fill(&mut only_ready, "ready", || reader.bool()),
        _ => reader.skip().map(drop),
    })?;
    let rows = app.repository.snapshot().index(only_ready.unwrap_or(false));
    Ok(json(StatusCode::OK, &metadata::index(&rows)))
}

pub(crate) async fn load(State(app): State<App>, target: Target, request: Request) -> RestResult {
    let requester = Requester::of(request.extensions().get(), request.headers())?;
    refuse_parameters(request, |_| false).await?;
    app.load_model(&target.model, requester).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}

pub(crate) async fn unload(State(app): State<App>, target: Target, request: Request) -> RestResult {
    let requester = Requester::of(request.extensions().get(), request.headers())?;
    // There are no dependents, so either value means the same.
    refuse_parameters(request, |key| key == "unload_dependents").await?;
    app.unload_model(&target.model, requester).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}

/// What a model is comes from its folder and from nowhere else: a request can override neither configuration nor files.
async fn refuse_parameters(request: Request, harmless: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let body = control_body(request).await?;
    read_control(&body, |reader, key| match key {
        "parameters" => read_parameters(reader, |key, _| {
            if harmless(key) {
                Ok(())
            } else {
                Err(Fault::value("a model is loaded as its folder has it; overrides are not offered"))
            }
        })
        .map_err(|fault| fault.key("parameters")),
        _ => reader.skip().map(drop),
    })
}

async fn control_body(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    body::read_small(&parts.headers, body, CONTROL_BYTES_MAX).await
}

/// Reads an object, or nothing at all: clients send empty bodies here.
fn read_control<'a>(
    body: &'a [u8],
    mut visit: impl FnMut(&mut Reader<'a>, &str) -> Result<(), Fault>,
) -> Result<(), Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(body);
    reader.expect(ValueKind::Object).map_err(Fault::of_body)?;
    reader.object(|reader, key| visit(reader, &key))?;
    Ok(reader.end()?)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    metadata::json(status, value)
}
