//! gRPC's own health service, for the balancer: the truth of the moment, not a copy of it.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use crate::{app::App, grpc};

/// How soon a watcher learns of a change.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Answers for the whole process and for the inference service, which are the same here.
pub(crate) struct Service(pub(crate) App);

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Watch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        known(request.get_ref())?;
        Ok(Response::new(response(status(&self.0))))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        known(request.get_ref())?;
        let app = self.0.clone();
        let changes = IntervalStream::new(tokio::time::interval(WATCH_INTERVAL)).scan(None, move |last, _| {
            let now = status(&app);
            let is_news = last.replace(now) != Some(now);
            std::future::ready(Some(is_news.then(|| Ok(response(now)))))
        });
        // The end of the process ends the stream, or a watcher would hold up the drain.
        let stop = self.0.soft_stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(changes.filter_map(std::future::ready).take_until(stop))))
    }
}

fn known(request: &HealthCheckRequest) -> Result<(), Status> {
    match &*request.service {
        "" | grpc::SERVICE => Ok(()),
        _ => Err(Status::not_found("only \"\" and the inference service are known")),
    }
}

fn status(app: &App) -> ServingStatus {
    if app.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
