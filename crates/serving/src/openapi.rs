//! The parts of a description in OpenAPI.

use serde_json::{Map, Value, json};

/// What a method does at a path.
pub(crate) struct Operation<'a> {
    pub(crate) id: String,
    pub(crate) summary: &'a str,
    /// It needs no token.
    pub(crate) is_public: bool,
    pub(crate) body: Option<Value>,
    pub(crate) responses: Map<String, Value>,
}

// === impl Operation ===

impl Operation<'_> {
    pub(crate) fn to_json(&self) -> Value {
        let member = |name: &str, value: Value| (name.to_owned(), value);
        let always = [
            member("operationId", self.id.as_str().into()),
            member("summary", self.summary.into()),
            member("responses", self.responses.clone().into()),
        ];
        let body = self.body.clone().map(|body| member("requestBody", body));
        let security = self.is_public.then(|| member("security", json!([{}])));
        Value::Object(always.into_iter().chain(body).chain(security).collect())
    }
}

/// The parameters that a path has in braces.
pub(crate) fn path_parameters(path: &str) -> Value {
    let parameter = |name: &str, description: &str| json!({ "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" } });
    let mut parameters = Vec::new();
    if path.contains("{model}") {
        let model = "The name of the model; without a version, its alias `champion` or the highest that serves.";
        parameters.push(parameter("model", model));
    }
    if path.contains("{version}") {
        parameters.push(parameter("version", "A number or an alias."));
    }
    parameters.into()
}

/// What can go wrong, in this form: what every call can meet, and these.
pub(crate) fn error_responses(media_type: &str, schema: &str, others: &[(&str, &str)]) -> Map<String, Value> {
    let common = [
        ("400", "What is wrong with the request."),
        ("401", "The token is missing or not valid."),
        ("403", "The token does not allow this."),
    ];
    let content = json!({ media_type: { "schema": reference(schema) } });
    let of = |(status, description): &(&str, &str)| {
        ((*status).to_owned(), json!({ "description": description, "content": content }))
    };
    common.iter().chain(others).map(of).collect()
}

/// A schema by its name.
pub(crate) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
