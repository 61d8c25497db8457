//! What is counted for one account at one address, or for one address, and the wait that follows from it.

use std::time::{Duration, Instant};

/// Failures of one account from one address that cost nothing.
pub(super) const FAILURES_FREE: u32 = 5;

/// Failures from one address, whatever the account, that cost nothing.
pub(super) const FAILURES_FREE_PER_ADDRESS: u32 = 100;

/// Failures of one account, wherever they come from, that cost nothing.
pub(super) const FAILURES_FREE_PER_ACCOUNT: u32 = 20;

/// The longest wait of one account from one address.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// The longest wait of an address: an office behind one address must be slowed down, not shut out.
pub(super) const DELAY_MAX_PER_ADDRESS: Duration = Duration::from_secs(1);

/// The longest wait of an account from networks that are not known for it: guesses from many addresses must not shut its owner
/// out of a new place for long.
pub(super) const DELAY_MAX_PER_ACCOUNT: Duration = Duration::from_secs(60);

/// Attempts on one account that may be undecided at once: as many as the password hasher has places by default.
const IN_FLIGHT_MAX_PER_ACCOUNT: u32 = 64;

/// Attempts on one account from one address that may be undecided at once; and from an address with too many failures.
const IN_FLIGHT_MAX: u32 = 16;

/// Attempts from one address that may be undecided at once: half of the password hasher's places by default.
pub(super) const IN_FLIGHT_MAX_PER_ADDRESS: u32 = 32;

/// After so long without a failure, the failures are cleared.
pub(super) const FAILURES_REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// The limit of an account alone, for the metric.
pub const ACCOUNT_ANYWHERE: &str = "account_anywhere";

/// What failures are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    AccountAndAddress(String, String),
    Address(String),
    Account(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) failures: u32,
    pub(super) in_flight: u32,
    pub(super) not_before: Instant,
    pub(super) last: Instant,
}

// === impl Key ===

impl Key {
    fn failures_free(&self) -> u32 {
        match self {
            Self::AccountAndAddress(..) => FAILURES_FREE,
            Self::Address(_) => FAILURES_FREE_PER_ADDRESS,
            Self::Account(_) => FAILURES_FREE_PER_ACCOUNT,
        }
    }

    fn delay_max(&self) -> Duration {
        match self {
            Self::AccountAndAddress(..) => DELAY_MAX,
            Self::Address(_) => DELAY_MAX_PER_ADDRESS,
            Self::Account(_) => DELAY_MAX_PER_ACCOUNT,
        }
    }

    fn in_flight_max(&self, is_suspect: bool) -> u32 {
        match self {
            // One at a time: many at once would all be made under the same delay.
            Self::AccountAndAddress(..) | Self::Account(_) if is_suspect => 1,
            Self::AccountAndAddress(..) => IN_FLIGHT_MAX,
            Self::Address(_) if is_suspect => IN_FLIGHT_MAX,
            // One client must not take every place of the password hasher.
            Self::Address(_) => IN_FLIGHT_MAX_PER_ADDRESS,
            Self::Account(_) => IN_FLIGHT_MAX_PER_ACCOUNT,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::AccountAndAddress(..) => "account",
            Self::Address(_) => "address",
            Self::Account(_) => ACCOUNT_ANYWHERE,
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(now: Instant) -> Self {
        Self { failures: 0, in_flight: 0, not_before: now, last: now }
    }

    pub(super) fn delay(&mut self, key: &Key, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.last) >= FAILURES_REMEMBERED {
            self.failures = 0;
        }
        if now < self.not_before {
            return Some(self.not_before.saturating_duration_since(now));
        }
        let in_flight_max = key.in_flight_max(self.failures >= key.failures_free());
        (self.in_flight >= in_flight_max).then_some(Duration::from_secs(1))
    }

    pub(super) fn fail(&mut self, key: &Key, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        if let Some(beyond) = self.failures.checked_sub(key.failures_free()) {
            self.not_before = now + key.delay_max().min(Duration::from_secs(1 << beyond.min(20)));
        }
    }
}
