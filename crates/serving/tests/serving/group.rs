//! Models that are declared `isolation = "group"` share a process: what one of them costs the others, and what not.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Serving,
    client::{Answer, Client},
    models::{division, isolate, tensor, write_chain_of, write_divide, write_lookup, write_steps_as},
};

const ONE_WORKER: &str = "[inference]\nworkers = 1\n";

/// `two`, `three` and so on: each answers so many times its input.
const MEMBERS: [(&str, u32); 3] = [("two", 2), ("three", 3), ("four", 4)];

fn write_members(models: &Path) {
    for (name, factor) in MEMBERS {
        write_member(models, name, factor);
    }
}

fn write_member(models: &Path, name: &str, factor: u32) {
    write_steps_as(models, name, factor);
    isolate(models, name, "group");
}

fn write_members_and_divide(models: &Path) {
    write_members(models);
    // The first member is one that ends no process: what is said of it by mistake shows.
    write_member(models, "bystander", 5);
    write_divide(models);
    isolate(models, "divide", "group");
}

async fn assert_answers(client: &Client, name: &str, factor: u32) {
    let answer = client.infer(name, &json!({ "inputs": [tensor("x", "FP32", &[1], json!([5]))] })).await;
    assert_eq!(answer.status, 200, "{name}: {:?}", answer.body);
    assert_eq!(answer.json()["outputs"][0]["data"], json!([5.0 * f64::from(factor)]), "{name}");
}

async fn assert_members_answer(client: &Client) {
    for (name, factor) in MEMBERS {
        assert_answers(client, name, factor).await;
    }
}

async fn assert_changed(client: &Client, name: &str, change: &str) {
    let answer = client.post(&format!("/v2/repository/models/{name}/{change}"), "").await;
    assert_eq!(answer.status, 200, "{change} {name}: {:?}", answer.body);
}

/// Calls members again and again, and fails if one call does.
struct Traffic {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<usize>>,
}

impl Traffic {
    fn start(client: &Client, members: &[(&'static str, u32)], callers_each: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |(name, factor)| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_answers(&client, name, factor).await;
                    calls += 1;
                }
                calls
            })
        };
        let callers = members.iter().flat_map(|member| vec![*member; callers_each]).map(call).collect();
        Self { stop, callers }
    }

    /// The calls that were answered.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for caller in self.callers {
            calls += caller.await.unwrap();
        }
        calls
    }
}

async fn assert_measured(serving: &Serving, expected: &[(&str, &str, &str)]) {
    let metrics = serving.metrics().await;
    for (name, labels, value) in expected {
        let line = format!("{name}{{{labels}}} {value}");
        assert!(metrics.lines().any(|each| each == line), "{line} is not in\n{metrics}");
    }
}

/// Three models of a group have one process, and a model beside them its own. Each answers for itself.
#[tokio::test(flavor = "multi_thread")]
async fn models_of_a_group_share_one_process() {
    let serving = Serving::start_with(ONE_WORKER, |models| {
        write_members(models);
        write_steps_as(models, "alone", 9);
    })
    .await;
    let client = serving.client("balancer").await;
    let processes = serving.until_workers(2).await;
    for _ in 0..3 {
        assert_members_answer(&client).await;
        assert_answers(&client, "alone", 9).await;
    }
    let labels = ["two", "three", "four", "alone"].map(|model| format!("model=\"{model}\",version=\"1\""));
    assert_measured(&serving, &labels.each_ref().map(|labels| ("ml_serving_workers", &**labels, "1"))).await;
    assert_eq!(serving.workers(), processes);
    // One that leaves the group gets a process of its own.
    isolate(&serving.models, "two", "model");
    assert_changed(&client, "two", "load").await;
    serving.until_workers(3).await;
    assert_members_answer(&client).await;
}

/// A call that crashes the process costs its caller an answer. Callers of the other models see nothing but time, and all models answer again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_a_group_costs_one_call() {
    let mut serving = Serving::start_with(ONE_WORKER, write_members_and_divide).await;
    let client = serving.client("balancer").await;
    let traffic = Traffic::start(&client, &MEMBERS, 3);
    for caller in ["11", "12", "13", "14"] {
        let poison = serving.client_of(caller).infer("divide", &division(i64::MIN, -1)).await;
        assert_eq!(poison.status, 400, "{:?}", poison.body);
        let told = poison.error();
        assert!(told.contains("divided a whole number by zero") && told.ends_with("(signal 8, SIGFPE)"), "{told}");
        let answer = client.infer("divide", &division(9, 3)).await;
        assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([3])));
        assert_members_answer(&client).await;
    }
    assert!(traffic.stop().await > 0);
    assert!(serving.child.try_wait().unwrap().is_none(), "the replica lives");
    let labels = |model| format!("model=\"{model}\",version=\"1\",reason=\"crash\"");
    let (ended, divide, two) = ("ml_serving_workers_ended_total", labels("divide"), labels("two"));
    assert_measured(&serving, &[(ended, &divide, "4"), (ended, &two, "0")]).await;
    serving.until_workers(1).await;
}

/// The quarantine is of this caller and this model: not of the others in its process.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_crashes_a_group_is_kept_from_one_model() {
    let serving = Serving::start(write_members_and_divide).await;
    let (attacker, other) = (serving.client_of("66"), serving.client_of("7"));
    for _ in 0..2 {
        assert_eq!(attacker.infer("divide", &division(i64::MIN, -1)).await.status, 400);
    }
    let refused = attacker.infer("divide", &division(9, 3)).await;
    assert_eq!(refused.status, 429, "{:?}", refused.body);
    assert_members_answer(&attacker).await;
    assert_members_answer(&other).await;
    assert_eq!(other.infer("divide", &division(9, 3)).await.status, 200);
    serving.until_workers(1).await;
}

/// A call that cannot be stopped has the process killed, which is its caller's loss alone. One that is killed while it is idle costs no call.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_process_is_killed_serves_on() {
    let serving = Serving::start_with(ONE_WORKER, |models| {
        write_members(models);
        write_chain_of(models, 1, 2);
        isolate(models, "chain", "group");
    })
    .await;
    let client = serving.client("balancer").await;
    let square = |size: i64| json!({ "inputs": [tensor("size", "INT64", &[2], json!([size, size]))] });
    let mut long = square(8000);
    long["parameters"] = json!({ "timeout": 1_000_000 });
    let traffic = Traffic::start(&client, &MEMBERS, 2);
    assert_eq!(client.infer("chain", &long).await.status, 504);
    serving.until_measured("ml_serving_workers_ended_total{model=\"chain\",version=\"1\",reason=\"stuck\"} 1").await;
    assert_eq!(serving.client_of("7").infer("chain", &square(2)).await.status, 200);
    assert!(traffic.stop().await > 0);
    for _ in 0..3 {
        serving.until_workers(1).await[0].kill(Signal::KILL);
        assert_members_answer(&client).await;
    }
}

/// The file of a member was changed under the replica, so it cannot be loaded into another process: the others can, and so can this one when
/// its file is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_be_loaded_again_keeps_no_other_from_serving() {
    let serving = Serving::start_with(ONE_WORKER, write_members).await;
    let client = serving.client("balancer").await;
    let file = serving.models.join("two/1/model.onnx");
    let good = fs::read(&file).unwrap();
    fs::write(&file, b"another").unwrap();
    serving.until_workers(1).await[0].kill(Signal::KILL);
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([5]))] });
    let refused = client.infer("two", &body).await;
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert!(refused.error().contains("no process for the model \"two\""), "{}", refused.error());
    for (name, factor) in [("three", 3), ("four", 4)] {
        assert_answers(&client, name, factor).await;
    }
    fs::write(&file, good).unwrap();
    testkit::poll_until("it answers again", Duration::from_secs(20), async || {
        client.infer("two", &body).await.status == 200
    })
    .await;
    assert_members_answer(&client).await;
    serving.until_workers(1).await;
}

/// A member that is unloaded, loaded and changed leaves the others in service, in the same process. The last one takes the process with it.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_come_and_go() {
    let serving = Serving::start_with(ONE_WORKER, write_members).await;
    let client = serving.client("balancer").await;
    let process = serving.until_workers(1).await;
    let assert_others_answer = || async {
        for (name, factor) in [("three", 3), ("four", 4)] {
            assert_answers(&client, name, factor).await;
        }
    };
    // Among them the first, whose process became the group's.
    for name in ["four", "two"] {
        assert_changed(&client, name, "unload").await;
        assert_eq!(client.infer(name, &json!({ "inputs": [] })).await.status, 404);
        assert_answers(&client, "three", 3).await;
        assert_changed(&client, name, "load").await;
    }
    assert_others_answer().await;
    assert_answers(&client, "two", 2).await;
    for factor in [5, 6] {
        write_member(&serving.models, "two", factor);
        assert_changed(&client, "two", "load").await;
        assert_answers(&client, "two", factor).await;
        assert_others_answer().await;
    }
    serving.until_workers(1).await;
    assert_eq!(serving.workers(), process);
    for (name, _) in MEMBERS {
        assert_changed(&client, name, "unload").await;
    }
    serving.until_workers(0).await;
    assert_changed(&client, "two", "load").await;
    assert_answers(&client, "two", 6).await;
    assert_ne!(serving.until_workers(1).await, process);
}

/// A member that is unloaded gives its memory back, though the process goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_member_leaves_the_process() {
    const BYTES: usize = 32 << 20;
    let serving = Serving::start_with(ONE_WORKER, |models| {
        write_members(models);
        write_lookup(models, BYTES / size_of::<f32>());
        isolate(models, "lookup", "group");
    })
    .await;
    let client = serving.client("balancer").await;
    let process = serving.until_workers(1).await[0];
    let held = process.resident_bytes();
    assert!(held > BYTES as u64, "{held}");
    assert_changed(&client, "lookup", "unload").await;
    testkit::poll_until("most of its memory comes back", Duration::from_secs(20), async || {
        process.resident_bytes() + (BYTES * 3 / 4) as u64 <= held
    })
    .await;
    assert_members_answer(&client).await;
    assert_eq!(serving.workers(), [process]);
}

/// Loads of one member, good ones and refused ones, fail no call of another.
#[tokio::test(flavor = "multi_thread")]
async fn loading_into_a_group_under_traffic_fails_no_call() {
    let serving = Serving::start_with(ONE_WORKER, write_members).await;
    let client = serving.client("balancer").await;
    let process = serving.until_workers(1).await;
    let traffic = Traffic::start(&client, &[("three", 3), ("four", 4)], 4);
    let golden = serving.models.join("two/1/golden.json");
    for factor in 5..15 {
        write_member(&serving.models, "two", factor);
        assert_changed(&client, "two", "load").await;
        assert_answers(&client, "two", factor).await;
        write_member(&serving.models, "two", factor + 1);
        fs::write(&golden, "{}").unwrap();
        assert_eq!(client.post("/v2/repository/models/two/load", "").await.status, 409);
        assert_answers(&client, "two", factor).await;
    }
    assert!(traffic.stop().await > 100);
    serving.until_workers(1).await;
    assert_eq!(serving.workers(), process);
}

/// A member takes memory for its model, not for a process: into a budget that admits two processes ten members fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_takes_the_memory_of_one_process() {
    // What `load` says of each of ten models.
    let loaded = async |memory_bytes: u64, isolation: &str| {
        let config = format!("{ONE_WORKER}memory_total_bytes_max = {memory_bytes}\n");
        let serving = Serving::start_configured(|_, _| config).await.ready().await;
        let client = serving.client("balancer").await;
        let mut answers = Vec::new();
        for number in 0..10 {
            let name = format!("m{number}");
            write_steps_as(&serving.models, &name, number + 1);
            isolate(&serving.models, &name, isolation);
            answers.push(client.post(&format!("/v2/repository/models/{name}/load"), "").await);
        }
        answers
    };
    let statuses = |answers: &[Answer]| answers.iter().map(|answer| answer.status).collect::<Vec<_>>();
    // What one process takes is in the words of a refusal; a budget that has room for the file alone lets it be proved.
    let refused = loaded(1 << 20, "model").await[0].error();
    let taken: u64 = refused.split("took ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    let two_processes = taken * 5 / 2;
    assert_eq!(statuses(&loaded(two_processes, "model").await), [[200; 2].as_slice(), &[409; 8]].concat());
    let group = loaded(two_processes, "group").await;
    assert_eq!(statuses(&group), [200; 10], "{group:?}");
}
