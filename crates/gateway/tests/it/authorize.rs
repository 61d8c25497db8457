//! The nginx edge's query, and the model registry, where each request is allowed by itself.

use authz::PassportKeys;
use http::{HeaderName, Method, Request, StatusCode, header};
use serde_json::json;
use time::OffsetDateTime;
use tonic::Code;

use crate::{client::Client, world::World};

const SEARCH: &str = "/api/2.0/mlflow/model-versions/search";
const CREATE: &str = "/api/2.0/mlflow/registered-models/create";
const WEBHOOKS: &str = "/api/2.0/mlflow/webhooks";

/// The edge gets for a token what the balancer gets: the same passport, the same denial, the same record.
#[tokio::test]
async fn the_edge_gets_the_same_verdict_as_the_balancer() {
    let (world, gateway, balancer, admin) = World::begin().await;
    let edge = Client::new(&world.identity("edge"), gateway.main);
    let keys = PassportKeys::default();
    keys.replace(&balancer.passport_keys().await.unwrap()).unwrap();
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap();
    let answer = edge.ask_as_edge(Some(&admin), "serving", "POST", "/v2/models/m/infer?x=1").await;
    let passport =
        answer.expect_status(StatusCode::NO_CONTENT).headers["rampart-passport"].to_str().unwrap().to_owned();
    let expected = keys.verify(&balancer.authorize(&admin, "serving").await.unwrap().passport, "serving", now).unwrap();
    let claims = keys.verify(&passport, "serving", now).unwrap();
    assert_eq!((claims.sub, claims.sid, claims.roles), (expected.sub, expected.sid, expected.roles));

    for token in [Some("wrong"), Some(""), None] {
        let answer = edge.ask_as_edge(token, "serving", "GET", "/v2").await.expect_status(StatusCode::UNAUTHORIZED);
        assert!(!answer.headers.contains_key("rampart-passport"));
        assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
    }
    let record = world.wait_for_record("token.authorize", "failure", Some("malformed")).await;
    assert_eq!((&record["source"]["peer"], &record["source"]["address"]), (&json!("edge-1"), &json!("192.0.2.1")));

    edge.ask_as_edge(Some(&admin), "unknown-service", "GET", "/v2").await.expect_status(StatusCode::BAD_REQUEST);
    balancer.call(Method::POST, "/api/auth/revoke", Some(&admin), Some(&json!({ "token": admin }))).await;
    edge.ask_as_edge(Some(&admin), "serving", "GET", "/v2").await.expect_status(StatusCode::UNAUTHORIZED);
}

/// A query that can be read in two ways is refused.
#[tokio::test]
async fn each_header_of_an_edge_query_is_required_once() {
    let (world, gateway, _balancer, admin) = World::begin().await;
    let edge = Client::new(&world.identity("edge"), gateway.main);
    let bearer = format!("Bearer {admin}");
    let good = [
        ("authorization", bearer.as_str()),
        ("x-rampart-audience", "mlflow"),
        ("x-original-method", "GET"),
        ("x-original-uri", SEARCH),
    ];
    let ask = async |headers: &[(&'static str, &str)]| {
        let mut request = Request::new(tonic::body::Body::empty());
        *request.uri_mut() = "/internal/authorize".parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
        }
        edge.raw(request).await.status
    };
    assert_eq!(ask(&good).await, StatusCode::NO_CONTENT);
    for at in 0..good.len() {
        let refused = if at == 0 { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
        let (mut without, mut twice) = (good.to_vec(), good.to_vec());
        let removed = without.remove(at);
        twice.push(removed);
        assert_eq!((ask(&without).await, ask(&twice).await), (refused, refused), "{}", removed.0);
    }
}

/// Only the edge may call the route, and the edge has no other way to a passport.
#[tokio::test]
async fn only_the_edge_may_call_the_edge_route() {
    let (world, gateway, _balancer, admin) = World::begin().await;
    for service in ["balancer", "gateway", "serving", "sla", "backup", "operator"] {
        let client = Client::new(&world.identity(service), gateway.main);
        let answer = client.ask_as_edge(Some(&admin), "serving", "GET", "/v2").await;
        assert!(!answer.expect_status(StatusCode::FORBIDDEN).headers.contains_key("rampart-passport"), "{service}");
    }
    let edge = Client::new(&world.identity("edge"), gateway.main);
    assert_eq!(edge.authorize(&admin, "serving").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(edge.passport_keys().await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!edge.is_serving().await);
    edge.call(Method::GET, "/.well-known/jwks.json", None, None).await.expect_status(StatusCode::OK);
}

/// A third party gets no passport: the gateway allows each request by itself, for the balancer and the edge alike.
#[tokio::test]
async fn a_role_may_do_with_the_registry_what_the_table_says() {
    let (world, gateway, balancer, admin) = World::begin().await;
    let edge = Client::new(&world.identity("edge"), gateway.main);
    let (viewer_id, viewer) = balancer.machine(&admin, "viewer", &["viewer"]).await;
    let (_, engineer) = balancer.machine(&admin, "engineer", &["engineer"]).await;
    let (_, nothing) = balancer.machine(&admin, "nothing", &[]).await;
    for (who, token, method, path, is_allowed) in [
        ("viewer", &viewer, "GET", SEARCH, true),
        ("viewer", &viewer, "POST", "/api/2.0/mlflow/runs/search", true),
        ("viewer", &viewer, "POST", CREATE, false),
        ("viewer", &viewer, "PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a", false),
        ("admin", &admin, "GET", SEARCH, true),
        ("admin", &admin, "POST", CREATE, false),
        ("engineer", &engineer, "POST", CREATE, true),
        ("engineer", &engineer, "PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a", true),
        ("engineer", &engineer, "GET", WEBHOOKS, false),
        ("engineer", &engineer, "GET", "/api/2.0/mlflow-artifacts/artifacts/..%2fa", false),
        ("engineer", &engineer, "", CREATE, false),
        ("engineer", &engineer, "G T", SEARCH, false),
        ("nothing", &nothing, "GET", SEARCH, false),
    ] {
        let answer = balancer.ask(token, "mlflow", method, path).await;
        match answer {
            Ok(answer) => assert!(is_allowed && answer.passport.is_empty(), "{who} {method} {path}"),
            Err(status) => {
                assert_eq!((is_allowed, status.code()), (false, Code::PermissionDenied), "{who} {method} {path}");
            }
        }
        let expected = if is_allowed { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
        let answer = edge.ask_as_edge(Some(token), "mlflow", method, &format!("{path}?max_results=1")).await;
        assert!(!answer.expect_status(expected).headers.contains_key("rampart-passport"), "{who} {method} {path}");
    }
    assert_eq!(balancer.ask("wrong", "mlflow", "GET", SEARCH).await.unwrap_err().code(), Code::Unauthenticated);
    edge.ask_as_edge(Some("wrong"), "mlflow", "GET", SEARCH).await.expect_status(StatusCode::UNAUTHORIZED);

    let resource = format!("POST {CREATE}");
    world.wait_for_record("token.authorize", "failure", Some("malformed")).await;
    let records = world.audit_records().await;
    let denied = |resource: &str, peer: &str| {
        records.iter().find(|record| {
            record["event"] == "access"
                && record["resource"] == resource
                && record["source"]["peer"] == peer
                && (resource == "mlflow" || record["actor"]["id"] == viewer_id)
        })
    };
    for peer in ["balancer-1", "edge-1"] {
        let record = denied(&resource, peer).unwrap_or_else(|| panic!("no record of {resource} by {peer}"));
        assert_eq!((&record["outcome"], &record["reason"]), (&json!("denied"), &json!("not_permitted")), "{record}");
        assert!(denied("mlflow", peer).is_some(), "a made-up path is recorded by the registry's name");
    }
    let anonymous = records.iter().filter(|record| record["event"] == "access" && record["actor"]["type"] != "user");
    assert_eq!(anonymous.count(), 0, "recorded once, with the user");
}
