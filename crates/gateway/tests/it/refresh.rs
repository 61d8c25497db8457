//! Refresh tokens: exchanged once, and what happens at a second time.

use http::{Method, StatusCode};
use serde_json::json;

use crate::{
    client::{Client, TestResponse, password_of},
    world::{ADMIN_PASSWORD, World},
};

async fn exchange(client: &Client, refresh_token: &str) -> TestResponse {
    client.token(&json!({ "grant_type": "refresh_token", "refresh_token": refresh_token })).await
}

async fn revoke(client: &Client, bearer: &str, token: &str) -> TestResponse {
    client.call(Method::POST, "/api/auth/revoke", Some(bearer), Some(&json!({ "token": token }))).await
}

/// A chain of exchanges works; its first token, presented again, revokes the whole session.
#[tokio::test]
async fn a_refresh_token_presented_twice_revokes_the_session() {
    let (world, _gateway, client, admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let second = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let third = exchange(&client, &second).await.expect_status(StatusCode::OK);
    assert!(client.is_valid(&third.text("access_token")).await);

    exchange(&client, &first).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &third.text("refresh_token")).await.expect_status(StatusCode::UNAUTHORIZED);
    assert!(!client.is_valid(&third.text("access_token")).await, "its access token too");
    assert!(client.is_valid(&admin).await, "and no other login");
    world.wait_for_record("token.refresh", "failure", Some("refresh_token_reused")).await;
}

/// When the response was lost the same token gives the same successor within the grace period; after it, it is a theft.
#[tokio::test]
async fn a_lost_response_does_not_end_the_session() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let lost = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let again = exchange(&client, &first).await.expect_status(StatusCode::OK);
    assert_eq!(again.text("refresh_token"), lost);
    let record = world.wait_for_record("token.refresh", "success", None).await;
    assert_eq!(record["details"]["repeated"], serde_json::Value::Null);
    assert!(world.audit_records().await.iter().any(|record| record["details"]["repeated"] == true));
    let second = exchange(&client, &lost).await.expect_status(StatusCode::OK).text("refresh_token");
    assert!(client.is_valid(&again.text("access_token")).await);

    let digest = hex::encode(gateway::random_secrets::sha256(&lost));
    let aged = format!(
        "UPDATE gateway.refresh_tokens SET rotated_at = rotated_at - interval '11 seconds' WHERE digest = '\\x{digest}'"
    );
    world.postgres.sql(&world.database.name, &aged).await;
    exchange(&client, &lost).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &second).await.expect_status(StatusCode::UNAUTHORIZED);
    assert!(!client.is_valid(&again.text("access_token")).await);
}

/// Exchanges of one token at once, at two gateways: all get the one successor, the session goes on, and nothing but its hash is
/// stored.
#[tokio::test]
async fn a_token_exchanged_many_times_at_once_has_one_successor() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let clients = [world.client(&one), world.client(&two)];
    let admin = clients[0].bootstrap().await;
    let mut token = clients[0].sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    for _round in 0..3 {
        let exchanges = (0..10).map(|number| exchange(&clients[number % 2], &token));
        let mut successors = std::collections::BTreeSet::new();
        for answer in futures::future::join_all(exchanges).await {
            let answer = answer.expect_status(StatusCode::OK);
            assert!(clients[0].is_valid(&answer.text("access_token")).await);
            successors.insert(answer.text("refresh_token"));
        }
        assert_eq!(successors.len(), 1, "{successors:?}");
        let successor = successors.pop_first().unwrap();
        assert_ne!(successor, token);
        token = successor;
    }
    let count = "SELECT count(*) FROM gateway.refresh_tokens";
    assert_eq!(
        world.postgres.sql(&world.database.name, count).await.trim(),
        "5",
        "of two logins, one exchanged thrice"
    );
    assert!(clients[1].is_valid(&admin).await);
}

/// A successor that does not follow from its token, as of a gateway of the version before, is replaced by another one.
#[tokio::test]
async fn a_successor_that_cannot_be_given_again_is_retired() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let derived = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let random = format!("rampart_rt_{}", "R".repeat(43));
    let digest = |token: &str| hex::encode(gateway::random_secrets::sha256(token));
    for change in [
        format!(
            "UPDATE gateway.refresh_tokens SET digest = '\\x{}' WHERE digest = '\\x{}'",
            digest(&random),
            digest(&derived)
        ),
        format!(
            "UPDATE gateway.refresh_tokens SET successor = '\\x{}' WHERE digest = '\\x{}'",
            digest(&random),
            digest(&first)
        ),
    ] {
        world.postgres.sql(&world.database.name, &change).await;
    }
    let again = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    assert!(again != random && again != derived);
    let next = exchange(&client, &again).await.expect_status(StatusCode::OK).text("refresh_token");
    exchange(&client, &random).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &next).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// RFC 7009: the caller's own access token or session; those of other users stay valid, and the response is the same.
#[tokio::test]
async fn a_user_revokes_only_its_own_tokens() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (_, other) = client.machine(&admin, "other", &["viewer"]).await;
    let login = client.sign_in("admin", ADMIN_PASSWORD).await;
    let (access, refresh) = (login.text("access_token"), login.text("refresh_token"));

    for token in [&access, &refresh, "unknown", "rampart_rt_unknown", "a.b.c", ""] {
        revoke(&client, &other, token).await.expect_status(StatusCode::OK);
    }
    assert!(client.is_valid(&access).await);

    revoke(&client, &access, &access).await.expect_status(StatusCode::OK);
    assert!(!client.is_valid(&access).await);
    let access = exchange(&client, &refresh).await.expect_status(StatusCode::OK);
    let (access, refresh) = (access.text("access_token"), access.text("refresh_token"));
    revoke(&client, &access, &refresh).await.expect_status(StatusCode::OK);
    assert!(!client.is_valid(&access).await, "a refresh token ends the whole login");
    exchange(&client, &refresh).await.expect_status(StatusCode::UNAUTHORIZED);

    client.person(&admin, "nothing", &[]).await;
    let nothing = client.sign_in("nothing", &password_of("nothing")).await.text("access_token");
    revoke(&client, &nothing, &nothing).await.expect_status(StatusCode::OK);
    assert!(!client.is_valid(&nothing).await, "even without a role");

    let anonymous = client.call(Method::POST, "/api/auth/revoke", None, Some(&json!({ "token": admin }))).await;
    anonymous.expect_status(StatusCode::UNAUTHORIZED);
    assert!(client.is_valid(&admin).await);
}
