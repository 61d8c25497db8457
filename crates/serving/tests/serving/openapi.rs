//! The description of predictions by feature name is complete, and the committed copy is current.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use serving::{declared_routes, openapi_json};

const COMMITTED: &str = "../../docs/api/serving.openapi.json";

/// Set to 1, the committed copy is written instead of compared.
const UPDATE: &str = "RAMPART_UPDATE";

#[test]
fn the_committed_description_of_predictions_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED);
    let current = openapi_json().unwrap();
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/api/serving.openapi.json is old; run: {UPDATE}=1 cargo test -p serving openapi"
    );
}

#[test]
fn every_route_below_api_is_described_and_nothing_else() {
    let document: Value = serde_json::from_str(&openapi_json().unwrap()).unwrap();
    let methods = |path: &str| -> BTreeSet<String> {
        let item = document["paths"][path].as_object().unwrap();
        let methods = item.keys().filter(|key| *key != "parameters");
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect()
    };
    let described: BTreeSet<String> =
        document["paths"].as_object().unwrap().keys().flat_map(|path| methods(path)).collect();
    let declared: BTreeSet<String> = declared_routes()
        .iter()
        .filter(|route| route.path.starts_with("/api/"))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(described, declared);
}
