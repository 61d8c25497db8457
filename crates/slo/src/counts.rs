//! Requests by what they count for.

use std::time::Duration;

use crate::Outcome;

/// The promise: the 95th percentile of the latency stays below this, and an answer that takes longer is slow.
pub const LATENCY_TARGET_MS: u32 = 100;

/// Requests by how they ended. Each is in exactly one of good, bad, shed and client error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered as they should be.
    pub good: u64,
    /// Failed, or not answered in time.
    pub bad: u64,
    /// Refused for now: as bad as bad for the caller.
    pub shed: u64,
    /// The client's own fault: outside the SLA.
    pub client_error: u64,
    /// Of good and bad, those over the latency target.
    pub slow: u64,
}

// === impl Counts ===

impl Counts {
    /// Counts one request. True if its latency counts, too: a refusal takes no time, and a client's fault any.
    pub fn record(&mut self, outcome: Outcome, elapsed: Duration) -> bool {
        let (count, is_timed) = match outcome {
            Outcome::Ok => (&mut self.good, true),
            Outcome::Error | Outcome::Timeout => (&mut self.bad, true),
            Outcome::Shed => (&mut self.shed, false),
            Outcome::ClientError => (&mut self.client_error, false),
        };
        *count += 1;
        let is_slow = is_timed && elapsed > Duration::from_millis(LATENCY_TARGET_MS.into());
        self.slow += u64::from(is_slow);
        is_timed
    }

    /// The requests that count for uptime.
    pub fn in_sla(&self) -> u64 {
        self.good + self.bad + self.shed
    }

    /// The requests that have a latency.
    pub fn timed(&self) -> u64 {
        self.good + self.bad
    }

    /// Adds other requests to these.
    pub fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.shed += other.shed;
        self.client_error += other.client_error;
        self.slow += other.slow;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_and_only_good_and_bad_ones_are_timed() {
        let mut counts = Counts::default();
        let ms = Duration::from_millis;
        let requests = [
            (Outcome::Ok, ms(5)),
            (Outcome::Ok, ms(100)),
            (Outcome::Ok, ms(101)),
            (Outcome::Error, ms(3)),
            (Outcome::Timeout, ms(100_000)),
            (Outcome::Shed, ms(500)),
            (Outcome::ClientError, ms(500)),
        ];
        let timed = requests.into_iter().filter(|(outcome, elapsed)| counts.record(*outcome, *elapsed)).count();
        assert_eq!(counts, Counts { good: 3, bad: 2, shed: 1, client_error: 1, slow: 2 });
        assert_eq!((timed, counts.timed(), counts.in_sla()), (5, 5, 6));
    }
}
