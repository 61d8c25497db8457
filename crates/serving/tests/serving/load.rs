//! Models change under traffic, and no caller notices but by the version in the answer.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proto::inference::RepositoryModelLoadRequest;
use serde_json::json;
use tonic::Code;

use crate::support::{
    Client, Serving,
    models::{ModelFolder, golden, steps, steps_golden, tensor, write_chain, write_repeated, write_steps},
    onnx::{NodeSpec, ValueSpec, model},
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

/// Unloading and loading again: a call is answered, or refused because the model is unloaded, nothing else.
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

/// The series of a version end with it; those of a model that was unloaded say that it does not serve.
#[tokio::test]
async fn metrics_follow_what_serves() {
    let serving = Serving::start(|models| write_steps(models, 2)).await;
    let client = serving.client("balancer").await;
    let lines = |version: u32, value: u32| {
        [
            format!("ml_model_ready{{model=\"steps\",version=\"{version}\"}} {value}"),
            format!("ml_model_info{{model=\"steps\",version=\"{version}\",framework=\"onnx\"}} {value}"),
        ]
    };
    let assert_measured = async |expected: &[[String; 2]]| {
        let metrics = serving.metrics().await;
        for line in expected.iter().flatten() {
            assert!(metrics.lines().any(|each| each == line), "{line} is not in\n{metrics}");
        }
    };
    assert_measured(&[lines(1, 1), lines(2, 1)]).await;
    ModelFolder { name: "steps", inputs: &INPUTS, outputs: &OUTPUTS, champion: "2" }
        .write(&serving.models, &[("2", &steps(2), steps_golden(2))]);
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200);
    assert_measured(&[lines(2, 1)]).await;
    let metrics = serving.metrics().await;
    assert!(!metrics.contains("model=\"steps\",version=\"1\""), "{metrics}");
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    assert_measured(&[lines(2, 0)]).await;
    assert_described_once(&serving.metrics().await);
}

/// Prometheus wants one description for each metric, and all of its series behind it.
fn assert_described_once(metrics: &str) {
    let names: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.contains(&"ml_model_ready") && names.contains(&"ml_serving_panics_total"), "{metrics}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{metrics}");
    for name in ["ml_model_ready", "ml_predictions_total", "ml_prediction_duration_seconds"] {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{metrics}");
    }
}

/// A model whose folder was deleted serves until it is loaded or unloaded again. Then it is gone: from the index, from the
/// metrics, and for every further load, over REST and gRPC; and it can come back.
#[tokio::test]
async fn a_deleted_model_is_gone() {
    let serving = Serving::start(|models| {
        write_steps(models, 1);
        write_chain(models, 2);
    })
    .await;
    let client = serving.client("balancer").await;
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))] });
    let index = async || client.post("/v2/repository/index", "").await.json();
    let delete = || fs::remove_dir_all(serving.models.join("steps")).unwrap();
    testkit::poll_until(
        "the replica knows that the desired state has both models",
        Duration::from_secs(20),
        async || {
            let (generation, models) = serving.gateway().state.desired.lock().unwrap().clone();
            models.len() == 2
                && serving.metrics().await.contains(&format!("ml_serving_desired_generation {generation}\n"))
        },
    )
    .await;
    for change in ["load", "unload"] {
        delete();
        assert_eq!(client.infer("steps", &body).await.status, 200, "the folder is not watched");
        assert!(serving.metrics().await.contains("model=\"steps\""));
        let answer = client.post(&format!("/v2/repository/models/steps/{change}"), "").await;
        assert_eq!(answer.status, if change == "load" { 404 } else { 200 }, "{change}: {:?}", answer.body);
        assert_eq!(
            index().await,
            json!([{ "name": "chain", "version": "1", "state": "READY", "reason": "" }]),
            "{change}"
        );
        let metrics = serving.metrics().await;
        assert!(!metrics.contains("\"steps\""), "{change}: {metrics}");
        assert!(metrics.contains("ml_model_ready{model=\"chain\",version=\"1\"} 1\n"), "{metrics}");
        assert_eq!(client.infer("steps", &body).await.status, 404);
        let answer = client.post("/v2/repository/models/steps/load", "").await;
        assert_eq!((answer.status, answer.error()), (404, "there is no model \"steps\"".to_owned()));
        // Another replica may still have it: the desired state knows it.
        assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
        let mut grpc = client.grpc();
        let request = RepositoryModelLoadRequest { model_name: "steps".to_owned(), ..Default::default() };
        assert_eq!(grpc.repository_model_load(request).await.unwrap_err().code(), Code::NotFound);
        write_steps(&serving.models, 1);
        assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200);
        assert!(serving.metrics().await.contains("ml_model_ready{model=\"steps\",version=\"1\"} 1\n"));
    }
    // Where the models themselves are away, as a volume that is not mounted, nothing was deleted.
    fs::rename(&serving.models, serving.directory.path().join("elsewhere")).unwrap();
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 409);
    assert_eq!(client.infer("steps", &body).await.status, 200);
    assert_eq!(client.post("/v2/repository/models/unheard/load", "").await.status, 404);
}

/// A load goes on to its end when its caller hangs up.
#[tokio::test]
async fn a_load_outlives_its_caller() {
    let serving = Serving::start_with("[inference]\nworkers = 2\n", |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    let of_steps = serving.until_workers(2).await;
    write_chain(&serving.models, 500);
    let call = client.post("/v2/repository/models/chain/load", "");
    let begun = testkit::poll_until("a process proves the model", Duration::from_secs(20), async || {
        serving.workers().iter().any(|worker| !of_steps.contains(worker))
    });
    tokio::select! {
        answer = call => panic!("the load took no time: {:?}", answer.body),
        () = begun => {}
    }
    testkit::poll_until("the model serves", Duration::from_secs(60), async || {
        client.get("/v2/models/chain/ready").await.status == 200
    })
    .await;
}

/// Golden examples that do not come to their end, at a start and by calls, hold up their own models and no other.
#[tokio::test(flavor = "multi_thread")]
async fn loads_that_last_hold_up_no_other_model() {
    let config = "[probe]\nwall_s_max = 40\n[inference]\nworkers = 1\n";
    let began = Instant::now();
    let serving = Serving::start_listening(config, |models| {
        write_repeated(models, "a-endless", i64::MAX);
        write_steps(models, 1);
        write_repeated(models, "z-short", 3);
    })
    .await;
    let client = serving.client("balancer").await;
    let ready = async |name: &str| client.get(&format!("/v2/models/{name}/ready")).await.status == 200;
    for name in ["steps", "z-short"] {
        testkit::poll_until(&format!("{name} serves"), Duration::from_secs(30), async || ready(name).await).await;
    }
    let load = |name: &str| {
        let (client, path) = (client.clone(), format!("/v2/repository/models/{name}/load"));
        tokio::spawn(async move { client.post(&path, "").await })
    };
    write_repeated(&serving.models, "b-endless", i64::MAX);
    let endless = load("b-endless");
    testkit::poll_until("both are being proved", Duration::from_secs(20), async || serving.workers().len() == 4).await;
    write_chain(&serving.models, 2);
    let loaded = load("chain").await.unwrap();
    assert_eq!(loaded.status, 200, "{:?}", loaded.body);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}: an endless one has ended", began.elapsed());
    assert!(!endless.is_finished() && !ready("b-endless").await);
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    assert_eq!(load("steps").await.unwrap().status, 200);
    let refused = endless.await.unwrap();
    assert!(refused.status == 409 && refused.error().contains("probe.wall_s_max"), "{:?}", refused.body);
}

/// A signature longer than the system lets an argument be reaches the child that proves the model.
#[tokio::test]
async fn a_long_signature_is_loaded() {
    let names: Vec<String> = (0..700).map(|index| format!("{index:0>200}")).collect();
    let outputs: Vec<ValueSpec<'_>> = names.iter().map(|name| (&**name, "FP32", &[-1_i64][..])).collect();
    let to: Vec<[&str; 1]> = names.iter().map(|name| [&**name]).collect();
    let nodes: Vec<NodeSpec<'_>> = to.iter().map(|to| ("Identity", &["x"][..], &to[..])).collect();
    let bytes = model(&nodes, &INPUTS, &outputs);
    let answers: Vec<_> = names.iter().map(|name| tensor(name, "FP32", &[1], json!([1]))).collect();
    let golden = golden(&[tensor("x", "FP32", &[1], json!([1]))], &answers);
    let serving = Serving::start(|models| {
        ModelFolder { name: "wide", inputs: &INPUTS, outputs: &outputs, champion: "1" }
            .write(models, &[("1", &bytes, golden)]);
    })
    .await;
    assert_eq!(serving.client("balancer").await.get("/v2/models/wide/ready").await.status, 200);
}
