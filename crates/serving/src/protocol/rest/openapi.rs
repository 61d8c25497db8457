//! The description of the inference protocol over REST, as it is offered here.

use serde_json::{Map, Value, json};

use crate::openapi::{Operation, error_responses, path_parameters, reference};

/// The problems that a call of a model can have, beside those of every call.
const OF_A_MODEL: &[(&str, &str)] = &[
    ("404", "There is no such model or version."),
    ("409", "The version was refused when it was loaded."),
    ("503", "The model cannot be called at the moment."),
];

/// The paths below `/v2`.
pub(crate) fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Operation<'_>| {
        let mut operation = operation.to_json();
        // `/v2` and `/v2/` are one operation, which may have its id once.
        if path == "/v2/"
            && let Some(operation) = operation.as_object_mut()
        {
            operation.remove("operationId");
        }
        paths.insert(path.to_owned(), json!({ "parameters": path_parameters(path), method: operation }));
    };
    add("/v2/health/live", "get", health("serverLive", "Whether the process runs.", "live"));
    add("/v2/health/ready", "get", health("serverReady", "Whether models can be called.", "ready"));
    for path in ["/v2", "/v2/"] {
        add(path, "get", read("serverMetadata", "Name, version and extensions of the server.", "ServerMetadata", &[]));
    }
    let all =
        "Statistics of every model, summed over the replicas. If a model is called `stats`, its metadata besides.";
    add("/v2/models/stats", "get", read("allStatistics", all, "Statistics", &[]));
    add("/v2/repository/index", "post", index());
    add("/v2/repository/models/{model}/load", "post", change("loadModel", "Loads a model on every replica."));
    add("/v2/repository/models/{model}/unload", "post", change("unloadModel", "Unloads a model on every replica."));
    for (model, of) in [("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "OfVersion")] {
        let id = |name: &str| format!("{name}{of}");
        add(model, "get", read(&id("modelMetadata"), "Inputs and outputs of a model.", "ModelMetadata", OF_A_MODEL));
        let is_ready = "Whether a model can be called.";
        add(&format!("{model}/ready"), "get", read(&id("modelReady"), is_ready, "ModelReady", OF_A_MODEL));
        let figures = "Statistics of a model, summed over the replicas.";
        add(&format!("{model}/stats"), "get", read(&id("statistics"), figures, "Statistics", OF_A_MODEL));
        add(&format!("{model}/infer"), "post", infer(&id("infer")));
    }
    paths
}

/// The schemas that they name.
pub(crate) fn schemas() -> Map<String, Value> {
    let parameters = json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean", "null"] } });
    let text = json!({ "type": "string" });
    let tensor = json!({ "name": text, "datatype": { "type": "string", "example": "FP32" }, "shape": { "type": "array", "items": { "type": "integer" } } });
    let spec = json!({ "type": "object", "required": ["name", "datatype", "shape"], "properties": tensor });
    let list = |of: &Value| json!({ "type": "array", "items": of });
    let mut with_data = tensor.clone();
    if let Some(members) = with_data.as_object_mut() {
        members.insert("parameters".to_owned(), parameters.clone());
        members.insert("data".to_owned(), json!({ "description": "Flat, or nested as the shape is." }));
    }
    let data = json!({ "type": "object", "required": ["name", "datatype", "shape"], "properties": with_data });
    let named =
        json!({ "type": "object", "required": ["name"], "properties": { "name": text, "parameters": parameters } });
    let request = json!({
        "type": "object", "required": ["inputs"],
        "properties": { "id": { "type": ["string", "null"] }, "parameters": parameters, "inputs": list(&data), "outputs": { "type": ["array", "null"], "items": named } },
    });
    let answer = json!({
        "type": "object", "required": ["model_name", "model_version", "outputs"],
        "properties": { "model_name": text, "model_version": text, "id": text, "outputs": list(&data) },
    });
    let server = json!({
        "type": "object", "required": ["name", "version", "extensions"],
        "properties": { "name": text, "version": text, "extensions": list(&text) },
    });
    let metadata = json!({
        "type": "object", "required": ["name", "versions", "platform", "inputs", "outputs"],
        "properties": {
            "name": text, "versions": list(&text), "platform": text, "inputs": list(&spec), "outputs": list(&spec),
            "properties": { "type": "object", "additionalProperties": text },
        },
    });
    let row = json!({
        "type": "object", "required": ["name", "state", "reason"],
        "properties": { "name": text, "version": text, "state": { "enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"] }, "reason": text },
    });
    let statistics = json!({
        "type": "object", "required": ["model_stats"],
        "properties": {
            "model_stats": { "type": "array", "items": { "type": "object" } },
            "replicas": { "type": "array", "description": "Each replica's own figures, or the reason why they are missing.", "items": { "type": "object" } },
        },
    });
    let ready = json!({ "type": "object", "required": ["name", "ready"], "properties": { "name": text, "ready": { "type": "boolean" } } });
    let error = json!({ "type": "object", "required": ["error"], "properties": { "error": text } });
    Map::from_iter([
        ("InferRequest".to_owned(), request),
        ("InferAnswer".to_owned(), answer),
        ("ServerMetadata".to_owned(), server),
        ("ModelMetadata".to_owned(), metadata),
        ("ModelReady".to_owned(), ready),
        ("Index".to_owned(), list(&row)),
        ("Statistics".to_owned(), statistics),
        ("Error".to_owned(), error),
    ])
}

fn errors(others: &[(&str, &str)]) -> Map<String, Value> {
    error_responses("application/json", "Error", others)
}

fn health<'a>(id: &str, summary: &'a str, member: &str) -> Operation<'a> {
    let schema = json!({ "type": "object", "required": [member], "properties": { member: { "type": "boolean" } } });
    let mut responses = Map::new();
    let content = json!({ "application/json": { "schema": schema } });
    responses.insert("200".to_owned(), json!({ "description": "Yes.", "content": content }));
    responses.insert("503".to_owned(), json!({ "description": "No, or nothing that could say so." }));
    Operation { id: id.to_owned(), summary, is_public: true, body: None, responses }
}

fn read<'a>(id: &str, summary: &'a str, schema: &str, others: &[(&str, &str)]) -> Operation<'a> {
    let mut responses = errors(others);
    let content = json!({ "application/json": { "schema": reference(schema) } });
    responses.insert("200".to_owned(), json!({ "description": summary, "content": content }));
    Operation { id: id.to_owned(), summary, is_public: false, body: None, responses }
}

fn index() -> Operation<'static> {
    let schema = json!({ "type": "object", "properties": { "ready": { "type": "boolean", "description": "Only what can be called." } } });
    let body = json!({ "required": false, "content": { "application/json": { "schema": schema } } });
    Operation {
        body: Some(body),
        ..read("repositoryIndex", "Every version of every model, and why one does not serve.", "Index", &[])
    }
}

fn change(id: &str, summary: &'static str) -> Operation<'static> {
    let body = json!({ "required": false, "content": { "application/json": { "schema": { "type": "object" } } } });
    let mut responses = errors(OF_A_MODEL);
    responses.insert("200".to_owned(), json!({ "description": "It is done everywhere." }));
    Operation { id: id.to_owned(), summary, is_public: false, body: Some(body), responses }
}

fn infer(id: &str) -> Operation<'static> {
    let header =
        |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 0 } });
    let binary = json!({ "schema": { "type": "string", "format": "binary" } });
    let body = json!({ "required": true, "content": {
        "application/json": { "schema": reference("InferRequest") },
        "application/octet-stream": binary,
    } });
    let mut responses = errors(&[
        ("404", "There is no such model or version."),
        ("409", "The version was refused when it was loaded."),
        ("413", "Too many bytes, packed or unpacked."),
        ("415", "A content coding other than gzip and deflate; `Accept-Encoding` names them."),
        ("429", "The caller is over its share."),
        ("503", "The model cannot be called at the moment."),
        ("504", "Out of time."),
    ]);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "The outputs.",
            "headers": { "Inference-Header-Content-Length": header("With binary outputs: where the JSON ends.") },
            "content": {
                "application/json": { "schema": reference("InferAnswer") },
                "application/octet-stream": binary,
            },
        }),
    );
    let summary =
        "A prediction for tensors. With the header `Inference-Header-Content-Length` binary tensors follow the JSON.";
    Operation { id: id.to_owned(), summary, is_public: false, body: Some(body), responses }
}
