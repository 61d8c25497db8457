//! The description is complete, and the committed copy is current.

use std::{collections::BTreeSet, path::Path};

use backup::{declared_routes, openapi_json};
use serde_json::Value;

const COMMITTED: &str = "../../docs/api/backup.openapi.json";

/// Set to 1, the committed copy is written instead of compared.
const UPDATE: &str = "RAMPART_UPDATE";

#[test]
fn the_committed_description_of_backup_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED);
    let current = openapi_json().unwrap();
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == current, "docs/api/backup.openapi.json is old; run: {UPDATE}=1 cargo test -p backup openapi");
}

#[test]
fn every_route_of_backup_is_described_and_nothing_else() {
    let document: Value = serde_json::from_str(&openapi_json().unwrap()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let declared: BTreeSet<String> = declared_routes()
        .iter()
        .filter(|route| route.caller == policy::Caller::User && !route.path.starts_with("/grpc."))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(described, declared);
}
