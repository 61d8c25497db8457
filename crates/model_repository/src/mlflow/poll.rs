//! Keeps the mirror what the registry is, for the life of the process.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use problem::Chain;
use service::Latch;
use telemetry::FailureLog;
use tokio::time::sleep;

use super::{RefreshError, Registry, promotion::MirroredModel};
use crate::{metrics, names::ModelName, repository::Repository};

/// After the first failure; doubled with each further one, up to the interval of the polls.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Loads of what was mirrored, beside which the registry is looked at.
#[derive(Default)]
struct Loads<'r> {
    running: FuturesUnordered<BoxFuture<'r, ModelName>>,
    /// Which models they are of: each has one at a time.
    names: BTreeSet<ModelName>,
}

/// Looks at the registry again and again. The latch is opened when the mirror has been what the registry is once, and was loaded.
pub async fn follow(registry: &Registry, repository: &Repository, mut latch: Option<Latch>) {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(FIRST_RETRY.min(registry.poll_interval))
        .with_max_delay(registry.poll_interval)
        .without_max_times();
    let (mut failures, mut delays) = (FailureLog::once(), backoff.build());
    let (mut loads, mut is_whole) = (Loads::default(), false);
    loop {
        let mut to_load = Vec::new();
        let outcome = loads.beside(refresh(registry, repository, &mut to_load)).await;
        loads.begin(registry, repository, to_load);
        metrics::record_refresh(outcome.as_ref().map_or_else(RefreshError::outcome, |()| metrics::RefreshOutcome::Ok));
        let pause = match outcome {
            Ok(()) => {
                if failures.recovered() {
                    tracing::info!("the model registry is followed again");
                }
                delays = backoff.build();
                is_whole = true;
                None
            }
            Err(outage) => {
                report(failures.failed(), &outage, latch.is_some());
                delays.next()
            }
        };
        let mut pause = pin!(sleep(pause.unwrap_or(registry.poll_interval)));
        loop {
            if is_whole && loads.names.is_empty() {
                drop(latch.take());
            }
            tokio::select! {
                () = &mut pause => break,
                Some(loaded) = loads.running.next() => drop(loads.names.remove(&loaded)),
            }
        }
    }
}

async fn refresh(
    registry: &Registry,
    repository: &Repository,
    to_load: &mut Vec<MirroredModel>,
) -> Result<(), RefreshError> {
    let mut mirror = registry.lock_mirror().await.map_err(|problem| RefreshError::Busy(problem.message()))?;
    registry.refresh(&mut mirror, repository, to_load).await
}

// === impl Loads ===

impl<'r> Loads<'r> {
    /// Those of models that are being loaded come again with the next refresh.
    fn begin(&mut self, registry: &'r Registry, repository: &'r Repository, models: Vec<MirroredModel>) {
        for model in models.into_iter().filter(|model| self.names.insert(model.name.clone())) {
            let load = async move {
                registry.load_mirrored(repository, &model).await;
                model.name
            };
            self.running.push(load.boxed());
        }
    }

    /// Does something while they go on.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(loaded) = self.running.next() => drop(self.names.remove(&loaded)),
            }
        }
    }
}

/// One line for each outage, whatever it becomes while it lasts.
fn report(begins: bool, outage: &RefreshError, is_waited_for: bool) {
    let error = Chain(outage);
    match (begins, is_waited_for) {
        (true, true) => {
            tracing::warn!(%error, "the model registry cannot be followed, and there are no models yet; it is tried again")
        }
        (true, false) => {
            tracing::warn!(%error, "the model registry cannot be followed; what was mirrored serves on, and it is tried again")
        }
        (false, _) => tracing::debug!(%error, "the model registry cannot be followed"),
    }
}
