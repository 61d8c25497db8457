//! The description of everything that is answered over REST, as OpenAPI 3.1: `GET /api/models/openapi.json`.

use axum::response::Response;
use http::{HeaderValue, header};
use problem::{Api, Problem};
use serde_json::{Map, Value, json};

use crate::{features, openapi::Operation, protocol::rest};

pub(crate) async fn get() -> Result<Response, Api> {
    let mut response = Response::new(openapi_json().map_err(Problem::internal)?.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The document as it is published and committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    let mut paths = features::openapi::paths();
    paths.extend(rest::openapi::paths());
    paths.insert("/api/models/openapi.json".to_owned(), json!({ "get": description() }));
    let mut schemas = features::openapi::schemas();
    schemas.extend(rest::openapi::schemas());
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rampart models",
            "description": "Predictions: records by feature name as JSON or CSV at /api/models/{model}/predict, tensors at \
                            /v2/models/{model}/infer, the Open Inference Protocol v2.",
            "license": { "name": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "security": [{ "bearer": [] }],
    });
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

fn description() -> Value {
    let content = json!({ "application/json": { "schema": { "type": "object" } } });
    let responses = Map::from_iter([("200".to_owned(), json!({ "description": "OpenAPI.", "content": content }))]);
    Operation { id: "openapi".to_owned(), summary: "This document.", is_public: true, body: None, responses }.to_json()
}
