//! TLS, plain HTTP, PROXY protocol, connection caps.

use std::time::Duration;

use rustls::NamedGroup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    raw::{Raw, config, connect, tls_handshake},
    world::Platform,
};

/// A client that can do no more than TLS 1.2 is refused; one with the hybrid group gets it.
#[tokio::test]
async fn tls_is_1_3_and_prefers_the_hybrid_group() {
    let platform = Platform::start(1).await;
    let old = config(&platform, &[&rustls::version::TLS12], &[]);
    let error = tls_handshake(connect(platform.balancer.front).await, old).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let raw = Raw::open(&platform).await;
    let (_, session) = raw.0.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

/// Both versions of HTTP are served by the same port, as the client chooses.
#[tokio::test]
async fn both_versions_of_http_are_served() {
    let platform = Platform::start(1).await;
    let response = platform.get("/health").await;
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert!(response.text().await.unwrap().contains("OK"));
    let client = platform.world.client().http1_only().build().unwrap();
    let response = client.get(platform.url("/health")).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert!(response.text().await.unwrap().contains("OK"));
}

/// Plain HTTP on the TLS port is redirected, or told that its token is exposed.
#[tokio::test]
async fn plain_http_is_answered_in_plain() {
    let platform = Platform::start(1).await;
    for (request, status, text) in [
        ("GET /v2/models HTTP/1.1\r\nHost: nebula:8095\r\n\r\n", "308", "location: https://nebula:8095/v2/models"),
        ("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer t\r\n\r\n", "400", "exposed"),
    ] {
        let mut tcp = connect(platform.balancer.front).await;
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{answer}");
    }
}

/// A silent connection is closed when the handshake's time is over.
#[tokio::test]
async fn a_silent_connection_ends_with_the_handshakes_time() {
    let platform = Platform::start_with(1, "front.limits.handshake_timeout_ms = 300").await;
    let mut tcp = connect(platform.balancer.front).await;
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read(&mut [0; 1])).await;
    assert!(matches!(read.expect("closed in time"), Ok(0) | Err(_)));
}

/// From a listed address the PROXY header names the client, and a connection without one, or with one of version 1, is
/// closed.
#[tokio::test]
async fn proxy_protocol_names_the_client() {
    let platform = Platform::start(1).await;
    let config_file = "front.proxy_protocol.from = [\"127.0.0.1\"]\n";
    let behind_proxy = crate::process::Balancer::start(
        &platform.world,
        &format!(
            "{config_file}pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]",
            platform.serving[0].address
        ),
    )
    .await;
    let tls = config(&platform, &[&rustls::version::TLS13], &[b"http/1.1"]);

    let tcp = connect(behind_proxy.front).await;
    assert!(tls_handshake(tcp, tls.clone()).await.is_err(), "no header, no service");

    let mut tcp = connect(behind_proxy.front).await;
    tcp.write_all(b"PROXY TCP4 192.0.2.7 127.0.0.1 5555 443\r\n").await.unwrap();
    assert!(tls_handshake(tcp, tls.clone()).await.is_err(), "version 1 is no header");

    let echo = "GET /v2/echo HTTP/1.1\r\nHost: a\r\nrampart-client-address: 1.2.3.4\r\n\r\n";
    testkit::poll_until("the replica is healthy", crate::world::SOON, async || {
        let mut tcp = connect(behind_proxy.front).await;
        tcp.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x15\xb3\x01\xbb").await.unwrap();
        let mut raw = Raw(tls_handshake(tcp, tls.clone()).await.unwrap());
        raw.write(echo).await;
        raw.read_response().await.contains("\"rampart-client-address\":\"192.0.2.7\"")
    })
    .await;
}

/// The cap of one address and the cap of all hold, and slots are given back.
#[tokio::test]
async fn connections_are_capped() {
    let platform = Platform::start_with(1, "front.limits.connections_per_address_max = 3").await;
    drop(platform.client.clone());
    let tls = config(&platform, &[&rustls::version::TLS13], &[b"http/1.1"]);
    let mut open = Vec::new();
    // The platform's own client holds one of the slots.
    for _ in 0..10 {
        if let Ok(stream) = tls_handshake(connect(platform.balancer.front).await, tls.clone()).await {
            open.push(Raw(stream));
        }
    }
    assert!((1..=3).contains(&open.len()), "{}", open.len());
    drop(open);
    testkit::poll_until("a slot is free again", crate::world::SOON, async || {
        tls_handshake(connect(platform.balancer.front).await, tls.clone()).await.is_ok()
    })
    .await;
}
