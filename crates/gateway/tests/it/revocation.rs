//! A revocation on one gateway reaches the other within two seconds, and its watchers.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use proto::auth::v1::{WatchRevocationsResponse, watch_revocations_response::Event};
use serde_json::json;
use testkit::poll_until;
use tonic::Streaming;

use crate::{
    client::{Client, password_of},
    world::{ADMIN_PASSWORD, World},
};

const WITHIN: Duration = Duration::from_secs(2);

/// With a notification, sent as soon as a change is committed. Without it, the poll of each second is on average as late.
const WITHIN_NOTIFIED: Duration = Duration::from_millis(500);

async fn wait_revoked(client: &Client, token: &str) {
    let answered = Instant::now();
    poll_until("the token is revoked on the other gateway", WITHIN_NOTIFIED, async || !client.is_valid(token).await)
        .await;
    println!("revoked after {:?}", answered.elapsed());
}

/// Everything that revokes a token on the first gateway, checked on the second; with the event that its watcher gets.
#[tokio::test]
async fn a_revocation_on_one_gateway_reaches_the_other() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let (here, there) = (world.client(&one), world.client(&two));
    let admin = here.bootstrap().await;
    assert!(there.is_valid(&admin).await, "a token of the other gateway is valid at once");

    let mut stream = there.watch().await;
    assert!(matches!(stream.message().await.unwrap().unwrap().event.unwrap(), Event::Snapshot(_)));

    let login = here.sign_in("admin", ADMIN_PASSWORD).await;
    let (token, refresh) = (login.text("access_token"), login.text("refresh_token"));
    let authorized = there.authorize(&token, "serving").await.unwrap();
    let body = json!({ "token": refresh });
    here.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.expect_status(StatusCode::OK);
    wait_revoked(&there, &token).await;
    wait_event(&mut stream, &Event::SessionId(authorized.session_id)).await;

    let token = here.sign_in("admin", ADMIN_PASSWORD).await.text("access_token");
    let authorized = there.authorize(&token, "serving").await.unwrap();
    let body = json!({ "token": token });
    here.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.expect_status(StatusCode::OK);
    wait_revoked(&there, &token).await;
    wait_event(&mut stream, &Event::TokenId(authorized.token_id)).await;

    let id = here.person(&admin, "ada", &["analyst"]).await;
    let path = format!("/api/admin/users/{id}");
    let ends = [
        (Method::POST, format!("{path}/revoke"), None),
        (Method::PATCH, path.clone(), Some(json!({ "password": password_of("other") }))),
        (Method::PATCH, path.clone(), Some(json!({ "disabled": true }))),
        (Method::DELETE, path.clone(), None),
    ];
    let mut password = password_of("ada");
    for (method, path, body) in ends {
        if method == Method::DELETE {
            let enable = json!({ "disabled": false });
            here.call(Method::PATCH, &path, Some(&admin), Some(&enable)).await.expect_status(StatusCode::OK);
        }
        let token = here.sign_in("ada", &password).await.expect_status(StatusCode::OK).text("access_token");
        assert!(there.is_valid(&token).await);
        let done = here.call(method, &path, Some(&admin), body.as_ref()).await;
        assert!(done.status.is_success(), "{done:?}");
        wait_revoked(&there, &token).await;
        wait_event(&mut stream, &Event::Subject(id.clone())).await;
        if body.is_some_and(|body| body.get("password").is_some()) {
            password = password_of("other");
        }
    }
}

/// When no gateway listens, the poll of each second is in time, too.
#[tokio::test]
async fn a_revocation_is_noticed_without_notify() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let (here, there) = (world.client(&one), world.client(&two));
    here.bootstrap().await;
    let token = here.sign_in("admin", ADMIN_PASSWORD).await.text("access_token");
    assert!(there.is_valid(&token).await);
    let end_listeners = async || {
        let listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
        let sql = format!("SELECT count(pg_terminate_backend(pid)) {listeners}");
        world.postgres.sql(&world.database.name, &sql).await.trim().parse::<u32>().unwrap()
    };
    poll_until("both gateways had a listener to lose", WITHIN, async || end_listeners().await == 2).await;

    let body = json!({ "token": token });
    here.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.expect_status(StatusCode::OK);
    poll_until("the token is revoked on the other gateway", WITHIN, async || {
        end_listeners().await;
        !there.is_valid(&token).await
    })
    .await;
}

/// A role taken away is gone from the passports of the other gateway, and its watchers get the event.
#[tokio::test]
async fn a_role_taken_away_is_gone_on_every_gateway() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let (here, there) = (world.client(&one), world.client(&two));
    let admin = here.bootstrap().await;
    let (id, token) = here.machine(&admin, "robot", &["admin"]).await;
    there.call(Method::GET, "/api/admin/users", Some(&token), None).await.expect_status(StatusCode::OK);
    let mut stream = there.watch().await;
    let before = there.authorize(&token, "serving").await.unwrap();

    let body = json!({ "roles": ["viewer"] });
    let path = format!("/api/admin/users/{id}");
    here.call(Method::PATCH, &path, Some(&admin), Some(&body)).await.expect_status(StatusCode::OK);
    poll_until("the role is gone on the other gateway", WITHIN, async || {
        there.call(Method::GET, "/api/admin/users", Some(&token), None).await.status == StatusCode::FORBIDDEN
    })
    .await;
    let event = wait_event(&mut stream, &Event::Subject(id)).await;
    let granted = there.authorize(&token, "serving").await.unwrap();
    assert_eq!(granted.authz_version, event.authz_version);
    assert!(before.authz_version < event.authz_version, "what was granted before is told apart");
    assert!(before.feed_position < event.feed_position && event.feed_position <= granted.feed_position);
    let begin = there.watch().await.message().await.unwrap().unwrap();
    assert_eq!(begin.event, Some(Event::Snapshot(proto::auth::v1::Snapshot {})));
    assert!(begin.feed_position >= event.feed_position, "a watcher that begins now learns how much it missed");
}

/// A change is refused when the caller's roles are no longer those of its passport.
#[tokio::test]
async fn a_passport_with_outdated_roles_changes_nothing() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (id, token) = client.machine(&admin, "robot", &["admin"]).await;
    let passport = client.authorize(&token, "gateway").await.unwrap().passport;
    let body = json!({ "roles": ["viewer"] });
    let path = format!("/api/admin/users/{id}");
    client.call(Method::PATCH, &path, Some(&admin), Some(&body)).await.expect_status(StatusCode::OK);

    let user = json!({ "name": "accomplice", "kind": "machine", "roles": ["admin"] });
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/api/admin/users")
        .header("rampart-passport", passport)
        .body(tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from(user.to_string()))))
        .unwrap();
    client.raw(request).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// Heartbeats come each second, and a gateway that stops ends the stream.
#[tokio::test]
async fn a_watcher_gets_heartbeats_and_the_end_of_the_stream() {
    let world = World::new().await;
    let mut gateway = world.gateway("gateway-1").await;
    let client = world.client(&gateway);
    let mut stream = client.watch().await;
    wait_event(&mut stream, &Event::Heartbeat(proto::auth::v1::Heartbeat {})).await;
    assert!(tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap(), "it ended well");
    let end = tokio::time::timeout(WITHIN, async { while let Ok(Some(_)) = stream.message().await {} }).await;
    assert!(end.is_ok());
}

async fn wait_event(stream: &mut Streaming<WatchRevocationsResponse>, wanted: &Event) -> WatchRevocationsResponse {
    let received = async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            if message.event.as_ref() == Some(wanted) {
                return message;
            }
        }
    };
    tokio::time::timeout(WITHIN, received).await.unwrap_or_else(|_| panic!("no event {wanted:?}"))
}

/// A restore, or a failover that loses commits, takes the feed back in time; everything is then loaded anew.
#[tokio::test]
async fn a_feed_that_goes_back_in_time_is_noticed() {
    let (world, _gateway, client, admin) = World::begin().await;
    client.person(&admin, "ada", &["analyst"]).await;
    let token = client.sign_in("ada", &password_of("ada")).await.text("access_token");
    let mut stream = client.watch().await;
    let ada_is = async |disabled: bool, feed: &str| {
        let user = format!("UPDATE gateway.users SET disabled = {disabled} WHERE name = 'ada'");
        world.postgres.sql(&world.database.name, &format!("BEGIN; {user}; {feed}; COMMIT")).await;
    };
    let last = "(SELECT max(seq) FROM gateway.changes)";

    ada_is(true, &format!("DELETE FROM gateway.changes WHERE seq = {last}")).await;
    poll_until("a shorter feed is noticed", WITHIN, async || !client.is_valid(&token).await).await;
    let end = async {
        while stream.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    };
    let end = tokio::time::timeout(WITHIN, end).await.expect("the stream ends, so that the watcher drops its cache");
    assert_eq!(end.unwrap_err().code(), tonic::Code::Aborted);

    ada_is(false, &format!("UPDATE gateway.changes SET id = gen_random_uuid() WHERE seq = {last}")).await;
    poll_until("a feed with another entry at the same place is noticed", WITHIN, async || {
        client.is_valid(&token).await
    })
    .await;
}

/// What is revoked already is not written again.
#[tokio::test]
async fn revoking_twice_writes_once() {
    let (world, _gateway, client, admin) = World::begin().await;
    let login = client.sign_in("admin", ADMIN_PASSWORD).await;
    let rows = "SELECT (SELECT count(*) FROM gateway.changes), (SELECT count(*) FROM gateway.audit)";
    let rows = async || world.postgres.sql(&world.database.name, rows).await;
    for token in [login.text("access_token"), login.text("refresh_token")] {
        let body = json!({ "token": token });
        let revoke = async || client.call(Method::POST, "/api/auth/revoke", Some(&admin), Some(&body)).await;
        let before = rows().await;
        revoke().await.expect_status(StatusCode::OK);
        let once = rows().await;
        assert_ne!(before, once);
        revoke().await.expect_status(StatusCode::OK);
        assert_eq!(rows().await, once);
    }
}
