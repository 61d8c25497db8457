//! What a ledger proves: pure arithmetic over hours of minutes.
//!
//! A minute that nobody reported is unknown, never up. Nothing is rounded up. Without data there is no figure, only a
//! reason. Not here: maintenance windows and monthly reports.

use serde::Serialize;
use time::{Duration, OffsetDateTime};

use crate::{
    latency::Latencies,
    minute::Counts,
    percentage::{Percentage, Share},
};

/// Length of the rolling window.
pub const WINDOW: Duration = Duration::days(30);
/// A minute is due this long after it ended. Until then its absence says nothing.
pub const REPORT_GRACE: Duration = Duration::seconds(30);
/// Below this share of known minutes nobody can say whether the target was met.
const COVERAGE_NEEDED: Percentage = Percentage::from_ten_thousandths(990_000).expect("99 % is a percentage");
/// Minutes of an hour.
pub const MINUTES_PER_HOUR: usize = 60;
const SLOTS_PER_WEEK: usize = 7 * 24 * MINUTES_PER_HOUR;

/// One hour of one service, all sources together.
#[derive(Clone, Debug, PartialEq)]
pub struct Hour {
    /// Start of the hour, UTC.
    pub start: OffsetDateTime,
    /// What happened in it.
    pub counts: Counts,
    /// How long good and bad took.
    pub latencies: Latencies,
    /// Per minute, the requests that count for uptime; none where nobody reported.
    pub minutes: [Option<u64>; MINUTES_PER_HOUR],
}

/// A window's hours added up, one at a time: a histogram has 150 KB, and a month has 720 hours.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// In order.
    pub hours: Vec<HourFigures>,
    /// The latencies of all of them.
    pub latencies: Latencies,
}

/// What is kept of an hour once its latencies are merged.
#[derive(Clone, Debug, PartialEq)]
pub struct HourFigures {
    /// Start of the hour, UTC.
    pub start: OffsetDateTime,
    /// What happened in it.
    pub counts: Counts,
    /// 95th percentile of its latency in microseconds.
    pub p95_us: Option<u64>,
    /// Per minute, the requests that count for uptime; none where nobody reported.
    pub minutes: [Option<u64>; MINUTES_PER_HOUR],
}

/// What was promised.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Targets {
    /// Uptime to stay above.
    pub uptime: Percentage,
    /// 95th percentile to stay below, in milliseconds.
    pub p95_ms: u32,
}

/// The time a summary is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Whether it is already as long as it will be.
    pub kind: WindowKind,
    /// First minute in it.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// Its end: minutes from here on are not due yet.
    #[serde(with = "time::serde::rfc3339")]
    pub to: OffsetDateTime,
}

/// Which rule set the start of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WindowKind {
    /// The last 30 days, from a whole hour.
    #[serde(rename = "rolling_30d")]
    Rolling,
    /// The ledger is younger than 30 days.
    #[serde(rename = "since_first_data")]
    SinceFirstData,
}

/// Whether the promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Kept, even if every unknown minute was down.
    Compliant,
    /// Not kept, or not provably.
    Violated,
    /// Too many minutes are unknown.
    InsufficientData,
    /// Nobody reported a request.
    NoData,
}

/// The figures of one service over one window. A figure is absent when there is nothing to compute it from.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The time it is about; absent while the ledger is empty.
    pub window: Option<Window>,
    /// Good of all requests in known minutes.
    pub uptime_percentage: Option<Percentage>,
    /// The same if every unknown minute had its usual traffic and all of it failed.
    pub uptime_percentage_lower: Option<Percentage>,
    /// Known of all minutes.
    pub coverage_percentage: Option<Percentage>,
    /// 95th percentile of the latency in milliseconds.
    pub response_time_p95: Option<f64>,
    /// Good and bad answers within the latency target.
    pub latency_good_percentage: Option<Percentage>,
    /// What was promised.
    pub targets: Targets,
    /// Whether it was kept; absent when nobody can say.
    pub compliant: Option<bool>,
    /// The same in words.
    pub status: Status,
    /// Why figures are absent.
    pub reason: Option<&'static str>,
    /// Sums behind the figures; for those who may see details.
    #[serde(skip)]
    pub totals: Totals,
}

/// The sums behind a summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests in known minutes.
    pub counts: Counts,
    /// Minutes that somebody reported.
    pub minutes_known: u64,
    /// Minutes that are due and that nobody reported.
    pub minutes_unknown: u64,
}

/// What the minutes of a window say about known, unknown and usual traffic.
#[derive(Default)]
struct Coverage {
    known: u64,
    unknown: u64,
    /// Requests that the unknown minutes would have had, rounded up.
    expected: u128,
}

/// Traffic of one minute of the week.
#[derive(Clone, Copy, Default)]
struct Slot {
    known: u64,
    unknown: u64,
    requests: u64,
}

// === impl Hour ===

impl Hour {
    /// An hour of which nothing is known.
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

// === impl Ledger ===

impl Ledger {
    /// A ledger without an hour.
    pub fn empty() -> Self {
        Self { hours: Vec::new(), latencies: Latencies::empty() }
    }

    /// Adds the next hour. Hours come in order.
    pub fn push(&mut self, hour: &Hour) {
        debug_assert!(self.hours.last().is_none_or(|last| last.start < hour.start));
        self.latencies.merge(&hour.latencies);
        let Hour { start, counts, minutes, .. } = *hour;
        self.hours.push(HourFigures { start, counts, p95_us: hour.latencies.p95_us(), minutes });
    }
}

// === impl Window ===

impl Window {
    /// The window that ends now, for a ledger whose first minute is this one.
    pub fn rolling(first_minute: OffsetDateTime, now: OffsetDateTime) -> Self {
        let rolling_from = hour_of(now - WINDOW);
        let (kind, from) = if first_minute > rolling_from {
            (WindowKind::SinceFirstData, first_minute)
        } else {
            (WindowKind::Rolling, rolling_from)
        };
        Self { kind, from, to: minute_of(now - REPORT_GRACE).max(from) }
    }
}

// === impl Summary ===

impl Summary {
    /// Computes everything from the hours of a window; hours that are absent are unknown.
    pub fn compute(ledger: &Ledger, window: Option<Window>, targets: Targets) -> Self {
        let Some(window) = window else { return Self::without_data(targets) };
        let mut counts = Counts::default();
        ledger.hours.iter().for_each(|hour| counts.add(&hour.counts));
        let coverage = Coverage::of(&ledger.hours, window);
        let good = u128::from(counts.good);
        let requests = u128::from(counts.in_sla());
        let uptime = Share::of(good, requests);
        let lower = uptime.and_then(|_| Share::of(good, requests + coverage.expected));
        let covered = Share::of(coverage.known.into(), u128::from(coverage.known) + u128::from(coverage.unknown));
        let p95_us = ledger.latencies.p95_us();
        let in_time = Share::of((counts.timed() - counts.slow).into(), counts.timed().into());
        let status = judge(lower, covered, p95_us, targets);
        Self {
            window: Some(window),
            uptime_percentage: uptime.map(Share::floor),
            uptime_percentage_lower: lower.map(Share::floor),
            coverage_percentage: covered.map(Share::floor),
            response_time_p95: p95_us.map(milliseconds),
            latency_good_percentage: in_time.map(Share::floor),
            targets,
            compliant: match status {
                Status::Compliant => Some(true),
                Status::Violated => Some(false),
                Status::InsufficientData | Status::NoData => None,
            },
            status,
            reason: match status {
                Status::NoData => Some("no request was reported in this window"),
                Status::InsufficientData => Some("more than 1 % of the minutes are unknown"),
                Status::Compliant | Status::Violated => None,
            },
            totals: Totals { counts, minutes_known: coverage.known, minutes_unknown: coverage.unknown },
        }
    }

    fn without_data(targets: Targets) -> Self {
        Self {
            window: None,
            uptime_percentage: None,
            uptime_percentage_lower: None,
            coverage_percentage: None,
            response_time_p95: None,
            latency_good_percentage: None,
            targets,
            compliant: None,
            status: Status::NoData,
            reason: Some("no minute was ever reported"),
            totals: Totals::default(),
        }
    }
}

// === impl Coverage ===

impl Coverage {
    fn of(hours: &[HourFigures], window: Window) -> Self {
        let mut slots = vec![Slot::default(); SLOTS_PER_WEEK];
        let mut hours = hours.iter().peekable();
        let mut start = hour_of(window.from);
        // Reported minutes beyond the window's end (not due, but there) count as known.
        while start < window.to || hours.peek().is_some() {
            let reported = hours.next_if(|hour| hour.start <= start).map(|hour| &hour.minutes);
            for index in 0..MINUTES_PER_HOUR {
                let minute = start + Duration::minutes(i64::try_from(index).unwrap_or(0));
                let Some(slot) = slots.get_mut(slot_of(minute)) else { continue };
                match reported.and_then(|minutes| minutes.get(index).copied().flatten()) {
                    Some(requests) => {
                        slot.known += 1;
                        slot.requests += requests;
                    }
                    None if minute >= window.from && minute < window.to => slot.unknown += 1,
                    None => {}
                }
            }
            start += Duration::HOUR;
        }
        Self::sum(&slots)
    }

    fn sum(slots: &[Slot]) -> Self {
        let known: u64 = slots.iter().map(|slot| slot.known).sum();
        let requests: u64 = slots.iter().map(|slot| slot.requests).sum();
        let unknown: u64 = slots.iter().map(|slot| slot.unknown).sum();
        // An unknown minute has the mean of the same minute in other weeks, or of all minutes where there is none.
        let alike =
            slots.iter().filter(|slot| slot.known > 0).map(|slot| share_up(slot.unknown, slot.requests, slot.known));
        let unlike: u64 = slots.iter().filter(|slot| slot.known == 0).map(|slot| slot.unknown).sum();
        let expected = alike.sum::<u128>() + if known > 0 { share_up(unlike, requests, known) } else { 0 };
        Self { known, unknown, expected }
    }
}

/// `minutes * requests / known`, rounded up: against us.
fn share_up(minutes: u64, requests: u64, known: u64) -> u128 {
    (u128::from(minutes) * u128::from(requests)).div_ceil(known.into())
}

fn judge(lower: Option<Share>, covered: Option<Share>, p95_us: Option<u64>, targets: Targets) -> Status {
    let Some(lower) = lower else { return Status::NoData };
    if covered.is_none_or(|share| share.is_below(COVERAGE_NEEDED)) {
        return Status::InsufficientData;
    }
    let fast = p95_us.is_some_and(|p95| p95 < u64::from(targets.p95_ms) * 1000);
    if lower.exceeds(targets.uptime) && fast { Status::Compliant } else { Status::Violated }
}

/// Microseconds as people and SLAs have them.
pub fn milliseconds(microseconds: u64) -> f64 {
    // At most 60 s, so the conversion to a double is exact.
    f64::from(u32::try_from(microseconds).unwrap_or(u32::MAX)) / 1000.0
}

/// The start of the minute that a time lies in.
pub fn minute_of(time: OffsetDateTime) -> OffsetDateTime {
    time - Duration::seconds(time.second().into()) - Duration::nanoseconds(time.nanosecond().into())
}

/// The start of the hour that a time lies in.
pub fn hour_of(time: OffsetDateTime) -> OffsetDateTime {
    minute_of(time) - Duration::minutes(time.minute().into())
}

fn slot_of(minute: OffsetDateTime) -> usize {
    let day = usize::from(minute.weekday().number_days_from_monday());
    (day * 24 + usize::from(minute.hour())) * MINUTES_PER_HOUR + usize::from(minute.minute())
}

#[cfg(test)]
mod tests;
