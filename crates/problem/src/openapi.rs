//! What descriptions in OpenAPI say alike: the schema of a problem, and the route of the description itself.

use serde_json::{Map, Value, json};

/// The schema of `application/problem+json` (RFC 9457) with what every problem has, and these further properties.
pub fn problem_schema(further: Map<String, Value>) -> Value {
    let mut properties = Map::from_iter([
        ("type".to_owned(), json!({ "type": "string", "description": "`urn:rampart:problem:` and the kind." })),
        ("title".to_owned(), json!({ "type": "string" })),
        ("status".to_owned(), json!({ "type": "integer" })),
        ("detail".to_owned(), json!({ "type": "string", "description": "What is wrong, and what to do." })),
    ]);
    properties.extend(further);
    json!({ "type": "object", "required": ["type", "title", "status", "detail"], "properties": properties })
}

/// What `GET …/openapi.json` is, for every service that describes itself.
pub fn description() -> Value {
    let content = json!({ "application/json": { "schema": { "type": "object" } } });
    json!({
        "operationId": "openapi", "summary": "This document.", "security": [{}],
        "responses": { "200": { "description": "OpenAPI.", "content": content } },
    })
}
