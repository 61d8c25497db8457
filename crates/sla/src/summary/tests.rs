//! The figures of small ledgers, and what holds for all of them: nothing unknown counts as up, nothing is rounded up.

use proptest::{collection::vec, prelude::*};
use slo::Latencies;
use time::{Duration, OffsetDateTime, macros::datetime};

use super::*;
use crate::{
    totals::{HourTotals, hour_of},
    window::{REPORT_GRACE, WindowKind},
};

const START: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);
const TARGETS: Targets = Targets { uptime: Percentage::from_ten_thousandths(999_000).unwrap(), p95_ms: 100 };

/// Hours from `START` with these minutes; each request takes 5 ms.
fn hours(minutes: &[Option<Counts>]) -> Vec<HourTotals> {
    let mut hours: Vec<HourTotals> = Vec::new();
    for (index, counts) in minutes.iter().enumerate() {
        let Some(counts) = counts else { continue };
        let minute = START + Duration::minutes(i64::try_from(index).unwrap());
        if hours.last().is_none_or(|hour| hour.start != hour_of(minute)) {
            hours.push(HourTotals::unknown(hour_of(minute)));
        }
        let mut latencies = Latencies::empty();
        (0..counts.timed()).for_each(|_| latencies.record(5000));
        hours.last_mut().unwrap().add(minute, counts, &latencies);
    }
    hours
}

fn ledger(minutes: &[Option<Counts>]) -> WindowTotals {
    let mut ledger = WindowTotals::empty();
    hours(minutes).iter().for_each(|hour| ledger.push(hour));
    ledger
}

fn good(good: u64) -> Option<Counts> {
    Some(Counts { good, ..Counts::default() })
}

/// The summary of these minutes at the moment the last of them is due.
fn summary(minutes: &[Option<Counts>]) -> Summary {
    let end = START + Duration::minutes(i64::try_from(minutes.len()).unwrap());
    Summary::compute(&ledger(minutes), Some(Window::rolling(START, end + REPORT_GRACE)), TARGETS)
}

fn percent(value: Option<Percentage>) -> f64 {
    value.unwrap().as_f64()
}

#[test]
fn empty_ledger_has_no_figures_but_a_reason() {
    let empty = Summary::compute(&WindowTotals::empty(), None, TARGETS);
    assert_eq!((empty.status, empty.compliant), (ComplianceStatus::NoData, None));
    assert!(empty.uptime_percentage.is_none() && empty.coverage_percentage.is_none() && empty.reason.is_some());
}

#[test]
fn idle_minutes_are_covered_but_prove_no_uptime() {
    let idle = summary(&[good(0), good(0)]);
    assert_eq!(percent(idle.coverage_percentage), 100.0);
    assert_eq!((idle.uptime_percentage, idle.response_time_p95, idle.status), (None, None, ComplianceStatus::NoData));
}

#[test]
fn missing_minutes_are_unknown_and_count_against_the_lower_bound() {
    let mut minutes = vec![good(10); 100];
    minutes[50] = None;
    let computed = summary(&minutes);
    assert_eq!(percent(computed.uptime_percentage), 100.0);
    assert_eq!(percent(computed.coverage_percentage), 99.0);
    assert_eq!(percent(computed.uptime_percentage_lower), 99.0);
    assert_eq!((computed.status, computed.compliant), (ComplianceStatus::Violated, Some(false)));
}

#[test]
fn too_few_known_minutes_are_insufficient() {
    let mut minutes = vec![good(10); 100];
    minutes[50] = None;
    minutes[51] = None;
    let computed = summary(&minutes);
    assert_eq!((computed.status, computed.compliant), (ComplianceStatus::InsufficientData, None));
}

#[test]
fn shed_counts_as_bad_and_client_errors_do_not_count() {
    let counts = Counts { good: 97, bad: 1, shed: 2, client_error: 1000, slow: 49 };
    let computed = summary(&[Some(counts)]);
    assert_eq!(percent(computed.uptime_percentage), 97.0);
    assert_eq!(percent(computed.latency_good_percentage), 50.0);
}

#[test]
fn the_target_itself_is_not_enough() {
    let exactly = Counts { good: 999, bad: 1, ..Counts::default() };
    assert_eq!(summary(&[Some(exactly)]).status, ComplianceStatus::Violated);
    let above = Counts { good: 9991, bad: 9, ..Counts::default() };
    assert_eq!(summary(&[Some(above)]).status, ComplianceStatus::Compliant);
}

#[test]
fn slow_answers_violate() {
    let mut hour = HourTotals::unknown(START);
    let mut latencies = Latencies::empty();
    (0..100).for_each(|_| latencies.record(150_000));
    hour.add(START, &Counts { good: 100, slow: 100, ..Counts::default() }, &latencies);
    let window = Window::rolling(START, START + Duration::seconds(10));
    let mut ledger = WindowTotals::empty();
    ledger.push(&hour);
    let computed = Summary::compute(&ledger, Some(window), TARGETS);
    assert_eq!(computed.status, ComplianceStatus::Violated);
    assert!((computed.response_time_p95.unwrap() - 150.0).abs() <= 0.15);
}

#[test]
fn unknown_minute_has_the_traffic_of_the_same_minute_of_the_week() {
    // Two weeks: 1,000 requests at Sunday 10:00 of the first, none else; the second Sunday's 10:00 is missing.
    let week = 7 * 24 * 60;
    let mut minutes = vec![good(0); week + 1];
    minutes[0] = good(1000);
    minutes[week] = None;
    assert_eq!(percent(summary(&minutes).uptime_percentage_lower), 50.0);
}

#[test]
fn open_minute_counts_and_is_not_missing() {
    let now = START + Duration::seconds(70);
    let computed = Summary::compute(&ledger(&[good(5), good(7)]), Some(Window::rolling(START, now)), TARGETS);
    assert_eq!(computed.totals.minutes_known, 2);
    assert_eq!(computed.totals.minutes_unknown, 0);
    // The same moment without the second report: the minute is open, so nothing is missing yet.
    let computed = Summary::compute(&ledger(&[good(5)]), Some(Window::rolling(START, now)), TARGETS);
    assert_eq!((computed.totals.minutes_known, computed.totals.minutes_unknown), (1, 0));
}

#[test]
fn window_rolls_from_a_whole_hour_once_it_is_full() {
    let now = datetime!(2026-11-22 10:34:56 UTC);
    let young = Window::rolling(datetime!(2026-11-20 03:04 UTC), now);
    assert_eq!((young.kind, young.from), (WindowKind::SinceFirstData, datetime!(2026-11-20 03:04 UTC)));
    let full = Window::rolling(datetime!(2026-01-01 00:00 UTC), now);
    assert_eq!((full.kind, full.from), (WindowKind::Rolling, datetime!(2026-10-23 10:00 UTC)));
    assert_eq!(full.to, datetime!(2026-11-22 10:34 UTC));
}

#[test]
fn whole_hours_may_be_missing() {
    let mut minutes = vec![None; 180];
    minutes[0] = good(1);
    minutes[179] = good(1);
    let computed = summary(&minutes);
    assert_eq!((computed.totals.minutes_known, computed.totals.minutes_unknown), (2, 178));
    // Each unknown minute is taken to have had the mean of one request.
    assert_eq!(percent(computed.uptime_percentage_lower), 1.1111);
}

fn any_minute() -> impl Strategy<Value = Option<Counts>> {
    prop_oneof![
        1 => Just(None),
        4 => (0..50_u64, 0..3_u64, 0..3_u64, 0..9_u64)
            .prop_map(|(good, bad, shed, client_error)| Some(Counts { good, bad, shed, client_error, slow: bad })),
    ]
}

proptest! {
    #[test]
    fn lower_bound_is_a_lower_bound(minutes in vec(any_minute(), 1..200)) {
        let computed = summary(&minutes);
        if let (Some(uptime), Some(lower)) = (computed.uptime_percentage, computed.uptime_percentage_lower) {
            prop_assert!(lower <= uptime);
            let all_known = minutes.iter().all(Option::is_some);
            prop_assert!(!all_known || lower == uptime);
        }
        let known = minutes.iter().flatten().count();
        prop_assert_eq!(computed.totals.minutes_known + computed.totals.minutes_unknown, minutes.len() as u64);
        prop_assert_eq!(computed.totals.minutes_known, known as u64);
    }

    #[test]
    fn splitting_a_minute_between_sources_changes_nothing(minutes in vec(any_minute(), 1..60), cut in 0..20_u64) {
        let whole = hours(&minutes);
        let part = |counts: &Counts| Counts { good: counts.good.min(cut), ..Counts::default() };
        let first: Vec<_> = minutes.iter().map(|m| m.as_ref().map(part)).collect();
        let rest: Vec<_> = minutes.iter().map(|m| m.as_ref().map(|c| Counts { good: c.good - part(c).good, ..*c })).collect();
        let mut merged = hours(&first);
        for (index, counts) in rest.iter().enumerate() {
            let Some(counts) = counts else { continue };
            let mut latencies = Latencies::empty();
            (0..counts.timed()).for_each(|_| latencies.record(5000));
            merged[0].add(START + Duration::minutes(index as i64), counts, &latencies);
        }
        prop_assert_eq!(merged, whole);
    }
}
