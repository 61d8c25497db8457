//! Guessing gets slower, for the guesser alone.

use http::{Method, StatusCode, header};

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
    testkit::poll_until("the wait is over", std::time::Duration::from_secs(5), async || {
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

/// More sign-ins at once than are taken: some are told to come again, none hangs, and known callers are not in the queue.
#[tokio::test]
async fn a_crowd_at_the_door_does_not_keep_known_callers_out() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let crowd = (0..150).map(|number| {
        let client = client.at(&format!("203.0.113.{}", number % 250));
        async move { client.sign_in(&format!("nobody-{number}"), "not the password of anybody").await }
    });
    let crowd = tokio::spawn(futures::future::join_all(crowd));
    let mut slowest = std::time::Duration::ZERO;
    while !crowd.is_finished() {
        let asked = std::time::Instant::now();
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
    assert!(slowest < std::time::Duration::from_secs(2), "{slowest:?}");
}
