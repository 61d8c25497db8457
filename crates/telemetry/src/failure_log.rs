//! When a lasting failure is worth a line in the log.

use std::time::{Duration, Instant};

/// A state that is logged when it changes, not each time it is found: when a failure begins, when it ends, and if so
/// configured now and then while it lasts.
#[derive(Debug, Default)]
pub struct FailureLog {
    logged_at: Option<Instant>,
    repeat_after: Option<Duration>,
}

// === impl FailureLog ===

impl FailureLog {
    /// One line for each failure, however long it lasts.
    pub fn once() -> Self {
        Self::default()
    }

    /// Another line whenever a failure has lasted that long since the last.
    pub fn repeating(period: Duration) -> Self {
        Self { logged_at: None, repeat_after: Some(period) }
    }

    /// It failed. True if that is to be logged.
    pub fn failed(&mut self) -> bool {
        let is_due = match (self.logged_at, self.repeat_after) {
            (None, _) => true,
            (Some(at), Some(period)) => at.elapsed() >= period,
            (Some(_), None) => false,
        };
        if is_due {
            self.logged_at = Some(Instant::now());
        }
        is_due
    }

    /// It succeeded. True if it had failed before: then its end is to be logged.
    pub fn recovered(&mut self) -> bool {
        self.logged_at.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_and_end_are_logged_once_each() {
        let mut log = FailureLog::once();
        assert!(!log.recovered(), "nothing failed yet");
        assert_eq!([log.failed(), log.failed(), log.recovered(), log.recovered()], [true, false, true, false]);
        assert!(log.failed(), "another failure");
    }

    #[test]
    fn a_lasting_failure_is_repeated_when_its_period_is_over() {
        let mut hourly = FailureLog::repeating(Duration::from_secs(3600));
        assert_eq!([hourly.failed(), hourly.failed()], [true, false]);
        let mut always = FailureLog::repeating(Duration::ZERO);
        assert_eq!([always.failed(), always.failed(), always.recovered()], [true, true, true]);
    }
}
