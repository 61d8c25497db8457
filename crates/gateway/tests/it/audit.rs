//! The audit log: complete, provable, unchangeable, and without a secret in it.

use std::time::Duration;

use bytes::Bytes;
use gateway::audit::{GENESIS, StoredRecord, verify_chain};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use testkit::poll_until;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    client::{Client, password_of},
    world::{ADMIN_PASSWORD, BOOTSTRAP_TOKEN, World},
};

const USERS: &str = "/api/admin/users";

/// Everything, oldest first, as an auditor reads it.
async fn read_all(client: &Client, auditor: &str) -> Vec<StoredRecord> {
    let mut records = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/admin/audit?limit=7{cursor}");
        let page = client.call(Method::GET, &path, Some(auditor), None).await.expect_status(StatusCode::OK).json();
        records.extend(page["records"].as_array().unwrap().iter().map(stored));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    records.reverse();
    records
}

fn stored(shown: &Value) -> StoredRecord {
    let text = |name: &str| shown[name].as_str().unwrap().to_owned();
    let record: Value = serde_json::from_str(&text("record")).unwrap();
    StoredRecord {
        writer: text("writer"),
        seq: shown["seq"].as_i64().unwrap(),
        at: OffsetDateTime::parse(record["at"].as_str().unwrap(), &Rfc3339).unwrap(),
        record: text("record"),
        previous_hash: hex::decode(text("previous_hash")).unwrap(),
        hash: hex::decode(text("hash")).unwrap(),
    }
}

/// Every event has its actor, kind, time and source; the chain verifies; and no secret is in it.
#[tokio::test]
async fn every_change_and_sign_in_is_recorded_and_verifies() {
    let (world, gateway, client, admin) = World::begin().await;
    let ada = client.person(&admin, "ada", &["viewer"]).await;
    let login = client.sign_in("ada", &password_of("ada")).await;
    client.sign_in("ada", "not the password of ada").await;
    let path = format!("/api/admin/users/{ada}");
    client
        .call(
            Method::PATCH,
            &path,
            Some(&admin),
            Some(&json!({ "roles": ["analyst"], "password": "another long password" })),
        )
        .await;
    client
        .call(Method::POST, &format!("{path}/revoke"), Some(&admin), None)
        .await
        .expect_status(StatusCode::NO_CONTENT);
    client.call(Method::DELETE, &path, Some(&admin), None).await.expect_status(StatusCode::NO_CONTENT);
    let (_, auditor) = client.machine(&admin, "auditor", &["auditor"]).await;
    client.call(Method::GET, "/api/admin/users", Some(&auditor), None).await.expect_status(StatusCode::FORBIDDEN);
    for (event, outcome) in [("access", "denied"), ("user.delete", "success")] {
        world.wait_for_record(event, outcome, None).await;
    }

    let records = read_all(&client, &auditor).await;
    verify_chain((0, GENESIS), &records).unwrap();
    let all: Vec<Value> = records.iter().map(|stored| serde_json::from_str(&stored.record).unwrap()).collect();
    let count = |event: &str, outcome: &str| {
        all.iter().filter(|record| record["event"] == event && record["outcome"] == outcome).count()
    };
    for (event, outcome) in [
        ("token.bootstrap", "success"),
        ("token.password", "success"),
        ("token.password", "failure"),
        ("token.client_credentials", "success"),
        ("user.create", "success"),
        ("user.change", "success"),
        ("user.revoke", "success"),
        ("user.delete", "success"),
        ("access", "denied"),
    ] {
        assert!(count(event, outcome) >= 1, "no {event} {outcome}");
    }
    let change = all.iter().find(|record| record["event"] == "user.change").unwrap();
    assert_eq!(change["resource"], format!("user:{ada}"));
    assert_eq!(change["details"]["roles"], json!({ "from": ["viewer"], "to": ["analyst"] }));
    assert_eq!(change["details"]["credential"], "replaced");
    assert_eq!((&change["source"]["address"], &change["source"]["peer"]), (&json!("192.0.2.1"), &json!("balancer-1")));

    let everything = format!("{all:?}{}", gateway.log());
    for secret in [
        ADMIN_PASSWORD,
        BOOTSTRAP_TOKEN,
        &password_of("ada"),
        "another long password",
        "not the password of ada",
        &admin,
        &login.text("refresh_token"),
        &login.text("access_token"),
        "$argon2id$",
    ] {
        assert!(!everything.contains(secret), "{secret} was recorded or logged");
    }
}

/// A denial cannot be hidden by the content type of gRPC, which is answered 200 with the status in a header.
#[tokio::test]
async fn a_refusal_is_recorded_whatever_content_type_it_came_with() {
    let (world, _gateway, client, admin) = World::begin().await;
    let (_, viewer) = client.machine(&admin, "viewer", &["viewer"]).await;
    let asks =
        async |token| client.send(Method::GET, "/api/admin/users", token, "application/grpc", Bytes::new()).await;
    for (token, status) in [(None, StatusCode::UNAUTHORIZED), (Some(viewer.as_str()), StatusCode::FORBIDDEN)] {
        let answer = asks(token).await.expect_status(status);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
    }
    let request = http::Request::get("/.well-known/jwks.json")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("rampart-passport", "not a passport")
        .body(tonic::body::Body::empty())
        .unwrap();
    assert_eq!(client.raw(request).await.headers["grpc-status"], "16");

    let policy = policy::Policy::embedded().unwrap();
    let wanted = [
        ("failure", "GET /api/admin/users"),
        ("denied", "GET /api/admin/users"),
        ("failure", "GET /.well-known/jwks.json"),
    ];
    poll_until("all three are recorded", Duration::from_secs(10), async || {
        let records = world.audit_records().await;
        wanted.iter().all(|(outcome, resource)| {
            let is_it = |record: &Value| {
                record["event"] == "access"
                    && record["outcome"] == *outcome
                    && record["resource"] == *resource
                    && record["details"]["policy_set"] == policy.policy_set_hash()
            };
            records.iter().any(is_it)
        })
    })
    .await;
}

/// Reads by administrators, refused changes and failed proofs are recorded before the response; without the record there
/// is none.
#[tokio::test]
async fn what_cannot_be_recorded_is_not_answered() {
    let (world, _gateway, client, admin) = World::begin().await;
    let ada = client.person(&admin, "ada", &["viewer"]).await;
    let refresh = client.sign_in("ada", &password_of("ada")).await.text("refresh_token");
    let call = async |method, path: &str, body: Value| client.call(method, path, Some(&admin), Some(&body)).await;
    call(Method::GET, USERS, json!({})).await.expect_status(StatusCode::OK);
    call(Method::GET, "/api/admin/audit", json!({})).await.expect_status(StatusCode::OK);
    let again = json!({ "name": "ada", "kind": "machine", "roles": [] });
    call(Method::POST, USERS, again).await.expect_status(StatusCode::CONFLICT);
    let path = format!("{USERS}/{ada}");
    call(Method::PATCH, &path, json!({ "disabled": true })).await.expect_status(StatusCode::OK);
    let refresh = json!({ "grant_type": "refresh_token", "refresh_token": refresh });
    client.token(&refresh).await.expect_status(StatusCode::UNAUTHORIZED);
    let bootstrap = json!({
        "grant_type": "bootstrap", "bootstrap_token": "wrong", "username": "eve", "password": ADMIN_PASSWORD,
    });
    client.token(&bootstrap).await.expect_status(StatusCode::UNAUTHORIZED);

    let records = world.audit_records().await;
    for (event, outcome, reason) in [
        ("users.read", "success", Value::Null),
        ("audit.read", "success", Value::Null),
        ("user.create", "failure", json!("name_taken")),
        ("token.refresh", "failure", json!("user_disabled")),
        ("token.bootstrap", "failure", json!("wrong_token")),
    ] {
        let is_it =
            |record: &Value| record["event"] == event && record["outcome"] == outcome && record["reason"] == reason;
        assert!(records.iter().any(is_it), "no {event} {outcome} {reason}");
    }

    let lock = world.lock("gateway.audit");
    call(Method::GET, USERS, json!({})).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    call(Method::GET, &path, json!({})).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    drop(lock);
    call(Method::GET, USERS, json!({})).await.expect_status(StatusCode::OK);
}

/// A page that ends with the oldest record names no next one.
#[tokio::test]
async fn the_last_page_has_no_cursor() {
    let (world, _gateway, client, admin) = World::begin().await;
    let count = world.audit_records().await.len();
    let path = format!("/api/admin/audit?limit={count}");
    let page = async || client.call(Method::GET, &path, Some(&admin), None).await.expect_status(StatusCode::OK).json();
    let whole = page().await;
    assert_eq!((whole["records"].as_array().unwrap().len(), &whole["next_cursor"]), (count, &Value::Null));
    // Reading it was recorded, so that it is one more now.
    let first = page().await;
    let rest = format!("{path}&cursor={}", first["next_cursor"].as_str().unwrap());
    let rest = client.call(Method::GET, &rest, Some(&admin), None).await.expect_status(StatusCode::OK).json();
    assert_eq!((rest["records"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
}

/// The trigger refuses even the superuser's UPDATE; without the trigger, verification finds the change.
#[tokio::test]
async fn a_tampered_log_is_refused_or_found() {
    let (world, _gateway, client, admin) = World::begin().await;
    for _ in 0..3 {
        client.sign_in("admin", ADMIN_PASSWORD).await.expect_status(StatusCode::OK);
    }
    let (_, auditor) = client.machine(&admin, "auditor", &["auditor"]).await;
    let name = &world.database.name;
    for statement in ["UPDATE gateway.audit SET record = '{}'", "DELETE FROM gateway.audit", "TRUNCATE gateway.audit"] {
        let refused = world.postgres.cluster().sql(name, statement).await;
        assert!(refused.is_err(), "{statement} was let through");
    }
    let whole = read_all(&client, &auditor).await;
    verify_chain((0, GENESIS), &whole).unwrap();

    let untriggered = |statement: &str| format!("SET session_replication_role = replica; {statement}");
    let edit = "UPDATE gateway.audit SET record = replace(record, 'success', 'failure') WHERE seq = 3";
    world.postgres.sql(name, &untriggered(edit)).await;
    let broken = verify_chain((0, GENESIS), &read_all(&client, &auditor).await).unwrap_err();
    assert_eq!(broken.seq, 3);
    let back = "UPDATE gateway.audit SET record = replace(record, 'failure', 'success') WHERE seq = 3";
    world.postgres.sql(name, &untriggered(back)).await;
    verify_chain((0, GENESIS), &read_all(&client, &auditor).await).unwrap();
    world.postgres.sql(name, &untriggered("DELETE FROM gateway.audit WHERE seq = 4")).await;
    let broken = verify_chain((0, GENESIS), &read_all(&client, &auditor).await).unwrap_err();
    assert_eq!(broken.seq, 5);
}

/// Two gateways write two chains, each whole, and a restarted one goes on with its own.
#[tokio::test]
async fn each_gateway_has_a_chain_of_its_own() {
    let world = World::new().await;
    let (mut one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let admin = world.client(&one).bootstrap().await;
    assert!(tokio::task::spawn_blocking(move || one.stop()).await.unwrap());
    let one = world.gateway("gateway-1").await;
    let clients = [world.client(&one), world.client(&two)];
    // Twenty at once are more than a busy machine takes; a client that got 503 retries.
    let sign_ins = (0..20).map(|number| {
        let client = &clients[number % 2];
        poll_until("signed in", Duration::from_secs(30), async || {
            client.sign_in("admin", ADMIN_PASSWORD).await.status == StatusCode::OK
        })
    });
    futures::future::join_all(sign_ins).await;
    let all = read_all(&clients[0], &admin).await;
    for writer in ["gateway-1", "gateway-2"] {
        let chain: Vec<StoredRecord> = all.iter().filter(|stored| stored.writer == writer).cloned().collect();
        assert!(chain.len() >= 10, "{writer}: {}", chain.len());
        verify_chain((0, GENESIS), &chain).unwrap();
    }
}
