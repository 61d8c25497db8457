//! Bad input gets a clear error, in the form of its route, and never a 500.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::json;

use crate::{client::Client, world::World};

const USERS: &str = "/api/admin/users";

async fn post(client: &Client, admin: &str, path: &str, body: &str) -> crate::client::TestResponse {
    client.send(Method::POST, path, Some(admin), "application/json", Bytes::from(body.to_owned())).await
}

/// The field's name where the body parses, the byte where it does not.
#[tokio::test]
async fn an_error_names_the_field_or_the_byte() {
    let (_world, _gateway, client, admin) = World::begin().await;
    for (body, field) in [
        (r#"{"name":"a","kind":"person","roles":[]}"#, "password"),
        (r#"{"name":"a","kind":"machine","roles":[],"password":"x"}"#, "password"),
        (r#"{"name":"a","kind":"person","roles":[],"password":"fourteen chars"}"#, "password"),
        (r#"{"name":"a b","kind":"machine","roles":[]}"#, "name"),
        (r#"{"name":"a\u0000","kind":"machine","roles":[]}"#, "name"),
        (r#"{"name":"a","kind":"robot","roles":[]}"#, "kind"),
        (r#"{"name":"a","kind":"machine"}"#, "roles"),
        (r#"{"name":"a","kind":"machine","roles":["viewer","god"]}"#, "roles[1]"),
        (r#"{"name":"a","kind":"machine","roles":"viewer"}"#, "roles"),
        (r#"{"name":"a","kind":"machine","roles":[],"tenant":"A"}"#, "tenant"),
        (r#"{"name":"a","kind":"machine","roles":[],"tenant":null}"#, "tenant"),
        (r#"{"name":"a","kind":"machine","roles":[],"is_admin":true}"#, "is_admin"),
        (r#"{"name":"a","kind":"machine","roles":[],"name":"b"}"#, "name"),
    ] {
        let answer = post(&client, &admin, USERS, body).await.expect_status(StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        answer.expect_field(field);
    }
    for (body, offset) in
        [(r#"{"name": NaN}"#, 9_u64), (r#"{"name":"a",}"#, 12), ("", 0), ("[1]", 0), ("{\"name\": \"\u{1}\"}", 10)]
    {
        let answer = post(&client, &admin, USERS, body).await.expect_status(StatusCode::BAD_REQUEST);
        let found = answer.json()["offset"].as_u64().unwrap_or_else(|| panic!("{body:?}: {answer:?}"));
        assert!(found.abs_diff(offset) <= 1, "{body:?}: {found} is not {offset}");
    }
}

/// Every body sent to every route gets a client error or a success, never a server error.
#[tokio::test]
async fn no_input_becomes_a_500() {
    let (_world, gateway, client, admin) = World::begin().await;
    let id = uuid::Uuid::new_v4();
    let bodies: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"\xff\xfe\x00"),
        Bytes::from_static(b"{"),
        Bytes::from_static(b"null"),
        Bytes::from_static(b"{}"),
        Bytes::from("[".repeat(60_000)),
        Bytes::from(json!({ "name": "x".repeat(60_000), "kind": "machine", "roles": [] }).to_string()),
        Bytes::from(json!({ "name": "a", "kind": "machine", "roles": vec!["viewer"; 5_000] }).to_string()),
        Bytes::from_static(b"grant_type=password&username=%00&password=%ff"),
        Bytes::from_static(b"{\"token\": \"\\u0000\"}"),
    ];
    let paths = [
        (Method::POST, "/api/auth/token".to_owned()),
        (Method::POST, "/api/auth/revoke".to_owned()),
        (Method::POST, USERS.to_owned()),
        (Method::GET, format!("{USERS}?limit=0")),
        (Method::GET, format!("{USERS}?limit=1001")),
        (Method::GET, format!("{USERS}?limit=-1&limit=2")),
        (Method::GET, format!("{USERS}?cursor=%00")),
        (Method::GET, format!("{USERS}?cursor=AA")),
        (Method::GET, format!("{USERS}?order=name")),
        (Method::GET, "/api/admin/audit?cursor=9999999999999999999999".to_owned()),
        (Method::GET, "/api/admin/audit?limit=x".to_owned()),
        (Method::GET, format!("{USERS}/not-a-uuid")),
        (Method::GET, format!("{USERS}/%00")),
        (Method::GET, format!("{USERS}/%ff")),
        (Method::PATCH, format!("{USERS}/{id}")),
        (Method::DELETE, format!("{USERS}/{id}")),
        (Method::POST, format!("{USERS}/{id}/revoke")),
        (Method::PUT, USERS.to_owned()),
        (Method::GET, "/api/nothing".to_owned()),
    ];
    for (method, path) in &paths {
        for body in &bodies {
            for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain", ""] {
                let answer = client.send(method.clone(), path, Some(&admin), content_type, body.clone()).await;
                let is_fine = answer.status == StatusCode::OK && path == "/api/auth/revoke"
                    || answer.status == StatusCode::CREATED && path == USERS;
                assert!(
                    is_fine || answer.status.is_client_error(),
                    "{method} {path} {content_type} {body:.60?}: {answer:?}"
                );
            }
        }
    }
    assert!(!gateway.log().contains("internal error"));
}

/// One byte past the limit is refused by its announced length, and by its real one.
#[tokio::test]
async fn a_body_has_a_limit() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let at_limit = format!("{{{}}}", " ".repeat(64 * 1024 - 2));
    post(&client, &admin, USERS, &at_limit).await.expect_status(StatusCode::BAD_REQUEST).expect_field("name");
    post(&client, &admin, USERS, &format!("{at_limit} ")).await.expect_status(StatusCode::PAYLOAD_TOO_LARGE);

    let passport = client.authorize(&admin, "gateway").await.unwrap().passport;
    let pieces =
        (0..65).map(|_| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![b' '; 1_024]))));
    let body = http_body_util::StreamBody::new(futures::stream::iter(pieces.collect::<Vec<_>>()));
    let request = http::Request::builder().method(Method::POST).uri(USERS).header("rampart-passport", passport);
    let request = request.body(tonic::body::Body::new(body)).unwrap();
    client.raw(request).await.expect_status(StatusCode::PAYLOAD_TOO_LARGE);
}
