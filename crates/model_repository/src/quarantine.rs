//! Callers whose requests end the processes of a model are kept from that model for a while.
//!
//! A crash costs its caller an answer and the model a worker for a tenth of a second. A caller who goes on would cost the others all of
//! its workers.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use problem::{Kind, Problem};

use crate::names::ModelName;

/// So many deaths of workers, the last within [`WINDOW`] of the first, begin a quarantine.
const DEATHS_MAX: u32 = 2;
const WINDOW: Duration = Duration::from_secs(60);
/// How long a quarantine is, from the last death on.
const LENGTH: Duration = Duration::from_secs(60);
/// Pairs of caller and model that are remembered. Beyond it the oldest is forgotten.
const PAIRS_MAX: usize = 4096;

/// Which callers ended a worker of which model lately.
#[derive(Default)]
pub struct Quarantine {
    pairs: Mutex<HashMap<(String, ModelName), Deaths>>,
    /// Read before the lock is taken: nearly always there is none.
    count: AtomicUsize,
}

struct Deaths {
    count: u32,
    first: Instant,
    last: Instant,
}

// === impl Quarantine ===

impl Quarantine {
    /// Refuses a call of a caller who is kept from the model.
    pub(crate) fn check(&self, caller: &str, model: &ModelName, now: Instant) -> Result<(), Problem> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let left = self.pairs.lock().get(&(caller.to_owned(), model.clone())).and_then(|deaths| deaths.time_left(now));
        let Some(left) = left else { return Ok(()) };
        let detail = format!(
            "{DEATHS_MAX} of your calls within a minute crashed the process of the model \"{model}\"; this replica computes no other of them for now"
        );
        Err(Problem::new(Kind::ResourceExhausted, detail).retry_after(left))
    }

    /// A worker died while it computed a call of this caller. Returns whether a quarantine begins.
    pub(crate) fn record_death(&self, caller: &str, model: &ModelName, now: Instant) -> bool {
        let mut pairs = self.pairs.lock();
        pairs.retain(|_, deaths| now.saturating_duration_since(deaths.last) < WINDOW.max(LENGTH));
        if pairs.len() >= PAIRS_MAX
            && let Some(oldest) = pairs.iter().min_by_key(|(_, deaths)| deaths.last).map(|(pair, _)| pair.clone())
        {
            pairs.remove(&oldest);
        }
        let new = Deaths { count: 0, first: now, last: now };
        let deaths = pairs.entry((caller.to_owned(), model.clone())).or_insert(new);
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

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    #[test]
    fn two_deaths_in_a_minute_keep_this_caller_from_this_model() {
        let (quarantine, began) = (Quarantine::default(), Instant::now());
        let is_kept = |caller: &str, name: &str, now| quarantine.check(caller, &model(name), now).is_err();
        assert!(!quarantine.record_death("a", &model("m"), began));
        assert!(!is_kept("a", "m", began));
        let second = began + 59 * SECOND;
        assert!(quarantine.record_death("a", &model("m"), second));
        assert!(is_kept("a", "m", second + 59 * SECOND));
        assert!(!is_kept("a", "m", second + 60 * SECOND));
        assert!(!is_kept("b", "m", second) && !is_kept("a", "n", second));
        let problem = quarantine.check("a", &model("m"), second + 10 * SECOND).unwrap_err();
        assert_eq!((problem.kind(), problem.retry_after_s()), (Kind::ResourceExhausted, Some(50)));
    }

    #[test]
    fn deaths_far_apart_are_forgiven() {
        let (quarantine, began) = (Quarantine::default(), Instant::now());
        for minute in 0..5 {
            let now = began + minute * 61 * SECOND;
            assert!(!quarantine.record_death("a", &model("m"), now));
            assert!(quarantine.check("a", &model("m"), now).is_ok());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        for caller in 0..PAIRS_MAX + 10 {
            quarantine.record_death(&caller.to_string(), &model("m"), now);
        }
        assert_eq!(quarantine.pairs.lock().len(), PAIRS_MAX);
    }
}
