//! How soon a worker is started again: at once, unless many were lost lately or the last attempts failed.

use std::time::{Duration, Instant};

/// The first restarts within this time follow at once, the others wait.
const CRASH_WINDOW: Duration = Duration::from_secs(10);
const CRASHES_MAX: u32 = 8;
const CRASH_DELAY: Duration = Duration::from_millis(500);
/// Between attempts to start a worker that could not be started.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// After so many of them calls are refused instead of waiting for a worker.
pub(super) const FAILED_STARTS_MAX: u32 = 3;

/// The workers that were lost by calls lately.
#[derive(Default)]
pub(super) struct Crashes {
    window_began: Option<Instant>,
    count: u32,
}

/// Pauses between attempts, each twice as long as the one before.
pub(super) struct Pauses(Duration);

// === impl Crashes ===

impl Crashes {
    /// Counts a worker that was lost by a call.
    pub(super) fn count(&mut self) {
        if self.window_began.is_none_or(|began| began.elapsed() > CRASH_WINDOW) {
            self.window_began = Some(Instant::now());
            self.count = 0;
        }
        self.count += 1;
    }

    /// How long the next start waits.
    pub(super) fn delay(&self) -> Duration {
        let is_crashing =
            self.count > CRASHES_MAX && self.window_began.is_some_and(|began| began.elapsed() <= CRASH_WINDOW);
        if is_crashing { CRASH_DELAY } else { Duration::ZERO }
    }
}

// === impl Pauses ===

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(RETRY_MAX);
        pause
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self(RETRY_MIN)
    }
}
