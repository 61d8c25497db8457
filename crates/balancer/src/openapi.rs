//! The description of what the balancer answers itself, as OpenAPI 3.1: `GET /api/loadbalancer/openapi.json`.
//!
//! `grpc.health.v1.Health` is described by its own contract.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use problem::{
    Problem,
    openapi::{description, problem_schema},
};
use serde_json::{Map, Value, json};

/// The document as it is published and committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rampart balancer",
            "description": "Health and status of the front door. What it passes on is described by the services.",
            "license": { "name": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": {
            "/health": { "get": health() },
            "/api/loadbalancer/status": { "get": status() },
            "/api/loadbalancer/openapi.json": { "get": description() },
        },
        "components": {
            "schemas": { "Status": status_schema(), "Pool": pool_schema(), "Problem": problem_schema(Map::new()) },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    });
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

/// This document.
pub(crate) fn answer() -> Result<Response<Bytes>, Problem> {
    let mut response = Response::new(Bytes::from(openapi_json().map_err(Problem::internal)?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn health() -> Value {
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    json!({
        "operationId": "health", "summary": "Whether the balancer takes requests.", "security": [{}],
        "responses": {
            "200": { "description": "It does.", "content": text },
            "503": { "description": "It does not.", "content": text },
        },
    })
}

fn status() -> Value {
    let reference = |name: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let refusal = |description: &str| json!({ "description": description, "content": { "application/problem+json": reference("Problem") } });
    json!({
        "operationId": "status",
        "summary": "The replicas and their states; with a token also since when, why, and how loaded they are.",
        "security": [{}, { "bearer": [] }],
        "responses": {
            "200": { "description": "The replicas.", "content": { "application/json": reference("Status") } },
            "401": refusal("The token is not valid."),
            "403": refusal("The token does not allow this."),
            "503": refusal("No gateway can say what the token is for."),
        },
    })
}

fn status_schema() -> Value {
    json!({
        "type": "object", "required": ["healthy_backends", "pools"],
        "properties": {
            "healthy_backends": { "type": "integer", "description": "Of the serving pool." },
            "pools": { "type": "object", "additionalProperties": { "$ref": "#/components/schemas/Pool" } },
            "version": { "type": "string", "description": "With a token." },
        },
    })
}

fn pool_schema() -> Value {
    let number = json!({ "type": "integer" });
    let text = json!({ "type": "string" });
    let replica = json!({
        "type": "object", "required": ["name", "state"],
        "properties": {
            "name": text, "state": text, "since": { "type": "string", "format": "date-time" }, "why": text, "address": text,
            "in_flight": number, "connections": number,
        },
    });
    json!({
        "type": "object", "required": ["healthy", "total", "replicas"],
        "properties": { "healthy": number, "total": number, "replicas": { "type": "array", "items": replica } },
    })
}
