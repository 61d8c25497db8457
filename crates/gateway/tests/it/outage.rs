//! With the database frozen, tokens are still exchanged for passports; sign-ins and changes get 503.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode, header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::{Postgres, poll_until};

use crate::{
    client::Client,
    world::{ADMIN_PASSWORD, World},
};

/// Everything of a cluster stands still, as when its machine does. Goes on when dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn freeze(postmaster: u32) -> Self {
        let mut pids = vec![postmaster];
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        let pids: Vec<Pid> = pids.into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().unwrap())).collect();
        for pid in &pids {
            let _gone_meanwhile = kill_process(*pid, Signal::STOP);
        }
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _gone_meanwhile = kill_process(*pid, Signal::CONT);
        }
    }
}

#[tokio::test]
async fn authorize_never_waits_for_the_database() {
    let world = World::on(Arc::new(Postgres::start().await)).await;
    let gateway = world.gateway("gateway-1").await;
    let client = world.client(&gateway);
    let admin = client.bootstrap().await;
    let operator = Client::new(&world.identity("operator"), gateway.admin);
    let edge = Client::new(&world.identity("edge"), gateway.main);
    edge.ask_as_edge_first(&admin).await.expect_status(StatusCode::NO_CONTENT);
    let ready = async || operator.call(Method::GET, "/ready", None, None).await;
    assert_eq!(ready().await.json()["remarks"], json!({}));

    let frozen = Frozen::freeze(world.postgres.cluster().pid());
    let (asking, sign_in) = (client.clone(), client.at("192.0.2.99"));
    let sign_in = tokio::spawn(async move { sign_in.sign_in("admin", ADMIN_PASSWORD).await });
    let is_stale = async || ready().await.json()["remarks"]["users and revocations"].is_string();
    let mut slowest = Duration::ZERO;
    poll_until("the state is stale and the sign-in was answered", Duration::from_secs(20), async || {
        for _ in 0..10 {
            let asked = Instant::now();
            asking.authorize(&admin, "serving").await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        sign_in.is_finished() && is_stale().await
    })
    .await;
    println!("slowest passport with a frozen database {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");

    let sign_in = sign_in.await.unwrap().expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(sign_in.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(sign_in.json()["error"], "temporarily_unavailable");
    let user = json!({ "name": "robot", "kind": "machine", "roles": [] });
    let asked = Instant::now();
    let change = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
    change.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(asked.elapsed() < Duration::from_secs(1), "a change by a stale state is refused at once");
    let remarks = ready().await.expect_status(StatusCode::OK).json()["remarks"].clone();
    assert!(remarks["users and revocations"].as_str().unwrap().contains("stale"), "{remarks}");
    assert!(client.authorize(&admin, "serving").await.unwrap().stale);
    let second_choice = edge.ask_as_edge_first(&admin).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(!second_choice.headers.contains_key("rampart-passport"), "another gateway is asked first");
    edge.ask_as_edge(Some(&admin), "serving", "GET", "/v2").await.expect_status(StatusCode::NO_CONTENT);
    assert!(client.is_serving().await, "it still answers Authorize, so it stays ready");

    drop(frozen);
    poll_until("a sign-in works again", Duration::from_secs(20), async || {
        client.at("192.0.2.98").sign_in("admin", ADMIN_PASSWORD).await.status == StatusCode::OK
    })
    .await;
    poll_until("nothing is stale any more", Duration::from_secs(10), async || {
        ready().await.json()["remarks"] == json!({})
    })
    .await;
    client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await.expect_status(StatusCode::CREATED);
}
