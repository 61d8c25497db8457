//! Calls through a channel: to one address, to several, past dead and frozen ones, and across retirements.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use proto::sla::v1::{Minute, ReportMinutesRequest, ledger_client::LedgerClient};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::Service;
use transport::{Channel, Limits, channel};

use crate::world::{PATIENCE, World, aged, metrics, peer_of, until};

fn report() -> ReportMinutesRequest {
    ReportMinutesRequest { minutes: vec![Minute::default(); 3], ..Default::default() }
}

fn addresses<const N: usize>(worlds: [&World; N]) -> Vec<String> {
    worlds.iter().map(|world| world.address.to_string()).collect()
}

#[tokio::test]
async fn a_call_is_answered_and_its_peer_identified() {
    let world = World::with(Limits::default()).await;
    let (gateway, _directory) = world.peer("gateway");
    let mut ledger = LedgerClient::new(channel(&gateway, "serving", &addresses([&world])));
    let response = ledger.report_minutes(report()).await.unwrap();
    assert_eq!(response.metadata().get("seen-peer").unwrap(), gateway.name().to_string().as_str());
    assert_eq!(response.get_ref().recorded, 3);
}

/// A peer on the server's list but not on this path's gets PERMISSION_DENIED; one on no list gets no connection.
#[tokio::test]
async fn calls_of_others_are_refused() {
    let world = World::with(Limits::default()).await;
    for (service, code) in [("operator", Code::PermissionDenied), ("backup", Code::Unavailable)] {
        let (peer, _directory) = world.peer(service);
        let mut ledger = LedgerClient::new(channel(&peer, "serving", &addresses([&world])));
        let status = ledger.report_minutes(report()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(code == Code::PermissionDenied || status.message().contains("AccessDenied"), "{status}");
    }
    assert_eq!(world.handled(), 0);
}

/// The trace of the caller goes with the call.
#[tokio::test]
async fn a_call_carries_the_current_trace() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let world = World::with(Limits::default()).await;
    let (gateway, _directory) = world.peer("gateway");
    let mut channel = channel(&gateway, "serving", &addresses([&world]));
    let incoming = HeaderMap::from_iter([("traceparent".parse().unwrap(), PARENT.parse().unwrap())]);
    let trace = telemetry::Trace::of_request(&incoming, |_| tracing::Span::none());
    let response = {
        let _current = trace.attach();
        let request = http::Request::post("/rampart.sla.v1.Ledger/ReportMinutes")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // One message of length 0.
            .body(tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]))))
            .unwrap();
        channel.call(request)
    };
    assert_eq!(response.await.unwrap().headers()["seen-trace"], PARENT);
}

/// Addresses that refuse, or accept and stay silent, cost a moment and not the call.
#[tokio::test]
async fn dead_and_frozen_addresses_are_passed_over() {
    let world = World::with(Limits::default()).await;
    let (gateway, _directory) = world.peer("gateway");
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = {
        let closed_at_once = TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed_at_once.local_addr().unwrap().to_string()
    };
    let all = vec![dead, frozen.local_addr().unwrap().to_string(), world.address.to_string()];
    // Every rotation of the list, so that each address is once the first.
    for rotation in 0..3 {
        let mut list = all.clone();
        list.rotate_left(rotation);
        let started = Instant::now();
        let mut ledger = LedgerClient::new(channel(&gateway, "serving", &list));
        ledger.report_minutes(report()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "rotation {rotation} took {:?}", started.elapsed());
    }
}

/// All addresses dead is an error in time, which names the address.
#[tokio::test]
async fn no_address_left_is_unavailable_in_time() {
    let world = World::with(Limits::default()).await;
    let (gateway, _directory) = world.peer("gateway");
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = frozen.local_addr().unwrap().to_string();
    for list in [vec![address], Vec::new()] {
        let mut ledger = LedgerClient::new(channel(&gateway, "serving", &list));
        let status = timeout(Duration::from_secs(3), ledger.report_minutes(report())).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
}

/// A replica that stops gracefully costs its callers nothing.
#[tokio::test]
async fn a_replica_that_stops_loses_no_call() {
    let ca = Arc::new(testkit::ca::Ca::new());
    let worlds = [World::under(ca.clone(), Limits::default()).await, World::under(ca.clone(), Limits::default()).await];
    let (gateway, _directory) = peer_of(&ca, "gateway");
    let ledger = LedgerClient::new(channel(&gateway, "serving", &addresses([&worlds[0], &worlds[1]])));
    let load = Load::start(&ledger);
    until("the first call", || worlds.iter().any(|world| world.handled() > 0)).await;
    let (busy, idle) = if worlds[0].handled() > 0 { (&worlds[0], &worlds[1]) } else { (&worlds[1], &worlds[0]) };
    busy.stop.cancel();
    idle.until_handled(100).await;
    load.assert_none_failed().await;
}

/// A call that stays in flight holds a retiring connection open; calls beside it go over a new one.
#[tokio::test]
async fn calls_beside_a_long_one_survive_retirement() {
    let limits = Limits { connection_age_max: Duration::from_millis(100), ..Limits::default() };
    metrics();
    let world = World::named("beside", Arc::new(testkit::ca::Ca::new()), limits).await;
    let (gateway, _directory) = world.peer("gateway");
    let mut channel = channel(&gateway, "serving", &addresses([&world]));
    let slow = tokio::spawn(send(&mut channel, "/slow"));
    world.until_handled(1).await;
    let deadline = Instant::now() + PATIENCE;
    while aged("beside") < 4 {
        assert_eq!(send(&mut channel, "/who").await.unwrap().status(), StatusCode::OK);
        assert!(Instant::now() < deadline, "connections do not age");
    }
    world.open_gate();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
}

/// A deadline ends a call that the server does not answer, as such and not as a lost connection.
#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let world = World::with(Limits::default()).await;
    let (gateway, _directory) = world.peer("gateway");
    let mut channel = channel(&gateway, "serving", &addresses([&world]));
    let mut request = http::Request::get("/slow").body(tonic::body::Body::empty()).unwrap();
    request.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let status = timeout(PATIENCE, channel.call(request)).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

fn send(channel: &mut Channel, path: &str) -> <Channel as Service<http::Request<tonic::body::Body>>>::Future {
    channel.call(http::Request::get(path).body(tonic::body::Body::empty()).unwrap())
}

/// Connections that retire ten times a second lose no call.
#[tokio::test]
async fn retirements_lose_no_call() {
    metrics();
    let limits = Limits { connection_age_max: Duration::from_millis(100), ..Limits::default() };
    let world = World::named("aging", Arc::new(testkit::ca::Ca::new()), limits).await;
    let (gateway, _directory) = world.peer("gateway");
    let ledger = LedgerClient::new(channel(&gateway, "serving", &addresses([&world])));
    let load = Load::start(&ledger);
    until("connections retire again and again", || aged("aging") >= 25).await;
    load.assert_none_failed().await;
}

/// Certificates renewed on both sides, and the CA bundle with them, lose no call.
#[tokio::test]
async fn renewals_lose_no_call() {
    let world = World::with(Limits::default()).await;
    let (gateway, directory) = world.peer("gateway");
    let stop = CancellationToken::new();
    for identity in [&world.identity, &gateway] {
        tokio::spawn(identity.clone().watch(stop.clone()));
    }
    let ledger = LedgerClient::new(channel(&gateway, "serving", &addresses([&world])));
    let load = Load::start(&ledger);
    let bundle = [&*world.ca, &testkit::ca::Ca::foreign()];
    for (identity, at) in [(&gateway, directory.path()), (&world.identity, world.directory.path())] {
        let mut changes = identity.changes();
        testkit::ca::Ca::write_bundle(&bundle, at);
        timeout(PATIENCE, changes.wait_for(|now| now.trust == 1)).await.unwrap().unwrap();
        world.ca.issue(&identity.name().service, &identity.name().instance, at);
        timeout(PATIENCE, changes.wait_for(|now| now.trust == 2)).await.unwrap().unwrap();
    }
    load.assert_none_failed().await;
    stop.cancel();
}

/// Eight callers, each with one call after the other.
struct Load {
    stop: CancellationToken,
    callers: Vec<tokio::task::JoinHandle<Result<u64, tonic::Status>>>,
}

// === impl Load ===

impl Load {
    fn start(ledger: &LedgerClient<Channel>) -> Self {
        let stop = CancellationToken::new();
        let caller = |mut ledger: LedgerClient<Channel>, stop: CancellationToken| async move {
            let mut calls = 0;
            while !stop.is_cancelled() {
                timeout(PATIENCE, ledger.report_minutes(report())).await.expect("a call hung")?;
                calls += 1;
            }
            Ok(calls)
        };
        let callers = (0..8).map(|_| tokio::spawn(caller(ledger.clone(), stop.clone()))).collect();
        Self { stop, callers }
    }

    async fn assert_none_failed(self) {
        self.stop.cancel();
        for caller in self.callers {
            let calls = caller.await.unwrap().unwrap();
            assert!(calls > 10, "only {calls} calls were made");
        }
    }
}
