//! What a channel trusts: no call goes over a connection that would not be opened again now, and none stays open for long.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::{
    ca::{Ca, Leaf},
    poll_until,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::Service;
use transport::{Channel, Limits, ListenConfig, channel};

use crate::world::{PATIENCE, PEERS, World, load};

async fn get(channel: &mut Channel, path: &str) -> Result<http::Response<Body>, Status> {
    let call = channel.call(http::Request::get(path).body(Body::empty()).unwrap());
    timeout(PATIENCE, call).await.expect("a call hung")
}

/// A server whose CA is not trusted any more gets no new call over the connection that it has, and what is in flight ends:
/// a call that is not answered, and a stream that outlives its channel.
#[tokio::test]
async fn a_change_of_trust_ends_what_a_channel_has_open() {
    let world = World::with(Limits::default()).await;
    let (gateway, directory) = world.peer("gateway");
    let stop = CancellationToken::new();
    let watch = tokio::spawn(gateway.clone().watch(stop.clone()));
    let mut channel = channel(&gateway, "serving", &[world.address.to_string()]);
    let mut stream = get(&mut channel, "/stream").await.unwrap().into_body();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    let mut clone = channel.clone();
    let slow = tokio::spawn(async move { get(&mut clone, "/slow").await });
    world.until_handled(2).await;

    let mut changes = gateway.changes();
    Ca::foreign().issue("gateway", "gateway-1", directory.path());
    timeout(PATIENCE, changes.wait_for(|now| now.trust == 1)).await.unwrap().unwrap();
    let refused = get(&mut channel, "/who").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(!slow.is_finished(), "what is in flight may finish for a while");
    drop(channel);

    let cut = timeout(PATIENCE, slow).await.expect("a call in flight went on").unwrap().unwrap_err();
    assert_eq!(cut.code(), Code::Unavailable, "{cut}");
    assert!(timeout(PATIENCE, stream.frame()).await.expect("a stream went on").unwrap().is_err());
    stop.cancel();
    watch.await.unwrap();
}

/// A server that goes on with an old connection after its certificate ended gets no new call over it. `transport::Server`
/// ends such a connection itself, so this server is hyper's.
#[tokio::test]
async fn a_channel_does_not_outlive_the_certificate_of_its_server() {
    let ca = Ca::new();
    let (server, client) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ca.issue_leaf(&Leaf::of("serving", "serving-1").valid(-60, 3), server.path());
    ca.issue("gateway", "gateway-1", client.path());
    let config: ListenConfig = toml::from_str(PEERS).unwrap();
    let tls = TlsAcceptor::from(load(server.path()).server_config(&config.peers));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let answer = service_fn(async |_| Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default())));
        loop {
            let Ok(stream) = tls.accept(listener.accept().await.unwrap().0).await else { continue };
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
        }
    });

    let mut channel = channel(&load(client.path()), "serving", &[address]);
    get(&mut channel, "/who").await.unwrap();
    let mut refused = None;
    poll_until("calls end with the certificate", PATIENCE, async || {
        refused = get(&mut channel, "/who").await.err();
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("certificate"), "{refused}");
    serving.abort();
}
