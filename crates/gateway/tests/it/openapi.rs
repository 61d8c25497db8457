//! The description is generated from the code, complete, and the committed copy is current.

use std::{collections::BTreeSet, path::Path};

use gateway::{declared_routes, http::openapi::openapi_json};
use serde_json::Value;

const COMMITTED: &str = "../../docs/api/gateway.openapi.json";

/// Set to 1, the committed copy is written instead of compared.
const UPDATE: &str = "RAMPART_UPDATE";

#[test]
fn the_committed_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED);
    let current = openapi_json().unwrap();
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/api/gateway.openapi.json is old; run: {UPDATE}=1 cargo test -p gateway openapi"
    );
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document: Value = serde_json::from_str(&openapi_json().unwrap()).unwrap();
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let declared: BTreeSet<String> = declared_routes()
        .iter()
        .filter(|route| route.caller == policy::Caller::User)
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(described, declared);
}
