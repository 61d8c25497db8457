//! The description of predictions by feature name, as OpenAPI 3.1. The inference protocol has its own.

use serde_json::{Map, Value, json};

use super::table::ROWS_MAX;

/// The document as it is committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    let mut paths = Map::new();
    for (model, has_version) in [("/api/models/{model}", false), ("/api/models/{model}/versions/{version}", true)] {
        paths.insert(format!("{model}/predict"), json!({ "parameters": parameters(has_version), "post": predict() }));
        paths.insert(format!("{model}/schema"), json!({ "parameters": parameters(has_version), "get": schema() }));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rampart predictions by feature name",
            "description": "Records as JSON or CSV in, a prediction for each out. Tensors go to /v2/models/{model}/infer, \
                            the Open Inference Protocol.",
            "license": { "name": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Record": record(), "Records": records(), "Answer": answer(), "Problem": problem(),
            },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "security": [{ "bearer": [] }],
    });
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

fn parameters(has_version: bool) -> Value {
    let path = |name: &str, description: &str| json!({ "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" } });
    let model =
        path("model", "The name of the model; without a version, its alias `champion` or the highest that serves.");
    if has_version { json!([model, path("version", "A number or an alias.")]) } else { json!([model]) }
}

fn predict() -> Value {
    json!({
        "operationId": "predict",
        "summary": "Predictions for records.",
        "parameters": [{
            "name": "missing", "in": "query", "required": false, "schema": { "enum": ["nan"] },
            "description": "With `nan`, floats that are missing become NaN; without, they are refused.",
        }],
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": reference("Records") },
            "text/csv": { "schema": { "type": "string" }, "example": "age,fare,sex\n22,7.25,male\n38,71.28,female\n" },
        } },
        "responses": responses("One prediction for each record, in the order of the records.", "application/json", reference("Answer"), &[
            ("400", "What is wrong, each value by feature and row in `errors`."),
            ("404", "There is no such model or version."),
            ("409", "The version was refused, or the model has two features of one name."),
            ("413", "Too many bytes or too many records."),
            ("415", "Neither application/json nor text/csv."),
            ("429", "The caller is over its share."),
            ("503", "The model cannot be called at the moment."),
            ("504", "Out of time."),
        ]),
    })
}

fn schema() -> Value {
    let schema = json!({ "type": "object", "description": "JSON Schema 2020-12; `x-rampart` names version, digest and outputs." });
    json!({
        "operationId": "schema",
        "summary": "What a record of the model must have.",
        "responses": responses("The schema of one record.", "application/schema+json", schema, &[
            ("404", "There is no such model or version."),
            ("409", "The version was refused, or the model has two features of one name."),
            ("503", "The model cannot be called at the moment."),
        ]),
    })
}

fn responses(description: &str, media_type: &str, schema: Value, problems: &[(&str, &str)]) -> Value {
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({ "description": description, "content": { media_type: { "schema": schema } } }),
    );
    let common = [("401", "The token is missing or not valid."), ("403", "The token does not allow this.")];
    for (status, description) in common.iter().chain(problems) {
        let content = json!({ "application/problem+json": { "schema": reference("Problem") } });
        responses.insert((*status).to_owned(), json!({ "description": description, "content": content }));
    }
    responses.into()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn record() -> Value {
    json!({
        "type": "object", "additionalProperties": true,
        "description": "A value for each feature of the model; `…/schema` describes them.",
        "example": { "age": 22, "fare": 7.25, "sex": "male" },
    })
}

fn records() -> Value {
    let list = json!({ "type": "array", "minItems": 1, "maxItems": ROWS_MAX, "items": reference("Record") });
    let missing = json!({ "enum": ["nan"], "description": "Floats that are missing become NaN." });
    let object = |member: &str, schema: &Value| {
        json!({
            "type": "object", "required": [member], "additionalProperties": false,
            "properties": { member: schema, "missing": missing },
        })
    };
    let columns =
        json!({ "type": "object", "additionalProperties": { "type": "array", "minItems": 1, "maxItems": ROWS_MAX } });
    let split = json!({
        "type": "object", "required": ["columns", "data"], "additionalProperties": false,
        "properties": {
            "columns": { "type": "array", "items": { "type": "string" } },
            "data": { "type": "array", "minItems": 1, "maxItems": ROWS_MAX, "items": { "type": "array" } },
            "index": { "description": "Not looked at." },
        },
    });
    json!({ "oneOf": [
        list,
        object("records", &list),
        object("columns", &columns),
        object("dataframe_split", &split),
        object("dataframe_records", &list),
    ] })
}

fn answer() -> Value {
    json!({
        "type": "object", "required": ["model", "version", "sha256", "predictions"],
        "properties": {
            "model": { "type": "string" },
            "version": { "type": "string", "description": "Which version answered." },
            "sha256": { "type": "string", "description": "Of its model file." },
            "predictions": { "type": "array", "items": {
                "type": "object",
                "description": "Each output by its name: a value, a list, or an object by the names of the columns.",
                "example": { "label": 1, "probabilities": [0.2, 0.8] },
            } },
        },
    })
}

/// RFC 9457.
fn problem() -> Value {
    json!({
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "description": "`urn:rampart:problem:` and the kind." },
            "title": { "type": "string", "description": "The kind in words." },
            "status": { "type": "integer", "description": "The HTTP status." },
            "detail": { "type": "string", "description": "What is wrong, and what to do." },
            "field": { "type": "string", "description": "The first field or feature that is wrong." },
            "offset": { "type": "integer", "description": "The byte of the body at which it stopped being JSON." },
            "errors": { "type": "array", "description": "Everything that is wrong, up to a hundred.", "items": {
                "type": "object", "required": ["field", "detail"],
                "properties": {
                    "field": { "type": "string", "description": "The feature." },
                    "row": { "type": "integer", "description": "The record, from 0." },
                    "detail": { "type": "string", "description": "What is wrong with it." },
                },
            } },
        },
    })
}
