//! Memory that one call takes is bounded, and comes back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Client, Serving,
    models::{count, tensor, write_fill, write_identity, write_steps, write_total},
};

/// A shape that is data asks for more memory than there is, in `../shared/field/huge-total.json` 32 GiB: the caller is told so, and the
/// model answers on.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_take_too_much_memory_are_refused() {
    let serving = Serving::start(|models| {
        write_total(models);
        write_steps(models, 1);
    })
    .await;
    let client = serving.client("balancer").await;
    for n in [1 << 33, 1 << 40, 1 << 62, i64::MAX, -1] {
        let answer = client.infer("total", &count(n)).await;
        assert!([400, 413].contains(&answer.status), "{n}: {} {:?}", answer.status, answer.body);
        assert_eq!(client.infer("total", &count(7)).await.status, 200, "{n}");
    }
    let answer = client.infer("total", &count(1 << 33)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("probe.memory_bytes_max"), "{}", answer.error());
}

/// Large batches leave nothing behind: half a gigabyte within a run (`../shared/field/half-gigabyte-total.json`), and megabytes in a body.
#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_large_batches() {
    let serving = Serving::start(|models| {
        write_total(models);
        write_steps(models, 1);
    })
    .await;
    let client = serving.client("balancer").await;
    let batch = json!({ "inputs": [tensor("x", "FP32", &[1_000_000], json!(vec![0.5; 1_000_000]))] });
    let workers = 2 * std::thread::available_parallelism().unwrap().get();
    serving.until_workers(workers).await;
    for _ in 0..3 {
        assert_eq!(client.infer("total", &count(7)).await.status, 200);
    }
    let before = serving.resident_bytes();
    for _ in 0..10 {
        assert_eq!(client.infer("steps", &batch).await.status, 200);
        assert_eq!(client.infer("total", &count(1 << 27)).await.status, 200);
    }
    serving.until_workers(workers).await;
    let limit = before + before / 5;
    testkit::poll_until("memory came back", Duration::from_secs(20), async || serving.resident_bytes() <= limit).await;
}

/// An answer has a bound of its own, which names itself: here 30 bytes ask for 40 MB.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded() {
    let serving = Serving::start_with("[inference]\nanswer_bytes_max = 4000\n", write_fill).await;
    let client = serving.client("balancer").await;
    assert_eq!(client.infer("fill", &count(1000)).await.status, 200);
    for n in [1001, 10_000_000] {
        let answer = client.infer("fill", &count(n)).await;
        assert_eq!(answer.status, 413, "{:?}", answer.body);
        assert!(answer.error().contains("inference.answer_bytes_max"), "{}", answer.error());
    }
    let contents = InferTensorContents { int64_contents: vec![10_000_000], ..Default::default() };
    let refused = client.grpc().model_infer(request("fill", "n", "INT64", 1, contents)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

/// Bodies under way have a budget, and each caller a share of it: unfinished uploads of one caller are refused before they are read, and
/// take no room from another. Over gRPC the same.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_under_way_are_bounded() {
    let config = "[inference]\nbytes_under_way_max = 12000000\nbytes_per_caller_max = 8000000\n";
    let serving = Serving::start_with(config, |models| write_identity(models, "BYTES")).await;
    let (greedy, other) = (serving.client_of("66"), serving.client_of("7"));
    let text = "a".repeat(3_900_000);
    let large = json!({ "inputs": [tensor("x", "BYTES", &[1], json!([text]))] });
    let unfinished: Vec<_> = (0..2).map(|_| greedy.upload("/v2/models/identity-bytes/infer", 3_900_000)).collect();
    let held = "ml_serving_call_bytes 7800000";
    serving.until_measured(held).await;
    let refused = greedy.infer("identity-bytes", &large).await;
    assert_eq!((refused.status, &refused.headers["retry-after"]), (429, &"1".parse().unwrap()), "{:?}", refused.body);
    assert!(refused.error().contains("inference.bytes_per_caller_max"), "{}", refused.error());
    let contents = || InferTensorContents { bytes_contents: vec![Bytes::from(text.clone())], ..Default::default() };
    let grpc = |client: &Client| {
        let mut grpc = client.grpc().max_decoding_message_size(64 << 20);
        async move { grpc.model_infer(request("identity-bytes", "x", "BYTES", 1, contents())).await }
    };
    let refused = grpc(&greedy).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("inference.bytes_per_caller_max"), "{refused}");
    assert_eq!(other.infer("identity-bytes", &large).await.status, 200);
    grpc(&other).await.unwrap();
    drop(unfinished);
    serving.until_measured("ml_serving_call_bytes 0").await;
    assert_eq!(greedy.infer("identity-bytes", &large).await.status, 200);
}

/// Millions of short strings over gRPC hold up no other call: they are read beside the threads that serve requests.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_hold_up_no_other_call() {
    let config =
        "[inference]\ntimeout_ms = 100000\nbytes_under_way_max = 1000000000\nbytes_per_caller_max = 1000000000\n";
    let serving = Serving::start_with(config, |models| {
        write_identity(models, "BYTES");
        write_steps(models, 1);
    })
    .await;
    let client = serving.client("balancer").await;
    let strings = 1_000_000;
    let large = || {
        let contents =
            InferTensorContents { bytes_contents: vec![Bytes::from_static(b"abc"); strings], ..Default::default() };
        let request = request("identity-bytes", "x", "BYTES", i64::try_from(strings).unwrap(), contents);
        let mut grpc = client.grpc().max_decoding_message_size(64 << 20);
        async move {
            let began = Instant::now();
            let answer = grpc.model_infer(request).await.unwrap().into_inner();
            assert_eq!(answer.outputs[0].contents.as_ref().unwrap().bytes_contents.len(), strings);
            began.elapsed()
        }
    };
    // On a connection of its own: what shares one waits for its window.
    let client = serving.client_of("7");
    let small = async {
        let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] });
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let began = Instant::now();
            assert_eq!(client.get("/v2/health/ready").await.status, 200);
            assert_eq!(client.infer("steps", &body).await.status, 200);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let (large, small) = tokio::join!(join_all((0..6).map(|_| tokio::spawn(large()))), small);
    let fastest = large.into_iter().map(Result::unwrap).min().unwrap();
    assert!(small < fastest / 3, "small calls took {small:?}, large ones {fastest:?} at the least");
}

fn request(model: &str, input: &str, datatype: &str, length: i64, contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor {
        name: input.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![length],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: model.to_owned(), inputs: vec![input], ..Default::default() }
}
