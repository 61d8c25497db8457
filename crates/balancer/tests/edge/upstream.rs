//! A serving replica: a real server over mutual TLS, in its own runtime so that it can be lost like a process, or in a
//! process of its own so that it can be killed and frozen.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use identity::{Identity, IdentityConfig, PeerList};
use prost::Message;
use proto::inference::{InferStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::{runtime::Runtime, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use transport::{Limits, ListenConfig, Server};

use crate::world::World;

const CHILD: &str = "RAMPART_TEST_UPSTREAM";
/// What it prints when one arrives.
const HELD_REQUEST: &str = "held request";

/// A replica in this process.
pub struct Upstream {
    pub name: String,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    health: HealthReporter,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

/// What a replica has seen, and how it behaves.
pub struct Seen {
    name: String,
    pub requests: AtomicUsize,
    /// Bytes of bodies of held requests.
    pub held_bytes: AtomicUsize,
    pub is_unavailable: watch::Sender<bool>,
    /// How often held requests were released.
    releases: watch::Sender<usize>,
    /// Prints when it holds a request.
    announces_held: bool,
}

impl Seen {
    fn new(name: &str, announces_held: bool) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            requests: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            is_unavailable: watch::Sender::new(false),
            releases: watch::Sender::new(0),
            announces_held,
        })
    }

    /// Lets the requests below `/v2/held` go on that have arrived.
    pub fn release(&self) {
        self.releases.send_modify(|count| *count += 1);
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Upstream {
    pub fn start(world: &World, instance: &str) -> Self {
        Self::start_at(world, instance, "127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(world: &World, instance: &str, address: SocketAddr) -> Self {
        let seen = Seen::new(instance, false);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        let identity = world.identity(instance);
        let stop = CancellationToken::new();
        let (runtime, address, health) = serve_until(stop.clone(), identity, address, router);
        Self { name: instance.into(), address, seen, health, stop, runtime: Some(runtime) }
    }

    /// Closes its listener, and finishes what is in flight.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Lost at once, with all its sockets.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// What its health checks say from now on.
    pub async fn set_serving(&self, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn serve(
    identity: std::path::PathBuf,
    address: SocketAddr,
    router: Router,
) -> (Runtime, SocketAddr, HealthReporter) {
    serve_until(CancellationToken::new(), identity, address, router)
}

/// A server in a runtime of its own, with `grpc.health.v1` beside the router, for the balancer alone.
fn serve_until(
    stop: CancellationToken,
    identity: std::path::PathBuf,
    address: SocketAddr,
    router: Router,
) -> (Runtime, SocketAddr, HealthReporter) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (health, health_service) = tonic_health::server::health_reporter();
    let router = router.merge(tonic::service::Routes::new(health_service).into_axum_router().reset_fallback());
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let identity = Identity::load(&IdentityConfig { directory: identity }).unwrap();
        tokio::spawn(Arc::clone(&identity).watch(CancellationToken::new()));
        let peers = PeerList::try_from(
            [("/".to_owned(), ["balancer".to_owned()].into())]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
        .unwrap();
        let limits = Limits { body_bytes_max: 64 << 20, ..Limits::default() };
        let server = Server::bind(&ListenConfig { address, peers }, identity, limits).await.unwrap();
        sender.send(server.local_addr()).unwrap();
        server.serve(router, stop).await.unwrap();
    });
    let address = receiver.recv().unwrap();
    (runtime, address, health)
}

async fn answer(State(seen): State<Arc<Seen>>, request: Request) -> Response {
    // Before the request is counted: a test that has seen it may release it.
    let mut releases = seen.releases.subscribe();
    seen.requests.fetch_add(1, Ordering::SeqCst);
    if *seen.is_unavailable.borrow() {
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let path = request.uri().path().to_owned();
    if path.contains("/stalled/") {
        // Nothing of the body is taken.
        let _ = releases.changed().await;
    }
    let request = if path.contains("/held/") { hold(&seen, releases, request).await } else { request };
    if path.ends_with("/release") {
        seen.release();
    }
    match path.as_str() {
        _ if path.contains("/unread/") => status(StatusCode::OK),
        _ if path.contains("/large/") => Response::new(Body::from(vec![b'x'; 4 << 20])),
        _ if path.ends_with("/nowhere/stats") => no_model(),
        _ if path.ends_with("/stats") => statistics(&seen, &path),
        "/inference.GRPCInferenceService/ModelStatistics" => grpc(Request::new(Body::from(message(&seen)))).await,
        _ if path.starts_with("/inference.GRPCInferenceService/") => grpc(request).await,
        _ => echo(&seen, request).await,
    }
}

/// Reads the body, then waits until the test releases what is held.
async fn hold(seen: &Seen, mut releases: watch::Receiver<usize>, request: Request) -> Request {
    let (parts, mut body) = request.into_parts();
    let mut received = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            seen.held_bytes.fetch_add(data.len(), Ordering::SeqCst);
            received.extend(data);
        }
    }
    if seen.announces_held {
        println!("{HELD_REQUEST}");
    }
    let _ = releases.changed().await;
    Request::from_parts(parts, Body::from(received))
}

/// Everything that arrived, as JSON.
async fn echo(seen: &Seen, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return status(StatusCode::BAD_REQUEST) };
    let headers: serde_json::Map<_, _> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let body = body.to_bytes();
    let says_origins = parts.uri.path().contains("/cors/");
    let value = json!({
        "replica": seen.name, "method": parts.method.as_str(), "path": parts.uri.path(), "query": parts.uri.query(),
        "authority": parts.uri.authority().map(http::uri::Authority::as_str),
        "headers": headers, "body_bytes": body.len(), "body": String::from_utf8_lossy(&body[..body.len().min(100)]),
    });
    let mut response = Response::new(Body::from(value.to_string()));
    if says_origins {
        response.headers_mut().insert("access-control-allow-origin", HeaderValue::from_static("*"));
        response.headers_mut().insert("access-control-allow-credentials", HeaderValue::from_static("true"));
    }
    response
}

/// What this replica has computed: of version 2 as much as its number, and the first one has a version more.
fn figures(seen: &Seen) -> Vec<(&'static str, u64)> {
    let number: u64 = seen.name.rsplit('-').next().unwrap().parse().unwrap();
    if number == 1 { vec![("2", 1), ("10", 5)] } else { vec![("2", number)] }
}

fn statistics(seen: &Seen, path: &str) -> Response {
    let model = |(version, count): (&str, u64)| {
        let durations = json!({ "count": count, "ns": 1000 * count });
        json!({
            "name": "m", "version": version, "last_inference": 1_700_000_000_000 + count, "inference_count": 10 * count,
            "execution_count": count, "inference_stats": { "success": durations, "fail": durations }, "batch_stats": [],
        })
    };
    let models: Vec<_> = figures(seen).into_iter().map(model).collect();
    let mut answer = json!({ "model_stats": models });
    if path == "/v2/models/stats" {
        // A model is called so.
        answer["name"] = json!("stats");
        answer["inputs"] = json!([]);
    }
    Response::new(Body::from(answer.to_string()))
}

/// The same in a frame of gRPC.
fn message(seen: &Seen) -> Vec<u8> {
    let model = |(version, count): (&str, u64)| {
        let durations = Some(StatisticDuration { count, ns: 1000 * count });
        ModelStatistics {
            name: "m".into(),
            version: version.into(),
            last_inference: 1_700_000_000_000 + count,
            inference_count: 10 * count,
            execution_count: count,
            inference_stats: Some(InferStatistics { success: durations, fail: durations, ..Default::default() }),
            ..Default::default()
        }
    };
    let message =
        ModelStatisticsResponse { model_stats: figures(seen).into_iter().map(model).collect() }.encode_to_vec();
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

fn no_model() -> Response {
    let mut response = Response::new(Body::from(json!({ "error": "there is no model \"nowhere\"" }).to_string()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// The request's message back, twice, with trailers; or a status without a message.
async fn grpc(request: Request) -> Response {
    let is_refused = request.uri().path().ends_with("/ModelReady");
    let message = request.into_body().collect().await.unwrap().to_bytes();
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(if is_refused { "9" } else { "0" }));
    trailers.insert("grpc-message", HeaderValue::from_static("as%20asked"));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    let mut response = if is_refused {
        let mut response = Response::new(Body::empty());
        response.headers_mut().extend(trailers);
        response
    } else {
        let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<Frame<Bytes>, std::io::Error>);
        Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))))
    };
    response.headers_mut().extend(headers);
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A replica in a process of its own.
pub struct ChildUpstream {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
    held_requests: Arc<AtomicUsize>,
}

impl ChildUpstream {
    pub fn start(world: &World, instance: &str, address: SocketAddr) -> Self {
        let identity = world.identity(instance);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "upstream::child", "--nocapture", "--include-ignored"])
            .env(CHILD, format!("{}|{instance}|{address}", identity.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find_map(|line| line.split("listening on ").nth(1).map(|address| address.trim().to_owned()));
        let address = line.expect("the child listens").parse().unwrap();
        let held_requests: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&held_requests);
        // It ends with the child.
        std::thread::spawn(move || {
            for _ in lines.filter(|line| line == HELD_REQUEST) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { name: instance.into(), address, child, held_requests }
    }

    /// How many have arrived.
    pub fn held_requests(&self) -> usize {
        self.held_requests.load(Ordering::SeqCst)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for ChildUpstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what `ChildUpstream` runs. Without its environment it passes.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    identity::install_crypto_providers().unwrap();
    let mut arguments = arguments.split('|');
    let (identity, name) = (arguments.next().unwrap(), arguments.next().unwrap());
    let address = arguments.next().unwrap().parse().unwrap();
    let router = Router::new().fallback(answer).with_state(Seen::new(name, true));
    let (runtime, address, _health) = serve(identity.into(), address, router);
    println!("listening on {address}");
    runtime.block_on(std::future::pending::<()>());
}
