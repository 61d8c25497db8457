//! What this process knows about users and revocations: enough to judge every token without the database.
//!
//! Only the follower ([`follow`]) writes here, from what the database says, in commit order. Whoever changed something
//! waits until the follower has seen it; nobody else's write can then undo it.

mod follow;
mod known;

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

pub use follow::{STALE_AFTER, follow, listen};
pub use known::{Judgement, Known, KnownUser};

use crate::metrics;

/// Revocations that a slow watcher may be behind before its stream is ended.
const WATCHER_LAG_MAX: usize = 1_024;

/// How long one waits for the follower to see what was just committed.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// That something ended, for those who remember passports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// One token, by its `jti`.
    Token(Uuid),
    /// Every token of one login, by its `sid`.
    Session(Uuid),
    /// Every passport of one user; its tokens may be worth another one.
    Subject(Uuid),
    /// We may have missed something ourselves: forget everything and begin anew.
    Reset,
}

/// The memory of one gateway.
#[derive(Debug)]
pub struct Memory {
    known: RwLock<Known>,
    revocations: broadcast::Sender<Revocation>,
    /// The last number of the feed that was taken over.
    seq: watch::Sender<i64>,
    /// Looks at the database so far: begun, and the last one that succeeded.
    looks_begun: AtomicU64,
    looked: watch::Sender<Look>,
    wake: Notify,
}

/// A successful look at the database.
#[derive(Clone, Copy, Debug)]
struct Look {
    number: u64,
    at: Option<Instant>,
}

/// That the follower did not get to it in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

// === impl Revocation ===

impl Revocation {
    fn kind(self) -> Option<&'static str> {
        match self {
            Self::Token(_) => Some("token"),
            Self::Session(_) => Some("session"),
            Self::Subject(_) => Some("subject"),
            Self::Reset => None,
        }
    }
}

// === impl Memory ===

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            revocations: broadcast::Sender::new(WATCHER_LAG_MAX),
            seq: watch::Sender::new(0),
            looks_begun: AtomicU64::new(0),
            looked: watch::Sender::new(Look { number: 0, at: None }),
            wake: Notify::new(),
        }
    }
}

impl Memory {
    /// Reads what is known. Short: nobody else can while this runs longer than a lookup.
    pub fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read())
    }

    /// Every revocation from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.revocations.subscribe()
    }

    /// How old our knowledge is; `None` before the first look.
    pub fn age(&self) -> Option<Duration> {
        self.looked.borrow().at.map(|at| at.elapsed())
    }

    /// Whether what we know can be relied on for changes.
    pub fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < STALE_AFTER)
    }

    /// Waits for the first look. False when stopped before.
    pub async fn loaded(&self, stop: &CancellationToken) -> bool {
        let mut looked = self.looked.subscribe();
        let loaded = stop.run_until_cancelled(looked.wait_for(|look| look.at.is_some())).await;
        matches!(loaded, Some(Ok(_)))
    }

    /// Waits until change `seq` has been taken over, for a second at most. A change that is committed counts either way.
    pub async fn catch_up(&self, seq: i64) {
        self.wake.notify_one();
        let mut seen = self.seq.subscribe();
        let _late_or_done = timeout(CATCH_UP_MAX, seen.wait_for(|seen| *seen >= seq)).await;
    }

    /// Waits until the database has been looked at once more, from the beginning.
    pub async fn look_again(&self) -> Result<(), Late> {
        let begun = self.looks_begun.load(Ordering::Acquire);
        self.wake.notify_one();
        let mut looked = self.looked.subscribe();
        match timeout(CATCH_UP_MAX, looked.wait_for(|look| look.number > begun)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Late),
        }
    }

    /// Waits for the bell. Only for the follower.
    async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Rings the bell: there may be something new.
    fn ring(&self) {
        self.wake.notify_one();
    }

    fn begin_look(&self) -> u64 {
        self.looks_begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn end_look(&self, number: u64, seq: i64) {
        self.seq.send_replace(seq);
        self.looked.send_replace(Look { number, at: Some(Instant::now()) });
    }

    fn write(&self, change: impl FnOnce(&mut Known) -> Vec<Revocation>) {
        let mut known = self.known.write();
        let revocations = change(&mut known);
        metrics::users(known.users_len());
        // Told while the lock is held: whoever subscribes afterwards and asks us is judged by what we know now.
        revocations.into_iter().for_each(|revocation| self.tell(revocation));
    }

    pub(crate) fn tell(&self, revocation: Revocation) {
        revocation.kind().into_iter().for_each(metrics::revocation);
        let _nobody_listens = self.revocations.send(revocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_look_means_one_that_began_afterwards() {
        let memory = Memory::default();
        let running = memory.begin_look();
        let again = memory.look_again();
        memory.end_look(running, 0);
        assert_eq!(again.await, Err(Late), "the look that was already going may have missed it");

        let again = memory.look_again();
        let follower = async {
            memory.woken().await;
            let number = memory.begin_look();
            memory.end_look(number, 0);
        };
        assert_eq!(tokio::join!(again, follower).0, Ok(()));
    }

    #[tokio::test]
    async fn what_was_never_looked_at_is_not_fresh() {
        let memory = Memory::default();
        assert!(!memory.is_fresh());
        let number = memory.begin_look();
        memory.end_look(number, 3);
        assert!(memory.is_fresh());
        memory.catch_up(3).await;
    }
}
