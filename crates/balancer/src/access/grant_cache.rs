//! What is remembered of tokens: passports, refusals, calls on their way, and the revocations of the last moments.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{AccessError, Grant, GrantKey, GrantResult};

const SHARDS: usize = 16;
/// How long a refusal is remembered. It spares the gateways a client that does not give up.
const REJECTION_LIFETIME: Duration = Duration::from_secs(1);
/// How long to wait before a renewal that failed, or a stale passport, is brought to the gateways again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Revocations that are compared with calls on their way.
const RECENT_REVOCATIONS_MAX: usize = 1024;
/// Entries looked at to find one to drop when a shard is full.
const EVICTION_SAMPLE: usize = 8;

/// Everything that is remembered, in shards.
pub(super) struct GrantCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_max: usize,
    epoch: AtomicU64,
    recent: Mutex<RecentRevocations>,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<GrantKey, Entry>,
    calls: HashMap<GrantKey, watch::Receiver<Option<GrantResult>>>,
}

enum Entry {
    Granted { grant: Arc<Grant>, renew_at: Instant, used: Instant },
    Rejected { error: AccessError, until: Instant },
}

#[derive(Default)]
struct RecentRevocations {
    /// How many revocations there have been.
    count: u64,
    last: VecDeque<Revoked>,
}

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revoked {
    /// One token.
    Token(String),
    /// All tokens of one login.
    Session(String),
    /// All passports of one subject.
    Subject(String),
}

/// A moment in the order of revocations.
#[derive(Clone, Copy, Debug)]
pub(super) struct RevocationMark {
    epoch: u64,
    revocations: u64,
}

/// What the cache knows of a token.
pub(super) enum Lookup {
    /// A passport to use.
    Fresh(Arc<Grant>),
    /// A passport to use and to renew. Said once in a while only, so that one request begins the renewal.
    RenewalDue(Arc<Grant>),
    /// A passport that holds, but must be asked for anew first.
    Stale,
    /// Refused a moment ago.
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
            recent: Mutex::default(),
        }
    }

    pub(super) fn lookup(&self, key: &GrantKey, now: Instant) -> Lookup {
        let epoch = self.epoch.load(Ordering::Acquire);
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

    /// The call on its way for this key, or the sending end of a new one.
    #[expect(clippy::type_complexity, reason = "the two ends of one channel, named where they are used")]
    pub(super) fn join_call(
        &self,
        key: &GrantKey,
    ) -> Result<
        watch::Receiver<Option<GrantResult>>,
        (watch::Sender<Option<GrantResult>>, watch::Receiver<Option<GrantResult>>),
    > {
        let mut shard = self.shard(key).lock();
        if let Some(receiver) = shard.calls.get(key) {
            return Ok(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        shard.calls.insert(key.clone(), receiver.clone());
        Err((sender, receiver))
    }

    /// Remembers the answer and takes the call off the list; or neither, if a revocation since the call began may be newer
    /// than its answer. Decided under the shard's lock, which a revocation takes after it was noted: it either is seen
    /// here or finds what was remembered.
    #[must_use]
    pub(super) fn finish_call(
        &self,
        key: &GrantKey,
        answer: &GrantResult,
        began: &RevocationMark,
        now: Instant,
    ) -> bool {
        let mut shard = self.shard(key).lock();
        if answer.as_ref().is_ok_and(|grant| self.was_revoked_since(grant, began)) {
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
        if grant.epoch != self.epoch.load(Ordering::Acquire) {
            return grant.received;
        }
        if grant.is_stale { now + RETRY_AFTER } else { grant.half_life() }
    }

    /// No gateway could be asked: a stale passport serves for another moment without asking, if it is still there.
    pub(super) fn serve_stale(&self, key: &GrantKey, now: Instant) -> Option<Arc<Grant>> {
        let epoch = self.epoch.load(Ordering::Acquire);
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

    /// The present moment in the order of revocations.
    pub(super) fn mark(&self) -> RevocationMark {
        RevocationMark { epoch: self.epoch.load(Ordering::Acquire), revocations: self.recent.lock().count }
    }

    /// Whether a revocation since then names this grant, or may have.
    fn was_revoked_since(&self, grant: &Grant, mark: &RevocationMark) -> bool {
        let recent = self.recent.lock();
        let missed = usize::try_from(recent.count - mark.revocations).unwrap_or(usize::MAX);
        missed > recent.last.len() || recent.last.iter().rev().take(missed).any(|revoked| revoked.matches(grant))
    }

    /// Forgets what the revocation names. Returns how many passports that were.
    pub(super) fn revoke(&self, revoked: Revoked) -> usize {
        self.recent.lock().push(revoked.clone());
        let forget = |shard: &Mutex<Shard>| {
            let entries = &mut shard.lock().entries;
            let before = entries.len();
            entries.retain(|_, entry| !matches!(entry, Entry::Granted { grant, .. } if revoked.matches(grant)));
            before - entries.len()
        };
        self.shards.iter().map(forget).sum()
    }

    /// Makes everything stale that is remembered now, and every answer that is on its way.
    pub(super) fn begin_epoch(&self) {
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
        let index = usize::from(key.token.first().copied().unwrap_or_default()) % SHARDS;
        self.shards.get(index).expect("an index modulo the length is within it")
    }
}

// === impl Shard ===

impl Shard {
    /// Drops what is over, or else the least recently used of a few.
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

// === impl RecentRevocations ===

impl RecentRevocations {
    fn push(&mut self, revoked: Revoked) {
        self.count += 1;
        self.last.push_back(revoked);
        if self.last.len() > RECENT_REVOCATIONS_MAX {
            self.last.pop_front();
        }
    }
}

// === impl Revoked ===

impl Revoked {
    fn matches(&self, grant: &Grant) -> bool {
        match self {
            Self::Token(id) => *id == grant.token_id,
            Self::Session(id) => *id == grant.session_id,
            Self::Subject(id) => *id == grant.subject,
        }
    }
}

// === impl RevocationMark ===

impl RevocationMark {
    pub(super) fn epoch(self) -> u64 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::{super::GrantRequest, *};

    fn key(token: &str) -> GrantKey {
        GrantKey::new(GrantRequest { token, audience: "serving", request: None })
    }

    fn grant(cache: &GrantCache, subject: &str, life: Duration) -> GrantResult {
        let now = Instant::now();
        Ok(Arc::new(Grant {
            passport: HeaderValue::from_static("passport"),
            expires: now + life,
            received: now,
            subject: subject.into(),
            session_id: format!("session of {subject}"),
            token_id: format!("token of {subject}"),
            epoch: cache.mark().epoch(),
            is_stale: false,
        }))
    }

    fn remember(cache: &GrantCache, token: &str, subject: &str) {
        let answer = grant(cache, subject, Duration::from_secs(60));
        assert!(cache.finish_call(&key(token), &answer, &cache.mark(), Instant::now()));
    }

    #[test]
    fn a_passport_is_renewed_once_at_half_its_life_and_ends_with_it() {
        let cache = GrantCache::new(100);
        remember(&cache, "a", "ann");
        let now = Instant::now();
        let find = |after_s| cache.lookup(&key("a"), now + Duration::from_secs(after_s));
        assert!(matches!(find(1), Lookup::Fresh(_)));
        assert!(matches!(find(31), Lookup::RenewalDue(_)));
        assert!(matches!(find(31), Lookup::Fresh(_)), "the renewal is on its way");
        assert!(matches!(find(33), Lookup::RenewalDue(_)), "it failed, and is tried again");
        assert!(matches!(find(61), Lookup::Missing));
        let other = GrantKey::new(GrantRequest { token: "a", audience: "gateway", request: None });
        assert!(matches!(cache.lookup(&other, now), Lookup::Missing), "another audience");
    }

    #[test]
    fn a_rejection_is_cached_for_a_second() {
        let cache = GrantCache::new(100);
        let now = Instant::now();
        for error in [AccessError::Unauthenticated, AccessError::PermissionDenied] {
            assert!(cache.finish_call(&key("a"), &Err(error), &cache.mark(), now));
            let found = cache.lookup(&key("a"), now + Duration::from_millis(900));
            assert!(matches!(found, Lookup::Rejected(found) if found == error));
            assert!(matches!(cache.lookup(&key("a"), now + Duration::from_millis(1100)), Lookup::Missing));
        }
    }

    /// One allowed request opens no other: not another method, path or audience, nor a passport.
    #[test]
    fn a_grant_for_one_request_is_found_for_no_other() {
        let cache = GrantCache::new(100);
        let question = |audience, method, path| {
            GrantKey::new(GrantRequest { token: "a", audience, request: Some((method, path)) })
        };
        let allowed = question("mlflow", &Method::GET, "/a");
        let answer = grant(&cache, "ann", Duration::from_secs(60));
        assert!(cache.finish_call(&allowed, &answer, &cache.mark(), Instant::now()));
        assert!(matches!(cache.lookup(&allowed, Instant::now()), Lookup::Fresh(_)));
        for other in [
            question("mlflow", &Method::POST, "/a"),
            question("mlflow", &Method::GET, "/b"),
            question("mlflow", &Method::GET, "/a/"),
            question("mlflow", &Method::GET, ""),
            question("serving", &Method::GET, "/a"),
            GrantKey::new(GrantRequest { token: "a", audience: "mlflow", request: None }),
            GrantKey::new(GrantRequest { token: "b", audience: "mlflow", request: Some((&Method::GET, "/a")) }),
        ] {
            assert!(matches!(cache.lookup(&other, Instant::now()), Lookup::Missing), "{other:?}");
        }
        assert_eq!(cache.revoke(Revoked::Subject("ann".into())), 1, "a yes dies like a passport");
    }

    #[test]
    fn a_revocation_removes_exactly_what_it_names() {
        for revoked in [
            Revoked::Subject("ann".into()),
            Revoked::Session("session of ann".into()),
            Revoked::Token("token of ann".into()),
        ] {
            let cache = GrantCache::new(100);
            remember(&cache, "a", "ann");
            remember(&cache, "b", "bob");
            assert_eq!(cache.revoke(revoked), 1);
            assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Missing));
            assert!(matches!(cache.lookup(&key("b"), Instant::now()), Lookup::Fresh(_)));
        }
    }

    /// The answer to a call may be older than a revocation that overtook it.
    #[test]
    fn a_revocation_during_a_call_is_noticed() {
        let cache = GrantCache::new(100);
        let before = cache.mark();
        let ann = grant(&cache, "ann", Duration::from_secs(60)).unwrap();
        assert!(!cache.was_revoked_since(&ann, &before));
        cache.revoke(Revoked::Subject("bob".into()));
        assert!(!cache.was_revoked_since(&ann, &before));
        cache.revoke(Revoked::Subject("ann".into()));
        assert!(cache.was_revoked_since(&ann, &before));
        assert!(!cache.was_revoked_since(&ann, &cache.mark()));
        for _ in 0..=RECENT_REVOCATIONS_MAX {
            cache.revoke(Revoked::Subject("eve".into()));
        }
        assert!(cache.was_revoked_since(&ann, &before), "more than are kept: it may have been among them");
    }

    /// Neither remembered nor off the list: the same call asks once more.
    #[test]
    fn an_answer_that_a_revocation_overtook_is_not_remembered() {
        let cache = GrantCache::new(100);
        let (_sender, _receiver) = cache.join_call(&key("a")).unwrap_err();
        let began = cache.mark();
        let ann = grant(&cache, "ann", Duration::from_secs(60));
        cache.revoke(Revoked::Subject("ann".into()));
        assert!(!cache.finish_call(&key("a"), &ann, &began, Instant::now()));
        assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Missing));
        assert!(cache.join_call(&key("a")).is_ok(), "the call goes on");
        assert!(cache.finish_call(&key("a"), &ann, &cache.mark(), Instant::now()));
        assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Fresh(_)));
    }

    #[test]
    fn a_new_epoch_makes_every_grant_stale() {
        let cache = GrantCache::new(100);
        let is_stale = |token: &str, now| matches!(cache.lookup(&key(token), now), Lookup::Stale);
        remember(&cache, "a", "ann");
        let (late, began) = (grant(&cache, "bob", Duration::from_secs(60)), cache.mark());
        cache.begin_epoch();
        assert!(cache.finish_call(&key("b"), &late, &began, Instant::now()));
        assert!(is_stale("b", Instant::now()), "asked for before the epoch began");
        assert!(is_stale("a", Instant::now()));
        assert!(cache.serve_stale(&key("a"), Instant::now()).is_some());
        assert!(
            matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Fresh(_)),
            "no gateway: it serves for a moment"
        );
        assert!(is_stale("a", Instant::now() + RETRY_AFTER));
        cache.revoke(Revoked::Subject("ann".into()));
        assert!(cache.serve_stale(&key("a"), Instant::now()).is_none(), "it was revoked while a gateway was asked");
        remember(&cache, "a", "ann");
        assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Fresh(_)));
    }

    #[test]
    fn a_stale_grant_is_renewed_soon() {
        let cache = GrantCache::new(100);
        let mut answer = grant(&cache, "ann", Duration::from_secs(60));
        Arc::get_mut(answer.as_mut().unwrap()).unwrap().is_stale = true;
        let now = Instant::now();
        assert!(cache.finish_call(&key("a"), &answer, &cache.mark(), now));
        assert!(matches!(cache.lookup(&key("a"), now), Lookup::Fresh(_)));
        assert!(matches!(cache.lookup(&key("a"), now + RETRY_AFTER), Lookup::RenewalDue(_)));
    }

    #[test]
    fn the_grant_cache_is_bounded() {
        let cache = GrantCache::new(160);
        for n in 0..1000 {
            remember(&cache, &format!("token {n}"), "ann");
        }
        let count: usize = cache.shards.iter().map(|shard| shard.lock().entries.len()).sum();
        assert!(count <= 160, "{count}");
    }

    #[test]
    fn callers_of_one_key_share_one_call() {
        let cache = GrantCache::new(100);
        let (sender, _receiver) = cache.join_call(&key("a")).unwrap_err();
        let joined = cache.join_call(&key("a")).unwrap();
        assert!(cache.join_call(&key("b")).is_err());
        sender.send(Some(Err(AccessError::Unauthenticated))).unwrap();
        assert!(joined.borrow().is_some());
        assert!(cache.finish_call(&key("a"), &Err(AccessError::Unavailable), &cache.mark(), Instant::now()));
        assert!(cache.join_call(&key("a")).is_err(), "the call has ended");
    }
}
