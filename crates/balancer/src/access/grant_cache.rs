//! The grants of tokens in memory: passports, rejections, and the calls in flight that will bring more.
//!
//! Bounded, in shards. The epoch is domain logic, hence no cache library: a revocation stream that begins anew makes every
//! grant stale at once, and a stale grant still serves while no gateway can be reached.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    grant::{AccessError, Grant, GrantKey, GrantResult},
    revocation_log::{Revocation, RevocationLog, Verdict},
};

const SHARDS: usize = 16;
/// How long a rejection is cached. It spares the gateways a client that does not give up.
const REJECTION_LIFETIME: Duration = Duration::from_secs(1);
/// How long until a renewal that failed, or a stale grant, is brought to the gateways again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Entries looked at to find one to evict when a shard is full.
const EVICTION_SAMPLE: usize = 8;

/// All grants and rejections, in shards.
pub(super) struct GrantCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_max: usize,
    epoch: AtomicU64,
    revocations: Mutex<RevocationLog>,
}

/// Gets the result of a call in flight.
pub(super) type CallReceiver = watch::Receiver<Option<GrantResult>>;

#[derive(Default)]
struct Shard {
    entries: HashMap<GrantKey, Entry>,
    calls: HashMap<GrantKey, CallReceiver>,
}

enum Entry {
    Granted { grant: Arc<Grant>, renew_at: Instant, used: Instant },
    Rejected { error: AccessError, until: Instant },
}

/// What the cache has for a key.
pub(super) enum Lookup {
    /// A grant to use.
    Fresh(Arc<Grant>),
    /// A grant to use and to renew. Returned once in a while only, so that one request begins the renewal.
    RenewalDue(Arc<Grant>),
    /// A grant that has not expired, but must be asked for anew first.
    Stale,
    /// Rejected a moment ago.
    Rejected(AccessError),
    /// Nothing.
    Missing,
}

// === impl GrantCache ===

impl GrantCache {
    pub(super) fn new(max: usize) -> Self {
        Self {
            shards: Default::default(),
            shard_max: max.div_ceil(SHARDS).max(1),
            epoch: AtomicU64::new(0),
            revocations: Mutex::default(),
        }
    }

    pub(super) fn lookup(&self, key: &GrantKey, now: Instant) -> Lookup {
        let epoch = self.epoch();
        match self.shard(key).lock().entries.get_mut(key) {
            Some(Entry::Rejected { error, until }) if *until > now => Lookup::Rejected(*error),
            Some(Entry::Granted { grant, renew_at, used }) if grant.expires > now => {
                *used = now;
                let is_due = *renew_at <= now;
                if grant.epoch != epoch && is_due {
                    return Lookup::Stale;
                }
                if is_due {
                    *renew_at = now + RETRY_AFTER;
                    return Lookup::RenewalDue(Arc::clone(grant));
                }
                Lookup::Fresh(Arc::clone(grant))
            }
            _ => Lookup::Missing,
        }
    }

    /// The call in flight for this key, with the sending end if it is a new one.
    pub(super) fn join_call(&self, key: &GrantKey) -> (CallReceiver, Option<watch::Sender<Option<GrantResult>>>) {
        let mut shard = self.shard(key).lock();
        if let Some(receiver) = shard.calls.get(key) {
            return (receiver.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        shard.calls.insert(key.clone(), receiver.clone());
        (receiver, Some(sender))
    }

    /// Stores the answer and takes the call off the list; or does neither, if a revocation overtook the answer. Decided
    /// under the shard's lock, which a revocation takes after it was logged: it is either seen here or finds what was
    /// stored.
    #[must_use]
    pub(super) fn finish_call(&self, key: &GrantKey, answer: &GrantResult, now: Instant) -> bool {
        let mut shard = self.shard(key).lock();
        if answer.as_ref().is_ok_and(|grant| matches!(self.judge(grant, now), Verdict::Revoked | Verdict::Outdated)) {
            return false;
        }
        shard.calls.remove(key);
        let entry = match answer {
            Ok(grant) => Entry::Granted { grant: Arc::clone(grant), renew_at: self.renew_at(grant, now), used: now },
            Err(AccessError::Unavailable) => return true,
            Err(error) => Entry::Rejected { error: *error, until: now + REJECTION_LIFETIME },
        };
        if shard.entries.len() >= self.shard_max && !shard.entries.contains_key(key) {
            shard.evict_one(now);
        }
        shard.entries.insert(key.clone(), entry);
        true
    }

    fn renew_at(&self, grant: &Grant, now: Instant) -> Instant {
        if grant.epoch != self.epoch() {
            return grant.received;
        }
        if grant.is_stale { now + RETRY_AFTER } else { grant.half_life() }
    }

    /// No gateway could be asked: a stale grant serves for another moment without a call, if it is still there.
    pub(super) fn serve_stale(&self, key: &GrantKey, now: Instant) -> Option<Arc<Grant>> {
        let epoch = self.epoch();
        match self.shard(key).lock().entries.get_mut(key) {
            Some(Entry::Granted { grant, renew_at, .. }) if grant.expires > now => {
                if grant.epoch != epoch {
                    *renew_at = now + RETRY_AFTER;
                }
                Some(Arc::clone(grant))
            }
            _ => None,
        }
    }

    /// The present epoch: a grant that is asked for from now on is of it.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What the revocations so far say of a grant.
    pub(super) fn judge(&self, grant: &Grant, now: Instant) -> Verdict {
        self.revocations.lock().judge(grant, now)
    }

    /// Remembers the revocation, and removes what it ends. Returns how many grants that were.
    pub(super) fn revoke(&self, revocation: &Revocation, now: Instant) -> usize {
        if !self.revocations.lock().push(revocation, now) {
            return 0;
        }
        let remove_from = |shard: &Mutex<Shard>| {
            let entries = &mut shard.lock().entries;
            let before = entries.len();
            entries.retain(|_, entry| !matches!(entry, Entry::Granted { grant, .. } if revocation.ends(grant)));
            before - entries.len()
        };
        self.shards.iter().map(remove_from).sum()
    }

    /// Revocations up to this place in the feed may have been missed: makes every grant stale that is cached now, and every
    /// answer of a call in flight.
    pub(super) fn make_all_stale(&self, feed_position: u64, now: Instant) {
        self.revocations.lock().miss_up_to(feed_position, now);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            for entry in shard.lock().entries.values_mut() {
                if let Entry::Granted { renew_at, grant, .. } = entry {
                    *renew_at = grant.received;
                }
            }
        }
    }

    fn shard(&self, key: &GrantKey) -> &Mutex<Shard> {
        // The key is a hash already.
        let index = usize::from(key.token.as_bytes().first().copied().unwrap_or_default()) % SHARDS;
        self.shards.get(index).expect("an index modulo the length is within it")
    }
}

// === impl Shard ===

impl Shard {
    /// Evicts what has expired, or else the least recently used of a few.
    fn evict_one(&mut self, now: Instant) {
        let last_use = |entry: &Entry| match entry {
            Entry::Granted { grant, used, .. } if grant.expires > now => Some(*used),
            Entry::Rejected { until, .. } if *until > now => Some(*until),
            _ => None,
        };
        let sample = self.entries.iter().take(EVICTION_SAMPLE);
        let oldest = sample.min_by_key(|(_, entry)| last_use(entry)).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
