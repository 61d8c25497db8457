#![doc = include_str!("../README.md")]

pub mod app;
pub mod grpc;
pub mod http;
pub mod latency;
pub mod metrics;
pub mod minute;
pub mod percentage;
pub mod store;
pub mod summary;

use authz::{Action, Caller, Declared, Routes};
use axum::http::Method;
use proto::sla::v1::ledger_server::{LedgerServer, SERVICE_NAME};

use crate::app::App;

/// Every route, with the action it stands for.
pub fn routes() -> Routes<App> {
    Routes::new().route(Method::GET, "/api/sla/{service}/current", Action::ReadSlaSummary, http::current).grpc(
        Caller::Peer,
        SERVICE_NAME,
        &[("ReportMinutes", Action::ReportMinutes)],
        |app: &App| LedgerServer::new(grpc::Ledger::new(app.clone())),
    )
}

/// The routes as a table, for the matrix of who may do what.
pub fn declared_routes() -> Vec<Declared> {
    routes().table()
}
