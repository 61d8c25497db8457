//! gRPC's own health service, mounted beside the routes of every service: the readiness of this moment, not a copy of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use authz::{Guard, Routes, RoutesError};
use axum::Router;
use futures::{Stream, StreamExt, future, stream};
use policy::{Action, Caller, DeclaredRoute};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{Lifecycle, Readiness};

const METHODS: [(&str, Action); 2] = [("Check", Action::CheckHealth), ("Watch", Action::CheckHealth)];

/// How soon a watcher learns of a change.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Answers for the process as a whole, whose name there is the empty one.
#[derive(Clone, Debug, Default)]
struct ProcessHealth {
    readiness: Readiness,
    soft_stop: CancellationToken,
}

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

/// The router of a service: its routes and gRPC health, each behind the guard, everything else not found.
pub fn router<S>(routes: Routes<S>, guard: &Arc<Guard>, state: S, lifecycle: &Lifecycle) -> Result<Router, RoutesError>
where
    S: Clone + Send + Sync + 'static,
{
    let health = ProcessHealth { readiness: lifecycle.readiness(), soft_stop: lifecycle.soft_stop() };
    with_health(routes, health).build(guard, state)
}

/// What [`router`] would mount, as a table, without starting anything: for the matrix of who may do what.
pub fn route_table<S: Clone + Send + Sync + 'static>(routes: Routes<S>) -> Vec<DeclaredRoute> {
    with_health(routes, ProcessHealth::default()).table()
}

fn with_health<S: Clone + Send + Sync + 'static>(routes: Routes<S>, health: ProcessHealth) -> Routes<S> {
    routes.grpc(Caller::Peer, health_server::SERVICE_NAME, &METHODS, move |_| HealthServer::new(health))
}

// === impl ProcessHealth ===

impl ProcessHealth {
    fn status(&self) -> ServingStatus {
        if self.readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

#[tonic::async_trait]
impl Health for ProcessHealth {
    type WatchStream = Watch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        known(request.get_ref())?;
        Ok(Response::new(response(self.status())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        known(request.get_ref())?;
        let mut ticks = interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let this = self.clone();
        let statuses = stream::unfold((ticks, this), |(mut ticks, this)| async move {
            ticks.tick().await;
            Some((this.status(), (ticks, this)))
        });
        let news = statuses.scan(None, |last, now| {
            let is_news = last.replace(now) != Some(now);
            future::ready(Some(is_news.then(|| Ok(response(now)))))
        });
        // The end of the process ends the stream, or a watcher would hold up the drain.
        let stop = self.soft_stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(news.filter_map(future::ready).take_until(stop))))
    }
}

fn known(request: &HealthCheckRequest) -> Result<(), Status> {
    if request.service.is_empty() {
        Ok(())
    } else {
        Err(Status::not_found("only the process as a whole, \"\", is known"))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
