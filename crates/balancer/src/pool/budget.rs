//! The retry budget: what keeps a bad minute from becoming a storm.
//!
//! Every request earns a fifth of a retry. A store of earned retries lets a burst through (all that was in flight on one
//! replica when it died), and ten a second are free, so that a quiet service can retry at all.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Instant,
};

/// Retries are counted in thousandths.
const RETRY: i64 = 1000;
/// 20 % of requests.
const EARNED_PER_REQUEST: i64 = 200;
const FREE_PER_SECOND: u64 = 10;
const STORE_MAX: i64 = 1000 * RETRY;
const STORE_AT_START: i64 = 100 * RETRY;

/// A token bucket of retries. All operations are wait-free but for the rare retry itself.
#[derive(Debug)]
pub struct Budget {
    store: AtomicI64,
    started: Instant,
    /// Milliseconds after `started` up to which the free retries were credited.
    credited_ms: AtomicU64,
}

// === impl Budget ===

/// With something in store for the first minute.
impl Default for Budget {
    fn default() -> Self {
        Self { store: AtomicI64::new(STORE_AT_START), started: Instant::now(), credited_ms: AtomicU64::new(0) }
    }
}

impl Budget {
    /// Credits a request.
    pub fn earn(&self) {
        // May overshoot the maximum by a few concurrent requests; it is a budget, not an account.
        if self.store.load(Ordering::Relaxed) < STORE_MAX {
            self.store.fetch_add(EARNED_PER_REQUEST, Ordering::Relaxed);
        }
    }

    /// Pays for a retry, if there is enough.
    pub fn spend(&self) -> bool {
        self.credit_free(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
        let paid = |store: i64| (store >= RETRY).then_some(store - RETRY);
        self.store.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
    }

    fn credit_free(&self, now_ms: u64) {
        let before = self.credited_ms.fetch_max(now_ms, Ordering::Relaxed);
        let earned = now_ms.saturating_sub(before).saturating_mul(FREE_PER_SECOND);
        let room = STORE_MAX.saturating_sub(self.store.load(Ordering::Relaxed)).max(0);
        self.store.fetch_add(i64::try_from(earned).unwrap_or(STORE_MAX).min(room), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &Budget) -> usize {
        std::iter::from_fn(|| budget.spend().then_some(())).take(100_000).count()
    }

    /// Without traffic only the store and the free retries are there; with traffic, a fifth of it.
    #[test]
    fn retries_stay_a_fifth_of_requests() {
        let budget = Budget::default();
        assert!((100..110).contains(&spend_all(&budget)));
        (0..1000).for_each(|_| budget.earn());
        assert!((200..210).contains(&spend_all(&budget)));
        (0..1_000_000).for_each(|_| budget.earn());
        assert!((1000..1010).contains(&spend_all(&budget)));
    }

    #[test]
    fn ten_a_second_are_free() {
        let budget = Budget::default();
        spend_all(&budget);
        let now_ms = u64::try_from(budget.started.elapsed().as_millis()).unwrap();
        budget.credit_free(now_ms + 1000);
        assert!((10..12).contains(&spend_all(&budget)));
    }
}
