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
        let polled = self.apply_changes().await;
        match polled {
            Ok(seen) => {
                self.seen = seen;
                self.auth_state.end_poll(number, seen.map_or(0, |entry| entry.seq));
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

    async fn apply_changes(&self) -> Result<Option<FeedEntry>, StoreError> {
        if self.auth_state.age().is_none_or(|age| age > RELOAD_AFTER) {
            return self.load().await;
        }
        let mut seen = self.seen;
        loop {
            let Some(batch) = self.store.changes_after(seen).await? else {
                tracing::warn!(
                    "the change feed no longer has the last entry that was applied; users and revocations are loaded anew"
                );
                return self.load().await;
            };
            seen = batch.last;
            if !batch.changes.is_empty() {
                self.auth_state.write(|index| index.apply(&batch));
            }
            if !batch.is_partial {
                return Ok(seen);
            }
        }
    }

    async fn load(&self) -> Result<Option<FeedEntry>, StoreError> {
        let snapshot = self.store.snapshot().await?;
        self.auth_state.write(|index| {
            index.replace(&snapshot);
            vec![Revocation::Reset]
        });
        tracing::info!(users = snapshot.users.len(), revoked = snapshot.changes.len(), "users and revocations loaded");
        Ok(snapshot.last)
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
