//! Follows and changes the desired state: which models should serve, for all replicas. A gateway keeps it in its database.
//!
//! Invariants:
//! - A change is acknowledged by the gateway before anything changes here. Without a gateway `load` and `unload` fail, and
//!   what serves goes on.
//! - What the gateway says replaces what was known, whatever its generation: a database can go back in time.
//! - One exchange at a time, so that an older answer never replaces a newer one.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use authz::Principal;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue};
use model_repository::{DesiredModels, Repository};
use problem::{Chain, Kind, Problem};
use proto::models::v1::{self, ChangeModelRequest, SyncModelsRequest, desired_state_client::DesiredStateClient};
use service::{Latch, Readiness};
use telemetry::FailureLog;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status};
use transport::Channel;

/// How long a change that another replica was told may go unnoticed here.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const SYNC_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than a gateway waits for its database, so that its own answer comes first.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a start waits for a gateway before it believes the file.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// A process that stood still for longer has missed what it was told, and is not ready until it has asked.
const STANDSTILL_MAX: Duration = Duration::from_secs(5);
/// A gateway that restarts, or a database that moves, is no news.
const WARN_AFTER: Duration = Duration::from_secs(60);

const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("rampart-client-address");

/// The desired state as the gateways have it, and the file that mirrors it.
pub(crate) struct DesiredState {
    gateways: DesiredStateClient<Channel>,
    file: PathBuf,
    exchange: Mutex<Exchange>,
}

/// What only one exchange at a time may have.
struct Exchange {
    /// What is in the file.
    written: Option<Arc<DesiredModels>>,
    failing_since: Option<Instant>,
    outages: FailureLog,
    unwritten: FailureLog,
}

/// Who asked for a change.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    subject: String,
    session_id: String,
    address: Option<HeaderValue>,
}

// === impl Requester ===

impl Requester {
    /// The user of a request, and from where it came.
    pub(crate) fn of(principal: Option<&Principal>, headers: &HeaderMap) -> Result<Self, Problem> {
        let passport = principal.and_then(Principal::passport);
        let passport = passport.ok_or_else(Problem::missing_token)?;
        let address = headers.get(CLIENT_ADDRESS).cloned();
        Ok(Self { subject: passport.sub.clone(), session_id: passport.sid.clone(), address })
    }
}

// === impl Exchange ===

impl Exchange {
    fn report(&mut self, synced: Result<(), Status>) {
        let Err(status) = synced else {
            self.failing_since = None;
            if self.outages.recovered() {
                tracing::info!("the desired state of models is followed again");
            }
            return;
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= WARN_AFTER && self.outages.failed() {
            tracing::warn!(error = %Chain(&status), "the desired state of models could not be followed for a minute; what serves stays, and nothing can be loaded or unloaded");
        }
    }
}

// === impl DesiredState ===

impl DesiredState {
    pub(crate) fn new(gateways: Channel, file: PathBuf) -> Self {
        let (outages, unwritten) = (FailureLog::once(), FailureLog::once());
        let exchange = Exchange { written: None, failing_since: None, outages, unwritten };
        Self { gateways: DesiredStateClient::new(gateways), file, exchange: Mutex::new(exchange) }
    }

    /// Waits until it is known what should serve: as a gateway says, or as the file has it while none answers.
    pub(crate) async fn wait_known(&self, repository: &Repository, latch: Latch) {
        let file = self.file.clone();
        let mirrored = tokio::task::spawn_blocking(move || DesiredModels::read(&file)).await;
        let mut mirrored = mirrored.unwrap_or_else(|error| Err(io::Error::other(error))).unwrap_or_else(|error| {
            tracing::warn!(file = %self.file.display(), %error, "the mirror of the desired state is of no use; a gateway is waited for");
            None
        });
        let started = Instant::now();
        while let Err(status) = self.sync(repository).await {
            if started.elapsed() >= FIRST_WAIT
                && let Some(mirrored) = mirrored.take()
            {
                let generation = mirrored.generation();
                tracing::info!(generation, error = %Chain(&status), "no gateway says which models should serve; the mirrored state holds until one does");
                self.exchange.lock().await.written = Some(Arc::new(mirrored.clone()));
                repository.set_desired(mirrored);
                break;
            }
            sleep(RETRY_INTERVAL).await;
        }
        latch.open();
    }

    /// Asks again and again, and makes the models what the answer says. A load that lasts holds up neither the questions nor other models.
    pub(crate) async fn follow(&self, repository: &Repository, readiness: &Readiness) {
        let mut pause = POLL_INTERVAL;
        let (mut loads, mut loading) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let paused = Instant::now();
            tokio::select! {
                () = sleep(pause) => {}
                Some(loaded) = loads.next() => drop(loading.remove(&loaded)),
            }
            let stood_still = paused.elapsed() > pause + STANDSTILL_MAX;
            let latch = stood_still.then(|| readiness.latch("desired state of models"));
            let synced = self.sync(repository).await;
            pause = if synced.is_ok() { POLL_INTERVAL } else { RETRY_INTERVAL };
            self.exchange.lock().await.report(synced);
            for name in repository.reconcile().into_iter().filter(|name| loading.insert(name.clone())) {
                loads.push(async move {
                    repository.load_desired(&name).await;
                    name
                });
            }
            drop(latch);
        }
    }

    async fn sync(&self, repository: &Repository) -> Result<(), Status> {
        let mut exchange = self.exchange.lock().await;
        let request = SyncModelsRequest { serving: repository.serving_unknown() };
        let mut gateways = self.gateways.clone();
        let answer = bounded(SYNC_TIMEOUT, gateways.sync_models(request)).await?;
        self.adopt(&mut exchange, repository, answer.into_inner().models).await
    }

    /// Has a model recorded as loaded or unloaded, for every replica, for good. Fails without a change here.
    pub(crate) async fn change(
        &self,
        repository: &Repository,
        model: &str,
        loaded: bool,
        requester: &Requester,
    ) -> Result<(), Problem> {
        let mut exchange = self.exchange.lock().await;
        let (subject, session_id) = (requester.subject.clone(), requester.session_id.clone());
        let mut request = Request::new(ChangeModelRequest { model: model.to_owned(), loaded, subject, session_id });
        if let Some(address) = &requester.address {
            let headers = HeaderMap::from_iter([(CLIENT_ADDRESS, address.clone())]);
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        let mut gateways = self.gateways.clone();
        let changed = async {
            let answer = bounded(CHANGE_TIMEOUT, gateways.change_model(request)).await?;
            self.adopt(&mut exchange, repository, answer.into_inner().models).await
        };
        changed.await.map_err(unchanged)
    }

    /// What the gateway says is what should serve; it is mirrored before a caller hears of it.
    async fn adopt(
        &self,
        exchange: &mut Exchange,
        repository: &Repository,
        models: Option<v1::DesiredModels>,
    ) -> Result<(), Status> {
        let models = models.ok_or_else(|| Status::internal("the gateway's answer has no state in it"))?;
        let named = models.models.iter().map(|model| (model.name.as_str(), model.loaded));
        let desired = Arc::new(DesiredModels::new(models.generation, named));
        if repository.desired().is_none_or(|known| known != desired) {
            tracing::info!(generation = desired.generation(), "the desired state of models has changed");
            repository.set_desired(DesiredModels::clone(&desired));
        }
        if exchange.written.as_ref() == Some(&desired) {
            return Ok(());
        }
        let (file, state) = (self.file.clone(), Arc::clone(&desired));
        let written = tokio::task::spawn_blocking(move || state.write(&file)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                exchange.written = Some(desired);
                exchange.unwritten.recovered();
            }
            Err(error) if exchange.unwritten.failed() => {
                tracing::warn!(file = %self.file.display(), %error, "the desired state cannot be mirrored; a restart without a gateway would not know it");
            }
            Err(_) => {}
        }
        Ok(())
    }
}

async fn bounded<T>(time_max: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(time_max, call).await.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))
}

/// A change that was not confirmed. Whether the gateway made it all the same is not always known; then every replica
/// learns of it.
fn unchanged(status: Status) -> Problem {
    if status.code() == Code::FailedPrecondition {
        return Problem::new(Kind::Conflict, status.message().to_owned()).source(status);
    }
    let detail = "no gateway confirms the change, so this replica has changed nothing; try again";
    Problem::unavailable(detail).source(status)
}
