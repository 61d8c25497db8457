//! Keeps the mirror what the registry is, for the life of the process.

use std::{cmp::min, time::Duration};

use problem::Chain;
use service::Latch;
use tokio::time::sleep;

use super::{RefreshError, Registry};
use crate::{metrics, repository::Repository};

/// After the first failure; doubled with each further one, up to the interval of the polls.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Looks at the registry again and again. The latch is opened when the mirror has been what the registry is once.
pub async fn follow(registry: &Registry, repository: &Repository, mut latch: Option<Latch>) {
    let mut failures = 0_u32;
    loop {
        let outcome = refresh(registry, repository).await;
        metrics::record_refresh(outcome.as_ref().map_or_else(RefreshError::outcome, |()| metrics::RefreshOutcome::Ok));
        let pause = match outcome {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(failures, "the model registry is followed again");
                }
                failures = 0;
                drop(latch.take());
                registry.poll_interval
            }
            Err(outage) => {
                report(failures, &outage, latch.is_some());
                let pause = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(min(failures, 16)));
                failures = failures.saturating_add(1);
                min(pause, registry.poll_interval)
            }
        };
        sleep(pause).await;
    }
}

async fn refresh(registry: &Registry, repository: &Repository) -> Result<(), RefreshError> {
    let mut mirror = registry.lock_mirror().await.map_err(|problem| RefreshError::Busy(problem.message()))?;
    registry.refresh(&mut mirror, repository).await
}

/// One line for each outage, whatever it becomes while it lasts.
fn report(failures: u32, outage: &RefreshError, is_waited_for: bool) {
    let error = Chain(outage);
    match (failures, is_waited_for) {
        (0, true) => {
            tracing::warn!(%error, "the model registry cannot be followed, and there are no models yet; it is tried again")
        }
        (0, false) => {
            tracing::warn!(%error, "the model registry cannot be followed; what was mirrored serves on, and it is tried again")
        }
        _ => tracing::debug!(%error, failures, "the model registry cannot be followed"),
    }
}
