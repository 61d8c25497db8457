//! The description of predictions by feature name.

use problem::openapi::problem_schema;
use serde_json::{Map, Value, json};

use super::table::ROWS_MAX;
use crate::openapi::{Operation, error_responses, path_parameters, reference};

/// The paths of predictions by feature name.
pub(crate) fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for (model, of) in [("/api/models/{model}", ""), ("/api/models/{model}/versions/{version}", "OfVersion")] {
        let parameters = path_parameters(model);
        paths.insert(format!("{model}/predict"), json!({ "parameters": parameters, "post": predict(of) }));
        paths.insert(format!("{model}/schema"), json!({ "parameters": parameters, "get": schema(of) }));
    }
    paths
}

/// The schemas that they name.
pub(crate) fn schemas() -> Map<String, Value> {
    Map::from_iter([
        ("Record".to_owned(), record()),
        ("Records".to_owned(), records()),
        ("Answer".to_owned(), answer()),
        ("Problem".to_owned(), problem()),
    ])
}

fn predict(of: &str) -> Value {
    let body = json!({ "required": true, "content": {
        "application/json": { "schema": reference("Records") },
        "text/csv": { "schema": { "type": "string" }, "example": "age,fare,sex\n22,7.25,male\n38,71.28,female\n" },
    } });
    let responses = responses(
        "One prediction for each record, in the order of the records.",
        "application/json",
        &reference("Answer"),
        &[
            ("400", "What is wrong, each value by feature and row in `errors`."),
            ("404", "There is no such model or version."),
            ("409", "The version was refused, or the model has two features of one name."),
            ("413", "Too many bytes or too many records."),
            ("415", "Neither application/json nor text/csv, or a content coding other than gzip and deflate."),
            ("429", "The caller is over its share."),
            ("503", "The model cannot be called at the moment."),
            ("504", "Out of time."),
        ],
    );
    let summary = "Predictions for records.";
    let mut operation =
        Operation { id: format!("predict{of}"), summary, is_public: false, body: Some(body), responses }.to_json();
    let missing = json!([{
        "name": "missing", "in": "query", "required": false, "schema": { "enum": ["nan"] },
        "description": "With `nan`, floats that are missing become NaN; without, they are refused.",
    }]);
    if let Some(members) = operation.as_object_mut() {
        members.insert("parameters".to_owned(), missing);
    }
    operation
}

fn schema(of: &str) -> Value {
    let schema = json!({ "type": "object", "description": "JSON Schema 2020-12; `x-rampart` names version, digest and outputs." });
    let problems = [
        ("404", "There is no such model or version."),
        ("409", "The version was refused, or the model has two features of one name."),
        ("503", "The model cannot be called at the moment."),
    ];
    let responses = responses("The schema of one record.", "application/schema+json", &schema, &problems);
    let summary = "What a record of the model must have.";
    Operation { id: format!("schema{of}"), summary, is_public: false, body: None, responses }.to_json()
}

fn responses(description: &str, media_type: &str, schema: &Value, problems: &[(&str, &str)]) -> Map<String, Value> {
    let mut responses = error_responses("application/problem+json", "Problem", problems);
    let content = json!({ media_type: { "schema": schema } });
    responses.insert("200".to_owned(), json!({ "description": description, "content": content }));
    responses
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

fn problem() -> Value {
    let further = json!({
            "title": { "type": "string", "description": "The kind in words." },
            "status": { "type": "integer", "description": "The HTTP status." },
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
    });
    problem_schema(further.as_object().cloned().unwrap_or_default())
}
