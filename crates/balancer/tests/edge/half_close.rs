//! Clients that end their side of an HTTP/1.1 connection after the request: those that wait for the answer, and those that have left.

use std::time::Instant;

use testkit::poll_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    raw::Raw,
    reports::Reporting,
    world::{Platform, SOON},
};

const HELD: &str = "POST /v2/held/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
const HELD_IN_CHUNKS: &str =
    "POST /v2/held/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";

/// Sends a request and then the end: close_notify, and FIN with it.
async fn send_all(raw: &mut Raw, request: &str) {
    raw.write(request).await;
    raw.0.shutdown().await.unwrap();
}

/// The answer comes, whichever way the request ended, and then the end of the connection.
#[tokio::test]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let platform = Platform::start(1).await;
    for request in [
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /v2/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST /v2/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "GET /v2/large/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        // Two at once, both of which are answered.
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut raw = Raw::open(&platform).await;
        send_all(&mut raw, request).await;
        let answer = raw.read_to_end().await;
        let answered = answer.matches("HTTP/1.1 200 ").count();
        assert_eq!(answered, request.matches("HTTP/1.1\r\n").count(), "{request:?}: {answer:.300?}");
        assert!(!request.contains("large") || answer.len() > 4 << 20, "all of it");
    }
}

/// One that takes long: the client is asked whether it is still there, which it may pass over, and gets its answer.
#[tokio::test]
async fn a_client_that_has_ended_its_side_may_wait_for_long() {
    let platform = Platform::start(1).await;
    for request in [HELD, HELD_IN_CHUNKS] {
        let mut raw = Raw::open(&platform).await;
        send_all(&mut raw, request).await;
        let mut received = Vec::new();
        while received.len() < 25 {
            let read = tokio::time::timeout(SOON, raw.0.read_buf(&mut received)).await.unwrap().unwrap();
            assert!(read > 0, "the connection is open");
        }
        assert_eq!(String::from_utf8_lossy(&received), "HTTP/1.1 100 Continue\r\n\r\n");
        platform.release_held();
        let answer = raw.read_to_end().await;
        assert!(answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n").starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// Before the end of the request its end is a broken request, as ever.
#[tokio::test]
async fn an_end_in_the_middle_of_a_request_is_no_request() {
    let reporting = Reporting::start().await;
    let seen = &reporting.platform.serving[0].seen;
    let before = seen.count();
    for request in [&HELD[..HELD.len() - 1], &HELD_IN_CHUNKS[..HELD_IN_CHUNKS.len() - 2]] {
        let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
        let began = Instant::now();
        send_all(&mut raw, request).await;
        assert!(!raw.read_to_end().await.contains(" 200 "));
        assert!(began.elapsed() < SOON / 4, "nothing is waited for");
    }
    reporting.wait_for("both were reported", |totals| totals.client_error == 2).await;
    assert!(seen.count() <= before + 2);
    reporting.assert_no_errors();
}

/// A client that says goodbye and closes has left, though that is seen only when it is sent something. It has not waited for long.
#[tokio::test]
async fn a_client_that_has_said_goodbye_and_closed_is_found_out() {
    let reporting = Reporting::start().await;
    let seen = &reporting.platform.serving[0].seen;
    for (count, request) in [(1, HELD), (2, HELD_IN_CHUNKS)] {
        let before = seen.count();
        let mut raw = Raw::open_at(&reporting.platform, reporting.balancer.front).await;
        raw.write(request).await;
        poll_until("it is in flight", SOON, async || seen.count() > before).await;
        raw.0.shutdown().await.unwrap();
        drop(raw);
        // It is never released.
        reporting.wait_for("it was found out", |totals| totals.client_error + totals.bad == count).await;
    }
    reporting.assert_no_errors();
}
