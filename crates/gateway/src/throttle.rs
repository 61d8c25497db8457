//! The throttle of sign-ins: after a few failures each next attempt waits twice as long, up to a quarter of an hour.
//!
//! Never a permanent lock, by which an attacker could lock a user out. Counted are the account together with the address it is
//! tried from; the address alone with a wider limit, against trying one password on many accounts; and the account alone with
//! a wider limit and short waits, against guesses from many addresses, which its owner's own networks do not wait for.
//! Bounded: the entries with the shortest waits go first. Counted per process, so with two gateways an attacker has twice the
//! attempts.

mod entry;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

pub use entry::ACCOUNT_ANYWHERE;
use entry::{Entry, FAILURES_REMEMBERED, Key};

const ENTRIES_MAX: usize = 50_000;

/// The failures of this process.
#[derive(Debug, Default)]
pub struct Throttle {
    entries: Mutex<HashMap<Key, Entry>>,
}

/// An admitted attempt. Dropped undecided (the caller disconnected, the database failed), it counts as nothing; but as a
/// failure of the address while its password is hashed, because the hash costs as much without a caller.
#[derive(Debug)]
pub struct SignInAttempt<'a> {
    throttle: &'a Throttle,
    keys: [Key; 3],
    /// When the hash under way began.
    hashing_since: Option<Instant>,
}

/// Why and how long an attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long.
    pub delay: Duration,
    /// Which limit was reached, for the metric.
    pub reason: &'static str,
}

// === impl Throttle ===

impl Throttle {
    /// Admits an attempt on `account` (lower case, known or not) from `address`, or says how long to wait. From a network that is
    /// known for the account, its failures elsewhere do not count.
    pub fn admit(
        &self,
        account: &str,
        address: &str,
        is_known_network: bool,
        now: Instant,
    ) -> Result<SignInAttempt<'_>, Wait> {
        let keys = [
            Key::AccountAndAddress(account.to_owned(), address.to_owned()),
            Key::Address(address.to_owned()),
            // The last: whether it counts may be a question to the database.
            Key::Account(account.to_owned()),
        ];
        let mut entries = self.entries.lock();
        let counted = if is_known_network { &keys[..2] } else { &keys[..] };
        for key in counted {
            if let Some(delay) = entries.get_mut(key).and_then(|entry| entry.delay(key, now)) {
                return Err(Wait { delay, reason: key.reason() });
            }
        }
        for key in &keys {
            make_room(&mut entries, key, now);
            entries.entry(key.clone()).or_insert_with(|| Entry::new(now)).in_flight += 1;
        }
        Ok(SignInAttempt { throttle: self, keys, hashing_since: None })
    }

    /// How many keys there are.
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
    entries.retain(|_, entry| entry.in_flight > 0 || now.saturating_duration_since(entry.last) < FAILURES_REMEMBERED);
    // Still full: an attacker tries very many accounts. The half with the longest waits stays.
    if entries.len() >= ENTRIES_MAX {
        let mut ends: Vec<Instant> = entries.values().map(|entry| entry.not_before).collect();
        let middle = ends.len() / 2;
        let (_, median, _) = ends.select_nth_unstable(middle);
        let median = *median;
        entries.retain(|_, entry| entry.in_flight > 0 || entry.not_before > median);
    }
}

// === impl SignInAttempt ===

impl SignInAttempt<'_> {
    /// A password is about to be hashed.
    pub fn hash_begins(&mut self, now: Instant) {
        self.hashing_since = Some(now);
    }

    /// It was, or the queue of the hasher was full.
    pub fn hash_ended(&mut self) {
        self.hashing_since = None;
    }

    /// The proof was right: the account's failures from this address are cleared, the address keeps its own.
    pub fn succeeded(self) {
        let [account, ..] = &self.keys;
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

impl Drop for SignInAttempt<'_> {
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
    use super::{entry::*, *};

    fn fail(throttle: &Throttle, account: &str, address: &str, now: Instant) -> Result<bool, Wait> {
        throttle.admit(account, address, true, now).map(|attempt| attempt.failed(now))
    }

    /// From a network that is known, so that only the other limits count.
    fn admit<'a>(
        throttle: &'a Throttle,
        account: &str,
        address: &str,
        now: Instant,
    ) -> Result<SignInAttempt<'a>, Wait> {
        throttle.admit(account, address, true, now)
    }

    #[test]
    fn after_five_failures_each_wait_is_twice_the_last_up_to_the_longest() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        for _ in 0..FAILURES_FREE - 1 {
            assert_eq!(fail(&throttle, "ada", "a", now), Ok(false));
        }
        assert_eq!(fail(&throttle, "ada", "a", now), Ok(true));
        for doubling in 0..12 {
            let delay = admit(&throttle, "ada", "a", now).unwrap_err().delay;
            assert_eq!(delay, DELAY_MAX.min(Duration::from_secs(1 << doubling)));
            now += delay;
            assert_eq!(fail(&throttle, "ada", "a", now), Ok(true));
        }
        assert!(admit(&throttle, "ada", "b", now).is_ok(), "from elsewhere the owner still gets in");
        assert!(admit(&throttle, "eve", "a", now).is_ok(), "and others from the same address");
    }

    #[test]
    fn a_right_password_forgets_the_failures_and_an_undecided_attempt_counts_for_nothing() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..10 {
            for _ in 0..FAILURES_FREE - 1 {
                fail(&throttle, "ada", "a", now).unwrap();
            }
            admit(&throttle, "ada", "a", now).unwrap().succeeded();
        }
        for _ in 0..100 {
            drop(admit(&throttle, "eve", "b", now).unwrap());
        }
        assert_eq!(throttle.len(), 2, "only the address and the account that failed are still known");
    }

    #[test]
    fn many_attempts_at_once_do_not_slip_under_the_count() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted: Vec<_> = (0..1_000).filter_map(|_| admit(&throttle, "ada", "a", now).ok()).collect();
        assert_eq!(admitted.len(), 16);
        admitted.into_iter().for_each(|attempt| {
            attempt.failed(now);
        });
        let later = now + admit(&throttle, "ada", "a", now).unwrap_err().delay;
        let _one = admit(&throttle, "ada", "a", later).unwrap();
        assert!(admit(&throttle, "ada", "a", later).is_err(), "one at a time once there were failures");
    }

    #[test]
    fn one_address_cannot_fill_the_password_hasher() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted: Vec<_> =
            (0..100).filter_map(|account| admit(&throttle, &format!("{account}"), "a", now).ok()).collect();
        assert_eq!(admitted.len(), 32);
        assert_eq!(admit(&throttle, "another", "a", now).unwrap_err().reason, "address");
        assert!(admit(&throttle, "another", "b", now).is_ok());
    }

    #[test]
    fn hanging_up_during_the_hash_is_a_failure_of_the_address_alone() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..FAILURES_FREE_PER_ADDRESS {
            admit(&throttle, "ada", "a", now).unwrap().hash_begins(now);
        }
        assert_eq!(admit(&throttle, "another", "a", now).unwrap_err().reason, "address");
        assert!(admit(&throttle, "ada", "b", now).is_ok());

        let throttle = Throttle::default();
        for _ in 0..FAILURES_FREE_PER_ADDRESS {
            let mut attempt = admit(&throttle, "ada", "a", now).unwrap();
            attempt.hash_begins(now);
            attempt.hash_ended();
        }
        assert!(throttle.is_empty(), "a caller that waits for the hash is counted by its outcome");
    }

    #[test]
    fn one_address_cannot_try_a_password_on_every_account() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for account in 0..FAILURES_FREE_PER_ADDRESS {
            fail(&throttle, &account.to_string(), "a", now).unwrap();
        }
        let wait = admit(&throttle, "another", "a", now).unwrap_err();
        assert_eq!((wait.reason, wait.delay), ("address", DELAY_MAX_PER_ADDRESS));
        assert!(admit(&throttle, "another", "a", now + FAILURES_REMEMBERED).is_ok());
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
        assert!(admit(&throttle, "victim", "attacker", now).is_err());
    }

    #[test]
    fn guesses_from_many_addresses_wait_and_networks_of_the_owner_do_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let guess = |number: u32| throttle.admit("ada", &format!("192.0.2.{}", number % 30), false, now);
        let admitted: Vec<bool> = (0..120).filter_map(|number| Some(guess(number).ok()?.failed(now))).collect();
        assert_eq!(admitted.len(), usize::try_from(FAILURES_FREE_PER_ACCOUNT).unwrap());
        let wait = throttle.admit("ada", "new place", false, now).unwrap_err();
        assert_eq!((wait.reason, wait.delay), (ACCOUNT_ANYWHERE, Duration::from_secs(1)));
        assert!(throttle.admit("ada", "at home", true, now).is_ok());
        assert!(throttle.admit("eve", "new place", false, now).is_ok());

        let mut later = now;
        for _ in 0..20 {
            later +=
                throttle.admit("ada", "new place", false, later).map_or_else(|wait| wait.delay, |_| Duration::ZERO);
            throttle.admit("ada", &format!("{later:?}"), false, later).unwrap().failed(later);
        }
        assert_eq!(throttle.admit("ada", "new place", false, later).unwrap_err().delay, DELAY_MAX_PER_ACCOUNT);
    }
}
