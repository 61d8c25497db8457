//! How fast one may guess: after a few failures each next attempt waits twice as long, up to a quarter of an hour.
//!
//! Never a permanent lock, which would let anybody lock anybody out, and never by account alone for the same reason: the
//! key is the account together with the address it is tried from, and the address alone with a wider limit against
//! trying one password on many accounts. Bounded: the quietest entries go first. Counted per process, so with two
//! gateways an attacker has twice the attempts.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Failures of one account from one address that cost nothing.
pub const FAILURES_FREE: u32 = 5;

/// Failures from one address, whatever the account, that cost nothing.
pub const FAILURES_FREE_PER_ADDRESS: u32 = 100;

/// The longest wait of one account from one address.
pub const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// The longest wait of an address: an office behind one address must be slowed down, not shut out.
const DELAY_MAX_PER_ADDRESS: Duration = Duration::from_secs(1);

/// Attempts on one account from one address that may be undecided at once; and from an address with too many failures.
const IN_FLIGHT_MAX: u32 = 16;

/// Attempts from one address that may be undecided at once: half of the places that the password hasher has by default.
pub const IN_FLIGHT_MAX_PER_ADDRESS: u32 = 32;

/// Without a failure for so long, the failures are forgotten.
const MEMORY: Duration = Duration::from_secs(60 * 60);

const ENTRIES_MAX: usize = 50_000;

/// Whose failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    AccountAndAddress(String, String),
    Address(String),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    in_flight: u32,
    not_before: Instant,
    last: Instant,
}

/// The failures of this process.
#[derive(Debug, Default)]
pub struct Throttle {
    entries: Mutex<HashMap<Key, Entry>>,
}

/// An attempt that may be made. Dropped undecided (the caller hung up, the database was away), it counts as nothing; but
/// as a failure of the address while a password is hashed for it, which costs as much when nobody waits for the answer.
#[derive(Debug)]
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    keys: [Key; 2],
    /// When the hash began that is going on.
    hashing_since: Option<Instant>,
}

/// That an attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long.
    pub delay: Duration,
    /// Which limit was reached, for the metric.
    pub reason: &'static str,
}

// === impl Throttle ===

impl Throttle {
    /// Admits an attempt on `account` (lower case, known or not) from `address`, or says how long to wait.
    pub fn admit(&self, account: &str, address: &str, now: Instant) -> Result<Attempt<'_>, Wait> {
        let keys = [Key::AccountAndAddress(account.to_owned(), address.to_owned()), Key::Address(address.to_owned())];
        let mut entries = self.entries.lock();
        for key in &keys {
            if let Some(delay) = entries.get_mut(key).and_then(|entry| entry.delay(key, now)) {
                return Err(Wait { delay, reason: key.reason() });
            }
        }
        for key in &keys {
            make_room(&mut entries, key, now);
            entries.entry(key.clone()).or_insert_with(|| Entry::new(now)).in_flight += 1;
        }
        Ok(Attempt { throttle: self, keys, hashing_since: None })
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn make_room(entries: &mut HashMap<Key, Entry>, key: &Key, now: Instant) {
    if entries.len() < ENTRIES_MAX || entries.contains_key(key) {
        return;
    }
    entries.retain(|_, entry| entry.in_flight > 0 || now.saturating_duration_since(entry.last) < MEMORY);
    // Still full: somebody tries very many accounts. Whoever waits longest from now keeps waiting; the mildest half goes.
    if entries.len() >= ENTRIES_MAX {
        let mut ends: Vec<Instant> = entries.values().map(|entry| entry.not_before).collect();
        let middle = ends.len() / 2;
        let (_, median, _) = ends.select_nth_unstable(middle);
        let median = *median;
        entries.retain(|_, entry| entry.in_flight > 0 || entry.not_before > median);
    }
}

// === impl Key ===

impl Key {
    fn failures_free(&self) -> u32 {
        match self {
            Self::AccountAndAddress(..) => FAILURES_FREE,
            Self::Address(_) => FAILURES_FREE_PER_ADDRESS,
        }
    }

    fn delay_max(&self) -> Duration {
        match self {
            Self::AccountAndAddress(..) => DELAY_MAX,
            Self::Address(_) => DELAY_MAX_PER_ADDRESS,
        }
    }

    fn in_flight_max(&self, is_suspect: bool) -> u32 {
        match self {
            // One at a time: many at once would all be made under the same delay.
            Self::AccountAndAddress(..) if is_suspect => 1,
            Self::AccountAndAddress(..) => IN_FLIGHT_MAX,
            Self::Address(_) if is_suspect => IN_FLIGHT_MAX,
            // One client must not take every place of the password hasher.
            Self::Address(_) => IN_FLIGHT_MAX_PER_ADDRESS,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::AccountAndAddress(..) => "account",
            Self::Address(_) => "address",
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(now: Instant) -> Self {
        Self { failures: 0, in_flight: 0, not_before: now, last: now }
    }

    fn delay(&mut self, key: &Key, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.last) >= MEMORY {
            self.failures = 0;
        }
        if now < self.not_before {
            return Some(self.not_before.saturating_duration_since(now));
        }
        let in_flight_max = key.in_flight_max(self.failures >= key.failures_free());
        (self.in_flight >= in_flight_max).then_some(Duration::from_secs(1))
    }

    fn fail(&mut self, key: &Key, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        if let Some(beyond) = self.failures.checked_sub(key.failures_free()) {
            self.not_before = now + key.delay_max().min(Duration::from_secs(1 << beyond.min(20)));
        }
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    /// A password is about to be hashed.
    pub fn hash_begins(&mut self, now: Instant) {
        self.hashing_since = Some(now);
    }

    /// It was, or there was no place for it.
    pub fn hash_ended(&mut self) {
        self.hashing_since = None;
    }

    /// The proof was right: the account's failures from this address are forgotten, the address keeps its own.
    pub fn succeeded(self) {
        let [account, _] = &self.keys;
        if let Some(entry) = self.throttle.entries.lock().get_mut(account) {
            entry.failures = 0;
        }
    }

    /// The proof was wrong. Says whether a wait follows.
    pub fn failed(self, now: Instant) -> bool {
        let mut entries = self.throttle.entries.lock();
        let mut waits = false;
        for key in &self.keys {
            if let Some(entry) = entries.get_mut(key) {
                entry.fail(key, now);
                waits |= entry.not_before > now;
            }
        }
        waits
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut entries = self.throttle.entries.lock();
        for key in &self.keys {
            let Some(entry) = entries.get_mut(key) else { continue };
            if let (Some(since), Key::Address(_)) = (self.hashing_since, key) {
                entry.fail(key, since);
            }
            entry.in_flight = entry.in_flight.saturating_sub(1);
            if entry.in_flight == 0 && entry.failures == 0 {
                entries.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &Throttle, account: &str, address: &str, now: Instant) -> Result<bool, Wait> {
        throttle.admit(account, address, now).map(|attempt| attempt.failed(now))
    }

    #[test]
    fn after_five_failures_each_wait_is_twice_the_last_up_to_the_longest() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        for _ in 0..FAILURES_FREE - 1 {
            assert_eq!(fail(&throttle, "ada", "a", now), Ok(false));
        }
        assert_eq!(fail(&throttle, "ada", "a", now), Ok(true));
        for doubling in 0..12 {
            let delay = throttle.admit("ada", "a", now).unwrap_err().delay;
            assert_eq!(delay, DELAY_MAX.min(Duration::from_secs(1 << doubling)));
            now += delay;
            assert_eq!(fail(&throttle, "ada", "a", now), Ok(true));
        }
        assert!(throttle.admit("ada", "b", now).is_ok(), "from elsewhere the owner still gets in");
        assert!(throttle.admit("eve", "a", now).is_ok(), "and others from the same address");
    }

    #[test]
    fn a_right_password_forgets_the_failures_and_an_undecided_attempt_counts_for_nothing() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..10 {
            for _ in 0..FAILURES_FREE - 1 {
                fail(&throttle, "ada", "a", now).unwrap();
            }
            throttle.admit("ada", "a", now).unwrap().succeeded();
        }
        for _ in 0..100 {
            drop(throttle.admit("eve", "b", now).unwrap());
        }
        assert_eq!(throttle.len(), 1, "only the address that failed is still known");
    }

    #[test]
    fn many_attempts_at_once_do_not_slip_under_the_count() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted: Vec<_> = (0..1_000).filter_map(|_| throttle.admit("ada", "a", now).ok()).collect();
        assert_eq!(admitted.len(), 16);
        admitted.into_iter().for_each(|attempt| {
            attempt.failed(now);
        });
        let later = now + throttle.admit("ada", "a", now).unwrap_err().delay;
        let _one = throttle.admit("ada", "a", later).unwrap();
        assert!(throttle.admit("ada", "a", later).is_err(), "one at a time once there were failures");
    }

    #[test]
    fn one_address_cannot_fill_the_password_hasher() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted: Vec<_> =
            (0..100).filter_map(|account| throttle.admit(&format!("{account}"), "a", now).ok()).collect();
        assert_eq!(admitted.len(), 32);
        assert_eq!(throttle.admit("another", "a", now).unwrap_err().reason, "address");
        assert!(throttle.admit("another", "b", now).is_ok());
    }

    #[test]
    fn hanging_up_during_the_hash_is_a_failure_of_the_address_alone() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..FAILURES_FREE_PER_ADDRESS {
            throttle.admit("ada", "a", now).unwrap().hash_begins(now);
        }
        assert_eq!(throttle.admit("another", "a", now).unwrap_err().reason, "address");
        assert!(throttle.admit("ada", "b", now).is_ok());

        let throttle = Throttle::default();
        for _ in 0..FAILURES_FREE_PER_ADDRESS {
            let mut attempt = throttle.admit("ada", "a", now).unwrap();
            attempt.hash_begins(now);
            attempt.hash_ended();
        }
        assert!(throttle.is_empty(), "whoever waits for the hash is judged by its outcome");
    }

    #[test]
    fn one_address_cannot_try_a_password_on_every_account() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for account in 0..FAILURES_FREE_PER_ADDRESS {
            fail(&throttle, &account.to_string(), "a", now).unwrap();
        }
        let wait = throttle.admit("another", "a", now).unwrap_err();
        assert_eq!((wait.reason, wait.delay), ("address", DELAY_MAX_PER_ADDRESS));
        assert!(throttle.admit("another", "a", now + MEMORY).is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_the_longest_waits_survive() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..FAILURES_FREE {
            fail(&throttle, "victim", "attacker", now).unwrap();
        }
        for number in 0..ENTRIES_MAX {
            let _admitted = fail(&throttle, &number.to_string(), &number.to_string(), now);
        }
        assert!(throttle.len() <= ENTRIES_MAX);
        assert!(throttle.admit("victim", "attacker", now).is_err());
    }
}
