//! The public front: no client certificate, otherwise as strict.

use rustls::{NamedGroup, ProtocolVersion};
use testkit::ca::Ca;

use crate::handshake::{client_builder, identity, shake, tls12_provider};

#[tokio::test]
async fn clients_without_certificate_are_accepted_with_tls_1_3_only() {
    let ca = Ca::new();
    let (balancer, _directory) = identity(&ca, "balancer");
    let front = identity::front_server_config(&balancer);

    let client = client_builder(identity::crypto_provider(), &ca).with_no_client_auth();
    let agreed = shake(front.clone(), client.into(), "localhost").await.client.unwrap();
    assert_eq!(agreed.version, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(agreed.group, Some(NamedGroup::X25519MLKEM768));

    let old = client_builder(tls12_provider(), &ca).with_no_client_auth();
    let outcome = shake(front, old.into(), "localhost").await;
    assert!(outcome.is_refused_with("ProtocolVersion"), "{:?} {:?}", outcome.server, outcome.client);
}
