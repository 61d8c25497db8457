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

/// When the response was lost the same token is exchanged again within the grace period, and the lost one is retired.
#[tokio::test]
async fn a_lost_response_does_not_end_the_session() {
    let (_world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let lost = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let again = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let next = exchange(&client, &again).await.expect_status(StatusCode::OK).text("refresh_token");
    exchange(&client, &lost).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &next).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// Ten exchanges of one token at once: all are answered, and one of the successors stays valid.
#[tokio::test]
async fn a_token_exchanged_many_times_at_once_has_one_valid_successor() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let answers = futures::future::join_all((0..10).map(|_| exchange(&client, &first))).await;
    let successors: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::OK)
        .map(|answer| answer.text("refresh_token"))
        .collect();
    assert!(successors.len() > 1, "{answers:?}");
    let digest = hex::encode(gateway::random_secrets::sha256(&first));
    let living = format!(
        "SELECT count(*) FROM gateway.refresh_tokens WHERE rotated_at IS NULL AND session_id =
             (SELECT session_id FROM gateway.refresh_tokens WHERE digest = '\\x{digest}')"
    );
    assert_eq!(world.postgres.sql(&world.database.name, &living).await.trim(), "1");
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
