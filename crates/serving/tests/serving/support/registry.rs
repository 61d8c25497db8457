//! A model registry and its storage, for what the real ones do only when they are broken: they go away, answer too much,
//! and hand out files that are not what was registered. Over mutual TLS, with the answers of MLflow 3.17 and S3.

use std::{collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::StreamExt;
use identity::{Identity, IdentityConfig};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::ca::Ca;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::{Limits, ListenConfig, Server};

use super::models::{sha256, steps, steps_golden};

/// The registry of one test; it is away until `open`.
pub(crate) struct Registry {
    pub(crate) shelf: Shelf,
    identity: Arc<Identity>,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

/// What it has.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    models: BTreeMap<String, Model>,
    /// How often each file was asked for.
    fetched: BTreeMap<String, usize>,
    is_endless: bool,
}

#[derive(Default)]
struct Model {
    aliases: BTreeMap<String, String>,
    versions: BTreeMap<u32, Version>,
}

/// One version, whatever is wrong with it.
pub(crate) struct Version {
    pub(crate) tag: Option<String>,
    /// By name.
    pub(crate) files: BTreeMap<&'static str, Vec<u8>>,
}

type Parameters = Query<BTreeMap<String, String>>;

// === impl Registry ===

impl Registry {
    /// Makes one with a certificate of the test's authority; returns the configuration of a replica that follows it.
    pub(crate) fn new(ca: &Ca, directory: &Path) -> (Self, String) {
        let folder = directory.join("mlflow-1");
        ca.issue("mlflow", "mlflow-1", &folder);
        for (file, secret) in [("access-key", "reader"), ("secret-key", "not so secret")] {
            let path = directory.join(file);
            fs::write(&path, secret).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        // A port that was free is, in all likelihood, free again: it must be known before the registry listens there.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[models.registry]\naddress = \"{address}\"\ns3_endpoint = \"https://localhost:{}\"\nbucket = \"shelf\"\n\
             access_key_file = {:?}\nsecret_key_file = {:?}\npoll_interval_ms = 100\nversions_max = 2\n",
            address.port(),
            directory.join("access-key"),
            directory.join("secret-key"),
        );
        let identity = Identity::load(&IdentityConfig { directory: folder }).unwrap();
        (Self { shelf: Shelf::default(), identity, address, running: None }, config)
    }

    pub(crate) async fn open(&mut self) {
        let listen = json!({ "address": self.address, "peers": { "/": ["serving"] } });
        let listen: ListenConfig = serde_json::from_value(listen).unwrap();
        let server = Server::bind(&listen, self.identity.clone(), Limits::default()).await.unwrap();
        let routes = routes(self.shelf.clone());
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { server.serve(routes, stop).await.unwrap() }
        });
        self.running = Some((stop, serving));
    }

    pub(crate) async fn close(&mut self) {
        if let Some((stop, serving)) = self.running.take() {
            stop.cancel();
            serving.await.unwrap();
        }
    }
}

// === impl Shelf ===

impl Shelf {
    /// Registers the next version of `steps`, as it should be but for what the test changes.
    pub(crate) fn publish(&self, number: u32, change: impl FnOnce(&mut Version)) {
        let onnx = steps(number);
        let spec = |name: &str| json!([{ "type": "tensor", "tensor-spec": { "dtype": "float32", "shape": [-1] }, "name": name }]);
        let mlmodel = format!(
            "flavors:\n  onnx:\n    data: model.onnx\nsignature:\n  inputs: '{}'\n  outputs: '{}'\n  params: null\n",
            spec("x"),
            spec("y")
        );
        let mut version = Version {
            tag: Some(sha256(&onnx)),
            files: BTreeMap::from([
                ("MLmodel", mlmodel.into_bytes()),
                ("model.onnx", onnx),
                ("golden.json", steps_golden(number).to_string().into_bytes()),
            ]),
        };
        change(&mut version);
        self.0.lock().models.entry("steps".to_owned()).or_default().versions.insert(number, version);
    }

    pub(crate) fn promote(&self, number: u32) {
        let mut content = self.0.lock();
        let model = content.models.get_mut("steps").unwrap();
        model.aliases.insert("champion".to_owned(), number.to_string());
    }

    /// Changes a version that is registered.
    pub(crate) fn mend(&self, number: u32, change: impl FnOnce(&mut Version)) {
        change(self.0.lock().models.get_mut("steps").unwrap().versions.get_mut(&number).unwrap());
    }

    pub(crate) fn delete_version(&self, number: u32) {
        self.0.lock().models.get_mut("steps").unwrap().versions.remove(&number);
    }

    pub(crate) fn delete_model(&self) {
        self.0.lock().models.remove("steps");
    }

    /// A model without a version.
    pub(crate) fn register(&self, name: &str) {
        self.0.lock().models.entry(name.to_owned()).or_default();
    }

    /// From here on the list of models has no end.
    pub(crate) fn set_endless(&self, is_endless: bool) {
        self.0.lock().is_endless = is_endless;
    }

    pub(crate) fn fetched(&self, number: u32, file: &str) -> usize {
        self.0.lock().fetched.get(&format!("steps/{number}/{file}")).copied().unwrap_or(0)
    }
}

#[expect(clippy::disallowed_methods, reason = "a third party has no actions of the platform")]
fn routes(shelf: Shelf) -> Router {
    Router::new()
        .route("/api/2.0/mlflow/registered-models/search", get(models))
        .route("/api/2.0/mlflow/registered-models/get", get(model))
        .route("/api/2.0/mlflow/model-versions/search", get(versions))
        .route("/api/2.0/mlflow/model-versions/get", get(version))
        .route("/api/2.0/mlflow/model-versions/get-download-uri", get(uri))
        .route("/shelf/{model}/{version}/{file}", get(file))
        .with_state(shelf)
}

fn unknown() -> Response {
    let body = json!({ "error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not found" });
    (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
}

fn model_row((name, model): (&String, &Model)) -> Value {
    let aliases: Vec<Value> =
        model.aliases.iter().map(|(alias, version)| json!({ "alias": alias, "version": version })).collect();
    json!({ "name": name, "creation_timestamp": 1, "latest_versions": [], "aliases": aliases })
}

fn version_row((number, version): (&u32, &Version)) -> Value {
    let tags: Vec<Value> = version.tag.iter().map(|tag| json!({ "key": "sha256", "value": tag })).collect();
    json!({ "name": "steps", "version": number.to_string(), "status": "READY",
            "source": format!("models:/m-{number}"), "tags": tags })
}

async fn models(State(shelf): State<Shelf>) -> Response {
    let content = shelf.0.lock();
    if content.is_endless {
        let piece = Bytes::from(vec![b' '; 1 << 20]);
        return Body::from_stream(futures::stream::repeat(piece).map(Ok::<_, std::io::Error>)).into_response();
    }
    axum::Json(json!({ "registered_models": content.models.iter().map(model_row).collect::<Vec<_>>() })).into_response()
}

async fn model(State(shelf): State<Shelf>, Query(query): Parameters) -> Response {
    let content = shelf.0.lock();
    let found = content.models.get_key_value(&query["name"]).map(model_row);
    found.map_or_else(unknown, |row| axum::Json(json!({ "registered_model": row })).into_response())
}

async fn versions(State(shelf): State<Shelf>, Query(query): Parameters) -> Response {
    let content = shelf.0.lock();
    let name = query["filter"].strip_prefix("name='").and_then(|rest| rest.strip_suffix('\'')).unwrap();
    assert_eq!(query["order_by"], "version_number DESC");
    let rows: Vec<Value> = content.models.get(name).map_or_else(Vec::new, |model| {
        model.versions.iter().rev().take(query["max_results"].parse().unwrap()).map(version_row).collect()
    });
    axum::Json(json!({ "model_versions": rows })).into_response()
}

async fn version(State(shelf): State<Shelf>, Query(query): Parameters) -> Response {
    let content = shelf.0.lock();
    let number: u32 = query["version"].parse().unwrap();
    let found = content.models.get(&query["name"]).and_then(|model| model.versions.get_key_value(&number));
    found.map(version_row).map_or_else(unknown, |row| axum::Json(json!({ "model_version": row })).into_response())
}

async fn uri(Query(query): Parameters) -> Response {
    let uri = format!("mlflow-artifacts:/{}/{}", query["name"], query["version"]);
    axum::Json(json!({ "artifact_uri": uri })).into_response()
}

async fn file(
    State(shelf): State<Shelf>,
    UrlPath((model, number, file)): UrlPath<(String, u32, String)>,
    Query(query): Parameters,
) -> Response {
    if !query["X-Amz-Credential"].starts_with("reader/") || query["X-Amz-Signature"].len() != 64 {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut content = shelf.0.lock();
    *content.fetched.entry(format!("{model}/{number}/{file}")).or_default() += 1;
    let version = content.models.get(&model).and_then(|model| model.versions.get(&number));
    match version.and_then(|version| version.files.get(&*file)) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
