//! What the tests of every description in OpenAPI ask: is the committed copy current, and is every route in it?

use std::{collections::BTreeSet, path::Path};

use policy::DeclaredRoute;
use serde_json::Value;

/// Set to 1, the committed copy is written instead of compared.
const UPDATE: &str = "RAMPART_UPDATE";

/// Compares `docs/api/<service>.openapi.json` with what the code says.
pub fn assert_committed_description(service: &str, current: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/api/{service}.openapi.json"));
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&path, current).expect("the committed copy can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/api/{service}.openapi.json is old; run: {UPDATE}=1 cargo test -p {service} openapi"
    );
}

/// The operations of a description, as `GET /path`.
pub fn described_operations(openapi_json: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(openapi_json).expect("a description is JSON");
    let paths = document.get("paths").and_then(Value::as_object).expect("a description has paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let members = item.as_object().expect("a path has methods").keys();
        let methods = members.filter(|member| *member != "parameters");
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

/// The routes of a service in the same form, as far as they are among these.
pub fn declared_operations(
    routes: &[DeclaredRoute],
    is_described: impl Fn(&DeclaredRoute) -> bool,
) -> BTreeSet<String> {
    routes.iter().filter(|route| is_described(route)).map(|route| format!("{} {}", route.method, route.path)).collect()
}
