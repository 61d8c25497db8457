//! Callers whose requests end workers of a model are kept from that model for a while.
//!
//! A crash costs its caller an answer and the model a worker for a tenth of a second; so does a call that is given up and cannot be
//! stopped. A caller who goes on would cost the others all workers of the model.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// So many deaths of workers, the last within [`WINDOW`] of the first, begin a quarantine.
const DEATHS_MAX: u32 = 2;
const WINDOW: Duration = Duration::from_secs(60);
/// How long a quarantine is, from the last death on.
const LENGTH: Duration = Duration::from_secs(60);
/// Pairs of caller and model that are remembered. Beyond it the oldest is forgotten.
const PAIRS_MAX: usize = 4096;

/// Which callers ended a worker of which model lately.
#[derive(Debug, Default)]
pub struct Quarantine {
    pairs: Mutex<HashMap<(String, String), Deaths>>,
    /// Read before the lock is taken: nearly always there is none.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Deaths {
    count: u32,
    first: Instant,
    last: Instant,
}

// === impl Quarantine ===

impl Quarantine {
    /// How long a caller is still kept from a model, if so.
    pub(crate) fn time_left(&self, caller: &str, model: &str, now: Instant) -> Option<Duration> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.pairs.lock().get(&(caller.to_owned(), model.to_owned()))?.time_left(now)
    }

    /// A worker died while it computed a call of this caller. Returns whether a quarantine begins.
    pub(crate) fn record_death(&self, caller: &str, model: &str, now: Instant) -> bool {
        let mut pairs = self.pairs.lock();
        pairs.retain(|_, deaths| now.saturating_duration_since(deaths.last) < WINDOW.max(LENGTH));
        if pairs.len() >= PAIRS_MAX
            && let Some(oldest) = pairs.iter().min_by_key(|(_, deaths)| deaths.last).map(|(pair, _)| pair.clone())
        {
            pairs.remove(&oldest);
        }
        let new = Deaths { count: 0, first: now, last: now };
        let deaths = pairs.entry((caller.to_owned(), model.to_owned())).or_insert(new);
        if now.saturating_duration_since(deaths.first) >= WINDOW {
            *deaths = Deaths { count: 0, first: now, last: now };
        }
        deaths.count += 1;
        deaths.last = now;
        let begins = deaths.count == DEATHS_MAX;
        self.count.store(pairs.len(), Ordering::Relaxed);
        begins
    }
}

// === impl Deaths ===

impl Deaths {
    fn time_left(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.last);
        (self.count >= DEATHS_MAX && since < LENGTH).then(|| LENGTH - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_deaths_in_a_minute_keep_this_caller_from_this_model() {
        let (quarantine, began) = (Quarantine::default(), Instant::now());
        let is_kept = |caller: &str, name: &str, now| quarantine.time_left(caller, name, now).is_some();
        assert!(!quarantine.record_death("a", "m", began));
        assert!(!is_kept("a", "m", began));
        let second = began + 59 * SECOND;
        assert!(quarantine.record_death("a", "m", second));
        assert!(is_kept("a", "m", second + 59 * SECOND));
        assert!(!is_kept("a", "m", second + 60 * SECOND));
        assert!(!is_kept("b", "m", second) && !is_kept("a", "n", second));
        assert_eq!(quarantine.time_left("a", "m", second + 10 * SECOND), Some(50 * SECOND));
    }

    #[test]
    fn deaths_far_apart_are_forgiven() {
        let (quarantine, began) = (Quarantine::default(), Instant::now());
        for minute in 0..5 {
            let now = began + minute * 61 * SECOND;
            assert!(!quarantine.record_death("a", "m", now));
            assert!(quarantine.time_left("a", "m", now).is_none());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        for caller in 0..PAIRS_MAX + 10 {
            quarantine.record_death(&caller.to_string(), "m", now);
        }
        assert_eq!(quarantine.pairs.lock().len(), PAIRS_MAX);
    }
}
