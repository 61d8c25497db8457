//! Users and revocations in memory: enough to check every token without the database.
//!
//! Only the follower ([`follow`]) writes here, from the change feed of the database, in commit order. A handler that
//! committed a change waits until the follower has applied it; no older write can then undo it.

mod follower;
mod index;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::{
    sync::{Notify, broadcast, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use follower::{STALE_AFTER, follow, listen};
pub use index::{AuthIndex, TokenVerdict, UserRights};

use crate::metrics;

/// How many revocations a slow watcher may lag before its stream ends.
const WATCHER_LAG_MAX: usize = 1_024;

/// The longest wait for the follower to apply what was just committed.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// A revocation, for balancers that cache passports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// One token, by its `jti`.
    Token(Uuid),
    /// Every token of one login, by its `sid`.
    Session(Uuid),
    /// Every passport of one user of a lower version than this; its tokens may be worth another one. Deleted: no version is
    /// as high.
    Subject {
        /// The user.
        id: Uuid,
        /// Its rights of now.
        authz_version: u64,
    },
    /// This gateway may have missed revocations itself: drop every cached passport.
    Reset,
}

/// A revocation with a place in the feed: a state that has applied this entry has applied the revocation.
pub type PlacedRevocation = (Revocation, u64);

/// The auth state of one gateway.
#[derive(Debug)]
pub struct AuthState {
    index: RwLock<AuthIndex>,
    revocations: broadcast::Sender<PlacedRevocation>,
    /// The last entry of the feed that was applied.
    seq: watch::Sender<i64>,
    /// Polls of the feed so far: begun, and the last one that succeeded.
    polls_begun: AtomicU64,
    last_poll: watch::Sender<Poll>,
    /// Notifies the follower that the feed may have a new entry.
    wake: Notify,
    /// The number that everything counts from since the last restore of the database, if there was one.
    counts_from: watch::Sender<Option<i64>>,
}

/// A successful poll of the feed.
#[derive(Clone, Copy, Debug)]
struct Poll {
    number: u64,
    at: Option<Instant>,
}

/// The follower did not poll the feed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollTimeout;

// === impl Revocation ===

impl Revocation {
    fn kind(self) -> Option<&'static str> {
        match self {
            Self::Token(_) => Some("token"),
            Self::Session(_) => Some("session"),
            Self::Subject { .. } => Some("subject"),
            Self::Reset => None,
        }
    }
}

// === impl AuthState ===

impl Default for AuthState {
    fn default() -> Self {
        Self {
            index: RwLock::default(),
            revocations: broadcast::Sender::new(WATCHER_LAG_MAX),
            seq: watch::Sender::new(0),
            polls_begun: AtomicU64::new(0),
            last_poll: watch::Sender::new(Poll { number: 0, at: None }),
            wake: Notify::new(),
            counts_from: watch::Sender::new(None),
        }
    }
}

impl AuthState {
    /// Reads the index. `lookup` must be short: it holds the lock that the follower needs to write.
    pub fn read<T>(&self, lookup: impl FnOnce(&AuthIndex) -> T) -> T {
        lookup(&self.index.read())
    }

    /// Every revocation from now on, and the place in the feed up to which revocations went before.
    pub fn subscribe(&self) -> (broadcast::Receiver<PlacedRevocation>, u64) {
        // Under the lock under which they are broadcast: each is either before the place or received.
        self.read(|index| (self.revocations.subscribe(), index.position()))
    }

    /// Time since the last successful poll; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.last_poll.borrow().at.map(|at| at.elapsed())
    }

    /// Changes when the database was restored to an earlier time and everything was loaded anew: what else was read before is
    /// not in it.
    pub fn restores(&self) -> watch::Receiver<Option<i64>> {
        self.counts_from.subscribe()
    }

    /// Whether the state is recent enough to make changes by it.
    pub fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < STALE_AFTER)
    }

    /// Waits for the first poll. False when stopped before.
    pub async fn wait_loaded(&self, stop: &CancellationToken) -> bool {
        let mut last_poll = self.last_poll.subscribe();
        let loaded = stop.run_until_cancelled(last_poll.wait_for(|poll| poll.at.is_some())).await;
        matches!(loaded, Some(Ok(_)))
    }

    /// Waits until entry `seq` of the feed has been applied, for a second at most. The change is committed either way.
    pub async fn catch_up(&self, seq: i64) {
        self.wake.notify_one();
        let mut seen = self.seq.subscribe();
        let _done_or_timed_out = timeout(CATCH_UP_MAX, seen.wait_for(|seen| *seen >= seq)).await;
    }

    /// Waits for a poll of the feed that begins after this call.
    pub async fn poll_again(&self) -> Result<(), PollTimeout> {
        let begun = self.polls_begun.load(Ordering::Acquire);
        self.wake.notify_one();
        let mut last_poll = self.last_poll.subscribe();
        match timeout(CATCH_UP_MAX, last_poll.wait_for(|poll| poll.number > begun)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(PollTimeout),
        }
    }

    fn begin_poll(&self) -> u64 {
        self.polls_begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn end_poll(&self, number: u64, seq: i64) {
        self.seq.send_replace(seq);
        self.last_poll.send_replace(Poll { number, at: Some(Instant::now()) });
    }

    fn note_restore(&self, counts_from: Option<i64>) {
        self.counts_from.send_if_modified(|known| std::mem::replace(known, counts_from) != counts_from);
    }

    fn write(&self, change: impl FnOnce(&mut AuthIndex) -> Vec<Revocation>) {
        let mut index = self.index.write();
        let revocations = change(&mut index);
        metrics::users(index.users_len());
        let position = index.position();
        // Broadcast while the lock is held: a watcher that subscribes later gets answers from the index as it is now.
        revocations.into_iter().for_each(|revocation| self.broadcast(revocation, position));
    }

    pub(crate) fn broadcast(&self, revocation: Revocation, position: u64) {
        revocation.kind().into_iter().for_each(metrics::revocation);
        let _no_receiver = self.revocations.send((revocation, position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn poll_again_waits_for_a_poll_that_began_afterwards() {
        let auth_state = AuthState::default();
        let running = auth_state.begin_poll();
        let again = auth_state.poll_again();
        auth_state.end_poll(running, 0);
        assert_eq!(again.await, Err(PollTimeout), "the poll under way may have missed the change");

        let again = auth_state.poll_again();
        let follower = async {
            auth_state.wake.notified().await;
            let number = auth_state.begin_poll();
            auth_state.end_poll(number, 0);
        };
        assert_eq!(tokio::join!(again, follower).0, Ok(()));
    }

    #[tokio::test]
    async fn before_the_first_poll_the_state_is_not_fresh() {
        let auth_state = AuthState::default();
        assert!(!auth_state.is_fresh());
        let number = auth_state.begin_poll();
        auth_state.end_poll(number, 3);
        assert!(auth_state.is_fresh());
        auth_state.catch_up(3).await;
    }
}
