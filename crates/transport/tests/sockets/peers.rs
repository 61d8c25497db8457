//! Which peers reach a handler, and which do not.

use http::{StatusCode, header};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use testkit::ca::{Ca, Leaf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Limits, ListenConfig};

use crate::world::{World, get_request, text};

/// A listed peer is served by both protocols, and the handler knows its name.
#[tokio::test]
async fn a_listed_peer_reaches_the_handler_under_its_name() {
    let world = World::with(Limits::default()).await;
    let (mut http1, _driver) = world.http1("gateway").await;
    let response = http1.send_request(get_request("/who")).await.unwrap();
    assert_eq!(text(response).await, "spiffe://rampart.internal/svc/gateway/gateway-1");

    let (mut http2, _driver) = world.http2("gateway").await;
    let response = http2.send_request(get_request("/who")).await.unwrap();
    assert_eq!(text(response).await, "spiffe://rampart.internal/svc/gateway/gateway-1");
    assert_eq!(world.handled(), 2);
}

/// Each refused client writes a request with its handshake; none reaches the handler, and each reads an alert.
#[tokio::test]
async fn refused_clients_read_an_alert_and_never_reach_a_handler() {
    let world = World::with(Limits::default()).await;
    let foreign = Ca::foreign();
    let gateway = || Leaf::of("gateway", "gateway-1");
    let refused = [
        ("no certificate", None, "CertificateRequired"),
        ("foreign CA", Some((&foreign, gateway())), "UnknownCA"),
        ("expired", Some((&*world.ca, gateway().valid(-3600, -60))), "CertificateExpired"),
        ("not on the list", Some((&*world.ca, Leaf::of("backup", "backup-1"))), "AccessDenied"),
    ];
    for (case, leaf, alert) in refused {
        let mut stream = world.tls(client_config(&world.ca, leaf).into()).await.unwrap();
        let _sent = stream.write_all(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let error = stream.read_u8().await.unwrap_err();
        assert!(error.to_string().contains(alert), "{case} read {error}");
    }
    assert_eq!(world.handled(), 0);
}

/// A right certificate is not enough for a path of others: 403 in the path's form, or PERMISSION_DENIED.
#[tokio::test]
async fn a_listed_peer_is_refused_on_the_paths_of_others() {
    let world = World::with(Limits::default()).await;
    let (mut http2, _driver) = world.http2("gateway").await;
    for path in ["/admin/x", "/admin", "/who/../admin/x", "//admin/x"] {
        let response = http2.send_request(get_request(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json", "{path}");
    }

    let mut call = get_request("/admin.Service/Method");
    call.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    let (mut operator, _driver) = world.http2("operator").await;
    let response = operator.send_request(call).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(world.handled(), 0);

    let response = operator.send_request(get_request("/admin/x")).await.unwrap();
    assert_eq!(text(response).await, "reached");
}

/// There is no server without a list, and no list without entries.
#[test]
fn a_server_without_a_list_is_no_configuration() {
    for config in [
        "address = '127.0.0.1:0'",
        "address = '127.0.0.1:0'\npeers = {}",
        "address = '127.0.0.1:0'\npeers = { '/' = [] }",
    ] {
        assert!(toml::from_str::<ListenConfig>(config).is_err(), "{config}");
    }
}

fn client_config(ca: &Ca, leaf: Option<(&Ca, Leaf)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let Some((signed_by, leaf)) = leaf else { return builder.with_no_client_auth() };
    let directory = tempfile::tempdir().unwrap();
    signed_by.issue_leaf(&leaf, directory.path());
    let chain = CertificateDer::pem_file_iter(directory.path().join("certificate.pem")).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(directory.path().join("key.pem")).unwrap();
    builder.with_client_auth_cert(chain.collect(), key).unwrap()
}
