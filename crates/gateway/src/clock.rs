//! The time as a parameter, in the precision that the database stores.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;

/// A source of the time: the machine's clock in the service, any other in a test.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> OffsetDateTime + Send + Sync>);

// === impl WallClock ===

impl WallClock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::from_fn(OffsetDateTime::now_utc)
    }

    /// A clock that asks `now` every time.
    pub fn from_fn(now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time in whole microseconds: what PostgreSQL gives back is what was put in.
    pub fn now(&self) -> OffsetDateTime {
        let now = (self.0)();
        let whole = now.microsecond() * 1_000;
        now.replace_nanosecond(whole).unwrap_or(now)
    }

    /// The same clock in the seconds that tokens count.
    pub fn unix(&self) -> authz::Clock {
        let clock = self.clone();
        authz::Clock::from_fn(move || unix_seconds(clock.now()))
    }
}

/// A time as tokens count it; what lies before 1970 is 0.
pub fn unix_seconds(at: OffsetDateTime) -> authz::UnixTime {
    u64::try_from(at.unix_timestamp()).unwrap_or(0)
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}
