//! Proves that callers who do what they can to a platform take nothing from another caller.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "shared with the tests of serving, which use all of it")]
#[path = "../../crates/serving/tests/serving/support/onnx.rs"]
mod onnx;

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use end_to_end::{
    checkout::repository,
    front_door::FrontDoor,
    platform::{Platform, Setup},
    recorded_load::{CallKind, RecordedLoad},
    request::Protocol,
    tls_probe::client_config,
};
use http::Method;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use sha256::Sha256Digest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use onnx::{NodeSpec, ValueSpec, model};

const RATE: u32 = 200;
const LATEST: Duration = Duration::from_secs(1);
/// How long it goes on, and with `scripts/test --all`: in rounds, since tokens live for ten minutes.
const HOSTILITIES: Duration = Duration::from_secs(30);
const LONG_ROUND: Duration = Duration::from_secs(150);
const LONG_ROUNDS: u32 = 4;
/// Between two of each attacker's calls.
const PACE: Duration = Duration::from_millis(100);
/// How long an attacker holds what it has begun.
const HELD: Duration = Duration::from_secs(3);
/// So many guess passwords side by side.
const GUESSERS: usize = 4;
/// Where attackers are who hold, give up and guess: another address of this host than the caller's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Warnings about what the attackers do.
const EXPECTED_WARNINGS: &[&str] = &["calls of this user end processes of the model"];

/// While one principal predicts at a steady rate, others crash models, ask for more memory than there is, begin uploads and do not finish
/// them, read no answers, give calls up, and guess passwords.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_neighbours_take_nothing_from_another_caller() {
    let models = tempfile::tempdir().unwrap();
    copy(&repository().join("examples/models"), models.path());
    write_models(models.path());
    let platform = Setup { models: Some(models.path()), ..Setup::default() }.start().unwrap();
    let template = platform.front.golden_prediction(&platform.token("analyst").unwrap()).await.unwrap();
    let prediction = CallKind { server: platform.front.server(Protocol::Http1).unwrap(), template };
    let load = RecordedLoad::start(vec![prediction], RATE).await.unwrap();
    let is_long = std::env::var("RAMPART_TEST_MATRIX").is_ok_and(|matrix| matrix == "all");
    let (rounds, duration) = if is_long { (LONG_ROUNDS, LONG_ROUND) } else { (1, HOSTILITIES) };
    for round in 0..rounds {
        let (_, token) = platform.account(&format!("caller-{round}"), &["analyst"]).await.unwrap();
        load.use_token(&token).unwrap();
        let mut attackers = attack(&platform, round).await;
        load.go_on(duration).await.unwrap();
        while let Some(ended) = attackers.try_join_next() {
            ended.expect("an attacker was answered as a fault of the platform");
        }
        attackers.shutdown().await;
    }
    let figures = load.figures(Duration::ZERO, load.now()).await.unwrap();
    eprintln!("    hostile neighbours: {}", figures.line());
    assert_eq!(figures.failed + figures.retried, 0, "{}: {:?}", figures.line(), figures.failures);
    assert!(figures.slowest <= LATEST, "{}", figures.line());
    assert_eq!(platform.front.healthy_backends().await.unwrap(), 3, "every replica lives");
    drop(load);
    platform.stop(EXPECTED_WARNINGS).unwrap();
}

/// Attackers of this round, who go on until they are shut down.
async fn attack(platform: &Platform, round: u32) -> JoinSet<()> {
    let account = async |name: &str| platform.account(&format!("{name}-{round}"), &["analyst"]).await.unwrap().1;
    let (crasher, hog, sluggard) = (account("crasher").await, account("hog").await, account("sluggard").await);
    let mut attackers = JoinSet::new();
    let front = &platform.front;
    let number = |name: &str, value: i64| json!({ "name": name, "datatype": "INT64", "shape": [1], "data": [value] });
    let poison = json!({ "inputs": [number("a", i64::MIN), number("b", -1)] });
    attackers.spawn(call_on(front.clone(), "divide", crasher, vec![poison]));
    let sizes = [1_i64 << 33, 1 << 27, 1 << 50].map(|size| json!({ "inputs": [number("n", size)] }));
    attackers.spawn(call_on(front.clone(), "total", hog.clone(), sizes.to_vec()));
    let long = json!({ "inputs": [number("n", 500_000)] });
    attackers.spawn(hold_on(front.clone(), request("fill", &hog, &long.to_string(), 0)));
    attackers.spawn(hold_on(front.clone(), request("fill", &sluggard, "{\"inputs\":", 16_000_000)));
    attackers.spawn(give_up_on(front.clone(), request("total", &sluggard, &sizes[1].to_string(), 0)));
    for _ in 0..GUESSERS {
        attackers.spawn(guess_on(front.clone()));
    }
    attackers
}

/// Calls a model with one body after the other, whatever comes back; never is it a fault of the platform.
async fn call_on(front: FrontDoor, model: &str, token: String, bodies: Vec<Value>) {
    let path = format!("/v2/models/{model}/infer");
    let mut pace = interval(PACE);
    for body in bodies.iter().cycle() {
        pace.tick().await;
        let answered = front.call(Method::POST, &path, Some(&token), Some(body)).await;
        if let Ok((status, answer)) = answered {
            assert_ne!(status, http::StatusCode::INTERNAL_SERVER_ERROR, "{model} {body}: {answer}");
        }
    }
}

/// Sends a request, or a part of one, on four connections, and neither goes on with it nor reads the answer.
async fn hold_on(front: FrontDoor, request: String) {
    loop {
        let mut held = Vec::new();
        for _ in 0..4 {
            if let Some(mut stream) = connect(&front).await {
                let _sent = stream.write_all(request.as_bytes()).await;
                held.push(stream);
            }
        }
        tokio::time::sleep(HELD).await;
    }
}

/// Sends a request and is gone.
async fn give_up_on(front: FrontDoor, request: String) {
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Some(mut stream) = connect(&front).await {
            let _sent = stream.write_all(request.as_bytes()).await;
            // Long enough for the call to be under way.
            let _nothing = timeout(PACE, stream.read_u8()).await;
        }
    }
}

/// Signs in with a wrong password, again and again, and waits for no answer longer than a moment.
async fn guess_on(front: FrontDoor) {
    let guess = json!({ "grant_type": "password", "username": "example-analyst", "password": "not this one either" });
    let guess = post("/api/auth/token", "", &guess.to_string(), 0);
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Some(mut stream) = connect(&front).await {
            let _sent = stream.write_all(guess.as_bytes()).await;
            let _answered = timeout(HELD, stream.read_u8()).await;
        }
    }
}

async fn connect(front: &FrontDoor) -> Option<TlsStream<TcpStream>> {
    let config = Arc::new(client_config(&front.ca_file, None).ok()?);
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((ELSEWHERE, 0))).ok()?;
    let tcp = socket.connect(front.address).await.ok()?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").ok()?, tcp).await.ok()
}

/// A prediction that announces at least so many bytes.
fn request(model: &str, token: &str, body: &str, announced: usize) -> String {
    post(&format!("/v2/models/{model}/infer"), &format!("authorization: Bearer {token}\r\n"), body, announced)
}

/// A request in HTTP/1.1, with further lines of its head.
fn post(path: &str, lines: &str, body: &str, announced: usize) -> String {
    let length = announced.max(body.len());
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{lines}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// `divide`, which i64::MIN / -1 crashes; `total`, which takes as much memory as its caller says; `fill`, which answers as much.
fn write_models(models: &Path) {
    let vector = |name: &'static str| [(name, "FP32", &[-1_i64][..])];
    let size = [("n", "INT64", &[1_i64][..])];
    let operands = [("a", "INT64", &[-1_i64][..]), ("b", "INT64", &[-1_i64][..])];
    let tensor = |name: &str, datatype: &str, data: &[i64]| json!({ "name": name, "datatype": datatype, "shape": [data.len()], "data": data });
    let golden = |inputs: &[Value], output: Value| json!({ "inputs": inputs, "outputs": [output], "tolerance": 0 });
    let sum: [NodeSpec<'_>; 2] = [("ConstantOfShape", &["n"], &["z"]), ("ReduceSum", &["z"], &["y"])];
    write_model(
        models,
        "divide",
        &[("Div", &["a", "b"], &["y"])],
        (&operands, &[("y", "INT64", &[-1])]),
        &golden(&[tensor("a", "INT64", &[7]), tensor("b", "INT64", &[2])], tensor("y", "INT64", &[3])),
    );
    write_model(
        models,
        "total",
        &sum,
        (&size, &[("y", "FP32", &[1])]),
        &golden(&[tensor("n", "INT64", &[2])], tensor("y", "FP32", &[0])),
    );
    write_model(
        models,
        "fill",
        &[("ConstantOfShape", &["n"], &["y"])],
        (&size, &vector("y")),
        &golden(&[tensor("n", "INT64", &[2])], tensor("y", "FP32", &[0, 0])),
    );
}

fn write_model(
    models: &Path,
    name: &str,
    nodes: &[NodeSpec<'_>],
    (inputs, outputs): (&[ValueSpec<'_>], &[ValueSpec<'_>]),
    golden: &Value,
) {
    let (folder, bytes) = (models.join(name), model(nodes, inputs, outputs));
    fs::create_dir_all(folder.join("1")).unwrap();
    fs::write(folder.join("1/model.onnx"), &bytes).unwrap();
    fs::write(folder.join("1/golden.json"), golden.to_string()).unwrap();
    let mut toml = format!("name = {name:?}\n[versions.1]\nsha256 = \"{}\"\n", Sha256Digest::of(&bytes));
    for (section, specs) in [("inputs", inputs), ("outputs", outputs)] {
        for (name, datatype, shape) in specs {
            writeln!(toml, "[[{section}]]\nname = {name:?}\ndatatype = {datatype:?}\nshape = {shape:?}").unwrap();
        }
    }
    fs::write(folder.join("model.toml"), toml).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
