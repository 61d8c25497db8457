//! Too much work is refused at once and cheaply; work whose time has passed is not done.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{
    Client, Serving,
    models::{tensor, write_square},
};

const CONFIG: &str = "[inference]\nworkers = 1\nqueue_max = 2\ntimeout_ms = 20000\n";

async fn replica() -> (Serving, Client) {
    let serving = Serving::start_with(CONFIG, write_square).await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// A product of two square matrices of this size: 1500 takes a good part of a second.
fn square(size: i64) -> Value {
    json!({ "inputs": [tensor("size", "INT64", &[2], json!([size, size]))] })
}

/// One is computed, two wait, the others are told to come again; nobody is kept waiting for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_with_retry_after() {
    let (serving, client) = replica().await;
    let body = square(2500);
    let started = Instant::now();
    let calls = (0..12).map(|_| async {
        let answer = client.infer("square", &body).await;
        (answer, started.elapsed())
    });
    let answers = join_all(calls).await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(answer, _)| answer.status == 200);
    // More than one and two only if some arrived late, which a busy machine can bring about.
    assert!(done.len() >= 3 && refused.len() >= 6, "{} of 12 were computed", done.len());
    let all = done.iter().map(|(_, took)| *took).max().unwrap();
    for (answer, took) in refused {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(answer.error().contains("queue"), "{}", answer.error());
        assert!(*took < all / 2, "a refusal took {took:?} of {all:?}");
    }
    assert_eq!(client.infer("square", &square(2)).await.status, 200, "it goes on");
    let metrics = serving.metrics().await;
    assert!(metrics.contains("ml_predictions_total{model=\"square\",version=\"1\",outcome=\"shed\"} "), "{metrics}");
    assert!(metrics.contains("ml_serving_queue_depth{model=\"square\",version=\"1\"} 0"));
}

/// A deadline in the body, in the header or in gRPC ends the wait; what was computing is told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_the_wait_and_the_work() {
    let (_serving, client) = replica().await;
    let mut with_parameter = square(3000);
    with_parameter["parameters"] = json!({ "timeout": 50_000 });
    let started = Instant::now();
    let answer = client.infer("square", &with_parameter).await;
    assert_eq!(answer.status, 504, "{:?}", answer.body);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let contents = InferTensorContents { int64_contents: vec![3000, 3000], ..Default::default() };
    let input = InferInputTensor {
        name: "size".to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![2],
        contents: Some(contents),
        ..Default::default()
    };
    let mut request = tonic::Request::new(ModelInferRequest {
        model_name: "square".to_owned(),
        inputs: vec![input],
        ..Default::default()
    });
    request.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    assert_eq!(client.grpc().model_infer(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    let answer = client
        .call(Method::POST, "/v2/models/square/infer", &[("grpc-timeout", "soon")], Bytes::from(square(1).to_string()))
        .await;
    assert!(answer.status == 400 && answer.error().starts_with("grpc-timeout:"));
}

/// Work that waited beyond its deadline, or whose caller went away, is not done when its turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn expired_and_abandoned_work_is_not_done() {
    let (serving, client) = replica().await;
    let long = square(1500);
    let mut short = square(1500);
    short["parameters"] = json!({ "timeout": 20_000 });
    let first = tokio::spawn({
        let (client, long) = (client.clone(), long.clone());
        async move { client.infer("square", &long).await }
    });
    testkit::poll_until("the first call is in flight", Duration::from_secs(10), async || {
        serving.metrics().await.contains("ml_serving_in_flight_requests 1")
    })
    .await;
    let abandoned = tokio::time::timeout(Duration::from_millis(50), client.infer("square", &long));
    let (expired, abandoned) = tokio::join!(client.infer("square", &short), abandoned);
    let first = first.await.unwrap();
    assert_eq!((first.status, expired.status, abandoned.is_err()), (200, 504, true));
    // Nothing is computing now but what nobody waits for; a small call is not kept by it.
    assert_eq!(client.infer("square", &square(2)).await.status, 200);
    let stats = client.get("/v2/models/square/stats").await.json();
    let computed = stats["model_stats"][0]["execution_count"].as_u64().unwrap();
    assert_eq!(computed, 2, "the first and the small one");
}
