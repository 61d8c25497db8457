//! One principal or one tenant: what it took, and what it may take.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use metrics::Gauge;
use parking_lot::Mutex;

use super::config::CallerLimits;
use crate::metrics::{CallerLimit, body_bytes};

/// A caller whose bodies hold no more than this together always has room: what others hold keeps it from no small call.
const SMALL_BYTES: u64 = 1 << 20;
/// A caller over its limits is named in the log so often.
const NEWS_INTERVAL: Duration = Duration::from_secs(60);

/// A principal or a tenant.
pub(super) struct Caller {
    limits: CallerLimits,
    rate: DefaultDirectRateLimiter,
    taken: Mutex<Taken>,
}

struct Taken {
    calls: u32,
    body_bytes: u64,
    used: Instant,
    named: Option<Instant>,
}

/// Why a call cannot begin.
#[derive(Clone, Copy)]
pub(super) enum Refused {
    /// After this time it could.
    Rate(Duration),
    Calls,
}

/// The bodies of all callers.
pub(super) struct Bodies {
    bytes_max: u64,
    bytes: Mutex<u64>,
    gauge: Gauge,
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(limits: CallerLimits, now: Instant) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::per_second(at_least_one(limits.requests_per_s)).allow_burst(at_least_one(limits.requests_burst));
        let taken = Taken { calls: 0, body_bytes: 0, used: now, named: None };
        Self { limits, rate: RateLimiter::direct(quota), taken: Mutex::new(taken) }
    }

    pub(super) fn has(&self, limits: CallerLimits) -> bool {
        self.limits == limits
    }

    pub(super) fn is_idle_since(&self, now: Instant, time: Duration) -> bool {
        let taken = self.taken.lock();
        taken.calls == 0 && now.saturating_duration_since(taken.used) >= time
    }

    /// Whether the log has not named it for a while; then it is named now.
    pub(super) fn is_news(&self, now: Instant) -> bool {
        let named = &mut self.taken.lock().named;
        let is_news = named.is_none_or(|named| now.saturating_duration_since(named) >= NEWS_INTERVAL);
        if is_news {
            *named = Some(now);
        }
        is_news
    }

    /// A call more, until `end`. Refused calls count for the rate, too: repeating them at once helps nothing.
    pub(super) fn begin(&self) -> Result<(), Refused> {
        // The limiter's own clock: to make another is slow, since that asks the CPU what it can do, which a hypervisor answers.
        self.rate.check().map_err(|until| Refused::Rate(until.wait_time_from(self.rate.clock().now())))?;
        let mut taken = self.taken.lock();
        if taken.calls >= self.limits.calls_max {
            return Err(Refused::Calls);
        }
        taken.calls += 1;
        Ok(())
    }

    pub(super) fn end(&self) {
        let mut taken = self.taken.lock();
        taken.calls -= 1;
        taken.used = Instant::now();
    }

    /// `more` bytes for a call that holds `held`. The only body of a caller may be as long as its route allows.
    pub(super) fn take_bytes(&self, held: u64, more: u64) -> bool {
        let mut taken = self.taken.lock();
        let (is_alone, wanted) = (taken.body_bytes == held, taken.body_bytes.saturating_add(more));
        let has_room = is_alone || wanted <= self.limits.body_bytes_max.max(SMALL_BYTES);
        if has_room {
            taken.body_bytes = wanted;
        }
        has_room
    }

    pub(super) fn give_bytes(&self, bytes: u64) {
        let mut taken = self.taken.lock();
        taken.body_bytes = taken.body_bytes.saturating_sub(bytes);
    }
}

// === impl Refused ===

impl Refused {
    pub(super) fn of_principal(self) -> CallerLimit {
        match self {
            Self::Rate(_) => CallerLimit::PrincipalRate,
            Self::Calls => CallerLimit::PrincipalCalls,
        }
    }

    pub(super) fn of_tenant(self) -> CallerLimit {
        match self {
            Self::Rate(_) => CallerLimit::TenantRate,
            Self::Calls => CallerLimit::TenantCalls,
        }
    }

    pub(super) fn wait(self) -> Duration {
        match self {
            Self::Rate(wait) => wait,
            Self::Calls => Duration::from_secs(1),
        }
    }
}

// === impl Bodies ===

impl Bodies {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: Mutex::default(), gauge: body_bytes() }
    }

    /// `more` bytes for a call that holds `held`. A short body always has room, and one that is alone may be of any length.
    pub(super) fn take(&self, held: u64, more: u64) -> bool {
        let mut bytes = self.bytes.lock();
        let wanted = bytes.saturating_add(more);
        let has_room = *bytes == held || held.saturating_add(more) <= SMALL_BYTES || wanted <= self.bytes_max;
        if has_room {
            *bytes = wanted;
            self.gauge.set(as_f64(wanted));
        }
        has_room
    }

    pub(super) fn give(&self, given: u64) {
        if given == 0 {
            return;
        }
        let mut bytes = self.bytes.lock();
        *bytes = bytes.saturating_sub(given);
        self.gauge.set(as_f64(*bytes));
    }
}

/// Exact to 4 GiB.
fn as_f64(bytes: u64) -> f64 {
    u32::try_from(bytes).map_or(f64::from(u32::MAX), f64::from)
}
