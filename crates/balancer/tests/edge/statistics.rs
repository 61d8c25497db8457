//! What the replicas have counted comes to the client as one sum.

use std::time::Instant;

use http::StatusCode;
use policy::Role;
use proto::inference::{
    ModelStatistics, ModelStatisticsRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
};
use serde_json::{Value, json};
use testkit::poll_until;
use tonic::Code;

use crate::{
    proxying::grpc,
    world::{Platform, SOON},
};

async fn get(platform: &Platform, path: &str) -> (StatusCode, Value) {
    let response = platform.client.get(platform.url(path)).bearer_auth("good").send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn statistics(platform: &Platform) -> Value {
    let (status, answer) = get(platform, "/v2/models/m/stats").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// Figures are added up, the last inference is the latest, and each replica is named with its own.
#[tokio::test]
async fn statistics_are_sums_over_the_replicas() {
    let platform = Platform::start(3).await;
    platform.gateway.grant("good", Role::Viewer);
    for path in ["/v2/models/stats", "/v2/models/m/stats", "/v2/models/stats/stats", "/v2/models/m/versions/2/stats"] {
        let mut answer = Value::Null;
        poll_until("each replica gives figures", SOON, async || {
            answer = get(&platform, path).await.1;
            let replicas = answer["replicas"].as_array();
            replicas.is_some_and(|replicas| replicas.iter().all(|replica| replica["model_stats"].is_array()))
        })
        .await;
        let durations = |count: u64| json!({ "count": count, "ns": 1000 * count });
        let model = |version: &str, last: u64, count: u64| {
            json!({
                "name": "m", "version": version, "last_inference": 1_700_000_000_000 + last, "inference_count": 10 * count,
                "execution_count": count, "inference_stats": { "success": durations(count), "fail": durations(count) },
                "batch_stats": [],
            })
        };
        assert_eq!(answer["model_stats"], json!([model("2", 3, 6), model("10", 5, 5)]), "{path}");
        // At this path the metadata of a model that is called `stats` comes beside.
        let has_metadata = (answer["name"] == "stats", answer["inputs"] == json!([]));
        assert_eq!(has_metadata, (path == "/v2/models/stats", path == "/v2/models/stats"), "{answer}");
        let replicas = answer["replicas"].as_array().unwrap();
        let own: Vec<_> = replicas
            .iter()
            .map(|replica| (&replica["name"], &replica["model_stats"][0]["inference_stats"]["success"]["count"]))
            .collect();
        let (one, two, three) = (json!(1), json!(2), json!(3));
        assert_eq!(own, [(&json!("serving-1"), &one), (&json!("serving-2"), &two), (&json!("serving-3"), &three)]);
    }
    let head = platform.client.head(platform.url("/v2/models/m/stats")).bearer_auth("good").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    let (status, answer) = get(&platform, "/v2/models/nowhere/stats").await;
    assert_eq!((status, &answer["error"]), (StatusCode::NOT_FOUND, &json!("there is no model \"nowhere\"")));
}

/// A replica that is busy, late or down is named as missing, and the others' figures come all the same.
#[tokio::test]
async fn a_replica_that_gives_no_figures_is_named() {
    let mut platform = Platform::start(3).await;
    platform.gateway.grant("good", Role::Viewer);
    let count = |answer: &Value| answer["model_stats"][0]["execution_count"].as_u64();

    let (began, url) = (Instant::now(), platform.url("/v2/models/held/stats"));
    let call = tokio::spawn(platform.client.get(url).bearer_auth("good").send());
    poll_until("each replica has it", SOON, async || platform.serving.iter().all(|it| it.seen.count() == 1)).await;
    platform.serving[0].seen.release();
    platform.serving[2].seen.release();
    let answer: Value = call.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((count(&answer), &answer["replicas"][1]["model_stats"]), (Some(4), &Value::Null), "{answer}");
    assert!(answer["replicas"][1]["error"].as_str().unwrap().contains("serving-2 did not answer"), "{answer}");
    assert!(began.elapsed().as_secs() < 10, "it is not waited for until the route's time is over");

    platform.serving[1].seen.is_unavailable.send_replace(true);
    let answer = statistics(&platform).await;
    assert_eq!(count(&answer), Some(4), "{answer}");
    assert!(answer["replicas"][1]["error"].as_str().unwrap().contains("503"), "{answer}");

    platform.serving[2].kill();
    platform.wait_healthy(2).await;
    let answer = statistics(&platform).await;
    assert_eq!(count(&answer), Some(1), "{answer}");
    assert_eq!(answer["replicas"][2], json!({ "name": "serving-3", "error": "serving-3 is down" }));

    platform.serving[0].seen.is_unavailable.send_replace(true);
    assert_eq!(
        platform.get("/v2/models/stats").await.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "there are no figures"
    );
}

/// The same over gRPC, where a header says which replica is missing.
#[tokio::test]
async fn statistics_over_grpc_are_sums_over_the_replicas() {
    let platform = Platform::start(3).await;
    let mut client = GrpcInferenceServiceClient::new(grpc(&platform).await);
    let mut ask = async || client.model_statistics(ModelStatisticsRequest::default()).await;
    let shown = |models: &[ModelStatistics]| -> Vec<_> {
        let success = |model: &ModelStatistics| model.inference_stats.unwrap().success.unwrap().ns;
        models
            .iter()
            .map(|model| (model.version.clone(), model.last_inference, model.inference_count, success(model)))
            .collect()
    };
    let answer = ask().await.unwrap();
    assert!(answer.metadata().get("rampart-missing-replicas").is_none());
    let last = 1_700_000_000_000;
    assert_eq!(
        shown(&answer.into_inner().model_stats),
        [("2".to_owned(), last + 3, 60, 6000), ("10".to_owned(), last + 5, 50, 5000)]
    );
    platform.serving[1].seen.is_unavailable.send_replace(true);
    let answer = ask().await.unwrap();
    assert_eq!(answer.metadata().get("rampart-missing-replicas").unwrap(), "serving-2");
    assert_eq!(shown(&answer.into_inner().model_stats)[0], ("2".to_owned(), last + 3, 40, 4000));
    for replica in &platform.serving {
        replica.seen.is_unavailable.send_replace(true);
    }
    assert_eq!(ask().await.unwrap_err().code(), Code::Unavailable);
}
