//! The figures of a ledger: pure arithmetic over the totals of a window.
//!
//! A minute without a report is unknown, never up. Nothing is rounded up. Without data there is no figure, only a reason.
//! Not here: maintenance windows and monthly reports.

use serde::Serialize;
use slo::Counts;

use crate::{
    coverage::Coverage,
    percentage::{Percentage, Share},
    totals::WindowTotals,
    window::Window,
};

/// Below this share of known minutes it is undecidable whether the target was met.
const COVERAGE_NEEDED: Percentage = Percentage::from_ten_thousandths(990_000).expect("99 % is a percentage");
/// The targets of the SLA.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Targets {
    /// Uptime to stay above.
    pub uptime: Percentage,
    /// 95th percentile to stay below, in milliseconds.
    pub p95_ms: u32,
}

/// Whether the targets were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComplianceStatus {
    /// Met, even if every unknown minute was down.
    Compliant,
    /// Not met, or not provably.
    Violated,
    /// Too many minutes are unknown.
    InsufficientData,
    /// No request was reported.
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
    /// The targets.
    pub targets: Targets,
    /// Whether they were met; absent when that is undecidable.
    pub compliant: Option<bool>,
    /// The same in words.
    pub status: ComplianceStatus,
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
    /// Minutes with a report.
    pub minutes_known: u64,
    /// Minutes that are due and have no report.
    pub minutes_unknown: u64,
}

// === impl Summary ===

impl Summary {
    /// Computes everything from the hours of a window; hours that are absent are unknown.
    pub fn compute(ledger: &WindowTotals, window: Option<Window>, targets: Targets) -> Self {
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
        let status = compliance_of(lower, covered, p95_us, targets);
        Self {
            window: Some(window),
            uptime_percentage: uptime.map(Share::floor),
            uptime_percentage_lower: lower.map(Share::floor),
            coverage_percentage: covered.map(Share::floor),
            response_time_p95: p95_us.map(milliseconds),
            latency_good_percentage: in_time.map(Share::floor),
            targets,
            compliant: match status {
                ComplianceStatus::Compliant => Some(true),
                ComplianceStatus::Violated => Some(false),
                ComplianceStatus::InsufficientData | ComplianceStatus::NoData => None,
            },
            status,
            reason: match status {
                ComplianceStatus::NoData => Some("no request was reported in this window"),
                ComplianceStatus::InsufficientData => Some("more than 1 % of the minutes are unknown"),
                ComplianceStatus::Compliant | ComplianceStatus::Violated => None,
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
            status: ComplianceStatus::NoData,
            reason: Some("no minute was ever reported"),
            totals: Totals::default(),
        }
    }
}

fn compliance_of(
    lower: Option<Share>,
    covered: Option<Share>,
    p95_us: Option<u64>,
    targets: Targets,
) -> ComplianceStatus {
    let Some(lower) = lower else { return ComplianceStatus::NoData };
    if covered.is_none_or(|share| share.is_below(COVERAGE_NEEDED)) {
        return ComplianceStatus::InsufficientData;
    }
    let fast = p95_us.is_some_and(|p95| p95 < u64::from(targets.p95_ms) * 1000);
    if lower.exceeds(targets.uptime) && fast { ComplianceStatus::Compliant } else { ComplianceStatus::Violated }
}

/// Microseconds as milliseconds.
pub fn milliseconds(microseconds: u64) -> f64 {
    // At most 60 s, so the conversion to a double is exact.
    f64::from(u32::try_from(microseconds).unwrap_or(u32::MAX)) / 1000.0
}

#[cfg(test)]
mod tests;
