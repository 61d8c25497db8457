//! The end of a process: what is in flight is finished, and nothing takes longer than allowed.

use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::Signal;
use testkit::poll_until;

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight() {
    let world = World::new();
    let mut process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    let admin = world.client("operator", process.address("admin").await);
    world.say("open");
    poll_until("it is ready", PATIENCE, async || admin.ready().await.0 == StatusCode::OK).await;

    let slow = tokio::spawn(async move { client.get("/slow").await });
    process.until_logged("the slow answer is waited for").await;
    process.signal(Signal::TERM);
    process.until_logged("stopping").await;
    let (status, body) = admin.ready().await;
    assert_eq!((status, &body["waits_for"][0]), (StatusCode::SERVICE_UNAVAILABLE, &"stopping".into()));
    assert!(!slow.is_finished());

    world.say("answer");
    assert_eq!(slow.await.unwrap(), (StatusCode::OK, "answered".to_owned()));
    assert!(process.end().await.success());
    assert!(process.logged("stopped").is_some());
}

/// Ctrl-C reaches a child twice, from the terminal and from its parent: that is one wish.
#[tokio::test]
async fn an_echo_of_the_first_signal_does_not_hurry() {
    let world = World::new();
    let mut process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    let slow = tokio::spawn(async move { client.get("/slow").await });
    process.until_logged("the slow answer is waited for").await;
    process.signal(Signal::INT);
    process.signal(Signal::TERM);
    process.until_logged("stopping").await;
    world.say("answer");
    assert_eq!(slow.await.unwrap().0, StatusCode::OK);
    assert!(process.end().await.success());
}

/// Nobody ever answers; the grace would be 10 s.
#[tokio::test]
async fn a_second_signal_means_now() {
    let world = World::new();
    let mut process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    let slow = tokio::spawn(async move { client.get("/slow").await });
    process.until_logged("the slow answer is waited for").await;
    process.signal(Signal::TERM);
    let asked = Instant::now();
    process.until_logged("stopping").await;
    poll_until("a second later", PATIENCE, async || asked.elapsed() > Duration::from_millis(1_200)).await;
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(6), "took {:?}", asked.elapsed());
    slow.abort();
}

/// What never ends is cut by its listener, which is a clean end, before the lifecycle would drop the listener itself.
#[tokio::test]
async fn a_request_that_never_ends_is_cut_in_good_order() {
    let world = World::new();
    let mut process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    let slow = tokio::spawn(async move { client.get("/slow").await });
    process.until_logged("the slow answer is waited for").await;
    process.signal(Signal::TERM);
    process.until_logged("stopping: open connections were cut after the grace time, their requests fail").await;
    assert!(process.end().await.success());
    assert!(process.logged("tasks did not end in time and are dropped").is_none());
    slow.abort();
}

#[tokio::test]
async fn a_task_that_panics_stops_the_process() {
    let world = World::new();
    let mut process = world.start();
    process.address("smallest").await;
    world.say("open");
    world.say("panic");
    assert_eq!(process.end().await.code(), Some(1));
    let line = process.logged("panicked: there was a file that says so").unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["location"].as_str().unwrap().contains("smallest.rs"), "{line}");
}

#[tokio::test]
async fn a_start_that_fails_is_an_error_and_not_ready() {
    let world = World::new();
    world.say("fail");
    let mut process = world.start();
    assert_eq!(process.end().await.code(), Some(1));
    assert_eq!(process.logged("cannot start").unwrap()["error"], "there was a file that says so");
    assert!(process.logged("ready").is_none());
}
