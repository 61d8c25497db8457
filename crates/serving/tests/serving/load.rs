//! Models change under traffic, and no caller notices but by the version in the answer.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;

use crate::support::{
    Client, Serving,
    models::{ModelFolder, steps, steps_golden, tensor, write_steps},
};

const INPUTS: [(&str, &str, &[i64]); 1] = [("x", "FP32", &[-1])];
const OUTPUTS: [(&str, &str, &[i64]); 1] = [("y", "FP32", &[-1])];

/// What one caller saw: how often each status, and each version with an answer that fits it.
#[derive(Default)]
struct Seen {
    calls: usize,
    statuses: BTreeSet<u16>,
    versions: BTreeSet<String>,
}

async fn call_until(client: Client, stop: Arc<AtomicBool>) -> Seen {
    let body = json!({ "inputs": [tensor("x", "FP32", &[2], json!([1, 2]))] });
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let answer = client.infer("steps", &body).await;
        seen.calls += 1;
        seen.statuses.insert(answer.status);
        if answer.status == 200 {
            let answer = answer.json();
            let version = answer["model_version"].as_str().unwrap().to_owned();
            let factor: f64 = version.parse().unwrap();
            assert_eq!(
                answer["outputs"][0]["data"],
                json!([factor, 2.0 * factor]),
                "an answer is of the version it names"
            );
            seen.versions.insert(version);
        }
    }
    seen
}

async fn under_traffic(client: &Client, change: impl AsyncFnOnce()) -> Seen {
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8).map(|_| tokio::spawn(call_until(client.clone(), Arc::clone(&stop)))).collect();
    change().await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Seen::default();
    for caller in callers {
        let seen = caller.await.unwrap();
        all.calls += seen.calls;
        all.statuses.extend(seen.statuses);
        all.versions.extend(seen.versions);
    }
    all
}

/// Twenty promotions and roll-backs, each with a load of new files, under eight callers: not one call fails.
#[tokio::test(flavor = "multi_thread")]
async fn loading_under_traffic_fails_no_call() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    let seen = under_traffic(&client, async || {
        for round in 0..20 {
            let champion = if round % 2 == 0 { "2" } else { "1" };
            let folder = ModelFolder { name: "steps", inputs: &INPUTS, outputs: &OUTPUTS, champion };
            // Only the champion is declared, so each load takes one version into service and the other out of it.
            let number = champion.parse().unwrap();
            folder.write(&serving.models, &[(champion, &steps(number), steps_golden(number))]);
            let answer = client.post("/v2/repository/models/steps/load", "").await;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
        }
    })
    .await;
    assert_eq!(seen.statuses, BTreeSet::from([200]), "of {} calls", seen.calls);
    assert_eq!(seen.versions, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    assert!(seen.calls > 100, "{}", seen.calls);
}

/// Unloading and loading again: a call is answered or told that the model is unloaded, nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn unloading_under_traffic_breaks_no_call() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    let seen = under_traffic(&client, async || {
        for _ in 0..10 {
            assert_eq!(
                client
                    .post("/v2/repository/models/steps/unload", "{\"parameters\":{\"unload_dependents\":false}}")
                    .await
                    .status,
                200
            );
            let index = client.post("/v2/repository/index", "").await.json();
            assert_eq!(
                index,
                json!([{ "name": "steps", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" }])
            );
            assert_eq!(client.get("/v2/models/steps/ready").await.status, 404);
            assert_eq!(client.post("/v2/repository/models/steps/load", "{}").await.status, 200);
            assert_eq!(client.get("/v2/models/steps/ready").await.status, 200);
        }
    })
    .await;
    assert_eq!(seen.statuses, BTreeSet::from([200, 404]));
}
