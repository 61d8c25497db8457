#![doc = include_str!("../README.md")]

pub mod app;
pub mod config;
mod coverage;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod minute;
mod openapi;
pub mod percentage;
pub mod store;
pub mod summary;
pub mod totals;
pub mod window;

use std::{sync::Arc, time::Duration};

use authz::{Clock, Guard, PassportKeys, Routes};
use axum::http::Method;
use policy::{Action, Caller, DeclaredRoute, Policy};
use proto::sla::v1::ledger_server::{LedgerServer, SERVICE_NAME};
use service::{BoxError, Latch, Lifecycle};
use sqlx::migrate::{MigrateError, Migrator};
use tokio::time::sleep;
use transport::{Limits, Server};

pub use openapi::openapi_json;

use crate::{app::App, config::Config, store::Store};

/// The service's name: in certificates, passports, metrics; also its database role and schema.
pub const NAME: &str = topology::name::SLA;

/// A report of 120 of the fullest minutes is far smaller.
const BODY_BYTES_MAX: usize = 4 << 20;
/// How often the figures are computed for the metrics.
const METRICS_INTERVAL: Duration = Duration::from_secs(15);

static MIGRATOR: Migrator = sqlx::migrate!();

/// Wires the service and returns; the spawned tasks run until the lifecycle ends them.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    let targets = config.ledger.targets().ok_or("the ledger's targets were not validated")?;
    metrics::register(&config.ledger.services, targets);
    let identity = lifecycle.identity();

    let database = database::connect(&config.database)?;
    let schema = lifecycle.latch("schema");
    let keys = Arc::new(PassportKeys::default());
    let gateways = transport::channel(&identity, topology::name::GATEWAY, &config.gateway.addresses);
    service::passport_keys::follow(gateways, Arc::clone(&keys), &lifecycle);
    let guard = Arc::new(Guard::new(NAME, keys, Arc::new(Policy::embedded()?), Clock::system()));

    let store = Store::new(database.clone());
    let app = App::new(store, Arc::clone(&guard), Clock::system(), config.ledger.services, targets);
    let declared = declared_routes();
    let measured = telemetry::http_layer().with_routes(declared.iter().map(|route| &*route.path));
    let router = service::router(routes(), &guard, app.clone(), &lifecycle)?.layer(measured);

    let limits = Limits { body_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
    let server = Server::bind(&config.listen, identity, limits).await?;
    lifecycle.listening("service", server.local_addr());
    let stop = lifecycle.soft_stop();
    lifecycle.spawn_critical("figures", async move {
        stop.run_until_cancelled(refresh_metrics(database, app, schema)).await.unwrap_or(Ok(()))
    });
    lifecycle.spawn_critical("listener", server.serve(router, lifecycle.soft_stop()));
    Ok(())
}

/// Every route, with its action.
pub fn routes() -> Routes<App> {
    Routes::new()
        .route(Method::GET, "/api/sla/{service}/current", Action::ReadSlaSummary, http::current)
        .route(Method::GET, "/api/sla/openapi.json", Action::ReadOpenapi, openapi::get)
        .grpc(Caller::Peer, SERVICE_NAME, &[("ReportMinutes", Action::ReportMinutes)], |app: &App| {
            LedgerServer::new(grpc::Ledger::new(app.clone())).max_decoding_message_size(BODY_BYTES_MAX)
        })
}

/// The routes as a table, for the matrix of roles and actions.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    service::route_table(routes())
}

/// Migrates the schema, then refreshes the metrics. Readiness waits for the schema, so the database may start later.
async fn refresh_metrics(database: database::Database, app: App, schema: Latch) -> Result<(), MigrateError> {
    database.migrate(&MIGRATOR, NAME).await?;
    app.set_ready();
    schema.open();
    loop {
        app.refresh_metrics().await;
        sleep(METRICS_INTERVAL).await;
    }
}
