#![doc = include_str!("../README.md")]

pub mod config;
pub mod dump;
pub mod encrypted_file;
pub mod http;
pub mod keys;
pub mod manifest;
pub mod metrics;
pub mod models_archive;
mod openapi;
mod pg_program;
mod pipe;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod set_builder;
pub mod set_name;
pub mod staging;
pub mod store;
pub mod verify;
pub mod verify_command;
pub mod worker;

use std::{sync::Arc, time::Duration};

use authz::{Clock, Guard, PassportKeys, Routes};
use axum::http::Method;
use backon::{ConstantBuilder, Retryable};
use database::Database;
use policy::{Action, DeclaredRoute, Policy};
use service::{BoxError, Latch, Lifecycle};
use sqlx::migrate::Migrator;
use telemetry::FailureLog;
use transport::{Limits, Server};

pub use openapi::openapi_json;

use crate::{
    config::Config,
    keys::{DecryptionKey, Recipient, SigningKey},
    schedule::ScheduleName,
    set_builder::SetBuilder,
    staging::BackupRoot,
    store::Store,
    verify::Verifier,
    worker::{Settings, Worker},
};

/// The service's name: in certificates, passports, metrics; also its database role and schema.
pub const NAME: &str = topology::name::BACKUP;

/// No route reads a body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// For a database that cannot be reached: another attempt each second.
const RETRIES: ConstantBuilder = ConstantBuilder::new().with_delay(Duration::from_secs(1)).without_max_times();

static MIGRATOR: Migrator = sqlx::migrate!();

/// Wires the service and returns; the spawned tasks run until the lifecycle ends them.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    metrics::register();
    let identity = lifecycle.identity();

    let database = database::connect(&config.database)?;
    let worker = worker(&config, database.clone(), &lifecycle)?;
    let runs = lifecycle.latch("runs");
    let keys = Arc::new(PassportKeys::default());
    let gateways = transport::channel(&identity, topology::name::GATEWAY, &config.gateway.addresses);
    service::passport_keys::follow(gateways, Arc::clone(&keys), &lifecycle);
    let guard = Arc::new(Guard::new(NAME, keys, Arc::new(Policy::embedded()?), Clock::system()));

    let declared = declared_routes();
    let measured = telemetry::http_layer().with_routes(declared.iter().map(|route| &*route.path));
    let router = service::router(routes(), &guard, worker.clone(), &lifecycle)?.layer(measured);

    let limits = Limits { body_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
    let server = Server::bind(&config.listen, identity, limits).await?;
    lifecycle.listening("service", server.local_addr());
    let stop = lifecycle.soft_stop();
    lifecycle.spawn_critical("prepare", async move {
        stop.run_until_cancelled(prepare(database, &worker, runs)).await.unwrap_or(Ok(()))?;
        stop.run_until_cancelled(worker.begin_due_runs()).await;
        Ok::<(), BoxError>(())
    });
    lifecycle.spawn_critical("listener", server.serve(router, lifecycle.soft_stop()));
    Ok(())
}

/// Every route, with its action.
pub fn routes() -> Routes<Worker> {
    Routes::new()
        .route(Method::POST, "/api/backups", Action::RunBackup, http::create)
        .route(Method::GET, "/api/backups", Action::ReadStatus, http::list)
        .route(Method::GET, "/api/backups/openapi.json", Action::ReadOpenapi, openapi::get)
        .route(Method::GET, "/api/backups/{id}", Action::ReadStatus, http::get)
        .route(Method::POST, "/api/backups/{id}/cancel", Action::RunBackup, http::cancel)
        .route(Method::POST, "/api/backups/{name}/verify", Action::VerifyBackup, http::verify)
}

/// The routes as a table, for the matrix of roles and actions.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    service::route_table(routes())
}

/// Locks the directory, removes what an earlier process left behind, and reads the keys.
fn worker(config: &Config, database: Database, lifecycle: &Lifecycle) -> Result<Worker, BoxError> {
    let backup = &config.backup;
    let root = Arc::new(BackupRoot::lock(&backup.directory)?);
    let scratch = backup.scratch();
    verify::remove_orphaned(&scratch)
        .map_err(|error| format!("cannot use backup.scratch {}: {error}", scratch.display()))?;
    let signing_key = Arc::new(SigningKey::read(&backup.signing_key_file)?);
    let decryption_key = backup.age_identity_file.as_ref().map(DecryptionKey::read).transpose()?;
    let verifier = decryption_key.map(|decryption_key| Verifier {
        root: backup.directory.clone(),
        verifying_key: signing_key.verifying_key(),
        decryption_key,
        scratch,
    });
    let builder = SetBuilder {
        root,
        models: backup.models.clone(),
        databases: config.databases(),
        recipient: Recipient::read(&backup.age_recipient_file)?,
        signing_key,
        free_bytes_min: backup.free_bytes_min,
    };
    let planned = [
        (ScheduleName::Create, config.schedule.create()?),
        (ScheduleName::VerifyOlder, config.schedule.verify_older()?),
    ];
    let settings = Settings {
        run_timeout: backup.run_timeout(),
        schedules: planned.into_iter().filter_map(|(name, schedule)| Some((name, schedule?))).collect(),
        verifies_created: config.schedule.verify_created,
    };
    let store = Store::new(database, builder.root.worker());
    Ok(Worker::new(store, builder, verifier, settings, Clock::system(), lifecycle.clone()))
}

/// Migrates the schema and fails the runs that an earlier process left running; until then no run can be begun.
async fn prepare(database: Database, worker: &Worker, runs: Latch) -> Result<(), BoxError> {
    database.migrate(&MIGRATOR, NAME).await?;
    let mut failures = FailureLog::once();
    let retried = (|| worker.prepare()).retry(RETRIES).notify(|error, _| {
        if failures.failed() {
            tracing::warn!(error = %problem::Chain(error), "unfinished runs of an earlier process cannot be marked failed in the database; no run can begin until they are, tried again each second");
        }
    });
    retried.await?;
    runs.open();
    Ok(())
}
