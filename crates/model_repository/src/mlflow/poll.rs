//! Keeps the mirror what the registry is, for the life of the process.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use problem::Chain;
use service::Latch;
use telemetry::FailureLog;
use tokio::time::sleep;

use super::{RefreshError, Registry};
use crate::{metrics, repository::Repository};

/// After the first failure; doubled with each further one, up to the interval of the polls.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Looks at the registry again and again. The latch is opened when the mirror has been what the registry is once.
pub async fn follow(registry: &Registry, repository: &Repository, mut latch: Option<Latch>) {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(FIRST_RETRY.min(registry.poll_interval))
        .with_max_delay(registry.poll_interval)
        .without_max_times();
    let (mut failures, mut delays) = (FailureLog::once(), backoff.build());
    loop {
        let outcome = refresh(registry, repository).await;
        metrics::record_refresh(outcome.as_ref().map_or_else(RefreshError::outcome, |()| metrics::RefreshOutcome::Ok));
        let pause = match outcome {
            Ok(()) => {
                if failures.recovered() {
                    tracing::info!("the model registry is followed again");
                }
                delays = backoff.build();
                drop(latch.take());
                None
            }
            Err(outage) => {
                report(failures.failed(), &outage, latch.is_some());
                delays.next()
            }
        };
        sleep(pause.unwrap_or(registry.poll_interval)).await;
    }
}

async fn refresh(registry: &Registry, repository: &Repository) -> Result<(), RefreshError> {
    let mut mirror = registry.lock_mirror().await.map_err(|problem| RefreshError::Busy(problem.message()))?;
    registry.refresh(&mut mirror, repository).await
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
