//! The first administrator, once.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    client::Client,
    world::{ADMIN_PASSWORD, BOOTSTRAP_TOKEN, World},
};

fn grant(token: &str, username: &str, password: &str) -> Value {
    json!({ "grant_type": "bootstrap", "bootstrap_token": token, "username": username, "password": password })
}

/// Ten at once on two gateways: one administrator.
#[tokio::test]
async fn of_ten_bootstraps_at_once_one_succeeds() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let clients = [world.client(&one), world.client(&two)];
    let attempts = (0..10).map(|number| {
        let client: &Client = &clients[number % 2];
        let grant = grant(BOOTSTRAP_TOKEN, &format!("admin-{number}"), ADMIN_PASSWORD);
        async move { client.token(&grant).await }
    });
    let answers = futures::future::join_all(attempts).await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((of(StatusCode::OK), of(StatusCode::CONFLICT)), (1, 9), "{answers:?}");
    let winner = answers.iter().find(|answer| answer.status == StatusCode::OK).unwrap().text("access_token");
    let users =
        clients[1].call(Method::GET, "/api/admin/users", Some(&winner), None).await.expect_status(StatusCode::OK);
    assert_eq!(users.json()["users"].as_array().unwrap().len(), 1);
}

/// Without the token no administrator is made, with it none with a weak password, and after its use no second one.
#[tokio::test]
async fn only_the_one_time_token_makes_the_first_administrator() {
    let world = World::new().await;
    let gateway = world.gateway("gateway-1").await;
    let client = world.client(&gateway);
    for (name, password) in
        [("admin", "admin"), ("admin", "password1234"), ("admin", "changeme"), ("detektor", "detektor")]
    {
        client.sign_in(name, password).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    for (token, username, password, status, field) in [
        ("not the token", "admin", ADMIN_PASSWORD, StatusCode::UNAUTHORIZED, Value::Null),
        ("", "admin", ADMIN_PASSWORD, StatusCode::BAD_REQUEST, json!("bootstrap_token")),
        (BOOTSTRAP_TOKEN, "not a name", ADMIN_PASSWORD, StatusCode::BAD_REQUEST, json!("username")),
        (BOOTSTRAP_TOKEN, "admin", "fourteen chars", StatusCode::BAD_REQUEST, json!("password")),
        (BOOTSTRAP_TOKEN, "admin", "passwordpassword", StatusCode::BAD_REQUEST, json!("password")),
    ] {
        let answer = client.token(&grant(token, username, password)).await.expect_status(status);
        assert_eq!(answer.json()["field"], field);
    }
    client.token(&grant(BOOTSTRAP_TOKEN, "admin", ADMIN_PASSWORD)).await.expect_status(StatusCode::OK);
    client.token(&grant(BOOTSTRAP_TOKEN, "second", ADMIN_PASSWORD)).await.expect_status(StatusCode::CONFLICT);
    client.token(&grant("not the token", "second", ADMIN_PASSWORD)).await.expect_status(StatusCode::UNAUTHORIZED);

    world.postgres.sql(&world.database.name, "DELETE FROM gateway.users").await;
    client.token(&grant(BOOTSTRAP_TOKEN, "third", ADMIN_PASSWORD)).await.expect_status(StatusCode::CONFLICT);
    world.wait_for_record("token.bootstrap", "success", None).await;
    world.wait_for_record("token.bootstrap", "failure", Some("wrong_token")).await;
}
