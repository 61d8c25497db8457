//! A report of minutes, validated as a whole before any of it is stored.
//!
//! Not here: which minutes the ledger has, and that a count may only grow; the store checks that.

use std::collections::HashSet;

use proto::sla::v1 as wire;
use slo::{Counts, Latencies, LatencyError};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Minutes in one report.
pub const MINUTES_MAX: usize = 120;
/// How far a balancer's clock may run ahead of the tracker's.
pub const AHEAD_MAX: Duration = Duration::minutes(2);
/// How late a minute may be reported: longer than the longest window.
pub const AGE_MAX: Duration = Duration::days(35);
/// Requests of one kind in one minute. Keeps every sum over every window far below 2^63.
const COUNT_MAX: u64 = 1_000_000_000_000;
/// Bytes of the name of a source or a service.
const NAME_BYTES_MAX: usize = 63;

/// One service's minute as one balancer saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Minute {
    /// The service that the SLA is for.
    pub service: String,
    /// Start of the minute, UTC.
    pub start: OffsetDateTime,
    /// What happened in it.
    pub counts: Counts,
    /// How long good and bad took.
    pub latencies: Latencies,
}

/// What one balancer reported in one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The reporting replica.
    pub source: String,
    /// Which run of that replica: its counters start again with it.
    pub boot_id: Uuid,
    /// Each (service, minute) at most once, in that order.
    pub minutes: Vec<Minute>,
}

/// What is wrong with a report, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct ReportError {
    /// The field, e.g. `minutes[3].slow`.
    pub field: String,
    /// What is wrong with it.
    pub fault: ReportFault,
}

/// What can be wrong with a field of a report.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportFault {
    /// Not a name of 1 to 63 letters, digits and dashes.
    #[error("must be 1 to {NAME_BYTES_MAX} lower-case letters, digits and dashes")]
    Name,
    /// Not a UUID.
    #[error("must be a UUID")]
    BootId,
    /// No minutes, or too many.
    #[error("must hold 1 to {MINUTES_MAX} minutes")]
    Length,
    /// A service that has no SLA here.
    #[error("names a service that has no ledger here")]
    UnknownService,
    /// Absent, or not at second 0.
    #[error("must be the start of a whole minute")]
    NotWhole,
    /// Ahead of the tracker's clock.
    #[error("lies more than {} minutes in the future", AHEAD_MAX.whole_minutes())]
    Future,
    /// Behind every window.
    #[error("lies more than {} days in the past", AGE_MAX.whole_days())]
    TooOld,
    /// The same service and minute twice.
    #[error("repeats a minute of this report")]
    Duplicate,
    /// More than a minute can hold.
    #[error("is more than {COUNT_MAX}")]
    TooMany,
    /// More slow requests than requests.
    #[error("is more than good and bad together")]
    SlowExceedsTotal,
    /// Not a latency for each good and bad request.
    #[error("holds {held} latencies for {expected} good and bad requests")]
    LatencyCount {
        /// In the histogram.
        held: u64,
        /// By the counts.
        expected: u64,
    },
    /// Not a histogram of the one shape.
    #[error(transparent)]
    Latency(#[from] LatencyError),
}

// === impl Report ===

impl Report {
    /// Checks a report against the clock and the services that have a ledger.
    pub fn check(
        request: wire::ReportMinutesRequest,
        services: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, ReportError> {
        let fault = |field: &str, fault| ReportError { field: field.to_owned(), fault };
        if !is_name(&request.source) {
            return Err(fault("source", ReportFault::Name));
        }
        let boot_id = Uuid::parse_str(&request.boot_id).map_err(|_| fault("boot_id", ReportFault::BootId))?;
        if request.minutes.is_empty() || request.minutes.len() > MINUTES_MAX {
            return Err(fault("minutes", ReportFault::Length));
        }
        let mut seen = HashSet::new();
        let mut minutes = Vec::with_capacity(request.minutes.len());
        for (index, sent) in request.minutes.into_iter().enumerate() {
            let at = |(field, fault)| ReportError { field: format!("minutes[{index}].{field}"), fault };
            let minute = check_minute(sent, services, now).map_err(at)?;
            if !seen.insert((minute.service.clone(), minute.start)) {
                return Err(at(("minute", ReportFault::Duplicate)));
            }
            minutes.push(minute);
        }
        // Every transaction locks rows in this order, so that two reports cannot deadlock.
        minutes.sort_by(|a, b| (&a.service, a.start).cmp(&(&b.service, b.start)));
        Ok(Self { source: request.source, boot_id, minutes })
    }
}

fn check_minute(
    sent: wire::Minute,
    services: &[String],
    now: OffsetDateTime,
) -> Result<Minute, (&'static str, ReportFault)> {
    if !services.contains(&sent.service) {
        return Err(("service", ReportFault::UnknownService));
    }
    let start = sent
        .minute
        .filter(|stamp| stamp.nanos == 0 && stamp.seconds % 60 == 0)
        .and_then(|stamp| OffsetDateTime::from_unix_timestamp(stamp.seconds).ok())
        .ok_or(("minute", ReportFault::NotWhole))?;
    if start > now + AHEAD_MAX {
        return Err(("minute", ReportFault::Future));
    }
    if start < now - AGE_MAX {
        return Err(("minute", ReportFault::TooOld));
    }
    let counts = Counts {
        good: bounded("good", sent.good)?,
        bad: bounded("bad", sent.bad)?,
        shed: bounded("shed", sent.shed)?,
        client_error: bounded("client_error", sent.client_error)?,
        slow: bounded("slow", sent.slow)?,
    };
    if counts.slow > counts.timed() {
        return Err(("slow", ReportFault::SlowExceedsTotal));
    }
    let latencies = Latencies::decode(&sent.latency_histogram).map_err(|error| ("latency_histogram", error.into()))?;
    if latencies.count() != counts.timed() {
        let fault = ReportFault::LatencyCount { held: latencies.count(), expected: counts.timed() };
        return Err(("latency_histogram", fault));
    }
    Ok(Minute { service: sent.service, start, counts, latencies })
}

fn bounded(field: &'static str, count: u64) -> Result<u64, (&'static str, ReportFault)> {
    if count > COUNT_MAX { Err((field, ReportFault::TooMany)) } else { Ok(count) }
}

pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:30:20 UTC);

    fn minute(seconds_from_now: i64) -> wire::Minute {
        let whole = (NOW.unix_timestamp() + seconds_from_now).div_euclid(60) * 60;
        let mut latencies = Latencies::empty();
        latencies.record(1500);
        latencies.record(250_000);
        wire::Minute {
            service: "ml-services".into(),
            minute: Some(Timestamp { seconds: whole, nanos: 0 }),
            good: 1,
            bad: 1,
            shed: 3,
            client_error: 4,
            slow: 1,
            latency_histogram: latencies.encode(),
        }
    }

    fn check(minutes: Vec<wire::Minute>) -> Result<Report, ReportError> {
        let request = wire::ReportMinutesRequest {
            source: "balancer-a".into(),
            boot_id: "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11".into(),
            minutes,
        };
        Report::check(request, &["ml-services".to_owned()], NOW)
    }

    fn fault_of(change: impl FnOnce(&mut wire::Minute)) -> (String, ReportFault) {
        let mut wrong = minute(-60);
        change(&mut wrong);
        let error = check(vec![minute(0), wrong]).unwrap_err();
        (error.field, error.fault)
    }

    #[test]
    fn good_report_is_taken_in_order() {
        let report = check(vec![minute(0), minute(-120), minute(-60)]).unwrap();
        assert!(report.minutes.is_sorted_by_key(|minute| minute.start));
        assert_eq!(report.minutes[0].counts, Counts { good: 1, bad: 1, shed: 3, client_error: 4, slow: 1 });
    }

    #[test]
    fn each_fault_names_its_field() {
        let at = |field: &str| format!("minutes[1].{field}");
        assert_eq!(fault_of(|m| m.service = "other".into()), (at("service"), ReportFault::UnknownService));
        assert_eq!(fault_of(|m| m.minute = None), (at("minute"), ReportFault::NotWhole));
        assert_eq!(fault_of(|m| m.minute.as_mut().unwrap().seconds += 1), (at("minute"), ReportFault::NotWhole));
        assert_eq!(fault_of(|m| m.minute.as_mut().unwrap().nanos = 1), (at("minute"), ReportFault::NotWhole));
        assert_eq!(fault_of(|m| *m = minute(180)), (at("minute"), ReportFault::Future));
        assert_eq!(fault_of(|m| *m = minute(-36 * 86_400)), (at("minute"), ReportFault::TooOld));
        assert_eq!(fault_of(|m| *m = minute(0)), (at("minute"), ReportFault::Duplicate));
        assert_eq!(fault_of(|m| m.shed = COUNT_MAX + 1), (at("shed"), ReportFault::TooMany));
        assert_eq!(fault_of(|m| m.slow = 3), (at("slow"), ReportFault::SlowExceedsTotal));
        let count = ReportFault::LatencyCount { held: 2, expected: 3 };
        assert_eq!(fault_of(|m| m.good = 2), (at("latency_histogram"), count));
        let format = ReportFault::Latency(LatencyError::Format);
        assert_eq!(fault_of(|m| m.latency_histogram.truncate(20)), (at("latency_histogram"), format));
    }

    #[test]
    fn limits_hold_one_past_them() {
        assert!(check((0..120).map(|i| minute(-60 * i)).collect()).is_ok());
        let over = check((0..121).map(|i| minute(-60 * i)).collect()).unwrap_err();
        assert_eq!((over.field.as_str(), over.fault), ("minutes", ReportFault::Length));
        assert_eq!(check(vec![]).unwrap_err().fault, ReportFault::Length);
        assert!(check(vec![minute(120)]).is_ok());
        assert!(check(vec![minute(-35 * 86_400 + 60)]).is_ok());
    }

    #[test]
    fn idle_minute_needs_no_histogram() {
        let idle = wire::Minute { service: "ml-services".into(), minute: minute(0).minute, ..wire::Minute::default() };
        assert_eq!(check(vec![idle]).unwrap().minutes[0].counts, Counts::default());
    }
}
