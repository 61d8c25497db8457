//! How connections end: by age, by a certificate's end, by a change of trust, by a stop. None loses a request.

use std::time::Duration;

use http::StatusCode;
use testkit::{
    ca::{Ca, Leaf},
    poll_until,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use transport::Limits;

use crate::world::{Driver, Http2, PATIENCE, World, get_request, load};

/// A stop finishes the request in flight, takes no new connection, and ends.
#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    let world = World::with(Limits::default()).await;
    let (mut http1, _driver1) = world.http1("gateway").await;
    let (mut http2, driver2) = world.http2("gateway").await;
    let slow1 = tokio::spawn(async move { http1.send_request(get_request("/slow")).await });
    let mut clone = http2.clone();
    let slow2 = tokio::spawn(async move { clone.send_request(get_request("/slow")).await });
    world.until_handled(2).await;

    world.stop.cancel();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(world.address).await.is_ok() {
        assert!(Instant::now() < deadline, "still listening after the stop");
    }
    assert!(!world.serving.is_finished(), "ended with requests in flight");
    until_no_request_is_accepted(&mut http2).await;

    world.open_gate();
    world.open_gate();
    for slow in [slow1, slow2] {
        assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    timeout(PATIENCE, world.serving).await.expect("no end after the last request").unwrap().unwrap();
    timeout(PATIENCE, driver2).await.unwrap().unwrap().unwrap();
}

/// A request that never ends holds up a stop no longer than the drain may take.
#[tokio::test]
async fn a_stop_is_bounded() {
    let world = World::with(Limits { drain_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let (mut http2, _driver) = world.http2("gateway").await;
    let slow = tokio::spawn(async move { http2.send_request(get_request("/slow")).await });
    world.until_handled(1).await;
    world.stop.cancel();
    timeout(PATIENCE, world.serving).await.expect("a stop took for ever").unwrap().unwrap();
    assert!(slow.await.unwrap().is_err());
}

/// Connections are tasks of their own, and must not outlive the future of `serve`.
#[tokio::test]
async fn a_dropped_serve_cuts_its_connections() {
    let world = World::with(Limits::default()).await;
    let (mut http2, driver) = world.http2("gateway").await;
    let slow = tokio::spawn(async move { http2.send_request(get_request("/slow")).await });
    world.until_handled(1).await;
    world.serving.abort();
    assert!(timeout(PATIENCE, slow).await.expect("a request went on").unwrap().is_err());
    let _ended = timeout(PATIENCE, driver).await.expect("a connection went on");
}

/// At its greatest age a connection finishes what it has and ends; the next one is as good.
#[tokio::test]
async fn an_old_connection_finishes_and_ends() {
    let world = World::with(Limits { connection_age_max: Duration::from_millis(200), ..Limits::default() }).await;
    assert_finishes_and_ends(&world, world.http2("gateway").await, async || ()).await;
    let (mut http2, _driver) = world.http2("gateway").await;
    assert_eq!(http2.send_request(get_request("/who")).await.unwrap().status(), StatusCode::OK);
}

/// No connection outlives the certificate that opened it.
#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let world = World::with(Limits::default()).await;
    let directory = tempfile::tempdir().unwrap();
    world.ca.issue_leaf(&Leaf::of("gateway", "gateway-1").valid(-60, 2), directory.path());
    let client = load(directory.path()).client_config("serving");
    assert_finishes_and_ends(&world, world.http2_with(client).await, async || ()).await;
}

/// A change of the CA bundle makes every peer prove itself again.
#[tokio::test]
async fn a_change_of_trust_ends_connections() {
    let world = World::with(Limits::default()).await;
    let stop = CancellationToken::new();
    let watch = tokio::spawn(world.identity.clone().watch(stop.clone()));
    let connection = world.http2("gateway").await;
    assert_finishes_and_ends(&world, connection, async || {
        Ca::write_bundle(&[&world.ca, &Ca::foreign()], world.directory.path());
    })
    .await;
    stop.cancel();
    watch.await.unwrap();
}

/// A request is put in flight, the cause of the end is brought about, the connection takes no more, and then the request
/// is let finish.
async fn assert_finishes_and_ends(world: &World, (mut http2, driver): (Http2, Driver), cause: impl AsyncFnOnce()) {
    let handled = world.handled();
    let mut clone = http2.clone();
    let slow = tokio::spawn(async move { clone.send_request(get_request("/slow")).await });
    world.until_handled(handled + 1).await;
    cause().await;
    until_no_request_is_accepted(&mut http2).await;
    assert!(!slow.is_finished(), "the request in flight was cut");
    world.open_gate();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    timeout(PATIENCE, driver).await.expect("the connection did not end").unwrap().unwrap();
}

async fn until_no_request_is_accepted(http2: &mut Http2) {
    poll_until("the connection is asked to end", PATIENCE, async || {
        http2.send_request(get_request("/who")).await.is_err()
    })
    .await;
}
