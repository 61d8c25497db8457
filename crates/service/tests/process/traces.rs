//! A trace that came in is in the log and, when a collector is configured, in its hands.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use rustix::process::Signal;
use testkit::ca::Ca;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use transport::{Limits, ListenConfig, Server};

use crate::world::{World, load};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

const COLLECTOR: &str = r#"
    address = "127.0.0.1:0"
    [peers]
    "/opentelemetry.proto.collector.trace.v1.TraceService" = ["smallest"]
"#;

fn traced(flags: &str) -> HeaderMap {
    let traceparent = HeaderValue::try_from(format!("00-{TRACE}-{PARENT}-{flags}")).unwrap();
    HeaderMap::from_iter([(HeaderName::from_static("traceparent"), traceparent)])
}

#[tokio::test]
async fn the_log_names_the_trace_without_a_collector() {
    let world = World::new();
    let process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    world.say("answer");
    assert_eq!(client.get_with("/slow", traced("00")).await.0, StatusCode::OK);
    assert_eq!(process.until_logged("the slow answer is waited for").await["trace_id"], TRACE);
}

/// Sampled traces are exported, and what was not sent yet is sent at the stop.
#[tokio::test]
async fn sampled_spans_reach_the_collector_before_the_end() {
    let world = World::new();
    let collector = Collector::start(&world.ca, &world).await;
    let world = world.with("RAMPART_SMALLEST__TELEMETRY__OTLP_ENDPOINT", &format!("https://{}", collector.address));
    let mut process = world.start();
    let client = world.client("balancer", process.address("smallest").await);
    assert_eq!(client.get_with("/fast", traced("01")).await.0, StatusCode::OK);
    let mut unsampled = traced("00");
    let other = HeaderValue::try_from(format!("00-{}-{PARENT}-00", "1".repeat(32))).unwrap();
    unsampled.insert("traceparent", other);
    assert_eq!(client.get_with("/fast", unsampled).await.0, StatusCode::OK);
    process.signal(Signal::TERM);
    assert!(process.end().await.success());

    let received = collector.received.lock().unwrap();
    let resource = &received[0].resource_spans[0];
    let attributes = format!("{:?}", resource.resource.as_ref().unwrap().attributes);
    assert!(attributes.contains("rampart-smallest") && attributes.contains("smallest-1"), "{attributes}");
    let spans: Vec<_> = received
        .iter()
        .flat_map(|request| &request.resource_spans)
        .flat_map(|spans| &spans.scope_spans)
        .flat_map(|spans| &spans.spans)
        .map(|span| (span.name.as_str(), hex(&span.trace_id), hex(&span.parent_span_id)))
        .collect();
    assert_eq!(spans, [("/fast", TRACE.to_owned(), PARENT.to_owned())]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that keeps what it gets.
struct Collector {
    address: std::net::SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    stop: CancellationToken,
}

struct Receiver(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

// === impl Collector ===

impl Collector {
    async fn start(ca: &Ca, world: &World) -> Self {
        let directory = world.path("collector");
        ca.issue("collector", "collector-1", &directory);
        let config: ListenConfig = toml::from_str(COLLECTOR).unwrap();
        let server = Server::bind(&config, load(&directory), Limits::default()).await.unwrap();
        let (address, received, stop) = (server.local_addr(), Arc::default(), CancellationToken::new());
        let service = TraceServiceServer::new(Receiver(Arc::clone(&received)));
        let router = tonic::service::Routes::new(service).into_axum_router();
        tokio::spawn(server.serve(router, stop.clone()));
        Self { address, received, stop }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Receiver ===

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
