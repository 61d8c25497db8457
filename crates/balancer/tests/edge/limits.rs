//! One past every limit, and what must not be read in two ways.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::{
    raw::{Raw, http2},
    world::{Platform, SOON},
};

/// Heads that another parser could read differently get 400 and never reach a replica.
#[tokio::test]
async fn ambiguous_heads_are_refused() {
    let platform = Platform::start(1).await;
    for head in [
        "POST /v2/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /v2/echo HTTP/1.1\nHost: a\n\n",
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\nX: y\nZ: w\r\n\r\n",
        "GET /v2/echo HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /v2/echo HTTP/1.1\r\n\r\n",
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://a/v2/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx",
        "GET /v2/echo HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
    ] {
        let answer = Raw::exchange(&platform, head).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?} got {answer:?}");
        assert!(answer.contains("{\"error\":") == head.contains(" /v2/"), "in the form of its route: {answer:?}");
    }
    assert_eq!(platform.serving[0].seen.count(), 0);
}

/// One byte over the header limit is 431, in HTTP/1.1 and HTTP/2.
#[tokio::test]
async fn long_headers_are_431() {
    let platform = Platform::start(1).await;
    let head = |padding: usize| format!("GET /v2/echo HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding));
    let fixed = head(0).len();
    let mut raw = Raw::open(&platform).await;
    raw.write(head(20_000)).await;
    assert!(raw.read_response().await.starts_with("HTTP/1.1 200 "));
    let answer = Raw::exchange(&platform, head(32 * 1024 + 1 - fixed)).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let mut request = platform.client.get(platform.url("/v2/echo"));
    for n in 0..40 {
        request = request.header(format!("x-padding-{n}"), "x".repeat(1000));
    }
    assert_eq!(request.send().await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

/// A header that trickles in is answered and closed at its deadline, and others do not notice.
#[tokio::test]
async fn a_trickling_header_ends() {
    let platform = Platform::start_with(1, "front.limits.header_timeout_ms = 500").await;
    let mut raw = Raw::open(&platform).await;
    let began = Instant::now();
    raw.write("GET /v2/echo HTTP/1.1\r\nHost: a\r\n").await;
    let mut written = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while began.elapsed() < Duration::from_millis(400) {
        pace.tick().await;
        raw.write("X: y\r\n").await;
        written += 1;
    }
    assert!(written > 2);
    let answer = raw.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(platform.get("/health").await.status(), 200);
}

/// A body over its limit is 413 by its declared length, and by its bytes when it declares none.
#[tokio::test]
async fn long_bodies_are_413() {
    let platform = Platform::start_with(1, "routes.inference_body_bytes_max = 1000").await;
    let post = |bytes: usize| platform.client.post(platform.url("/v2/models/m/infer")).body(vec![b'x'; bytes]);
    assert_eq!(post(1000).send().await.unwrap().status(), StatusCode::OK);
    let seen = platform.serving[0].seen.count();
    let response = post(1001).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(response.text().await.unwrap().contains("1000 bytes"));
    assert_eq!(platform.serving[0].seen.count(), seen, "refused by its length, before any replica");

    let http1 = |bytes: usize| {
        let chunk = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
        format!("POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")
    };
    let mut raw = Raw::open(&platform).await;
    raw.write(http1(1000)).await;
    assert!(raw.read_response().await.starts_with("HTTP/1.1 200 "));
    let mut raw = Raw::open(&platform).await;
    raw.write(http1(1001)).await;
    let answer = raw.read_response().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
}

/// A large body that is refused at its head still gets its answer, though it is being sent.
#[tokio::test]
async fn an_early_answer_arrives_while_the_body_is_sent() {
    let platform = Platform::start_with(1, "routes.inference_body_bytes_max = 1000").await;
    let client = platform.world.client().http1_only().build().unwrap();
    for _ in 0..5 {
        let response =
            client.post(platform.url("/v2/models/m/infer")).body(vec![b'x'; 3_000_000]).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

/// A client that sends all of its body before it looks for an answer: it is read on for some time.
#[tokio::test]
async fn an_early_answer_waits_for_a_client_that_only_writes() {
    let platform = Platform::start_with(1, "routes.inference_body_bytes_max = 1000").await;
    let body = vec![b'x'; 40 << 20];
    let length = body.len();
    for framing in
        [format!("Content-Length: {length}\r\n\r\n"), format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n")]
    {
        let mut raw = Raw::open(&platform).await;
        raw.write(format!("POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        raw.write(&body).await;
        let answer = raw.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
    }
}

/// Over HTTP/2 the answer comes whole while the body is sent, from the balancer and from a replica. A client that sends all is let finish; the stream of one
/// that stops is reset then, with NO_ERROR (RFC 9113, 8.1).
#[tokio::test]
async fn an_early_answer_over_http2_arrives_before_the_reset() {
    let platform = Platform::start_with(1, "routes.api_body_bytes_max = 1000").await;
    let mut sender = http2(&platform, platform.balancer.front).await;
    for (path, token, is_declared, status) in [
        ("/api/models/m/predict", "unknown", true, StatusCode::UNAUTHORIZED),
        ("/api/auth/token", "", true, StatusCode::PAYLOAD_TOO_LARGE),
        ("/nothing", "", false, StatusCode::NOT_FOUND),
        ("/v2/unread/infer", "", false, StatusCode::OK),
    ] {
        // What pingora reads for a replica goes on until the next byte or the end of the route's time.
        let is_own = !path.contains("/unread/");
        for sends_all in [true, false].into_iter().filter(|sends_all| *sends_all || is_own) {
            let body = bytes::Bytes::from(vec![b'x'; 5 << 20]);
            let mut request = http::Request::post(format!("https://localhost{path}"));
            if is_declared {
                request = request.header("content-length", body.len());
            }
            if !token.is_empty() {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            sender = sender.ready().await.unwrap();
            let (response, mut upload) = sender.send_request(request.body(()).unwrap(), false).unwrap();
            upload.send_data(if sends_all { body.clone() } else { body.slice(..1000) }, sends_all).unwrap();
            let (head, mut answer) = response.await.unwrap().into_parts();
            assert_eq!(head.status, status, "{path}");
            while let Some(part) = answer.data().await {
                part.unwrap();
            }
            if !sends_all {
                let reset = tokio::time::timeout(SOON, poll_fn(|cx| upload.poll_reset(cx))).await;
                assert_eq!(reset.expect(path).unwrap(), h2::Reason::NO_ERROR, "{path}");
            }
        }
    }
}

/// A route's time is over for a replica that does not answer: 504, in the route's form, within reason.
#[tokio::test]
async fn time_is_limited() {
    let platform = Platform::start_with(2, "routes.inference_time_max_ms = 400").await;
    let began = Instant::now();
    let response = platform.client.post(platform.url("/v2/held/infer")).body("{}").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(response.text().await.unwrap().starts_with("{\"error\":"));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(platform.healthy_backends().await, 2, "a slow model does not make its replica a dead one");
}

/// A body that stops arriving ends with its pause, in HTTP/1.1, where it holds a connection.
#[tokio::test]
async fn a_body_that_pauses_for_too_long_ends() {
    let platform = Platform::start_with(1, "front.limits.body_pause_max_ms = 300").await;
    let mut raw = Raw::open(&platform).await;
    raw.write("POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    let answer = raw.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("in time"), "{answer:?}");
}

/// A client that resets its requests by the hundred loses its own connection, and no other client does.
#[tokio::test]
async fn a_flood_of_resets_ends_its_connection() {
    let platform = Platform::start_with(1, "front.limits.given_up_max = 20").await;
    let tls = crate::raw::config(&platform, &[&rustls::version::TLS13], &[b"h2"]);
    let stream = crate::raw::tls_handshake(crate::raw::connect(platform.balancer.front).await, tls).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sent = 0;
    for _ in 0..2000 {
        let Ok(ready) = sender.clone().ready().await else { break };
        sender = ready;
        let request = http::Request::post("https://localhost/v2/held/infer").body(()).unwrap();
        let Ok((_, mut stream)) = sender.send_request(request, false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        sent += 1;
        tokio::task::yield_now().await;
    }
    let ended = tokio::time::timeout(SOON, connection).await.expect("the connection ends").unwrap();
    assert!(sent < 2000 || ended.is_err(), "{sent} sent");
    assert_eq!(platform.get("/health").await.status(), 200);
}

/// Calls that their client waited for, and then gave up, are no flood: its other calls go on.
#[tokio::test]
async fn calls_given_up_after_a_wait_end_no_connection() {
    const PATIENCE: Duration = Duration::from_millis(200);
    let platform = Platform::start_with(1, "front.limits.given_up_max = 20").await;
    let tls = crate::raw::config(&platform, &[&rustls::version::TLS13], &[b"h2"]);
    let stream = crate::raw::tls_handshake(crate::raw::connect(platform.balancer.front).await, tls).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let _connection = tokio::spawn(connection);
    for _ in 0..4 {
        let mut calls = Vec::new();
        for _ in 0..20 {
            sender = sender.ready().await.unwrap();
            let request = http::Request::post("https://localhost/v2/held/infer").body(()).unwrap();
            calls.push(sender.send_request(request, true).unwrap().0);
        }
        for call in calls.drain(..1) {
            tokio::time::timeout(PATIENCE, call).await.expect_err("it is held");
        }
        drop(calls);
        sender = sender.ready().await.unwrap();
        let request = http::Request::get("https://localhost/v2/echo").body(()).unwrap();
        let response = sender.send_request(request, true).unwrap().0.await.expect("the connection goes on");
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// Clients that do not read their answers hold up no other request on the same connection to the replica.
#[tokio::test]
async fn slow_readers_hold_up_no_other_request() {
    let platform = Platform::start(1).await;
    let tls = crate::raw::config(&platform, &[&rustls::version::TLS13], &[b"h2"]);
    let stream = crate::raw::tls_handshake(crate::raw::connect(platform.balancer.front).await, tls).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let _connection = tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..40 {
        sender = sender.ready().await.unwrap();
        let request = http::Request::get("https://localhost/v2/large/x").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        unread.push(response.await.unwrap().into_body());
    }
    for _ in 0..100 {
        let echo = async { platform.get("/v2/echo").await.text().await.unwrap() };
        let echo = tokio::time::timeout(SOON / 4, echo).await.expect("it is not held up");
        assert!(echo.contains("serving-1"), "{echo}");
    }
}
