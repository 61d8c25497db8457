//! The description of `/api/backups`, as OpenAPI 3.1: `GET /api/backups/openapi.json`.

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
            "title": "Rampart backups",
            "description": "Backup sets and their verification. Both run for a while: a run is begun, and asked for until it has ended.",
            "license": { "name": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": {
            "/api/backups": {
                "get": operation("runs", "The last hundred runs.", "200", "Runs", &[]),
                "post": operation("create", "Begins to build a set.", "202", "Run", &[BUSY]),
            },
            "/api/backups/{id}": {
                "parameters": [parameter("id", "The id of a run.")],
                "get": operation("run", "One run.", "200", "Run", &[("404", "There is no such run.")]),
            },
            "/api/backups/{id}/cancel": {
                "parameters": [parameter("id", "The id of a run.")],
                "post": operation("cancel", "Asks for the end of a run that is under way; it becomes `cancelled`, and nothing of it stays.", "202", "Run", &[
                    ("404", "There is no such run."), ("409", "The run has ended otherwise."),
                ]),
            },
            "/api/backups/{name}/verify": {
                "parameters": [parameter("name", "The name of a set.")],
                "post": operation("verify", "Begins to verify a set.", "202", "Run", &[("404", "There is no such set."), BUSY]),
            },
            "/api/backups/openapi.json": { "get": description() },
        },
        "components": {
            "schemas": { "Run": run(), "Runs": runs(), "Problem": problem_schema(field()) },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "security": [{ "bearer": [] }],
    });
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

const BUSY: (&str, &str) = ("409", "Another run is under way, or sets are not verified here.");

/// This document.
pub(crate) async fn get() -> Result<Response, Api> {
    let json = openapi_json().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}

fn parameter(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" }, "description": description })
}

fn operation(id: &str, summary: &str, status: &str, schema: &str, others: &[(&str, &str)]) -> Value {
    let reference = |name: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let mut responses = Map::new();
    let content = json!({ "application/json": reference(schema) });
    responses.insert(status.to_owned(), json!({ "description": summary, "content": content }));
    let common = [
        ("401", "The token is missing or not valid."),
        ("403", "The token does not allow this."),
        ("503", "The database is away."),
    ];
    for (status, description) in common.iter().chain(others) {
        let content = json!({ "application/problem+json": reference("Problem") });
        responses.insert((*status).to_owned(), json!({ "description": description, "content": content }));
    }
    json!({ "operationId": id, "summary": summary, "responses": responses })
}

fn run() -> Value {
    let text = |description: &str| json!({ "type": ["string", "null"], "description": description });
    let time = json!({ "type": ["string", "null"], "format": "date-time" });
    json!({
        "type": "object",
        "required": ["id", "kind", "state", "requested_by", "started_at", "attempt"],
        "properties": {
            "id": { "type": "string", "format": "uuid" },
            "kind": { "enum": ["create", "verify"] },
            "state": { "type": "string", "description": "`running` until it has ended; then `succeeded`, `failed` or `cancelled`." },
            "set": text("The name of the set."),
            "verdict": text("`VALID` or `INVALID`, of a verification that has ended."),
            "reason": text("Why a set is INVALID."),
            "error": text("Why the run failed."),
            "requested_by": {
                "type": "string",
                "description": "`user:` and an id; `schedule:` and its name; or `run:` and the id of the run that made the set.",
            },
            "started_at": { "type": "string", "format": "date-time" },
            "finished_at": time,
            "size_bytes": { "type": ["integer", "null"] },
            "phase": text("What it does, or did last: `archive_models`, `dump_databases`; `check_files`, `open_models`, `restore_databases`."),
            "bytes_done": { "type": "integer", "description": "Bytes of the set that were written, or read: at most a second old." },
            "bytes_expected": { "type": ["integer", "null"], "description": "Bytes that it will probably be: those of the set before, or twice those of the set that is verified." },
            "cancelled_by": text("The caller that cancelled it."),
            "attempt": { "type": "integer", "description": "More than 1 if this takes the place of a run that was cut off by the end of its worker." },
        },
    })
}

fn runs() -> Value {
    let run = json!({ "$ref": "#/components/schemas/Run" });
    json!({ "type": "object", "required": ["runs"], "properties": { "runs": { "type": "array", "items": run } } })
}

fn field() -> Map<String, Value> {
    let field = json!({ "type": "string", "description": "The field of the request that is wrong." });
    Map::from_iter([("field".to_owned(), field)])
}
