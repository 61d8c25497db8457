//! The description of what is answered over REST is complete, published, and the committed copy is current.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use serving::{declared_routes, openapi_json};

use crate::support::{Serving, models::write_steps};

const COMMITTED: &str = "../../docs/api/serving.openapi.json";

/// Set to 1, the committed copy is written instead of compared.
const UPDATE: &str = "RAMPART_UPDATE";

#[test]
fn the_committed_description_of_serving_is_current() {
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
fn every_rest_route_is_described_and_nothing_else() {
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
        .filter(|route| route.path.starts_with("/api/") || route.path.starts_with("/v2"))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(described, declared);
}

/// OpenAPI wants every operation to have another id, and every reference to lead somewhere.
#[test]
fn ids_and_references_are_sound() {
    let text = openapi_json().unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let of = |member: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(&format!("{member:?}: "))).map(str::to_owned).collect()
    };
    let ids = of("operationId");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for reference in of("$ref") {
        let pointer = reference.trim_matches(|c| c == '"' || c == ',').trim_start_matches('#').to_owned();
        assert!(document.pointer(&pointer).is_some(), "{reference}");
    }
}

/// Published as it is committed, also for callers without a token.
#[tokio::test]
async fn the_description_is_published() {
    let serving = Serving::start_with("", |models| write_steps(models, 1)).await;
    let answer = serving.client_with(None).await.get("/api/models/openapi.json").await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!(answer.body, openapi_json().unwrap());
}
