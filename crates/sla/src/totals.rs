//! Where minutes are added up: minutes into hours, hours into a window.

use slo::{Counts, Latencies};
use time::{Duration, OffsetDateTime};

/// Minutes of an hour.
pub const MINUTES_PER_HOUR: usize = 60;

/// One hour of one service, all sources together.
#[derive(Clone, Debug, PartialEq)]
pub struct HourTotals {
    /// Start of the hour, UTC.
    pub start: OffsetDateTime,
    /// What happened in it.
    pub counts: Counts,
    /// How long good and bad took.
    pub latencies: Latencies,
    /// Per minute, the requests that count for uptime; none where there is no report.
    pub minutes: [Option<u64>; MINUTES_PER_HOUR],
}

/// A window's hours added up, one at a time: a histogram has 150 KB, and a month has 720 hours.
#[derive(Clone, Debug)]
pub struct WindowTotals {
    /// In order.
    pub hours: Vec<HourFigures>,
    /// The latencies of all of them.
    pub latencies: Latencies,
}

/// An hour without its latencies, which are merged into the window's.
#[derive(Clone, Debug, PartialEq)]
pub struct HourFigures {
    /// Start of the hour, UTC.
    pub start: OffsetDateTime,
    /// What happened in it.
    pub counts: Counts,
    /// 95th percentile of its latency in microseconds.
    pub p95_us: Option<u64>,
    /// Per minute, the requests that count for uptime; none where there is no report.
    pub minutes: [Option<u64>; MINUTES_PER_HOUR],
}

// === impl HourTotals ===

impl HourTotals {
    /// An hour without a report.
    pub fn unknown(start: OffsetDateTime) -> Self {
        Self { start, counts: Counts::default(), latencies: Latencies::empty(), minutes: [None; MINUTES_PER_HOUR] }
    }

    /// Adds what one source saw in one minute of this hour.
    pub fn add(&mut self, minute: OffsetDateTime, counts: &Counts, latencies: &Latencies) {
        debug_assert_eq!(hour_of(minute), self.start);
        if let Some(requests) = self.minutes.get_mut(usize::from(minute.minute())) {
            *requests = Some(requests.unwrap_or(0) + counts.in_sla());
        }
        self.counts.add(counts);
        self.latencies.merge(latencies);
    }
}

// === impl WindowTotals ===

impl WindowTotals {
    /// A ledger without an hour.
    pub fn empty() -> Self {
        Self { hours: Vec::new(), latencies: Latencies::empty() }
    }

    /// Adds the next hour. Hours come in order.
    pub fn push(&mut self, hour: &HourTotals) {
        debug_assert!(self.hours.last().is_none_or(|last| last.start < hour.start));
        self.latencies.merge(&hour.latencies);
        let HourTotals { start, counts, minutes, .. } = *hour;
        self.hours.push(HourFigures { start, counts, p95_us: hour.latencies.p95_us(), minutes });
    }
}

/// The start of the minute that a time lies in.
pub fn minute_of(time: OffsetDateTime) -> OffsetDateTime {
    time - Duration::seconds(time.second().into()) - Duration::nanoseconds(time.nanosecond().into())
}

/// The start of the hour that a time lies in.
pub fn hour_of(time: OffsetDateTime) -> OffsetDateTime {
    minute_of(time) - Duration::minutes(time.minute().into())
}
