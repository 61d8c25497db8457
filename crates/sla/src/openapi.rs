//! The description of `/api/sla`, as OpenAPI 3.1: `GET /api/sla/openapi.json`.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use problem::{
    Api, Problem,
    openapi::{description, problem_schema},
};
use serde_json::{Map, Value, json};

/// The document as it is published and committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rampart SLA",
            "description": "Whether the platform kept its promise over the last 30 days.",
            "license": { "name": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": {
            "/api/sla/{service}/current": { "get": current() },
            "/api/sla/openapi.json": { "get": description() },
        },
        "components": {
            "schemas": { "Current": current_schema(), "Problem": problem_schema(Map::new()) },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    });
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

/// This document.
pub(crate) async fn get() -> Result<Response, Api> {
    let json = openapi_json().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}

fn current() -> Value {
    let problem = |description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        json!({ "description": description, "content": { "application/problem+json": { "schema": schema } } })
    };
    json!({
        "operationId": "current",
        "summary": "The figures of a service; with a token also their details.",
        "security": [{}, { "bearer": [] }],
        "parameters": [{
            "name": "service", "in": "path", "required": true, "schema": { "type": "string" },
            "description": "`ml-services`: everything that answers for models.",
        }],
        "responses": {
            "200": { "description": "The figures.", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Current" } } } },
            "401": problem("The token is not valid."),
            "404": problem("There is no such service."),
            "503": problem("The ledger cannot be read at the moment."),
        },
    })
}

fn current_schema() -> Value {
    let percentage = |description: &str| json!({ "type": ["number", "null"], "minimum": 0, "maximum": 100, "description": description });
    json!({
        "type": "object",
        "required": ["service", "window", "targets", "compliant", "status", "reason", "computed_at"],
        "properties": {
            "service": { "type": "string" },
            "window": { "type": ["object", "null"], "description": "The time that the figures are about." },
            "uptime_percentage": percentage("Good of all requests in known minutes."),
            "uptime_percentage_lower": percentage("The same if every unknown minute had its usual traffic and all of it failed."),
            "coverage_percentage": percentage("Known of all minutes."),
            "response_time_p95": { "type": ["number", "null"], "description": "Milliseconds." },
            "latency_good_percentage": percentage("Answers within the latency target."),
            "targets": { "type": "object", "properties": { "uptime": { "type": "number" }, "p95_ms": { "type": "integer" } } },
            "compliant": { "type": ["boolean", "null"] },
            "status": { "enum": ["compliant", "violated", "insufficient_data", "no_data"] },
            "reason": { "type": ["string", "null"], "description": "Why figures are absent." },
            "computed_at": { "type": "string", "format": "date-time" },
            "detail": { "type": "object", "description": "Requests, hours, minutes and sources, for callers who may read them." },
        },
    })
}
