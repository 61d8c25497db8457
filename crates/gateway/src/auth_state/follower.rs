//! Keeps the memory true: looks at the feed when the bell rings, and each second in case it did not.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{AuthState, Revocation};
use crate::{
    clock::WallClock,
    error::StoreError,
    store::{FeedEntry, Store},
};

/// From when on our knowledge counts as stale: it is reported, and nothing is changed by its authority.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// How often we look without being told to.
const POLL_PERIOD: Duration = Duration::from_secs(1);

/// After such a gap we load everything anew instead of what is new: what we missed may have been deleted from the feed.
const RELOAD_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often expired revocations are removed.
const EXPIRY_PERIOD: Duration = Duration::from_secs(60);

/// How long to wait before listening again.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

struct Follower {
    auth_state: Arc<AuthState>,
    store: Store,
    clock: WallClock,
    /// The last entry seen, if there was any.
    seen: Option<FeedEntry>,
    is_failing: bool,
    expired_removed_at: Instant,
}

/// Follows the feed until stopped.
pub async fn follow(auth_state: Arc<AuthState>, store: Store, clock: WallClock, stop: CancellationToken) {
    let mut follower =
        Follower { auth_state, store, clock, seen: None, is_failing: false, expired_removed_at: Instant::now() };
    let mut ticks = interval(POLL_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = follower.auth_state.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = follower.poll() => {}
        }
    }
}

/// Rings the bell whenever a change is committed anywhere. Without it the feed is looked at each second.
pub async fn listen(auth_state: Arc<AuthState>, store: Store, stop: CancellationToken) {
    loop {
        let listening = async {
            let mut listener = store.listen().await?;
            // Whatever was committed before we listened.
            auth_state.notify();
            while listener.try_recv().await?.is_some() {
                auth_state.notify();
            }
            Ok::<(), sqlx::Error>(())
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listening => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(error = %problem::Chain(&error), "not listening for changes; they are looked for each second");
        }
        auth_state.notify();
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
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("users and revocations are up to date again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        error = %problem::Chain(&error),
                        "users and revocations cannot be followed; callers are judged by what is known"
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
                tracing::warn!("the feed of changes is not the one that was followed; everything is loaded anew");
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
        tracing::info!(users = snapshot.users.len(), dead = snapshot.changes.len(), "users and revocations loaded");
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
