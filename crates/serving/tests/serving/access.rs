//! Who gets in: the peer list first, then the passport, then the policy.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::Method;
use policy::{Action, Role};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use testkit::ca::Ca;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Serving,
    client::Answer,
    models::{tensor, write_steps},
};

/// Every declared route refuses a caller without a passport, but the anonymous ones; and a peer that may call another.
#[tokio::test]
async fn every_route_asks_for_a_passport_and_a_listed_peer() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let (anonymous, operator) = (serving.client_with(None).await, serving.client("operator").await);
    let before = predictions(&serving).await;
    for route in serving::declared_routes() {
        let path = route.path.replace("{model}", "steps").replace("{version}", "1");
        let is_grpc = path.starts_with("/inference.") || path.starts_with("/grpc.");
        let headers: &[(&str, &str)] =
            if is_grpc { &[("content-type", "application/grpc"), ("te", "trailers")] } else { &[] };
        let answer = anonymous.call(route.method.clone(), &path, headers, Bytes::new()).await;
        let is_open = matches!(route.action, Action::ReadInferenceHealth | Action::ReadOpenapi | Action::CheckHealth);
        match (is_open, is_grpc) {
            (true, _) => assert!(answer.status == 200 && code(&answer).is_none_or(|code| code != "16"), "{path}"),
            (false, true) => assert_eq!(code(&answer), Some("16"), "{path}"),
            (false, false) => {
                assert_eq!(answer.status, 401, "{path}");
                assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"rampart\"", "{path}");
            }
        }
        if route.action != Action::CheckHealth {
            let answer = operator.call(route.method, &path, headers, Bytes::new()).await;
            assert!(answer.status == 403 || code(&answer) == Some("7"), "{path}: {answer:?}");
        }
    }
    assert_eq!(before, predictions(&serving).await, "no refused call reached a handler");
}

fn code(answer: &Answer) -> Option<&str> {
    answer.headers.get("grpc-status").map(|code| code.to_str().unwrap())
}

async fn predictions(serving: &Serving) -> BTreeSet<String> {
    serving.metrics().await.lines().filter(|line| line.starts_with("ml_predictions_total")).map(str::to_owned).collect()
}

/// A viewer reads and does not predict; an engineer loads; an operator does neither.
#[tokio::test]
async fn roles_decide() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))] });
    for (role, read, infer, load) in [
        (Role::Viewer, 200, 403, 403),
        (Role::Analyst, 200, 200, 403),
        (Role::Engineer, 200, 200, 200),
        (Role::Operator, 200, 403, 403),
    ] {
        let client = serving.client_with(Some(serving.passport(&[role]))).await;
        assert_eq!(client.get("/v2/models/steps").await.status, read, "{role}");
        assert_eq!(client.infer("steps", &body).await.status, infer, "{role}");
        assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, load, "{role}");
    }
    let bad = serving.client_with(Some("not.a.passport".to_owned())).await;
    assert_eq!(bad.get("/v2/health/live").await.status, 401, "a bad passport is refused on open routes too");
}

/// A service that may call nothing here, and a certificate of another authority, end at the handshake.
#[tokio::test]
async fn certificates_of_another_ca_fail_the_handshake() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let gateway = serving.client("gateway").await;
    assert!(gateway.try_call(Method::GET, "/v2/health/live", &[], Bytes::new()).await.is_err());
    // The same handshake by hand, since the platform's client would not even load the foreign certificate.
    assert_eq!(handshake(&serving, &serving.ca).await, Ok(()));
    let alert = handshake(&serving, &Ca::foreign()).await.unwrap_err();
    assert!(alert.contains("UnknownCA"), "{alert}");
}

/// What a caller reads who shows a balancer's certificate of this authority: the server's first bytes, or its alert.
async fn handshake(serving: &Serving, issuer: &Ca) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    issuer.issue("balancer", "balancer-1", folder.path());
    let chain = CertificateDer::pem_file_iter(folder.path().join("certificate.pem")).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(serving.ca.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(serving.address).await.unwrap();
    let name = ServerName::try_from("serving.rampart.internal").unwrap();
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| error.to_string())?;
    // A client has finished its handshake in TLS 1.3 before the server judges its certificate.
    stream.read_u8().await.map(drop).map_err(|error| error.to_string())
}

/// The balancer's own question, which needs no passport.
#[tokio::test]
async fn health_is_for_peers() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let channel = serving.client_with(None).await.channel;
    let answer =
        HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
}
