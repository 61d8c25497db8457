//! Start and stop: what must be refused, what must be finished, and what ONNX Runtime must not send.

use std::{process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    Serving,
    models::{copy_example, tensor, write_square, write_steps},
    onnxruntime,
};

/// Asked to stop, a replica answers what it has begun and exits with 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_was_begun() {
    let mut serving = Serving::start(write_square).await;
    let client = serving.client("balancer").await;
    let body = json!({ "inputs": [tensor("size", "INT64", &[2], json!([2500, 2500]))] });
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.infer("square", &body).await }
    });
    testkit::poll_until("the call is in flight", Duration::from_secs(10), async || {
        serving.metrics().await.contains("ml_serving_in_flight_requests 1")
    })
    .await;
    kill_process(Pid::from_child(&serving.child), Signal::TERM).unwrap();
    testkit::poll_until("it is not ready", Duration::from_secs(2), async || {
        client.get("/v2/health/ready").await.status == 503
    })
    .await;
    assert_eq!(call.await.unwrap().status, 200);
    let mut status = None;
    testkit::poll_until("it ends", Duration::from_secs(15), async || {
        status = serving.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success(), "{status:?}");
}

/// A library that is not the pinned one is not loaded, and the message says which digest it has.
#[tokio::test]
async fn an_engine_with_another_digest_is_refused() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let config = std::fs::read_to_string(serving.directory.path().join("serving.toml")).unwrap();
    let (library, digest) = onnxruntime();
    for (from, to, words) in [
        (&*digest, "0".repeat(64), &*digest),
        (&*library, "/nowhere/libonnxruntime.so".to_owned(), "cannot be read"),
        ("[models]", "[models]\nfile_bytes = 7".to_owned(), "file_bytes"),
    ] {
        let file = serving.directory.path().join("other.toml");
        std::fs::write(&file, config.replace(from, &to)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_rampart-serving"))
            .args(["serve", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(words), "{words}: {stderr}");
    }
}

/// The official ONNX Runtime reports to its maker unless a variable says no: it is set however the service is started,
/// for the children too, and nothing is written where the library keeps its records.
#[tokio::test]
async fn onnx_runtime_sends_no_telemetry() {
    let home = tempfile::tempdir().unwrap();
    let serving = Serving::start_in(home.path(), |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    assert_eq!(client.infer("steps", &json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))] })).await.status, 200);
    let environment = std::fs::read(format!("/proc/{}/environ", serving.child.id())).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"ORT_DISABLE_TELEMETRY=1"));
    let written: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(written.is_empty(), "{written:?}");
}

/// Every series of a model is there, at zero, before its first call; and after it, every stage has been measured.
#[tokio::test]
async fn metrics_are_there_before_they_are_needed() {
    let serving = Serving::start(|models| copy_example(models, "digits-mlp")).await;
    let metrics = serving.metrics().await;
    for series in [
        "ml_predictions_total{model=\"digits-mlp\",version=\"2\",outcome=\"ok\"} 0",
        "ml_predictions_total{model=\"digits-mlp\",version=\"1\",outcome=\"shed\"} 0",
        "ml_model_ready{model=\"digits-mlp\",version=\"2\"} 1",
        "ml_model_load_failures_total{model=\"digits-mlp\",reason=\"digest\"} 0",
        "ml_serving_models_loaded 2",
        "ml_serving_panics_total 0",
        "ml_serving_queue_capacity{model=\"digits-mlp\",version=\"2\"} 256",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    let client = serving.client("balancer").await;
    let input: Value = crate::support::models::example_golden("digits-mlp", "2")["inputs"][0].clone();
    assert_eq!(client.infer("digits-mlp", &json!({ "inputs": [input] })).await.status, 200);
    let metrics = serving.metrics().await;
    for stage in ["decode", "queue", "compute", "encode"] {
        assert!(
            metrics.contains(&format!(
                "ml_prediction_stage_duration_seconds_count{{model=\"digits-mlp\",stage=\"{stage}\"}} 1"
            )),
            "{stage}"
        );
    }
    assert!(metrics.contains("ml_prediction_batch_size_sum{model=\"digits-mlp\"} 4"));
}
