//! The admin listener: what it tells, and to whom.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use testkit::poll_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn ready_names_what_is_waited_for() {
    let world = World::new();
    let process = world.start();
    let admin = world.client("operator", process.address("admin").await);
    assert_eq!(admin.get("/live").await.0, StatusCode::OK);
    process.address("smallest").await;
    poll_until("the start is over", PATIENCE, async || {
        admin.ready().await.1["waits_for"] == serde_json::json!(["work"])
    })
    .await;
    assert_eq!(admin.ready().await.0, StatusCode::SERVICE_UNAVAILABLE);
    world.say("open");
    poll_until("the latch opens", PATIENCE, async || admin.ready().await.0 == StatusCode::OK).await;
    assert!(process.logged("ready").is_some());
}

#[tokio::test]
async fn metrics_have_the_process_and_its_requests() {
    let world = World::new();
    let process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    let admin = world.client("operator", process.address("admin").await);
    assert_eq!(client.get("/fast").await.0, StatusCode::OK);
    assert_eq!(client.get("/nowhere").await.0, StatusCode::NOT_FOUND);
    let (status, text) = admin.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "ml_build_info{service=\"smallest\",version=\"0.1.0\"} 1",
        "ml_smallest_requests_total{route=\"/fast\",outcome=\"ok\"} 1",
        "ml_smallest_requests_total{route=\"/fast\",outcome=\"error\"} 0",
        "ml_smallest_requests_total{route=\"unmatched\",outcome=\"client_error\"} 1",
        "ml_smallest_request_duration_seconds_count{route=\"/fast\"} 1",
        "ml_smallest_in_flight_requests 0",
        "# TYPE ml_process_resident_memory_bytes gauge",
        "# TYPE ml_process_cpu_seconds gauge",
        "# TYPE ml_process_open_fds gauge",
        "# TYPE ml_process_start_time_seconds gauge",
        "# TYPE ml_identity_",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains(" summary"), "{text}");
}

#[tokio::test]
async fn a_peer_that_is_not_on_the_list_learns_nothing() {
    let world = World::new();
    let process = world.start();
    let address = process.address("admin").await;
    let (ca, directory) = (&world.ca, world.path("client-balancer"));
    ca.issue("balancer", "balancer-1", &directory);
    let config = crate::world::load(&directory).client_config("smallest");
    assert_eq!(answer(address, config).await, "", "the handshake admits only the services of the peer list");
}

#[tokio::test]
async fn a_peer_without_a_certificate_learns_nothing() {
    let world = World::new();
    let process = world.start();
    let address = process.address("admin").await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(world.path("identity/ca.pem")).unwrap()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    assert_eq!(answer(address, Arc::new(config)).await, "");
}

/// All that the server says to a plain HTTP/1.1 request, until it closes.
async fn answer(address: SocketAddr, config: Arc<ClientConfig>) -> String {
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("smallest.rampart.internal").unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await else { return String::new() };
    // The refusal may come before or after the request is written: that is how TLS 1.3 works.
    let _refused = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _refused = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}
