#![doc = include_str!("../README.md")]

mod app;
mod byte_budget;
pub mod check_model;
mod config;
mod description;
mod desired_state;
mod features;
mod inference;
pub mod inspect;
mod openapi;
mod protocol;
mod routes;

use std::{path::PathBuf, sync::Arc};

use authz::{Clock, Guard, PassportKeys};
use engine::{Engine, Group, WorkerStarter};
use model_repository::{
    Loader, Repository,
    mlflow::{self, ArtifactLimits, Registry},
};
use policy::Policy;
use problem::Chain;
use service::{BoxError, Latch, Lifecycle, Readiness};
use tokio::sync::Semaphore;
use transport::{Limits, Server};

pub use config::{Config, DEFAULTS};
pub use description::openapi_json;
pub use routes::declared_routes;

use app::App;
use desired_state::DesiredState;

/// The service's name: in certificates, passports, metrics.
pub const NAME: &str = topology::name::SERVING;

/// Wires the service and returns; what it spawned goes on until the lifecycle ends it.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    model_repository::describe_metrics();
    let identity = lifecycle.identity();

    let folder = config.models.directory.canonicalize();
    let folder = folder.map_err(|error| format!("models.directory {}: {error}", config.models.directory.display()))?;
    let registry = registry(&config, folder.clone(), &lifecycle).await?;
    // Nothing in the mirror: what there is to serve is for the registry to say.
    let latch = registry.as_ref().filter(|registry| registry.starts_empty()).map(|_| lifecycle.latch("model registry"));
    let gateways = transport::channel(&identity, topology::name::GATEWAY, &config.gateway.addresses);
    let desired_state = DesiredState::new(gateways.clone(), config.models.desired_state_file(&folder));
    let repository = repository(&config, folder, lifecycle.readiness()).await?;
    let (limits, bytes) = (config.inference.limits(), config.inference.byte_budget());
    let app = App::new(repository, registry, desired_state, limits, bytes, &lifecycle);
    let known = lifecycle.latch("desired state of models");
    let stop = lifecycle.soft_stop();
    let models = load_and_follow(app.clone(), known, latch, lifecycle.readiness());
    lifecycle.spawn("models", async move {
        let _stopped = stop.run_until_cancelled(models).await;
    });

    let keys = Arc::new(PassportKeys::default());
    service::passport_keys::follow(gateways, Arc::clone(&keys), &lifecycle);

    let guard = Arc::new(Guard::new(NAME, keys, Arc::new(Policy::embedded()?), Clock::system()));
    let templates = declared_routes();
    let measured = telemetry::http_layer().with_routes(templates.iter().map(|route| &*route.path));
    let router = service::router(routes::routes(), &guard, app, &lifecycle)?.layer(measured);

    let limits = Limits { body_bytes_max: config.inference.body_bytes_max, ..Limits::default() };
    let server = Server::bind(&config.listen, identity, limits).await?;
    lifecycle.listening("service", server.local_addr());
    lifecycle.spawn_critical("listener", server.serve(router, lifecycle.soft_stop()));
    Ok(())
}

/// The repository with its engine: nothing is loaded yet, but the library is the pinned one.
async fn repository(config: &Config, folder: PathBuf, readiness: Readiness) -> Result<Repository, BoxError> {
    let library = config.onnxruntime.clone();
    let engine = tokio::task::spawn_blocking(move || Engine::open(&library)).await??;
    let starter = WorkerStarter {
        program: std::env::current_exe()?,
        engine: config.onnxruntime.clone(),
        limits: config.probe.clone(),
        file_bytes_max: config.models.file_bytes_max,
        answer_bytes_max: config.inference.answer_bytes_max,
        starts: Arc::new(Semaphore::new(std::thread::available_parallelism()?.get())),
    };
    let memory = config.inference.memory();
    let loader = Loader {
        group: Group::new(starter.clone(), memory.clone()),
        engine,
        starter,
        workers_max: config.inference.workers_max(),
        memory,
        queue_max: config.inference.queue_max,
        queue_bytes_max: config.inference.queue_bytes_max,
        quarantine: Arc::default(),
    };
    Ok(Repository::new(folder, config.models.registry.is_some(), loader, readiness))
}

/// The registry, if one is configured, with the folder as its mirror.
async fn registry(config: &Config, folder: PathBuf, lifecycle: &Lifecycle) -> Result<Option<Registry>, BoxError> {
    let Some(registry) = &config.models.registry else { return Ok(None) };
    let limits =
        ArtifactLimits { file_bytes_max: config.models.file_bytes_max, golden_required: config.probe.golden_required };
    Registry::open(registry, folder, limits, lifecycle.identity()).await.map(Some)
}

/// The first load, of what should serve, and then what the registry has and what clients change. What is refused can be
/// mended and loaded later, so nothing here ends the process.
async fn load_and_follow(app: App, known: Latch, latch: Option<Latch>, readiness: Readiness) {
    app.desired_state.wait_known(&app.repository, known).await;
    if let Err(problem) = app.repository.load_all().await {
        tracing::error!(error = %Chain(&problem), "no model can be loaded; the replica stays out of service");
    }
    let follow_registry = async {
        if let Some(registry) = &app.registry {
            mlflow::follow(registry, &app.repository, latch).await;
        }
    };
    tokio::join!(app.desired_state.follow(&app.repository, &readiness), follow_registry);
}
