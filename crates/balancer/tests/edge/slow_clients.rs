//! Clients that send or read slowly, break off, or send nonsense: that counts as their fault.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use testkit::poll_until;
use tokio::time::interval;

use crate::{
    raw::{Raw, http2},
    reports::Reporting,
    world::SOON,
};

/// Longer than the SLA's latency target.
const SLOWLY: Duration = Duration::from_millis(300);
const PACE: Duration = Duration::from_millis(20);

fn post(path: &str) -> http::Request<()> {
    http::Request::post(format!("https://localhost{path}")).body(()).unwrap()
}

/// A body in pieces, beginning now and ending after `SLOWLY`, over both protocols. Another call of the same connection goes
/// on beside the one over HTTP/2. On a machine that has much else to do our own time may be too long once, and not always.
#[tokio::test]
async fn the_time_of_a_slow_upload_is_the_clients() {
    let reporting = Reporting::start().await;
    for is_http2 in [false, true] {
        let mut slow = reporting.tracker.totals().slow;
        poll_until("an upload is not slow", SOON, async || {
            let good = reporting.tracker.totals().good;
            if is_http2 {
                upload_over_http2(&reporting).await
            } else {
                upload_over_http1(&reporting).await
            }
            reporting.wait_for("it was reported", |totals| totals.good > good).await;
            let before = std::mem::replace(&mut slow, reporting.tracker.totals().slow);
            slow == before
        })
        .await;
    }
    let totals = reporting.tracker.totals();
    assert_eq!((totals.bad, totals.client_error), (0, 0));
}

async fn upload_over_http1(reporting: &Reporting) {
    let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
    raw.write("POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (began, mut pace) = (Instant::now(), interval(PACE));
    while began.elapsed() < SLOWLY {
        pace.tick().await;
        raw.write("1\r\nx\r\n").await;
    }
    raw.write("0\r\n\r\n").await;
    assert!(raw.read_response().await.starts_with("HTTP/1.1 200 "));
}

async fn upload_over_http2(reporting: &Reporting) {
    let mut sender = http2(&reporting.platform, reporting.balancer.front).await.ready().await.unwrap();
    let (response, mut body) = sender.send_request(post("/v2/models/m/infer"), false).unwrap();
    let (began, mut pace) = (Instant::now(), interval(PACE));
    while began.elapsed() < SLOWLY {
        pace.tick().await;
        body.send_data(Bytes::from_static(b"x"), false).unwrap();
        sender = sender.ready().await.unwrap();
        let health = http::Request::get("https://localhost/v2/health/live").body(()).unwrap();
        assert_eq!(sender.send_request(health, true).unwrap().0.await.unwrap().status(), StatusCode::OK);
    }
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}

/// The whole body is ready to be sent, and the replica does not take it.
#[tokio::test]
async fn the_time_in_which_a_replica_takes_nothing_is_ours() {
    let reporting = Reporting::start().await;
    let seen = &reporting.platform.serving[0].seen;
    for (count, http) in [(1, "1"), (2, "2")] {
        let builder = reporting.platform.world.client();
        let client = if http == "1" { builder.http1_only() } else { builder }.build().unwrap();
        let before = seen.count();
        let request = client.post(reporting.url("/v2/stalled/infer")).body(vec![b'x'; 12 << 20]);
        let call = tokio::spawn(request.send());
        poll_until("it is in flight", SOON, async || seen.count() > before).await;
        let arrived = Instant::now();
        poll_until("it is slow", SOON, async || arrived.elapsed() > 3 * SLOWLY).await;
        seen.release();
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
        reporting.wait_for("it is slow in the report", |totals| (totals.good, totals.slow) == (count, count)).await;
    }
}

/// A route's time is over: 400 and the client's when it did not send all of its request, 504 and ours when it did, or when
/// a replica takes nothing.
#[tokio::test]
async fn a_time_out_is_of_whom_was_waited_for() {
    let reporting = Reporting::start_with("routes.inference_time_max_ms = 900").await;
    let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
    raw.write("POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx").await;
    let answer = raw.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("in time"), "{answer}");

    let mut sender = http2(&reporting.platform, reporting.balancer.front).await.ready().await.unwrap();
    let (response, mut body) = sender.send_request(post("/v2/models/m/infer"), false).unwrap();
    let trickle = tokio::spawn(async move {
        let mut pace = interval(PACE);
        // Until the stream is over.
        while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
            pace.tick().await;
        }
    });
    assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    trickle.abort();
    reporting.wait_for("both were reported", |totals| totals.client_error == 2).await;
    assert_eq!(reporting.tracker.totals().bad, 0);

    assert_eq!(reporting.post("/v2/held/infer").send().await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    let mut sender = http2(&reporting.platform, reporting.balancer.front).await.ready().await.unwrap();
    let (response, mut body) = sender.send_request(post("/v2/stalled/infer"), false).unwrap();
    body.send_data(Bytes::from(vec![b'x'; 12 << 20]), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
    raw.write(format!("POST /v2/stalled/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 12 << 20)).await;
    // More than a replica takes of what it does not read, and less than stays in the buffers between.
    raw.write(vec![b'x'; 3 << 19]).await;
    let answer = raw.read_response().await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    reporting.wait_for("all were reported", |totals| totals.bad == 3).await;
    assert_eq!(reporting.tracker.totals().client_error, 2);
    reporting.assert_no_errors();
}

/// A client that leaves right after it sent its request slowly has not waited for us.
#[tokio::test]
async fn a_client_that_sends_slowly_and_leaves_has_not_waited() {
    let reporting = Reporting::start().await;
    let seen = &reporting.platform.serving[0].seen;
    let mut sent = 0;
    let mut sender = http2(&reporting.platform, reporting.balancer.front).await.ready().await.unwrap();
    let (_response, mut body) = sender.send_request(post("/v2/held/infer"), false).unwrap();
    let (began, mut pace) = (Instant::now(), interval(PACE));
    // Longer than a client waits that was not answered in time.
    while began.elapsed() < Duration::from_millis(1300) {
        pace.tick().await;
        body.send_data(Bytes::from_static(b"x"), false).unwrap();
        sent += 1;
    }
    body.send_data(Bytes::from_static(b"x"), true).unwrap();
    sent += 1;
    poll_until("the replica has all of it", SOON, async || seen.held_bytes.load(Ordering::SeqCst) == sent).await;
    body.send_reset(h2::Reason::CANCEL);
    reporting.wait_for("it was reported", |totals| totals.client_error == 1).await;
    assert_eq!(reporting.tracker.totals().bad, 0);
}

/// Everything that a client can break off or spoil in HTTP/1.1.
#[tokio::test]
async fn broken_requests_of_http1_are_no_failures_of_the_service() {
    let reporting = Reporting::start().await;
    let chunked = "POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let declared = "POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
    let broken = [
        format!("{declared}too few"),
        format!("{chunked}5\r\nhal"),
        format!("{chunked}xyz\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}5\r\nhelloworld\r\n0\r\n\r\n"),
        format!("{chunked}ffffffffffffffffff\r\n"),
        format!("{chunked}5\r\nhello\r\n0\r\nbroken trailer\r\n\r\n"),
        format!("{chunked}5\r\nhello\r\n0\r\nunfinished: tr"),
    ];
    for request in &broken {
        let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
        raw.write(request).await;
        // Its side of the connection ends; whatever the answer, the connection does, too.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
        let answer = raw.read_to_end().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 200 "),
            "{request:?}: {answer:?}"
        );
    }
    // What comes in the place of the next request, while the answer is awaited.
    let (mut raw, seen) =
        (Raw::open_at(&reporting.platform, reporting.balancer.front).await, &reporting.platform.serving[0].seen);
    let before = seen.count();
    raw.write(format!("{}5\r\nhello\r\n0\r\n\r\n", chunked.replace("models", "held"))).await;
    poll_until("it is in flight", SOON, async || seen.count() > before).await;
    raw.write("\0\0garbage\0\0").await;
    assert_eq!(raw.read_to_end().await, "");
    reporting.post("/v2/models/m/infer").send().await.unwrap();
    // A trailer says nothing that matters, so a broken one may be passed over.
    reporting
        .wait_for("they were reported", |totals| totals.good + totals.client_error > broken.len() as u64 + 1)
        .await;
    let totals = reporting.tracker.totals();
    assert_eq!(totals.bad, 0, "{totals:?}");
    assert!(totals.client_error >= 6, "{totals:?}");
    reporting.assert_no_errors();
}

/// A client that leaves in the middle of its answer, at any moment, also of the trailers.
#[tokio::test]
async fn answers_that_their_client_breaks_off_are_no_failures_of_the_service() {
    let reporting = Reporting::start().await;
    let front = reporting.balancer.front;
    for _ in 0..5 {
        let mut raw = Raw::open_at(&reporting.platform, front).await;
        raw.write("GET /v2/large/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut first = [0; 100];
        tokio::io::AsyncReadExt::read_exact(&mut raw.0, &mut first).await.unwrap();
    }
    let mut sender = http2(&reporting.platform, front).await;
    for n in 0..200 {
        sender = sender.ready().await.unwrap();
        let mut request = post("/inference.GRPCInferenceService/ModelInfer");
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![0; 10_000]), true).unwrap();
        if n % 2 == 0 {
            drop(response.await);
        } else {
            let mut answer = response.await.unwrap().into_body();
            let _ = answer.data().await;
        }
        body.send_reset(h2::Reason::CANCEL);
    }
    reporting.wait_for("all were reported", |totals| totals.good + totals.client_error + totals.bad == 205).await;
    assert_eq!(reporting.tracker.totals().bad, 0);
    reporting.assert_no_errors();
}
