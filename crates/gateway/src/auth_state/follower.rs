//! Keeps the auth state current: polls the feed on each notification, and each second in case one was lost.

use std::{sync::Arc, time::Duration};

use telemetry::FailureLog;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{AuthState, Revocation};
use crate::{
    clock::WallClock,
    error::StoreError,
    store::{FeedEntry, Store},
};

/// From this age on the state is stale: `/ready` reports it, and changes are refused.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// How often the feed is polled without a notification.
const POLL_PERIOD: Duration = Duration::from_secs(1);

/// After such a gap everything is loaded anew: entries that were missed may have been pruned from the feed.
const RELOAD_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often expired revocations are removed.
const EXPIRY_PERIOD: Duration = Duration::from_secs(60);

/// The pause before listening again.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

struct Follower {
    auth_state: Arc<AuthState>,
    store: Store,
    clock: WallClock,
    /// The last entry applied, if there was any.
    seen: Option<FeedEntry>,
    /// The number that everything counted from when it was loaded; a restore of the database gives another.
    counts_from: Option<i64>,
    failures: FailureLog,
    expired_removed_at: Instant,
}

/// Follows the feed until stopped.
pub async fn follow(auth_state: Arc<AuthState>, store: Store, clock: WallClock, stop: CancellationToken) {
    let mut follower = Follower {
        auth_state,
        store,
        clock,
        seen: None,
        counts_from: None,
        failures: FailureLog::once(),
        expired_removed_at: Instant::now(),
    };
    let mut ticks = interval(POLL_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = follower.auth_state.wake.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = follower.poll() => {}
        }
    }
}

/// Notifies the follower of each change that any gateway commits. Without it the feed is polled each second.
pub async fn listen(auth_state: Arc<AuthState>, store: Store, stop: CancellationToken) {
    loop {
        let listening = async {
            let mut listener = store.listen().await?;
            // For changes that were committed before the connection listened.
            auth_state.wake.notify_one();
            while listener.try_recv().await?.is_some() {
                auth_state.wake.notify_one();
            }
            Ok::<(), sqlx::Error>(())
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listening => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(error = %problem::Chain(&error), "not listening for changes; the feed is polled each second");
        }
        auth_state.wake.notify_one();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LISTEN_PAUSE) => {}
        }
    }
}

// === impl Follower ===

impl Follower {
    async fn poll(&mut self) {
        let number = self.auth_state.begin_poll();
        let polled = match self.apply_changes().await {
            // Boxed: the futures of a migration are large, and this one is seldom needed.
            Err(StoreError::RestoreUnsettled) => Box::pin(self.settle_restore()).await,
            polled => polled,
        };
        match polled {
            Ok(()) => {
                self.auth_state.end_poll(number, self.seen.map_or(0, |entry| entry.seq));
                if self.failures.recovered() {
                    tracing::info!("users and revocations are up to date again");
                }
            }
            Err(error) => {
                if self.failures.failed() {
                    tracing::warn!(
                        error = %problem::Chain(&error),
                        "users and revocations cannot be followed; tokens are checked by what was last read"
                    );
                }
            }
        }
        self.remove_expired();
    }

    async fn apply_changes(&mut self) -> Result<(), StoreError> {
        if self.auth_state.age().is_none_or(|age| age > RELOAD_AFTER) {
            return self.load().await;
        }
        loop {
            let Some(batch) = self.store.changes_after(self.seen, self.counts_from).await? else {
                tracing::warn!(
                    "the change feed does not go on from the last entry that was applied; users and revocations are loaded anew"
                );
                return self.load().await;
            };
            if !batch.changes.is_empty() {
                self.auth_state.write(|index| index.apply(&batch));
            }
            self.seen = batch.last;
            if !batch.is_partial {
                return Ok(());
            }
        }
    }

    /// The database was restored to an earlier time, and no gateway has ended yet what was valid then. Until that is done the
    /// auth state stays as it was: nothing is granted by tables that have lost revocations.
    async fn settle_restore(&mut self) -> Result<(), StoreError> {
        // The schema may be that of a release before.
        Box::pin(self.store.migrate()).await?;
        Box::pin(self.store.settle_restore()).await?;
        self.load().await
    }

    async fn load(&mut self) -> Result<(), StoreError> {
        let snapshot = self.store.snapshot().await?;
        self.auth_state.write(|index| {
            index.replace(&snapshot);
            vec![Revocation::Reset]
        });
        tracing::info!(users = snapshot.users.len(), revoked = snapshot.changes.len(), "users and revocations loaded");
        self.seen = snapshot.last;
        self.counts_from = snapshot.counts_from;
        self.auth_state.note_restore(self.counts_from);
        Ok(())
    }

    fn remove_expired(&mut self) {
        if self.expired_removed_at.elapsed() >= EXPIRY_PERIOD {
            self.expired_removed_at = Instant::now();
            let now = self.clock.now();
            self.auth_state.write(|index| {
                index.remove_expired(now);
                Vec::new()
            });
        }
    }
}
