//! Keeps the memory true: looks at the feed when the bell rings, and each second in case it did not.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Memory, Revocation};
use crate::{
    clock::WallClock,
    error::StoreError,
    store::{Entry, Store},
};

/// From when on our knowledge counts as stale: it is reported, and nothing is changed by its authority.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// How often we look without being told to.
const PERIOD: Duration = Duration::from_secs(1);

/// After such a gap we load everything anew instead of what is new: what we missed may have been deleted from the feed.
const RELOAD_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often the dead are swept.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// How long to wait before listening again.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

struct Follower {
    memory: Arc<Memory>,
    store: Store,
    clock: WallClock,
    /// The last entry seen, if there was any.
    seen: Option<Entry>,
    is_failing: bool,
    swept: Instant,
}

/// Follows the feed until stopped.
pub async fn follow(memory: Arc<Memory>, store: Store, clock: WallClock, stop: CancellationToken) {
    let mut follower = Follower { memory, store, clock, seen: None, is_failing: false, swept: Instant::now() };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = follower.memory.woken() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = follower.look() => {}
        }
    }
}

/// Rings the bell whenever a change is committed anywhere. Without it the feed is looked at each second.
pub async fn listen(memory: Arc<Memory>, store: Store, stop: CancellationToken) {
    loop {
        let listening = async {
            let mut listener = store.listen().await?;
            // Whatever was committed before we listened.
            memory.ring();
            while listener.try_recv().await?.is_some() {
                memory.ring();
            }
            Ok::<(), sqlx::Error>(())
        };
        let lost = tokio::select! {
            () = stop.cancelled() => return,
            lost = listening => lost,
        };
        if let Err(error) = lost {
            tracing::debug!(error = %problem::Chain(&error), "not listening for changes; they are looked for each second");
        }
        memory.ring();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LISTEN_PAUSE) => {}
        }
    }
}

// === impl Follower ===

impl Follower {
    async fn look(&mut self) {
        let number = self.memory.begin_look();
        let looked = self.take_over().await;
        match looked {
            Ok(seen) => {
                self.seen = seen;
                self.memory.end_look(number, seen.map_or(0, |entry| entry.seq));
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
        self.sweep();
    }

    async fn take_over(&self) -> Result<Option<Entry>, StoreError> {
        if self.memory.age().is_none_or(|age| age > RELOAD_AFTER) {
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
                self.memory.write(|known| known.apply(&batch));
            }
            if !batch.is_partial {
                return Ok(seen);
            }
        }
    }

    async fn load(&self) -> Result<Option<Entry>, StoreError> {
        let snapshot = self.store.snapshot().await?;
        self.memory.write(|known| {
            known.replace(&snapshot);
            vec![Revocation::Reset]
        });
        tracing::info!(users = snapshot.users.len(), dead = snapshot.changes.len(), "users and revocations loaded");
        Ok(snapshot.last)
    }

    fn sweep(&mut self) {
        if self.swept.elapsed() >= SWEEP_PERIOD {
            self.swept = Instant::now();
            let now = self.clock.now();
            self.memory.write(|known| {
                known.sweep(now);
                Vec::new()
            });
        }
    }
}
