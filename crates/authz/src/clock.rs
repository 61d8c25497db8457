//! The time, as a parameter.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970, UTC, as tokens count them.
pub type UnixTime = u64;

/// Gives the time. The system's clock in a service, any other in a test.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixTime + Send + Sync>);

// === impl Clock ===

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::from_fn(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// A clock that asks `now` every time.
    pub fn from_fn(now: impl Fn() -> UnixTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> UnixTime {
        (self.0)()
    }
}
