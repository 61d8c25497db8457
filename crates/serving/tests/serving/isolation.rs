//! A model's crash is its own: it costs the call that brought it about, and nothing else.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    models::{division, isolate, tensor, write_chain_of, write_divide, write_steps},
};

const ONE_WORKER: &str = "[inference]\nworkers = 1\n";

/// `steps` answers, whatever is asked of other models.
async fn assert_steps_answers(client: &Client) {
    let answer = client.infer("steps", &json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] })).await;
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([3.0])));
}

fn write_divide_and_steps(models: &Path) {
    write_divide(models);
    write_steps(models, 1);
}

fn quotient(answer: &Value) -> &Value {
    &answer["outputs"][0]["data"]
}

/// `i64::MIN / -1` raises SIGFPE in ONNX Runtime. Its caller is told so, once; callers of other models see nothing, and the next caller
/// of the same model waits for its next process. Inputs: `../shared/field/poison-divide.json`.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_one_call() {
    let mut serving = Serving::start_with(ONE_WORKER, write_divide_and_steps).await;
    let client = serving.client("balancer").await;
    let stop = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                assert_steps_answers(&client).await;
            }
        }
    });
    for caller in ["11", "12", "13", "14"] {
        let poison = serving.client_of(caller).infer("divide", &division(i64::MIN, -1)).await;
        assert_eq!(poison.status, 400, "{:?}", poison.body);
        let told = poison.error();
        assert!(told.contains("divided a whole number by zero") && told.ends_with("(signal 8, SIGFPE)"), "{told}");
        let answer = client.infer("divide", &division(9, 3)).await;
        assert_eq!((answer.status, quotient(&answer.json())), (200, &json!([3])));
    }
    stop.store(true, Ordering::Relaxed);
    other.await.unwrap();
    assert!(serving.child.try_wait().unwrap().is_none(), "the replica lives");
    let metrics = serving.metrics().await;
    let crashes = "ml_serving_workers_ended_total{model=\"divide\",version=\"1\",reason=\"crash\"} 4";
    assert!(metrics.lines().any(|line| line == crashes), "{metrics}");
}

/// Two crashes of one caller keep this caller from this model, and no other caller and no other model.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_calls_crash_a_model_is_kept_from_it() {
    let serving = Serving::start(write_divide_and_steps).await;
    let (attacker, other) = (serving.client_of("66"), serving.client_of("7"));
    for _ in 0..2 {
        assert_eq!(attacker.infer("divide", &division(i64::MIN, -1)).await.status, 400);
    }
    let refused = attacker.infer("divide", &division(9, 3)).await;
    assert_eq!(refused.status, 429, "{:?}", refused.body);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert!(refused.error().contains("ended the process of the model \"divide\""), "{}", refused.error());
    assert_steps_answers(&attacker).await;
    let answer = other.infer("divide", &division(9, 3)).await;
    assert_eq!((answer.status, quotient(&answer.json())), (200, &json!([3])));
}

/// A process that is killed while it is idle is no caller's loss; also when all of them are, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn idle_processes_that_die_cost_no_call() {
    let serving = Serving::start_with("[inference]\nworkers = 2\n", |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    for _ in 0..3 {
        let workers = serving.until_workers(2).await;
        workers.iter().for_each(|worker| worker.kill(Signal::KILL));
        for _ in 0..20 {
            assert_steps_answers(&client).await;
        }
        assert!(!workers.iter().any(|worker| worker.is_alive()));
    }
}

/// A version is started again from the files that were proved, also when its folder is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_outlives_its_folder() {
    let serving = Serving::start_with(ONE_WORKER, |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    fs::remove_dir_all(serving.models.join("steps")).unwrap();
    for _ in 0..3 {
        serving.until_workers(1).await[0].kill(Signal::SEGV);
        assert_steps_answers(&client).await;
    }
}

/// One node of the graph cannot be stopped in the middle: the product of two large matrices. The caller's deadline holds all the same, and
/// the process is killed when it does not give the call up.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_stop_is_killed() {
    let serving = Serving::start_with(ONE_WORKER, |models| write_chain_of(models, 1, 2)).await;
    let client = serving.client("balancer").await;
    let square = |size: i64| json!({ "inputs": [tensor("size", "INT64", &[2], json!([size, size]))] });
    let mut long = square(8000);
    long["parameters"] = json!({ "timeout": 1_000_000 });
    for number in 1..=2 {
        assert_eq!(client.infer("chain", &long).await.status, 504);
        let stuck =
            format!("ml_serving_workers_ended_total{{model=\"chain\",version=\"1\",reason=\"stuck\"}} {number}");
        serving.until_measured(&stuck).await;
        assert_eq!(serving.client_of("7").infer("chain", &square(2)).await.status, 200);
    }
    assert_eq!(client.infer("chain", &square(2)).await.status, 429, "who ends processes is kept from the model");
}

/// Calls that are given up while they are sent or computed cost no process, wherever the model computes.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_end_no_process() {
    let serving = Serving::start_with(ONE_WORKER, |models| write_steps(models, 1)).await;
    let mut large = json!({ "inputs": [tensor("x", "FP32", &[500_000], json!(vec![0.5; 500_000]))] });
    for isolation in ["model", "group", "none"] {
        // Its passport is good for a minute.
        let client = serving.client("balancer").await;
        isolate(&serving.models, "steps", isolation);
        assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200);
        // One is left when that which proved it or computed it before has ended.
        let workers = serving.until_workers(usize::from(isolation != "none")).await;
        let began = std::time::Instant::now();
        assert_eq!(client.infer("steps", &large).await.status, 200);
        let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
        for part in 1..=20 {
            large["parameters"] = json!({ "timeout": whole * part / 20 });
            let status = client.infer("steps", &large).await.status;
            assert!([200, 504].contains(&status), "{status}");
            assert_steps_answers(&client).await;
        }
        large.as_object_mut().unwrap().remove("parameters");
        assert_eq!(serving.workers(), workers);
    }
}

/// What a process of a model can reach: no secret in its environment, no descriptor but its own, few system calls; the kernel ends it
/// before its replica, and it ends with its replica.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_a_model_is_confined_and_ends_with_its_replica() {
    let mut serving = Serving::start_with("[inference]\nworkers = 2\n", |models| write_steps(models, 1)).await;
    serving.until_measured("ml_serving_workers{model=\"steps\",version=\"1\"} 2").await;
    let worker = serving.until_workers(2).await[0];
    assert_eq!((worker.status("NoNewPrivs:"), worker.status("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(worker.file("oom_score_adj").trim(), "1000");
    let mut variables: Vec<String> =
        worker.file("environ").split_terminator('\0').map(|each| each.split('=').next().unwrap().to_owned()).collect();
    // Where there are locales of the test's own, models of text need them.
    variables.retain(|name| name != "LOCPATH");
    variables.sort();
    assert_eq!(
        variables,
        ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "ORT_DISABLE_TELEMETRY"]
    );
    // What the environment of the test leaves open is open in every process below it.
    let mut own = descriptors(&worker.path("fd"));
    own.retain(|descriptor, target| descriptors("/proc/self/fd").get(descriptor) != Some(target));
    let count = |kind: &str| own.values().filter(|target| target.starts_with(kind)).count();
    assert_eq!((count("socket:"), count("pipe:")), (2, 4), "a socket and two pipes, each with a second descriptor");
    own.retain(|_, target| !["socket:", "pipe:", "/proc/"].iter().any(|kind| target.starts_with(kind)));
    assert!(own.is_empty(), "{own:?}");
    let _killed = serving.child.kill();
    let _reaped = serving.child.wait();
    testkit::poll_until("the workers are gone", Duration::from_secs(10), async || !worker.is_alive()).await;
}

/// The descriptors of a process, and what they are.
fn descriptors(folder: &str) -> BTreeMap<String, String> {
    let target = |path: &Path| fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), target(&entry.path()))).collect()
}

/// A model that is trusted computes in the replica itself, and is still proved in a process first.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_isolation_has_no_process() {
    let serving = Serving::start_with("[inference]\nworkers = 2\n", |models| {
        write_steps(models, 1);
        isolate(models, "steps", "none");
    })
    .await;
    let client = serving.client("balancer").await;
    assert_steps_answers(&client).await;
    serving.until_workers(0).await;
    assert_steps_answers(&client).await;
    isolate(&serving.models, "steps", "model");
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200);
    serving.until_workers(2).await;
    assert_steps_answers(&client).await;
}
