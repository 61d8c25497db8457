//! One server with a router that counts, a CA, and clients of every sort.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Identity, IdentityConfig, PeerName};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use proto::sla::v1::{
    ReportMinutesRequest, ReportMinutesResponse,
    ledger_server::{Ledger, LedgerServer},
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use testkit::{ca::Ca, poll_until};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use transport::{Limits, ListenConfig, Server, TransportError};

/// Long enough for a loaded machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const PEERS: &str = r#"
    address = "127.0.0.1:0"
    [peers]
    "/" = ["gateway"]
    "/admin" = ["operator"]
    "/rampart.sla.v1.Ledger" = ["gateway"]
"#;

pub(crate) type Http1 = http1::SendRequest<Full<Bytes>>;
pub(crate) type Http2 = http2::SendRequest<Full<Bytes>>;
/// The task that drives a client's connection; it ends when the connection does.
pub(crate) type Driver = JoinHandle<hyper::Result<()>>;

/// A server that is being served, and what is needed to reach it.
pub(crate) struct World {
    pub(crate) ca: Arc<Ca>,
    pub(crate) directory: TempDir,
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<Result<(), TransportError>>,
    handled: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

/// Counts as the handler of the router that it is part of; answers what it was sent.
struct CountedLedger;

// === impl World ===

impl World {
    pub(crate) async fn with(limits: Limits) -> Self {
        Self::under(Arc::new(Ca::new()), limits).await
    }

    /// A server of the same CA as another.
    pub(crate) async fn under(ca: Arc<Ca>, limits: Limits) -> Self {
        Self::named("service", ca, limits).await
    }

    /// A server that counts under a name of its own.
    pub(crate) async fn named(listener: &'static str, ca: Arc<Ca>, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        ca.issue("serving", "serving-1", directory.path());
        let identity = load(directory.path());
        let config: ListenConfig = toml::from_str(PEERS).unwrap();
        let server = Server::bind(&config, identity.clone(), limits).await.unwrap().named(listener);
        let address = server.local_addr();
        let (handled, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(router(handled.clone(), gate.clone()), stop.clone()));
        Self { ca, directory, identity, address, stop, serving, handled, gate }
    }

    /// How many requests reached the router.
    pub(crate) fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    pub(crate) async fn until_handled(&self, count: usize) {
        until("the handler is reached", || self.handled() >= count).await;
    }

    /// Lets one `/slow` finish.
    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(1);
    }

    pub(crate) fn peer(&self, service: &str) -> (Arc<Identity>, TempDir) {
        peer_of(&self.ca, service)
    }

    /// The service's configuration for one that presents itself as `service`.
    pub(crate) fn client(&self, service: &str) -> Arc<ClientConfig> {
        self.peer(service).0.client_config("serving")
    }

    pub(crate) async fn tls(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("serving.rampart.internal").unwrap();
        TlsConnector::from(config).connect(name, TcpStream::connect(self.address).await?).await
    }

    pub(crate) async fn tls1(&self, service: &str) -> TlsStream<TcpStream> {
        let mut config = (*self.client(service)).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.tls(config.into()).await.unwrap()
    }

    pub(crate) async fn http1(&self, service: &str) -> (Http1, Driver) {
        let (requests, connection) = http1::handshake(TokioIo::new(self.tls1(service).await)).await.unwrap();
        (requests, tokio::spawn(connection))
    }

    pub(crate) async fn http2(&self, service: &str) -> (Http2, Driver) {
        self.http2_with(self.client(service)).await
    }

    pub(crate) async fn http2_with(&self, config: Arc<ClientConfig>) -> (Http2, Driver) {
        http2_over(self.tls(config).await.unwrap()).await
    }
}

pub(crate) async fn http2_over(stream: TlsStream<TcpStream>) -> (Http2, Driver) {
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (requests, tokio::spawn(connection))
}

pub(crate) fn peer_of(ca: &Ca, service: &str) -> (Arc<Identity>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    ca.issue(service, &format!("{service}-1"), directory.path());
    (load(directory.path()), directory)
}

pub(crate) fn load(directory: &Path) -> Arc<Identity> {
    Identity::load(&IdentityConfig { directory: directory.to_owned() }).unwrap()
}

pub(crate) fn get_request(path: &str) -> http::Request<Full<Bytes>> {
    http::Request::get(format!("https://serving.rampart.internal{path}"))
        .header("host", "serving.rampart.internal")
        .body(Full::default())
        .unwrap()
}

pub(crate) fn post_request(path: &str, body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("https://serving.rampart.internal{path}"))
        .header("host", "serving.rampart.internal")
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) async fn text(response: http::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Waits for a state.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    poll_until(what, PATIENCE, async || is_so()).await;
}

/// The metrics of this process: all tests share its recorder, so a test that counts names its listener.
pub(crate) fn metrics() -> &'static PrometheusHandle {
    static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());
    &METRICS
}

/// How many connections of a listener reached their greatest age.
pub(crate) fn aged(listener: &str) -> u32 {
    let (listener, rendered) = (format!("listener=\"{listener}\""), metrics().render());
    let mut lines = rendered.lines().filter(|line| line.starts_with("ml_transport_retirements_total"));
    let line = lines.find(|line| line.contains(&listener) && line.contains("reason=\"age\""));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, count)| count.parse().unwrap())
}

fn router(handled: Arc<AtomicUsize>, gate: Arc<Semaphore>) -> Router {
    let slow = move || async move { gate.acquire().await.unwrap().forget() };
    let who = async |Extension(peer): Extension<PeerName>| peer.to_string();
    let count = move |request: Request, next: Next| {
        handled.fetch_add(1, Ordering::SeqCst);
        next.run(request)
    };
    tonic::service::Routes::new(LedgerServer::new(CountedLedger))
        .into_axum_router()
        .route("/slow", get(slow))
        .route("/who", get(who))
        .route("/stream", get(stream))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/admin/x", get(async || "reached"))
        .layer(middleware::from_fn(count))
}

/// One chunk, and then nothing more for ever.
async fn stream() -> Response {
    let chunks = futures::stream::iter([Ok::<_, io::Error>("first")]);
    axum::body::Body::from_stream(chunks.chain(futures::stream::pending())).into_response()
}

#[tonic::async_trait]
impl Ledger for CountedLedger {
    async fn report_minutes(
        &self,
        request: tonic::Request<ReportMinutesRequest>,
    ) -> Result<tonic::Response<ReportMinutesResponse>, Status> {
        let peer = request.extensions().get::<PeerName>().ok_or_else(|| Status::internal("no peer name"))?;
        let trace = request.metadata().get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        let recorded = u32::try_from(request.get_ref().minutes.len()).unwrap();
        let mut response = tonic::Response::new(ReportMinutesResponse { recorded });
        response.metadata_mut().insert("seen-peer", peer.to_string().parse().unwrap());
        if let Some(trace) = trace {
            response.metadata_mut().insert("seen-trace", trace.parse().unwrap());
        }
        Ok(response)
    }
}
