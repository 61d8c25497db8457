//! One past every limit.

use std::{convert::Infallible, task::Poll, time::Duration};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::StreamBody;
use hyper::{body::Frame, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, Interval, interval_at, timeout},
};
use transport::Limits;

use crate::world::{PATIENCE, World, get_request, post_request, text};

const SHORT: Duration = Duration::from_millis(300);
/// What a deadline of `SHORT` may take on a loaded machine.
const IN_TIME: Duration = Duration::from_secs(3);

/// A client that connects and sends nothing holds a connection no longer than the handshake may take.
#[tokio::test]
async fn a_silent_handshake_is_closed_in_time() {
    let world = World::with(Limits { handshake_timeout: SHORT, ..Limits::default() }).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert_closed_in_time(&mut silent, "no handshake").await;
}

/// A header that never ends is cut off, however busily it arrives.
#[tokio::test]
async fn a_header_that_never_ends_is_closed_in_time() {
    let world = World::with(Limits { header_timeout: SHORT, ..Limits::default() }).await;
    let mut stream = world.tls1("gateway").await;
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut pace = pace(Duration::from_millis(20));
    let trickle = async {
        while writer.write_all(b"a").await.is_ok() && writer.flush().await.is_ok() {
            pace.tick().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = assert_closed_in_time(&mut reader, "a trickle") => {}
        () = trickle => {}
    }
    assert_eq!(world.handled(), 0);
}

/// HTTP/2 has three places to be silent in: before the preface, within it, and within a header block.
#[tokio::test]
async fn an_http2_peer_that_stops_midway_is_closed_in_time() {
    let limits = Limits { header_timeout: SHORT, ping_interval: SHORT, ping_timeout: SHORT, ..Limits::default() };
    let world = World::with(limits).await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // HEADERS on stream 1 without END_HEADERS: a CONTINUATION has to follow.
    let open_headers: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("half a preface", preface[..12].to_vec()),
        ("half a header", [preface, settings, open_headers].concat()),
    ] {
        let mut stream = world.tls(world.client("gateway")).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        assert_closed_in_time(&mut stream, what).await;
    }
    assert_eq!(world.handled(), 0);
}

/// A header block that goes on in one CONTINUATION after the other is cut off like one that stops.
#[tokio::test]
async fn an_http2_header_that_never_ends_is_closed_in_time() {
    let world = World::with(Limits { ping_interval: SHORT, ping_timeout: SHORT, ..Limits::default() }).await;
    let stream = world.tls(world.client("gateway")).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    writer.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await.unwrap();
    let mut pace = pace(Duration::from_millis(100));
    let trickle = async {
        while writer.write_all(&[0, 0, 1, 9, 0, 0, 0, 0, 1, 0x86]).await.is_ok() && writer.flush().await.is_ok() {
            pace.tick().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = assert_closed_in_time(&mut reader, "a trickle") => {}
        () = trickle => {}
    }
    assert_eq!(world.handled(), 0);
}

#[tokio::test]
async fn an_over_long_header_is_431() {
    let world = World::with(Limits { header_bytes_max: 16 * 1024, ..Limits::default() }).await;
    let long = || {
        let mut request = get_request("/who");
        request.headers_mut().insert("x-long", "a".repeat(17 * 1024).parse().unwrap());
        request
    };
    let (mut http1, _driver) = world.http1("gateway").await;
    let response = http1.send_request(long()).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let (mut http2, _driver) = world.http2("gateway").await;
    let response = http2.send_request(long()).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(world.handled(), 0);
}

/// A body is taken up to the limit, refused by its announcement beyond, and by counting if it announces nothing.
#[tokio::test]
async fn an_over_long_body_is_413() {
    let max = 3 * 1024 * 1024;
    let world = World::with(Limits { body_bytes_max: max, ..Limits::default() }).await;
    let (mut http2, _driver) = world.http2("gateway").await;
    let response = http2.send_request(post_request("/length", vec![0; max])).await.unwrap();
    assert_eq!(text(response).await, max.to_string());

    let response = http2.send_request(post_request("/length", vec![0; max + 1])).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(world.handled(), 1, "an announced excess reached the handler");

    let frames = std::iter::repeat_n(Bytes::from(vec![0; 64 * 1024]), max / (64 * 1024) + 1);
    let unannounced = StreamBody::new(futures::stream::iter(frames.map(|data| Ok::<_, Infallible>(Frame::data(data)))));
    let stream = TokioIo::new(world.tls1("gateway").await);
    let (mut http1, connection) = http1::handshake(stream).await.unwrap();
    let _driver = tokio::spawn(connection);
    let request = post_request("/length", "").map(|_| unannounced);
    let response = http1.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

/// A response made without the body waits for the body's end: a stream that were reset before would look, to a proxy that is
/// still sending, like a request that was lost.
#[tokio::test]
async fn an_unread_body_is_drained() {
    let world = World::with(Limits::default()).await;
    let stream = world.tls(world.client("gateway")).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let _driver = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let (mut answer, mut body) = client.send_request(post_request("/nowhere", "").map(drop), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    world.until_handled(1).await;
    assert!(timeout(SHORT, &mut answer).await.is_err(), "the answer overtook the body");

    body.send_data(Bytes::from_static(b"the rest"), true).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12", "there is nothing at this path");
    assert!(std::future::poll_fn(|cx| Poll::Ready(body.poll_reset(cx).is_pending())).await, "the stream was reset");
}

/// A body that stops halfway ends its request, not only when the peer is gone.
#[tokio::test]
async fn a_body_that_stops_fails_in_time() {
    let world = World::with(Limits { body_idle_timeout: SHORT, ..Limits::default() }).await;
    let mut stream = world.tls1("gateway").await;
    stream.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    let mut status_line = [0; 12];
    timeout(IN_TIME, stream.read_exact(&mut status_line)).await.expect("no answer in time").unwrap();
    assert_eq!(&status_line, b"HTTP/1.1 400");
}

/// One connection too many is closed at once; when another ends there is room again.
#[tokio::test]
async fn one_connection_too_many_is_closed_unanswered() {
    let world = World::with(Limits { connections_max: 2, ..Limits::default() }).await;
    let (first, _driver) = world.http2("gateway").await;
    let (mut second, _driver2) = world.http2("gateway").await;
    let refused = world.tls(world.client("gateway")).await;
    assert!(refused.is_err(), "a third connection was taken");
    assert_eq!(second.send_request(get_request("/who")).await.unwrap().status(), StatusCode::OK);

    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while world.tls(world.client("gateway")).await.is_err() {
        assert!(Instant::now() < deadline, "the room of a closed connection was not given back");
    }
}

/// The time between two bytes of a trickle, the first of which is sent before.
fn pace(pause: Duration) -> Interval {
    interval_at(Instant::now() + pause, pause)
}

async fn assert_closed_in_time(stream: &mut (impl AsyncRead + Unpin), what: &str) {
    let started = Instant::now();
    // Settings, pings and a GOAWAY may come first; what matters is that the connection ends.
    let mut received = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
    assert!(ended.is_ok() && started.elapsed() < IN_TIME, "{what}: still open after {:?}", started.elapsed());
    assert!(started.elapsed() >= SHORT / 2, "{what}: closed after {:?}, which was no deadline", started.elapsed());
}
