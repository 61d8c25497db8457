#![doc = include_str!("../README.md")]

mod app;
mod config;
mod deadline;
mod digest;
mod engine;
mod grpc;
mod inference;
mod json;
mod metrics;
mod model;
mod repository;
mod rest;
mod routes;
mod signature;
mod tensor;
mod wire;

use std::sync::Arc;

use authz::{Clock, Guard, PassportKeys, Policy};
use problem::Chain;
use service::{BoxError, Lifecycle, Readiness};
use transport::{Limits, Server};

pub use config::{Config, DEFAULTS};
pub use engine::telemetry::{is_off as telemetry_is_off, restart_with_it_off as restart_with_telemetry_off};
pub use repository::{PROBE_SUBCOMMAND, run_probe};
pub use routes::declared_routes;

use app::App;
use engine::Engine;
use repository::{Loader, Prober, Repository};

/// The service's name: in certificates, passports, metrics.
pub const NAME: &str = "serving";

/// What the protocol calls the kind of model that is served.
pub(crate) const PLATFORM: &str = "onnx_onnxv1";

/// The protocol's extensions that are offered.
pub(crate) const EXTENSIONS: &[&str] = &["model_repository", "statistics", "binary_tensor_data", "parameters"];

/// Wires the service and returns; what it spawned goes on until the lifecycle ends it.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    metrics::describe();
    let identity = lifecycle.identity();

    let app = App::new(repository(&config, lifecycle.readiness()).await?, config.inference.limits(), &lifecycle);
    lifecycle.spawn("models", load_models(app.clone()));

    let keys = Arc::new(PassportKeys::default());
    let gateways = transport::channel(&identity, "gateway", &config.gateway.addresses);
    service::passport_keys::follow(gateways, Arc::clone(&keys), &lifecycle);

    let guard = Arc::new(Guard::new(NAME, keys, Arc::new(Policy::embedded()?), Clock::system()));
    let templates = declared_routes();
    let measured = telemetry::http_layer().with_routes(templates.iter().map(|route| &*route.path));
    let router = routes::routes().build(&guard, app)?.layer(measured);

    let limits = Limits { body_bytes_max: config.inference.body_bytes_max, ..Limits::default() };
    let server = Server::bind(&config.listen, identity, limits).await?;
    lifecycle.listening("service", server.local_addr());
    lifecycle.spawn_critical("listener", server.serve(router, lifecycle.soft_stop()));
    Ok(())
}

/// The repository with its engine: nothing is loaded yet, but the library is the pinned one.
async fn repository(config: &Config, readiness: Readiness) -> Result<Repository, BoxError> {
    let library = config.onnxruntime.clone();
    let engine = tokio::task::spawn_blocking(move || Engine::open(&library)).await??;
    // A child runs in another directory, so whatever it is told must not depend on ours.
    let folder = config.models.directory.canonicalize();
    let folder = folder.map_err(|error| format!("models.directory {}: {error}", config.models.directory.display()))?;
    let prober =
        Prober { program: std::env::current_exe()?, engine: config.onnxruntime.clone(), limits: config.probe.clone() };
    let loader = Loader {
        engine,
        prober,
        workers: config.inference.workers(),
        memory_bytes_max: config.inference.memory_bytes_max,
        queue_max: config.inference.queue_max,
        queue_bytes_max: config.inference.queue_bytes_max,
        file_bytes_max: config.models.file_bytes_max,
    };
    Ok(Repository::new(folder, loader, readiness))
}

/// The first load. What is refused can be mended and loaded later, so nothing here ends the process.
async fn load_models(app: App) {
    if let Err(problem) = app.repository.load_all().await {
        tracing::error!(error = %Chain(&problem), "no model can be loaded; the replica stays out of service");
    }
}
