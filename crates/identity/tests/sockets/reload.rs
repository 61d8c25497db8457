//! New files come into use while configurations made of the old ones are in service.

use std::time::Duration;

use testkit::ca::Ca;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::handshake::{identity, peers, shake};

const SERVING: &str = "serving.rampart.internal";
const PATIENCE: Duration = Duration::from_secs(10);

/// The next handshake after a renewal shows the new certificate, on both sides, with the same configurations.
#[tokio::test]
async fn a_renewed_certificate_is_presented_at_the_next_handshake() {
    let ca = Ca::new();
    let (serving, serving_files) = identity(&ca, "serving");
    let (gateway, gateway_files) = identity(&ca, "gateway");
    let stop = CancellationToken::new();
    let watches = [&serving, &gateway].map(|identity| tokio::spawn(identity.clone().watch(stop.clone())));
    let (server, client) = (serving.server_config(&peers(&["gateway"])), gateway.client_config("serving"));

    let before = shake(server.clone(), client.clone(), SERVING).await;
    for (identity, files) in [(&serving, &serving_files), (&gateway, &gateway_files)] {
        let mut changes = identity.changes();
        ca.issue(&identity.name().service, &identity.name().instance, files.path());
        let now = *timeout(PATIENCE, changes.wait_for(|now| now.reload == 1)).await.unwrap().unwrap();
        assert_eq!((now.trust, identity.generation()), (0, 1));
    }
    let after = shake(server, client, SERVING).await;
    assert_ne!(before.client.unwrap().peer, after.client.unwrap().peer, "the server's certificate stayed");
    assert_ne!(before.server.unwrap().peer, after.server.unwrap().peer, "the client's certificate stayed");

    stop.cancel();
    for watch in watches {
        timeout(PATIENCE, watch).await.unwrap().unwrap();
    }
}

/// A CA is replaced without an outage: both roots in the bundles, then new leaves, then the old root goes, and peers with
/// leaves of the old root are refused.
#[tokio::test]
async fn a_bundle_moves_trust_from_one_root_to_another() {
    let (old, new) = (Ca::new(), Ca::new());
    let (serving, serving_files) = identity(&old, "serving");
    let (gateway, gateway_files) = identity(&old, "gateway");
    let stop = CancellationToken::new();
    for identity in [&serving, &gateway] {
        tokio::spawn(identity.clone().watch(stop.clone()));
    }
    let (server, client) = (serving.server_config(&peers(&["gateway"])), gateway.client_config("serving"));
    let trust = async |identity: &identity::Identity, count| {
        timeout(PATIENCE, identity.changes().wait_for(|now| now.trust == count)).await.unwrap().unwrap();
    };

    for (identity, files) in [(&serving, &serving_files), (&gateway, &gateway_files)] {
        Ca::write_bundle(&[&old, &new], files.path());
        trust(identity, 1).await;
    }
    assert!(shake(server.clone(), client.clone(), SERVING).await.client.is_ok(), "both roots, old leaves");

    new.issue("serving", "serving-1", serving_files.path());
    trust(&serving, 2).await;
    let outcome = shake(server.clone(), client.clone(), SERVING).await;
    assert!(outcome.server.is_err() && outcome.client.is_err(), "a leaf of the old root was accepted");

    new.issue("gateway", "gateway-1", gateway_files.path());
    trust(&gateway, 2).await;
    assert!(shake(server, client, SERVING).await.client.is_ok(), "new root, new leaves");
    stop.cancel();
}
