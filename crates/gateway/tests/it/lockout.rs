//! Failed sign-ins are slowed down, for their sender alone.

use std::time::{Duration, Instant};

use http::{Method, StatusCode, header};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::world::{ADMIN_PASSWORD, World};

/// After five failures the next attempt must wait, right or wrong; from elsewhere the owner gets in.
#[tokio::test]
async fn five_failures_make_the_next_attempt_wait() {
    let (world, gateway, client, admin) = World::begin().await;
    let guesser = client.at("198.51.100.7");
    for _ in 0..5 {
        guesser.sign_in("admin", "not the password of admin").await.expect_status(StatusCode::UNAUTHORIZED);
    }
    for password in ["not the password of admin", ADMIN_PASSWORD] {
        let answer = guesser.sign_in("admin", password).await.expect_status(StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(answer.json()["error"], "temporarily_unavailable");
    }
    client.sign_in("admin", ADMIN_PASSWORD).await.expect_status(StatusCode::OK);
    let mut answer = guesser.sign_in("admin", ADMIN_PASSWORD).await;
    testkit::poll_until("the wait is over", Duration::from_secs(5), async || {
        answer = guesser.sign_in("admin", ADMIN_PASSWORD).await;
        answer.status == StatusCode::OK
    })
    .await;
    world.wait_for_record("token.password", "denied", Some("throttled")).await;

    let log = gateway.log();
    for secret in [ADMIN_PASSWORD, "not the password of admin", &admin] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
    assert!(client.call(Method::GET, "/api/admin/users", Some(&admin), None).await.status.is_success());
}

/// More sign-ins at once than the hasher takes: some get 503, none hangs, and `Authorize` does not wait for them.
#[tokio::test]
async fn a_flood_of_sign_ins_does_not_delay_authorize() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let crowd = (0..150).map(|number| {
        let client = client.at(&format!("203.0.113.{}", number % 250));
        async move { client.sign_in(&format!("unknown-{number}"), "not the password of any user").await }
    });
    let crowd = tokio::spawn(futures::future::join_all(crowd));
    let mut slowest = Duration::ZERO;
    while !crowd.is_finished() {
        let asked = Instant::now();
        client.authorize(&admin, "serving").await.unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    let answers = crowd.await.unwrap();
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(of(StatusCode::UNAUTHORIZED) + of(StatusCode::SERVICE_UNAVAILABLE), answers.len());
    assert!(of(StatusCode::SERVICE_UNAVAILABLE) > 0);
    assert!(
        answers.iter().all(|answer| answer.status != StatusCode::SERVICE_UNAVAILABLE
            || answer.headers.contains_key(header::RETRY_AFTER))
    );
    println!("slowest passport meanwhile {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// A flood of unknown refresh tokens that hold the database delays neither revocations nor administrators.
#[tokio::test]
async fn a_flood_of_refresh_tokens_leaves_the_database_to_revocations() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let (here, there) = (world.client(&one), world.client(&two));
    let admin = here.bootstrap().await;
    let token = here.sign_in("admin", ADMIN_PASSWORD).await.text("access_token");
    assert!(there.is_valid(&token).await);

    let lock = world.lock("gateway.refresh_tokens");
    let unknown = format!("rampart_rt_{}", "A".repeat(43));
    let grant = json!({ "grant_type": "refresh_token", "refresh_token": unknown });
    let ebb = CancellationToken::new();
    let flood = (0..100).map(|_| {
        let (client, grant, ebb) = (there.clone(), grant.clone(), ebb.clone());
        async move {
            loop {
                let answer = client.token(&grant).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
                assert!(answer.headers.contains_key(header::RETRY_AFTER));
                if ebb.is_cancelled() {
                    return;
                }
            }
        }
    });
    let flood = tokio::spawn(futures::future::join_all(flood));
    world.wait_for_lock("gateway.refresh_tokens", "NOT granted").await;

    let body = json!({ "token": token });
    here.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.expect_status(StatusCode::OK);
    let limit = Duration::from_secs(2);
    testkit::poll_until("the token is dead there too", limit, async || !there.is_valid(&token).await).await;
    // A connection that is not free within two seconds would be 503 here, too.
    there.call(Method::GET, "/api/admin/users", Some(&admin), None).await.expect_status(StatusCode::OK);
    ebb.cancel();
    flood.await.unwrap();
    drop(lock);
}

/// A text that cannot be a refresh token is refused without the database.
#[tokio::test]
async fn malformed_refresh_tokens_do_not_reach_the_database() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let lock = world.lock("gateway.refresh_tokens");
    for nonsense in [" ", "x", "rampart_rt_", "rampart_rt_short"] {
        let grant = json!({ "grant_type": "refresh_token", "refresh_token": nonsense });
        client.token(&grant).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    drop(lock);
    world.wait_for_record("token.refresh", "failure", Some("malformed")).await;
}

/// Guesses at one account wait wherever they come from; its owner, in a network that it has logged in from, does not.
#[tokio::test]
async fn guesses_from_many_addresses_wait() {
    let (world, _gateway, client, _admin) = World::begin().await;
    let mut waits = 0;
    for number in 0..120 {
        let guesser = client.at(&format!("198.51.{}.7", number % 30));
        waits += u32::from(guesser.sign_in("admin", "a wrong guess").await.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(waits >= 60, "{waits} of 120 had to wait");
    world.wait_for_record("token.password", "denied", Some("throttled")).await;

    // The first administrator was made from 192.0.2.1.
    client.at("192.0.2.200").sign_in("admin", ADMIN_PASSWORD).await.expect_status(StatusCode::OK);
    let (mut number, elsewhere) = (0, client.at("203.0.113.9"));
    testkit::poll_until("the account waits for more than a second", Duration::from_secs(20), async || {
        number += 1;
        let guess = client.at(&format!("203.0.113.{number}")).sign_in("admin", "a wrong guess").await;
        let wait = guess.headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        wait.is_some_and(|seconds| seconds > 1)
    })
    .await;
    elsewhere.sign_in("admin", ADMIN_PASSWORD).await.expect_status(StatusCode::TOO_MANY_REQUESTS);
    elsewhere.sign_in("another", ADMIN_PASSWORD).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// What gateways lock against each other, no other role of the database can lock.
#[tokio::test]
async fn no_other_role_can_hold_the_locks_of_the_gateways() {
    let (world, _gateway, client, admin) = World::begin().await;
    let name = &world.database.name;

    // A change that has taken all its locks, and waits for the audit log.
    let lock = world.lock("gateway.audit");
    let change = tokio::spawn({
        let (client, admin) = (client.clone(), admin.clone());
        async move {
            let user = json!({ "name": "robot", "kind": "machine", "roles": [] });
            client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await
        }
    });
    world.wait_for_lock("gateway.audit", "NOT granted").await;
    let advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(world.postgres.sql(name, advisory).await.trim(), "0", "every role may take those");
    drop(lock);
    change.await.unwrap().expect_status(StatusCode::CREATED);

    let locks = world.postgres.sql(name, "SELECT name FROM gateway.locks ORDER BY name FOR UPDATE").await;
    assert_eq!(locks.split_whitespace().collect::<Vec<_>>().join(" "), "audit gateway-1 changes");
    let other = world.postgres.database("other").await.user;
    for statement in ["SELECT FROM gateway.locks FOR UPDATE", "BEGIN; LOCK TABLE gateway.locks"] {
        let refused =
            world.postgres.cluster().sql(name, &format!("SET SESSION AUTHORIZATION {other}; {statement}")).await;
        let error = format!("{:?}", refused.expect_err(statement));
        assert!(error.contains("permission denied"), "{error}");
    }
}
