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

use super::{AccessError, Answer, Grant, Key};

const SHARDS: usize = 16;
/// How long a refusal is remembered. It spares the gateways a client that does not give up.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How long to wait before a renewal that failed, or a stale passport, is brought to the gateways again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Revocations that are compared with calls on their way.
const RECENT_MAX: usize = 1024;
/// Entries looked at to find one to drop when a shard is full.
const SAMPLE: usize = 8;

/// Everything that is remembered, in shards.
pub(super) struct Memory {
    shards: [Mutex<Shard>; SHARDS],
    shard_max: usize,
    epoch: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Shard {
    known: HashMap<Key, Known>,
    calls: HashMap<Key, watch::Receiver<Option<Answer>>>,
}

enum Known {
    Granted { grant: Arc<Grant>, renew_at: Instant, used: Instant },
    Refused { error: AccessError, until: Instant },
}

#[derive(Default)]
struct Recent {
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
pub(super) struct Mark {
    epoch: u64,
    revocations: u64,
}

/// What is known of a token.
pub(super) enum Found {
    /// A passport to use.
    Fresh(Arc<Grant>),
    /// A passport to use and to renew. Said once in a while only, so that one request begins the renewal.
    ToRenew(Arc<Grant>),
    /// A passport that holds, but must be asked for anew first.
    Stale,
    /// Refused a moment ago.
    Refused(AccessError),
    /// Nothing.
    Nothing,
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(max: usize) -> Self {
        Self {
            shards: Default::default(),
            shard_max: max.div_ceil(SHARDS).max(1),
            epoch: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    pub(super) fn find(&self, key: &Key, now: Instant) -> Found {
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.shard(key).lock().known.get_mut(key) {
            Some(Known::Refused { error, until }) if *until > now => Found::Refused(*error),
            Some(Known::Granted { grant, renew_at, used }) if grant.expires > now => {
                *used = now;
                let is_due = *renew_at <= now;
                if grant.epoch != epoch && is_due {
                    return Found::Stale;
                }
                if is_due {
                    *renew_at = now + ASK_AGAIN_AFTER;
                    return Found::ToRenew(Arc::clone(grant));
                }
                Found::Fresh(Arc::clone(grant))
            }
            _ => Found::Nothing,
        }
    }

    /// The call on its way for this key, or the sending end of a new one.
    #[expect(clippy::type_complexity, reason = "the two ends of one channel, named where they are used")]
    pub(super) fn join_call(
        &self,
        key: &Key,
    ) -> Result<watch::Receiver<Option<Answer>>, (watch::Sender<Option<Answer>>, watch::Receiver<Option<Answer>>)> {
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
    pub(super) fn end_call(&self, key: &Key, answer: &Answer, began: &Mark, now: Instant) -> bool {
        let mut shard = self.shard(key).lock();
        if answer.as_ref().is_ok_and(|grant| self.was_revoked_since(grant, began)) {
            return false;
        }
        shard.calls.remove(key);
        let known = match answer {
            Ok(grant) => Known::Granted { grant: Arc::clone(grant), renew_at: self.renew_at(grant, now), used: now },
            Err(AccessError::Unavailable) => return true,
            Err(error) => Known::Refused { error: *error, until: now + REFUSED_FOR },
        };
        if shard.known.len() >= self.shard_max && !shard.known.contains_key(key) {
            shard.make_room(now);
        }
        shard.known.insert(key.clone(), known);
        true
    }

    fn renew_at(&self, grant: &Grant, now: Instant) -> Instant {
        if grant.epoch != self.epoch.load(Ordering::Acquire) {
            return grant.received;
        }
        if grant.is_stale { now + ASK_AGAIN_AFTER } else { grant.half_life() }
    }

    /// No gateway could be asked: a stale passport serves for another moment without asking, if it is still there.
    pub(super) fn excuse(&self, key: &Key, now: Instant) -> Option<Arc<Grant>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.shard(key).lock().known.get_mut(key) {
            Some(Known::Granted { grant, renew_at, .. }) if grant.expires > now => {
                if grant.epoch != epoch {
                    *renew_at = now + ASK_AGAIN_AFTER;
                }
                Some(Arc::clone(grant))
            }
            _ => None,
        }
    }

    /// The present moment in the order of revocations.
    pub(super) fn mark(&self) -> Mark {
        Mark { epoch: self.epoch.load(Ordering::Acquire), revocations: self.recent.lock().count }
    }

    /// Whether a revocation since then names this grant, or may have.
    fn was_revoked_since(&self, grant: &Grant, mark: &Mark) -> bool {
        let recent = self.recent.lock();
        let missed = usize::try_from(recent.count - mark.revocations).unwrap_or(usize::MAX);
        missed > recent.last.len() || recent.last.iter().rev().take(missed).any(|revoked| revoked.names(grant))
    }

    /// Forgets what the revocation names. Returns how many passports that were.
    pub(super) fn revoke(&self, revoked: Revoked) -> usize {
        self.recent.lock().push(revoked.clone());
        let forget = |shard: &Mutex<Shard>| {
            let known = &mut shard.lock().known;
            let before = known.len();
            known.retain(|_, known| !matches!(known, Known::Granted { grant, .. } if revoked.names(grant)));
            before - known.len()
        };
        self.shards.iter().map(forget).sum()
    }

    /// Makes everything stale that is remembered now, and every answer that is on its way.
    pub(super) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            for known in shard.lock().known.values_mut() {
                if let Known::Granted { renew_at, grant, .. } = known {
                    *renew_at = grant.received;
                }
            }
        }
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // The key is a hash already.
        let index = usize::from(key.token.first().copied().unwrap_or_default()) % SHARDS;
        self.shards.get(index).expect("an index modulo the length is within it")
    }
}

// === impl Shard ===

impl Shard {
    /// Drops what is over, or else the least recently used of a few.
    fn make_room(&mut self, now: Instant) {
        let last_use = |known: &Known| match known {
            Known::Granted { grant, used, .. } if grant.expires > now => Some(*used),
            Known::Refused { until, .. } if *until > now => Some(*until),
            _ => None,
        };
        let sample = self.known.iter().take(SAMPLE);
        let oldest = sample.min_by_key(|(_, known)| last_use(known)).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.known.remove(&key);
        }
    }
}

// === impl Recent ===

impl Recent {
    fn push(&mut self, revoked: Revoked) {
        self.count += 1;
        self.last.push_back(revoked);
        if self.last.len() > RECENT_MAX {
            self.last.pop_front();
        }
    }
}

// === impl Revoked ===

impl Revoked {
    fn names(&self, grant: &Grant) -> bool {
        match self {
            Self::Token(id) => *id == grant.token_id,
            Self::Session(id) => *id == grant.session_id,
            Self::Subject(id) => *id == grant.subject,
        }
    }
}

// === impl Mark ===

impl Mark {
    pub(super) fn epoch(self) -> u64 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::{super::Question, *};

    fn key(token: &str) -> Key {
        Key::new(Question { token, audience: "serving", request: None })
    }

    fn grant(memory: &Memory, subject: &str, life: Duration) -> Answer {
        let now = Instant::now();
        Ok(Arc::new(Grant {
            passport: HeaderValue::from_static("passport"),
            expires: now + life,
            received: now,
            subject: subject.into(),
            session_id: format!("session of {subject}"),
            token_id: format!("token of {subject}"),
            epoch: memory.mark().epoch(),
            is_stale: false,
        }))
    }

    fn remember(memory: &Memory, token: &str, subject: &str) {
        let answer = grant(memory, subject, Duration::from_secs(60));
        assert!(memory.end_call(&key(token), &answer, &memory.mark(), Instant::now()));
    }

    #[test]
    fn a_passport_is_renewed_once_at_half_its_life_and_ends_with_it() {
        let memory = Memory::new(100);
        remember(&memory, "a", "ann");
        let now = Instant::now();
        let find = |after_s| memory.find(&key("a"), now + Duration::from_secs(after_s));
        assert!(matches!(find(1), Found::Fresh(_)));
        assert!(matches!(find(31), Found::ToRenew(_)));
        assert!(matches!(find(31), Found::Fresh(_)), "the renewal is on its way");
        assert!(matches!(find(33), Found::ToRenew(_)), "it failed, and is tried again");
        assert!(matches!(find(61), Found::Nothing));
        let other = Key::new(Question { token: "a", audience: "gateway", request: None });
        assert!(matches!(memory.find(&other, now), Found::Nothing), "another audience");
    }

    #[test]
    fn a_refusal_is_remembered_for_a_second() {
        let memory = Memory::new(100);
        let now = Instant::now();
        for error in [AccessError::Denied, AccessError::Forbidden] {
            assert!(memory.end_call(&key("a"), &Err(error), &memory.mark(), now));
            let found = memory.find(&key("a"), now + Duration::from_millis(900));
            assert!(matches!(found, Found::Refused(found) if found == error));
            assert!(matches!(memory.find(&key("a"), now + Duration::from_millis(1100)), Found::Nothing));
        }
    }

    /// One allowed request opens no other: not another method, path or audience, nor a passport.
    #[test]
    fn a_yes_to_one_request_is_found_for_no_other() {
        let memory = Memory::new(100);
        let question =
            |audience, method, path| Key::new(Question { token: "a", audience, request: Some((method, path)) });
        let allowed = question("mlflow", &Method::GET, "/a");
        let answer = grant(&memory, "ann", Duration::from_secs(60));
        assert!(memory.end_call(&allowed, &answer, &memory.mark(), Instant::now()));
        assert!(matches!(memory.find(&allowed, Instant::now()), Found::Fresh(_)));
        for other in [
            question("mlflow", &Method::POST, "/a"),
            question("mlflow", &Method::GET, "/b"),
            question("mlflow", &Method::GET, "/a/"),
            question("mlflow", &Method::GET, ""),
            question("serving", &Method::GET, "/a"),
            Key::new(Question { token: "a", audience: "mlflow", request: None }),
            Key::new(Question { token: "b", audience: "mlflow", request: Some((&Method::GET, "/a")) }),
        ] {
            assert!(matches!(memory.find(&other, Instant::now()), Found::Nothing), "{other:?}");
        }
        assert_eq!(memory.revoke(Revoked::Subject("ann".into())), 1, "a yes dies like a passport");
    }

    #[test]
    fn a_revocation_forgets_exactly_what_it_names() {
        for revoked in [
            Revoked::Subject("ann".into()),
            Revoked::Session("session of ann".into()),
            Revoked::Token("token of ann".into()),
        ] {
            let memory = Memory::new(100);
            remember(&memory, "a", "ann");
            remember(&memory, "b", "bob");
            assert_eq!(memory.revoke(revoked), 1);
            assert!(matches!(memory.find(&key("a"), Instant::now()), Found::Nothing));
            assert!(matches!(memory.find(&key("b"), Instant::now()), Found::Fresh(_)));
        }
    }

    /// The answer to a call may be older than a revocation that overtook it.
    #[test]
    fn a_revocation_during_a_call_is_noticed() {
        let memory = Memory::new(100);
        let before = memory.mark();
        let ann = grant(&memory, "ann", Duration::from_secs(60)).unwrap();
        assert!(!memory.was_revoked_since(&ann, &before));
        memory.revoke(Revoked::Subject("bob".into()));
        assert!(!memory.was_revoked_since(&ann, &before));
        memory.revoke(Revoked::Subject("ann".into()));
        assert!(memory.was_revoked_since(&ann, &before));
        assert!(!memory.was_revoked_since(&ann, &memory.mark()));
        for _ in 0..=RECENT_MAX {
            memory.revoke(Revoked::Subject("eve".into()));
        }
        assert!(memory.was_revoked_since(&ann, &before), "more than are kept: it may have been among them");
    }

    /// Neither remembered nor off the list: the same call asks once more.
    #[test]
    fn an_answer_that_a_revocation_overtook_is_not_remembered() {
        let memory = Memory::new(100);
        let (_sender, _receiver) = memory.join_call(&key("a")).unwrap_err();
        let began = memory.mark();
        let ann = grant(&memory, "ann", Duration::from_secs(60));
        memory.revoke(Revoked::Subject("ann".into()));
        assert!(!memory.end_call(&key("a"), &ann, &began, Instant::now()));
        assert!(matches!(memory.find(&key("a"), Instant::now()), Found::Nothing));
        assert!(memory.join_call(&key("a")).is_ok(), "the call goes on");
        assert!(memory.end_call(&key("a"), &ann, &memory.mark(), Instant::now()));
        assert!(matches!(memory.find(&key("a"), Instant::now()), Found::Fresh(_)));
    }

    #[test]
    fn a_new_epoch_makes_everything_stale_until_it_is_asked_for_or_excused() {
        let memory = Memory::new(100);
        let is_stale = |token: &str, now| matches!(memory.find(&key(token), now), Found::Stale);
        remember(&memory, "a", "ann");
        let (late, began) = (grant(&memory, "bob", Duration::from_secs(60)), memory.mark());
        memory.begin_epoch();
        assert!(memory.end_call(&key("b"), &late, &began, Instant::now()));
        assert!(is_stale("b", Instant::now()), "asked for before the epoch began");
        assert!(is_stale("a", Instant::now()));
        assert!(memory.excuse(&key("a"), Instant::now()).is_some());
        assert!(
            matches!(memory.find(&key("a"), Instant::now()), Found::Fresh(_)),
            "no gateway: it serves for a moment"
        );
        assert!(is_stale("a", Instant::now() + ASK_AGAIN_AFTER));
        memory.revoke(Revoked::Subject("ann".into()));
        assert!(memory.excuse(&key("a"), Instant::now()).is_none(), "it was revoked while a gateway was asked");
        remember(&memory, "a", "ann");
        assert!(matches!(memory.find(&key("a"), Instant::now()), Found::Fresh(_)));
    }

    #[test]
    fn what_a_gateway_says_from_old_knowledge_is_soon_asked_again() {
        let memory = Memory::new(100);
        let mut answer = grant(&memory, "ann", Duration::from_secs(60));
        Arc::get_mut(answer.as_mut().unwrap()).unwrap().is_stale = true;
        let now = Instant::now();
        assert!(memory.end_call(&key("a"), &answer, &memory.mark(), now));
        assert!(matches!(memory.find(&key("a"), now), Found::Fresh(_)));
        assert!(matches!(memory.find(&key("a"), now + ASK_AGAIN_AFTER), Found::ToRenew(_)));
    }

    #[test]
    fn memory_is_bounded_and_what_is_over_goes_first() {
        let memory = Memory::new(160);
        for n in 0..1000 {
            remember(&memory, &format!("token {n}"), "ann");
        }
        let count: usize = memory.shards.iter().map(|shard| shard.lock().known.len()).sum();
        assert!(count <= 160, "{count}");
    }

    #[test]
    fn callers_of_one_key_share_one_call() {
        let memory = Memory::new(100);
        let (sender, _receiver) = memory.join_call(&key("a")).unwrap_err();
        let joined = memory.join_call(&key("a")).unwrap();
        assert!(memory.join_call(&key("b")).is_err());
        sender.send(Some(Err(AccessError::Denied))).unwrap();
        assert!(joined.borrow().is_some());
        assert!(memory.end_call(&key("a"), &Err(AccessError::Unavailable), &memory.mark(), Instant::now()));
        assert!(memory.join_call(&key("a")).is_err(), "the call has ended");
    }
}
