//! Loaded and unloaded are decided once, for every replica and for good: what a restart, an absence, a lost gateway and an
//! empty folder change in that, which is nothing.

use std::{fs, sync::atomic::Ordering, time::Duration};

use serde_json::json;

use crate::support::{
    Client, Serving,
    models::{tensor, write_chain, write_square, write_steps},
};

const PATIENCE: Duration = Duration::from_secs(60);
const UNLOAD: &str = "/v2/repository/models/steps/unload";
const LOAD: &str = "/v2/repository/models/steps/load";

/// A replica of two models.
async fn replica() -> Serving {
    Serving::start(|models| {
        write_steps(models, 1);
        write_square(models);
    })
    .await
}

async fn call_steps(client: &Client) -> u16 {
    client.infer("steps", &json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))] })).await.status
}

async fn until_steps_answers(client: &Client, status: u16) {
    testkit::poll_until(&format!("steps answers {status}"), PATIENCE, async || call_steps(client).await == status)
        .await;
}

/// Starts the replica again; until it is ready, and then, no call reaches a model that is unloaded.
async fn restart_unloaded(serving: &mut Serving) -> Client {
    serving.restart();
    let client = serving.client("balancer").await;
    testkit::poll_until("the replica is ready", PATIENCE, async || {
        assert_ne!(call_steps(&client).await, 200, "an unloaded model answers");
        client.get("/v2/health/ready").await.status == 200
    })
    .await;
    assert_eq!(call_steps(&client).await, 404);
    assert_eq!(client.get("/v2/models/square/ready").await.status, 200);
    client
}

/// Unloading outlives the process, and so does the load that takes it back.
#[tokio::test]
async fn unloading_survives_a_restart() {
    let mut serving = replica().await;
    let client = serving.client("balancer").await;
    assert_eq!(client.post(UNLOAD, "").await.status, 200);
    let client = restart_unloaded(&mut serving).await;
    let index = client.post("/v2/repository/index", "").await.json();
    let row = json!({ "name": "steps", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" });
    assert!(index.as_array().unwrap().contains(&row), "{index}");
    assert_eq!(client.post(LOAD, "").await.status, 200);
    serving.restart();
    let client = serving.client("balancer").await;
    until_steps_answers(&client, 200).await;
}

/// A replica whose only model is unloaded has nothing to do, and is ready for it.
#[tokio::test]
async fn a_replica_whose_models_are_all_unloaded_is_ready() {
    let mut serving = Serving::start(|models| write_steps(models, 1)).await;
    assert_eq!(serving.client("balancer").await.post(UNLOAD, "").await.status, 200);
    serving.restart();
    let client = serving.client("balancer").await;
    testkit::poll_until("ready", PATIENCE, async || client.get("/v2/health/ready").await.status == 200).await;
    assert_eq!(call_steps(&client).await, 404);
}

/// What was unloaded while a replica was away it does not serve when it is back; what others change meanwhile reaches it.
#[tokio::test]
async fn a_replica_that_was_away_serves_what_it_should() {
    let mut serving = replica().await;
    serving.kill();
    serving.gateway().state.set_desired("steps", false);
    let client = restart_unloaded(&mut serving).await;
    serving.gateway().state.set_desired("steps", true);
    until_steps_answers(&client, 200).await;
    serving.gateway().state.set_desired("steps", false);
    until_steps_answers(&client, 404).await;
    let state = &serving.gateway().state;
    testkit::poll_until("the newest generation is applied", PATIENCE, async || {
        let line = format!("ml_serving_desired_generation {}", state.desired.lock().unwrap().0);
        serving.metrics().await.lines().any(|each| each == line)
    })
    .await;
}

/// What another replica was told to unload leaves the memory of this one too.
#[tokio::test]
async fn what_others_unload_has_no_process_here() {
    let serving = Serving::start_with("[inference]\nworkers = 1\n", |models| {
        write_steps(models, 1);
        write_square(models);
    })
    .await;
    let client = serving.client("balancer").await;
    serving.until_workers(2).await;
    serving.gateway().state.set_desired("steps", false);
    until_steps_answers(&client, 404).await;
    serving.until_workers(1).await;
    let index = client.post("/v2/repository/index", "").await.json();
    let row = json!({ "name": "steps", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" });
    assert!(index.as_array().unwrap().contains(&row), "{index}");
    assert_eq!(client.get("/v2/models/square/ready").await.status, 200);
}

/// No call reaches a model from the moment on at which it is recorded as unloaded, though the load of another holds up the rest.
#[tokio::test]
async fn a_load_under_way_keeps_no_unloaded_model_in_service() {
    let serving = Serving::start_with("[inference]\nworkers = 1\n", |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    serving.until_workers(1).await;
    write_chain(&serving.models, 700);
    let post = |path: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.post(path, "").await.status })
    };
    let load = post("/v2/repository/models/chain/load");
    testkit::poll_until("a process proves the model", PATIENCE, async || serving.workers().len() > 1).await;
    let unload = post(UNLOAD);
    until_steps_answers(&client, 404).await;
    assert_ne!(client.get("/v2/models/chain/ready").await.status, 200, "the load took no time");
    assert_eq!((load.await.unwrap(), unload.await.unwrap()), (200, 200));
}

/// With no gateway that knows the state a start goes by its mirror on disk, and the gateway's own state holds once it is back.
#[tokio::test]
async fn without_a_gateway_the_mirrored_state_holds() {
    let mut serving = replica().await;
    let client = serving.client("balancer").await;
    assert_eq!(client.post(UNLOAD, "").await.status, 200);
    let mirror = serving.models.join(".desired-state.json");
    assert!(fs::read_to_string(&mirror).unwrap().contains("steps"), "it is mirrored before the answer");
    let state = std::sync::Arc::clone(&serving.gateway().state);
    state.is_cut.store(true, Ordering::SeqCst);
    state.set_desired("steps", true);
    let client = restart_unloaded(&mut serving).await;
    state.is_cut.store(false, Ordering::SeqCst);
    until_steps_answers(&client, 200).await;
}

/// Without a state at all a replica loads nothing: another one may have unloaded what it has.
#[tokio::test]
async fn a_replica_that_knows_no_state_waits_for_one() {
    let mut serving = replica().await;
    serving.kill();
    // Half a file is as good as none.
    fs::write(serving.models.join(".desired-state.json"), "{\"generation\": 1").unwrap();
    serving.gateway().state.is_cut.store(true, Ordering::SeqCst);
    serving.restart();
    testkit::poll_until("it says what it waits for", PATIENCE, async || {
        let ready = serving.admin("/ready").await.json();
        ready["waits_for"].as_array().unwrap().contains(&json!("desired state of models"))
    })
    .await;
    let client = serving.client("balancer").await;
    assert_eq!(call_steps(&client).await, 503);
    serving.gateway().state.is_cut.store(false, Ordering::SeqCst);
    until_steps_answers(&client, 200).await;
}

/// What cannot be recorded is not done.
#[tokio::test]
async fn without_a_record_nothing_is_loaded_or_unloaded() {
    let serving = replica().await;
    let client = serving.client("balancer").await;
    let state = &serving.gateway().state;
    for (path, before) in [(UNLOAD, 200), (LOAD, 404)] {
        state.is_cut.store(true, Ordering::SeqCst);
        let answer = client.post(path, "").await;
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains("no gateway confirms the change"), "{}", answer.error());
        assert_eq!(call_steps(&client).await, before);
        assert_eq!(client.get("/v2/health/ready").await.status, 200);
        state.is_cut.store(false, Ordering::SeqCst);
        assert_eq!(client.post(path, "").await.status, 200);
    }
    assert_eq!(call_steps(&client).await, 200);
    assert_eq!(client.post("/v2/repository/models/no-such-model/unload", "").await.status, 404);
    assert_eq!(client.post("/v2/repository/models/no-such-model/load", "").await.status, 404);
    testkit::poll_until("what serves is recorded, and no mistyped name", PATIENCE, async || {
        let known = state.desired.lock().unwrap().1.clone();
        assert!(!known.contains_key("no-such-model"));
        known.into_keys().eq(["square", "steps"])
    })
    .await;
}

/// A replica without a model is ready while there is nothing to serve, and not while others serve.
#[tokio::test]
async fn an_empty_folder_is_not_ready_while_others_serve() {
    let serving = Serving::start(|_| {}).await;
    let client = serving.client("balancer").await;
    let until_ready = async |status| {
        testkit::poll_until("/v2/health/ready", PATIENCE, async || {
            client.get("/v2/health/ready").await.status == status
        })
        .await;
    };
    let state = &serving.gateway().state;
    state.set_desired("steps", true);
    until_ready(503).await;
    assert_eq!(serving.admin("/ready").await.json()["waits_for"], json!(["models that others serve"]));
    // A client that empties the platform on purpose unloads what served.
    assert_eq!(client.post(UNLOAD, "").await.status, 200);
    until_ready(200).await;
    state.set_desired("steps", true);
    until_ready(503).await;
    write_square(&serving.models);
    assert_eq!(client.post("/v2/repository/models/square/load", "").await.status, 200);
    until_ready(200).await;
}

/// A model that should serve and cannot has its reason in the index, and takes the replica out of nothing.
#[tokio::test]
async fn a_model_that_cannot_be_as_desired_keeps_no_replica_out() {
    let mut serving = replica().await;
    serving.kill();
    fs::write(serving.models.join("steps/1/model.onnx"), b"damaged").unwrap();
    serving.gateway().state.set_desired("not-here", true);
    serving.gateway().state.set_desired("steps", true);
    serving.restart();
    let client = serving.client("balancer").await;
    testkit::poll_until("ready", PATIENCE, async || client.get("/v2/health/ready").await.status == 200).await;
    assert_eq!(call_steps(&client).await, 503);
    let index = client.post("/v2/repository/index", "").await.json();
    let row = index.as_array().unwrap().iter().find(|row| row["name"] == "steps").unwrap();
    assert!(row["reason"].as_str().unwrap().contains("not an ONNX model"), "{row}");
}
