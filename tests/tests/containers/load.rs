//! What goes on while containers are lost: predictions, logins and writes.

use std::{sync::Arc, time::Duration};

use end_to_end::{
    containers::Containers,
    recorded_load::{CallKind, RecordedLoad},
    request::{Protocol, Template},
};
use http::Method;
use tokio::{
    task::AbortHandle,
    time::{Instant, interval},
};

/// Predictions a second. Three of four come by REST over HTTP/1.1, the fourth by gRPC over HTTP/2. Two cores that hold the platform, the
/// load and the tests are full at 200: whatever comes beside it is late then, so that is for a machine of one's own, with the whole matrix.
const PREDICTIONS: u32 = 100;
const PREDICTIONS_OF_WHOLE_MATRIX: u32 = 200;
/// Logins a second: each asks the database.
const LOGINS: u32 = 5;
/// Tokens live for ten minutes, and the gateways may be away for a while: then it is tried again with the other period.
const TOKEN_PERIOD: Duration = Duration::from_secs(180);
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// None may be later.
pub(crate) const LATEST: Duration = Duration::from_secs(1);
/// How soon a container is healthy again after it was started, by its own health check.
pub(crate) const RETURN: Duration = Duration::from_secs(120);

/// A load whose token is renewed.
pub(crate) struct Load {
    pub(crate) steady: Arc<RecordedLoad>,
    renewal: Option<AbortHandle>,
}

// === impl Load ===

impl Load {
    /// Right predictions.
    pub(crate) async fn predictions(platform: &Containers) -> Self {
        let rate = if is_whole_matrix() { PREDICTIONS_OF_WHOLE_MATRIX } else { PREDICTIONS };
        Self::predictions_at(platform, rate).await
    }

    /// The same at another rate a second.
    pub(crate) async fn predictions_at(platform: &Containers, rate: u32) -> Self {
        let token = platform.analyst().await.unwrap();
        let server = |protocol| platform.front.server(protocol).unwrap();
        let rest = CallKind {
            server: server(Protocol::Http1),
            template: platform.front.golden_prediction(&token).await.unwrap(),
        };
        let template = platform.front.golden_grpc_prediction(&token).await.unwrap();
        let grpc = CallKind { server: server(Protocol::Http2), template };
        let kinds = vec![rest.clone(), rest.clone(), rest, grpc];
        let steady = Arc::new(RecordedLoad::start(kinds, rate).await.unwrap());
        let renewal = tokio::spawn(renew_token(platform.clone(), steady.clone())).abort_handle();
        Self { steady, renewal: Some(renewal) }
    }

    /// Logins of a machine account.
    pub(crate) async fn logins(platform: &Containers) -> Self {
        let grant = platform.analyst_grant().unwrap().to_string();
        let template = Template::json(Method::POST, "/api/auth/token", None, grant).unwrap();
        let server = platform.front.server(Protocol::Http1).unwrap();
        let steady = RecordedLoad::start(vec![CallKind { server, template }], LOGINS).await.unwrap();
        Self { steady: Arc::new(steady), renewal: None }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
    }
}

async fn renew_token(platform: Containers, steady: Arc<RecordedLoad>) {
    let mut renewed = Instant::now();
    let mut ticks = interval(RETRY_PERIOD);
    loop {
        ticks.tick().await;
        if renewed.elapsed() >= TOKEN_PERIOD
            && let Ok(token) = platform.analyst().await
            && steady.use_token(&token).is_ok()
        {
            renewed = Instant::now();
        }
    }
}

/// Whether the stage runs everything, and not only what fits into every change.
pub(crate) fn is_whole_matrix() -> bool {
    std::env::var("RAMPART_TEST_MATRIX").is_ok_and(|matrix| matrix == "all")
}
