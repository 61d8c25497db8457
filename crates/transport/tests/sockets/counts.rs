//! What a listener counts. The recorder is the process's, so the listener has a name that no other test uses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use testkit::ca::Ca;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use transport::Limits;

use crate::world::{PATIENCE, World, get_request, http2_over, metrics, post_request, until};

/// Every label is there at zero from the start, and every kind of arrival counts under its own.
#[tokio::test]
async fn every_outcome_counts_under_its_label() {
    let metrics = metrics();
    let limits = Limits {
        connections_max: 1,
        handshake_timeout: Duration::from_millis(200),
        body_bytes_max: 10,
        ..Limits::default()
    };
    let world = World::named("counted", Arc::new(Ca::new()), limits).await;
    until("labels are registered", || values(metrics).len() == 12).await;
    assert!(values(metrics).values().all(|value| value == "0"), "{:?}", values(metrics));

    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    let mut unlisted = world.tls(world.client("backup")).await.unwrap();
    assert!(unlisted.read_u8().await.is_err());
    drop(unlisted);
    until("the refused client is counted", || has(metrics, "handshakes_total", "refused", "1")).await;

    let place = async {
        loop {
            if let Ok(stream) = world.tls(world.client("gateway")).await {
                break stream;
            }
        }
    };
    let stream = timeout(PATIENCE, place).await.expect("no place became free");
    let (mut gateway, driver) = http2_over(stream).await;
    gateway.send_request(get_request("/admin/x")).await.unwrap();
    gateway.send_request(post_request("/length", "more than ten")).await.unwrap();
    assert!(has(metrics, "connections_open", "counted", "1"));
    let _too_many = TcpStream::connect(world.address).await.unwrap();
    until("one too many is counted", || !has(metrics, "connections_total", "full", "0")).await;

    world.stop.cancel();
    driver.await.unwrap().unwrap();
    world.serving.await.unwrap().unwrap();
    for (name, label) in [
        ("retirements_total", "stop"),
        ("refusals_total", "peer"),
        ("refusals_total", "body"),
        ("handshakes_total", "timed_out"),
    ] {
        assert!(has(metrics, name, label, "1"), "{name} {label}: {:?}", values(metrics));
    }
    assert!(has(metrics, "connections_open", "counted", "0"), "{:?}", values(metrics));
}

fn has(metrics: &PrometheusHandle, name: &str, label: &str, value: &str) -> bool {
    values(metrics)
        .iter()
        .any(|(key, found)| key.contains(name) && key.contains(&format!("\"{label}\"")) && found == value)
}

fn values(metrics: &PrometheusHandle) -> BTreeMap<String, String> {
    let rendered = metrics.render();
    let of_this_listener = rendered.lines().filter(|line| line.contains("listener=\"counted\""));
    of_this_listener
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
