//! gRPC's own health service, as the balancer asks it: the readiness of this moment, not a copy of it.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{Lifecycle, Readiness};

/// The name of the service, for routes and peer lists.
pub const HEALTH_SERVICE: &str = tonic_health::pb::health_server::SERVICE_NAME;

/// How soon a watcher learns of a change.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Answers for the process as a whole, whose name there is the empty one.
#[derive(Clone, Debug)]
pub struct ProcessHealth {
    readiness: Readiness,
    soft_stop: CancellationToken,
}

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

// === impl ProcessHealth ===

impl ProcessHealth {
    /// The health of this process.
    pub fn new(lifecycle: &Lifecycle) -> Self {
        Self { readiness: lifecycle.readiness(), soft_stop: lifecycle.soft_stop() }
    }

    /// The service to mount.
    pub fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

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
