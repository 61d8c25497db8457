//! The description of what is answered over REST is complete, published, and the committed copy is current.

use std::collections::BTreeSet;

use serde_json::Value;
use serving::{declared_routes, openapi_json};
use testkit::openapi::{assert_committed_description, declared_operations, described_operations};

use crate::support::{Serving, models::write_steps};

#[test]
fn the_committed_description_of_serving_is_current() {
    assert_committed_description("serving", &openapi_json().unwrap());
}

#[test]
fn every_rest_route_is_described_and_nothing_else() {
    let declared = declared_operations(&declared_routes(), |route| {
        route.path.starts_with("/api/") || route.path.starts_with("/v2")
    });
    assert_eq!(described_operations(&openapi_json().unwrap()), declared);
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
