//! Start, stop, and renewal.

use std::time::Duration;

use http::StatusCode;
use rustix::process::Signal;
use testkit::poll_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    raw::{Raw, config, connect, tls_handshake},
    world::{Platform, SOON},
};

/// SIGTERM: nothing new, what is in flight is finished, exit code 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_in_flight() {
    let mut platform = Platform::start(1).await;
    let http1 = platform.world.client().http1_only().build().unwrap();
    let calls: Vec<_> = [platform.client.clone(), http1]
        .into_iter()
        .map(|client| tokio::spawn(client.post(platform.url("/v2/held/infer")).body("{}").send()))
        .collect();
    poll_until("both are under way", SOON, async || platform.serving[0].seen.count() == 2).await;
    platform.balancer.signal(Signal::TERM);
    let front = platform.balancer.front;
    poll_until("the listener is closed", SOON, async || TcpStream::connect(front).await.is_err()).await;
    platform.release_held();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.text().await.unwrap().contains("serving-1"));
    }
    assert!(platform.balancer.exit(Duration::from_secs(15)).await.success());
}

/// A client whose connection breaks with the process is refused when it connects again, so that a proxy in front of the
/// balancer sends it elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_closes_its_listener_first() {
    let mut platform = Platform::start(1).await;
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(TcpStream::connect(platform.balancer.front).await.unwrap());
    }
    platform.get("/health").await;
    let (front, others) = platform.balancer.descriptors();
    assert!(front > others + 1000, "the listener has descriptor {front}, others up to {others}");
    platform.balancer.signal(Signal::KILL);
    let ends = connections.iter_mut().map(|connection| Box::pin(connection.read_u8()));
    let (_, first, _) = futures::future::select_all(ends).await;
    let again = TcpStream::connect(platform.balancer.front).await;
    assert!(again.is_err(), "connection {first} has ended, and another was accepted");
    platform.balancer.exit(SOON).await;
}

/// An HTTP/2 connection, frame by frame, of a client that sends nothing after its preface.
struct UnresponsiveClient(Raw, Vec<u8>);

impl UnresponsiveClient {
    const GOAWAY: u8 = 7;
    const SETTINGS: u8 = 4;

    async fn open(platform: &Platform) -> Self {
        let tls = config(platform, &[&rustls::version::TLS13], &[b"h2"]);
        let mut raw = Raw(tls_handshake(connect(platform.balancer.front).await, tls).await.unwrap());
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let mut client = Self(raw, Vec::new());
        assert!(client.wait_for(Self::SETTINGS).await);
        client
    }

    /// Reads up to a frame of this kind, or to the end.
    async fn wait_for(&mut self, kind: u8) -> bool {
        loop {
            while let Some([a, b, c, found, ..]) = self.1.first_chunk::<9>().copied() {
                let length = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.1.len() < length {
                    break;
                }
                self.1.drain(..length);
                if found == kind {
                    return true;
                }
            }
            let read = timeout(SOON, self.0.0.read_buf(&mut self.1)).await.expect("a frame or the end");
            if read.unwrap_or(0) == 0 {
                return false;
            }
        }
    }
}

/// A client that does not react to GOAWAY does not hold up a stop.
#[tokio::test]
async fn an_unresponsive_client_does_not_hold_up_a_stop() {
    let mut platform = Platform::start(1).await;
    let mut client = UnresponsiveClient::open(&platform).await;
    platform.balancer.signal(Signal::TERM);
    assert!(client.wait_for(UnresponsiveClient::GOAWAY).await);
    assert!(platform.balancer.exit(Duration::from_secs(6)).await.success());
}

/// An idle connection gets a GOAWAY before it is closed, so that a client does not lose the request it is just sending.
#[tokio::test]
async fn an_idle_connection_gets_a_goaway() {
    let platform = Platform::start_with(1, "front.limits.idle_timeout_ms = 500").await;
    let mut client = UnresponsiveClient::open(&platform).await;
    assert!(client.wait_for(UnresponsiveClient::GOAWAY).await);
    let mut rest = Vec::new();
    let _ =
        timeout(SOON, client.0.0.read_to_end(&mut rest)).await.expect("it is closed, without a frame of the client");
    let _ = client.0.0.shutdown().await;
}

/// Every certificate is renewed while requests run, and none fails.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_fail_nothing() {
    let platform = Platform::start(2).await;
    let serial = || {
        let log = platform.balancer.log();
        log.iter().filter(|line| line.to_string().contains("new certificate files are in use")).count()
    };
    for round in 1..=3 {
        for instance in ["balancer-1", "serving-1", "serving-2", "gateway-1"] {
            platform.world.renew(instance);
        }
        poll_until("the balancer has the new one", SOON, async || {
            // A new connection each time, as half of the clients have.
            let client = platform.world.client().build().unwrap();
            for client in [&client, &platform.client] {
                let response = client.post(platform.url("/v2/models/m/infer")).body("{}").send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
            }
            serial() >= round
        })
        .await;
    }
    platform.wait_healthy(2).await;
}

/// A configuration with faults is refused with all of them, and exit code 2.
#[test]
fn a_faulty_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("balancer.toml");
    std::fs::write(&file, "proxy.attempts_max = 0\naccess.calls_max = 0\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rampart-balancer"))
        .args(["check-config", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("proxy.attempts_max") && message.contains("access.calls_max"), "{message}");
}
