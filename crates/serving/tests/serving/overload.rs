//! Too much work is refused at once and cheaply; work whose time has passed is not done.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{
    Client, Serving,
    models::{tensor, write_chain, write_square},
};

const CONFIG: &str = "[inference]\nworkers = 1\nqueue_max = 2\ntimeout_ms = 60000\n";

async fn replica() -> (Serving, Client) {
    let write = |models: &Path| {
        write_square(models);
        write_chain(models, 2);
    };
    let serving = Serving::start_with(CONFIG, write).await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// A product of two square matrices of this size: 1500 takes a good part of a second.
fn square(size: i64) -> Value {
    json!({ "inputs": [tensor("size", "INT64", &[2], json!([size, size]))] })
}

/// Workers get several short calls at once; one that takes longer than the others holds up none of those that it came with.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_holds_up_no_short_one() {
    let config = "[inference]\nworkers = 2\nqueue_max = 100\ntimeout_ms = 60000\n";
    let serving = Serving::start_with(config, write_square).await;
    serving.until_measured("ml_serving_workers{model=\"square\",version=\"1\"} 2").await;
    let client = serving.client("balancer").await;
    let (short, long) = (square(2), square(3000));
    for _ in 0..3 {
        // As many as make the calls of this model short on average.
        for _ in 0..80 {
            assert_eq!(client.infer("square", &short).await.status, 200);
        }
        let started = Instant::now();
        let call = async |body| (client.infer("square", body).await.status, started.elapsed());
        let (long, short) = tokio::join!(call(&long), join_all((0..40).map(|_| call(&short))));
        assert!(long.0 == 200 && short.iter().all(|(status, _)| *status == 200));
        let last = short.iter().map(|(_, took)| *took).max().unwrap();
        assert!(last < long.1 / 2, "a short call took {last:?}, the long one {:?}", long.1);
    }
}

/// One is computed, two wait, the others are refused at once with Retry-After.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_with_retry_after() {
    let (serving, client) = replica().await;
    let body = square(2000);
    let started = Instant::now();
    let call = async || (client.infer("square", &body).await, started.elapsed());
    let others = async {
        serving.until_measured("ml_serving_executions_total{model=\"square\",version=\"1\"} 1").await;
        join_all((0..11).map(|_| call())).await
    };
    let (first, mut answers) = tokio::join!(call(), others);
    answers.push(first);
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

/// A deadline in the body, in the header or in gRPC ends the wait; what was computing stops long before it is done.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_the_wait_and_the_work() {
    let (serving, client) = replica().await;
    let long = square(1000);
    let whole = timed(client.infer("chain", &long)).await;
    assert_eq!(whole.0.status, 200);
    let mut with_parameter = long.clone();
    // In microseconds, of what this machine takes for the whole.
    with_parameter["parameters"] = json!({ "timeout": u64::try_from(whole.1.as_micros()).unwrap() / 8 });
    let (answer, took) = timed(client.infer("chain", &with_parameter)).await;
    assert_eq!(answer.status, 504, "{:?}", answer.body);
    assert!(took < whole.1 / 2, "an answer after {took:?} of {:?}", whole.1);
    let (small, took) = timed(client.infer("chain", &square(2))).await;
    assert_eq!(small.status, 200);
    assert!(took < whole.1 / 2, "the only worker was free after {took:?} of {:?}", whole.1);
    serving.until_measured("ml_serving_executions_total{model=\"chain\",version=\"1\"} 3").await;

    let contents = InferTensorContents { int64_contents: vec![1000, 1000], ..Default::default() };
    let input = InferInputTensor {
        name: "size".to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![2],
        contents: Some(contents),
        ..Default::default()
    };
    let mut request = tonic::Request::new(ModelInferRequest {
        model_name: "chain".to_owned(),
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

async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (call.await, started.elapsed())
}

/// Work that waited beyond its deadline, or whose caller went away, is not done, and leaves the queue at once.
#[tokio::test(flavor = "multi_thread")]
async fn expired_and_abandoned_work_is_not_done() {
    let (serving, client) = replica().await;
    let long = square(1000);
    let mut short = long.clone();
    short["parameters"] = json!({ "timeout": 20_000 });
    let call = |body: &Value| {
        let (client, body) = (client.clone(), body.clone());
        tokio::spawn(async move { client.infer("chain", &body).await.status })
    };
    let first = call(&long);
    serving.until_measured("ml_serving_executions_total{model=\"chain\",version=\"1\"} 1").await;
    let (abandoned, expired) = (call(&long), call(&short));
    assert_eq!(expired.await.unwrap(), 504);
    serving.until_measured("ml_serving_queue_depth{model=\"chain\",version=\"1\"} 1").await;
    abandoned.abort();
    serving.until_measured("ml_predictions_total{model=\"chain\",version=\"1\",outcome=\"cancelled\"} 1").await;
    serving.until_measured("ml_serving_queue_depth{model=\"chain\",version=\"1\"} 0").await;
    let small = call(&square(2));
    serving.until_measured("ml_serving_queue_depth{model=\"chain\",version=\"1\"} 1").await;
    assert!(!first.is_finished(), "the first call is computed all this time");
    assert_eq!((first.await.unwrap(), small.await.unwrap()), (200, 200));
    let metrics = serving.metrics().await;
    for series in [
        "ml_serving_executions_total{model=\"chain\",version=\"1\"} 2",
        "ml_serving_queue_depth{model=\"chain\",version=\"1\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line == series), "{series} is not in\n{metrics}");
    }
}
