//! Refresh tokens: exchanged once, and what happens when one comes again.

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

/// A chain of exchanges works; the first token of it, presented again, ends everything that came of it.
#[tokio::test]
async fn a_token_that_comes_again_ends_the_login() {
    let (world, _gateway, client, admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let second = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let third = exchange(&client, &second).await.expect_status(StatusCode::OK);
    assert!(client.is_good(&third.text("access_token")).await);

    exchange(&client, &first).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &third.text("refresh_token")).await.expect_status(StatusCode::UNAUTHORIZED);
    assert!(!client.is_good(&third.text("access_token")).await, "its access token too");
    assert!(client.is_good(&admin).await, "and no other login");
    world.wait_for_record("token.refresh", "failure", Some("refresh_token_reused")).await;
}

/// When the answer was lost the same token is taken again within the grace, and what the lost answer carried dies.
#[tokio::test]
async fn a_lost_answer_costs_nobody_a_login() {
    let (_world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let lost = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let again = exchange(&client, &first).await.expect_status(StatusCode::OK).text("refresh_token");
    let next = exchange(&client, &again).await.expect_status(StatusCode::OK).text("refresh_token");
    exchange(&client, &lost).await.expect_status(StatusCode::UNAUTHORIZED);
    exchange(&client, &next).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// Ten exchanges of one token at once: all are answered, and of what they were answered one lives.
#[tokio::test]
async fn a_token_exchanged_many_times_at_once_has_one_living_successor() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let first = client.sign_in("admin", ADMIN_PASSWORD).await.text("refresh_token");
    let answers = futures::future::join_all((0..10).map(|_| exchange(&client, &first))).await;
    let successors: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::OK)
        .map(|answer| answer.text("refresh_token"))
        .collect();
    assert!(successors.len() > 1, "{answers:?}");
    let digest = hex::encode(gateway::opaque::sha256(&first));
    let living = format!(
        "SELECT count(*) FROM gateway.refresh_tokens WHERE rotated_at IS NULL AND session_id =
             (SELECT session_id FROM gateway.refresh_tokens WHERE digest = '\\x{digest}')"
    );
    assert_eq!(world.postgres.sql(&world.database.name, &living).await.trim(), "1");
}

/// RFC 7009: one's own access token, one's own login; anybody else's is left alone, and the answer is the same.
#[tokio::test]
async fn one_ends_ones_own_tokens_and_nobody_elses() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (_, other) = client.machine(&admin, "other", &["viewer"]).await;
    let login = client.sign_in("admin", ADMIN_PASSWORD).await;
    let (access, refresh) = (login.text("access_token"), login.text("refresh_token"));

    for token in [&access, &refresh, "unknown", "rampart_rt_unknown", "a.b.c", ""] {
        revoke(&client, &other, token).await.expect_status(StatusCode::OK);
    }
    assert!(client.is_good(&access).await);

    revoke(&client, &access, &access).await.expect_status(StatusCode::OK);
    assert!(!client.is_good(&access).await);
    let access = exchange(&client, &refresh).await.expect_status(StatusCode::OK);
    let (access, refresh) = (access.text("access_token"), access.text("refresh_token"));
    revoke(&client, &access, &refresh).await.expect_status(StatusCode::OK);
    assert!(!client.is_good(&access).await, "a refresh token ends the whole login");
    exchange(&client, &refresh).await.expect_status(StatusCode::UNAUTHORIZED);

    client.person(&admin, "nothing", &[]).await;
    let nothing = client.sign_in("nothing", &password_of("nothing")).await.text("access_token");
    revoke(&client, &nothing, &nothing).await.expect_status(StatusCode::OK);
    assert!(!client.is_good(&nothing).await, "even without a role");

    let anonymous = client.call(Method::POST, "/api/auth/revoke", None, Some(&json!({ "token": admin }))).await;
    anonymous.expect_status(StatusCode::UNAUTHORIZED);
    assert!(client.is_good(&admin).await);
}
