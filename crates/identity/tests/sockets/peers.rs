//! Between peers: certificates on both sides, checked on both sides.

use identity::{Identity, IdentityConfig, PeerName};
use rustls::{NamedGroup, ProtocolVersion};
use testkit::ca::{Ca, Leaf};

use crate::handshake::{client_builder, client_with, identity, peers, server_with, shake, tls12_provider};

const SERVING: &str = "serving.rampart.internal";

/// Two services of the platform agree on TLS 1.3, the hybrid group and HTTP/2, each sees the other's name, and nothing can be resumed.
#[tokio::test]
async fn listed_peers_get_through() {
    let ca = Ca::new();
    let (serving, _a) = identity(&ca, "serving");
    let (gateway, _b) = identity(&ca, "gateway");
    let outcome = shake(serving.server_config(&peers(&["gateway"])), gateway.client_config("serving"), SERVING).await;
    let (server, client) = (outcome.server.unwrap(), outcome.client.unwrap());
    for side in [&server, &client] {
        assert_eq!(side.version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(side.group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(side.alpn.as_deref(), Some(b"h2".as_slice()));
    }
    assert_eq!(PeerName::from_certificate(&server.peer[0]).unwrap(), gateway.name());
    assert_eq!(PeerName::from_certificate(&client.peer[0]).unwrap(), serving.name());
    assert_eq!(client.tickets, 0, "a resumed session would skip the verification of the client");
}

/// A third party is identified by the platform's CA and the DNS name that is dialled, and sees the client's certificate.
#[tokio::test]
async fn third_parties_are_identified_by_the_name_that_is_dialled() {
    let (ca, foreign) = (Ca::new(), Ca::foreign());
    let (serving, _a) = identity(&ca, "serving");
    let directory = tempfile::tempdir().unwrap();
    ca.issue_leaf(&Leaf::of("mlflow", "mlflow-1").dns_names(&["mlflow.rampart.internal", "mlflow"]), directory.path());
    let mlflow = Identity::load(&IdentityConfig { directory: directory.path().to_owned() }).unwrap();
    let server = || mlflow.server_config(&peers(&["serving"]));
    let outcome = shake(server(), serving.third_party_client_config(), "mlflow").await;
    assert_eq!(PeerName::from_certificate(&outcome.server.unwrap().peer[0]).unwrap(), serving.name());
    assert_eq!(outcome.client.unwrap().version, Some(ProtocolVersion::TLSv1_3));

    assert!(shake(server(), serving.third_party_client_config(), "minio").await.client.is_err(), "another name");
    let (untrusted, _b) = identity(&foreign, "mlflow");
    let untrusted = untrusted.server_config(&peers(&["serving"]));
    let outcome = shake(untrusted, serving.third_party_client_config(), "localhost").await;
    assert!(outcome.client.is_err(), "a foreign CA");
}

/// A client with a wrong certificate reads an alert that names the fault, and the server has no connection.
#[tokio::test]
async fn clients_that_are_not_listed_peers_are_refused() {
    let (ca, foreign) = (Ca::new(), Ca::foreign());
    let (serving, _directory) = identity(&ca, "serving");
    let gateway = || Leaf::of("gateway", "gateway-1");
    let uri = "spiffe://rampart.internal/svc/gateway/gateway-1";
    let cases = [
        ("foreign CA", &foreign, gateway(), "UnknownCA"),
        ("expired", &ca, gateway().valid(-3600, -60), "CertificateExpired"),
        ("not yet valid", &ca, gateway().valid(3600, 7200), "CertificateExpired|BadCertificate"),
        ("for servers only", &ca, gateway().server_only(), "BadCertificate|UnsupportedCertificate"),
        ("not listed", &ca, Leaf::of("backup", "backup-1"), "AccessDenied"),
        ("no URI name", &ca, gateway().uris(&[]), "AccessDenied"),
        ("two URI names", &ca, gateway().uris(&[uri, uri]), "AccessDenied"),
        ("other domain", &ca, gateway().uris(&["spiffe://evil.example/svc/gateway/gateway-1"]), "AccessDenied"),
        ("no instance", &ca, gateway().uris(&["spiffe://rampart.internal/svc/gateway"]), "AccessDenied"),
    ];
    for (what, signed_by, leaf, alerts) in cases {
        let client = client_with(&ca, signed_by, &leaf);
        let outcome = shake(serving.server_config(&peers(&["gateway"])), client, SERVING).await;
        let refused = alerts.split('|').any(|alert| outcome.is_refused_with(alert));
        assert!(refused, "{what}: server {:?}, client {:?}", outcome.server, outcome.client);
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = Ca::new();
    let (serving, _directory) = identity(&ca, "serving");
    let anonymous = client_builder(identity::crypto_provider(), &ca).with_no_client_auth();
    let outcome = shake(serving.server_config(&peers(&["gateway"])), anonymous.into(), SERVING).await;
    assert!(outcome.is_refused_with("CertificateRequired"), "{:?} {:?}", outcome.server, outcome.client);
}

/// A client that can only speak TLS 1.2 is refused before certificates are exchanged.
#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let ca = Ca::new();
    let (serving, _directory) = identity(&ca, "serving");
    let old = client_builder(tls12_provider(), &ca).with_no_client_auth();
    let outcome = shake(serving.server_config(&peers(&["gateway"])), old.into(), SERVING).await;
    assert!(outcome.is_refused_with("ProtocolVersion"), "{:?} {:?}", outcome.server, outcome.client);
}

/// A client accepts only the service it is configured for, whatever name it dialled.
#[tokio::test]
async fn servers_that_are_not_the_service_are_refused() {
    let (ca, foreign) = (Ca::new(), Ca::foreign());
    let (gateway, _directory) = identity(&ca, "gateway");
    let serving = || Leaf::of("serving", "serving-1");
    let cases = [
        ("foreign CA", &foreign, serving()),
        ("expired", &ca, serving().valid(-3600, -60)),
        ("another service", &ca, Leaf::of("backup", "backup-1")),
        ("DNS name of another", &ca, serving().dns_names(&["backup.rampart.internal", "localhost"])),
        ("URI name of another", &ca, serving().uris(&["spiffe://rampart.internal/svc/backup/backup-1"])),
        ("no URI name", &ca, serving().uris(&[])),
    ];
    for (what, signed_by, leaf) in cases {
        for dialled in [SERVING, "localhost", "backup.rampart.internal"] {
            let outcome = shake(server_with(signed_by, &leaf), gateway.client_config("serving"), dialled).await;
            assert!(outcome.client.is_err(), "{what}, dialled as {dialled}");
        }
    }
    let outcome = shake(server_with(&ca, &serving()), gateway.client_config("serving"), "localhost").await;
    assert!(outcome.client.is_ok(), "the right service was refused: {:?}", outcome.client);
}

/// Does something to the files of a directory that no peer would accept.
type Spoil<'a> = &'a dyn Fn(&std::path::Path);

/// Files that peers would refuse do not even load.
#[test]
fn files_that_peers_would_refuse_do_not_load() {
    use std::{fs, os::unix::fs::PermissionsExt};

    let ca = Ca::new();
    let cases: [(&str, Spoil<'_>); 7] = [
        ("expired", &|at| ca.issue_leaf(&Leaf::of("gateway", "gateway-1").valid(-3600, -60), at)),
        ("servers only", &|at| ca.issue_leaf(&Leaf::of("gateway", "gateway-1").server_only(), at)),
        ("two names", &|at| ca.issue_leaf(&Leaf::of("gateway", "gateway-1").uris(&["a:b", "c:d"]), at)),
        ("foreign", &|at| fs::write(at.join("ca.pem"), Ca::foreign().pem()).unwrap()),
        ("open key", &|at| fs::set_permissions(at.join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap()),
        ("no bundle", &|at| fs::write(at.join("ca.pem"), "").unwrap()),
        ("not PEM", &|at| fs::write(at.join("certificate.pem"), b"\x80\x04\x95").unwrap()),
    ];
    for (what, spoil) in cases {
        let directory = tempfile::tempdir().unwrap();
        let config = IdentityConfig { directory: directory.path().to_owned() };
        ca.issue("gateway", "gateway-1", directory.path());
        Identity::load(&config).unwrap();
        spoil(directory.path());
        assert!(Identity::load(&config).is_err(), "{what} was loaded");
    }
}
