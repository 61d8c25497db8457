//! Every metric of the SLA tracker, by name.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::{
    store::RecordResult,
    summary::{Summary, Targets},
};

const UPTIME_RATIO: &str = "ml_sla_uptime_ratio";
const UPTIME_LOWER_RATIO: &str = "ml_sla_uptime_lower_ratio";
const UNKNOWN_RATIO: &str = "ml_sla_unknown_ratio";
const LATENCY_P95_SECONDS: &str = "ml_sla_latency_p95_seconds";
const LATENCY_GOOD_RATIO: &str = "ml_sla_latency_good_ratio";
const OBJECTIVE_UPTIME_RATIO: &str = "ml_sla_objective_ratio";
const OBJECTIVE_LATENCY_SECONDS: &str = "ml_sla_objective_latency_seconds";
const LEDGER_WRITES_TOTAL: &str = "ml_sla_ledger_writes_total";
const LEDGER_READ_FAILURES_TOTAL: &str = "ml_sla_ledger_read_failures_total";
const CONSISTENCY_ERRORS_TOTAL: &str = "ml_sla_consistency_errors_total";

/// The one window there is so far.
const WINDOW: &str = "30d";

/// The outcomes of a reported minute.
const WRITE_OUTCOMES: [&str; 4] = ["recorded", "known", "refused", "failed"];

/// The checks of consistency.
const CHECKS: [&str; 2] = ["contradiction", "damaged_row"];

/// Describes every metric and exports what is known from the start: counters at zero, and the targets.
pub fn register(services: &[String], targets: Targets) {
    describe_gauge!(UPTIME_RATIO, Unit::Count, "Good of all requests in the window; NaN without any.");
    describe_gauge!(UPTIME_LOWER_RATIO, Unit::Count, "The same if every unknown minute was down.");
    describe_gauge!(UNKNOWN_RATIO, Unit::Count, "Minutes of the window without a report.");
    describe_gauge!(LATENCY_P95_SECONDS, Unit::Seconds, "95th percentile of the latency in the window.");
    describe_gauge!(LATENCY_GOOD_RATIO, Unit::Count, "Answers within the latency target.");
    describe_gauge!(OBJECTIVE_UPTIME_RATIO, Unit::Count, "Uptime target.");
    describe_gauge!(OBJECTIVE_LATENCY_SECONDS, Unit::Seconds, "95th percentile target.");
    describe_counter!(LEDGER_WRITES_TOTAL, Unit::Count, "Reported minutes, by outcome.");
    describe_counter!(LEDGER_READ_FAILURES_TOTAL, Unit::Count, "Figures that could not be computed from the ledger.");
    describe_counter!(CONSISTENCY_ERRORS_TOTAL, Unit::Count, "Figures that contradict others.");
    for outcome in WRITE_OUTCOMES {
        counter!(LEDGER_WRITES_TOTAL, "outcome" => outcome).absolute(0);
    }
    for check in CHECKS {
        counter!(CONSISTENCY_ERRORS_TOTAL, "check" => check).absolute(0);
    }
    for service in services {
        counter!(LEDGER_READ_FAILURES_TOTAL, "service" => service.clone()).absolute(0);
        gauge!(OBJECTIVE_UPTIME_RATIO, "service" => service.clone(), "sli" => "uptime").set(targets.uptime.as_ratio());
        gauge!(OBJECTIVE_LATENCY_SECONDS, "service" => service.clone()).set(f64::from(targets.p95_ms) / 1000.0);
    }
}

/// Exports a summary. What is unknown is NaN: a gauge must not keep an outdated figure.
pub fn export(service: &str, summary: &Summary) {
    set(service, UPTIME_RATIO, summary.uptime_percentage.map(|percentage| percentage.as_ratio()));
    set(service, UPTIME_LOWER_RATIO, summary.uptime_percentage_lower.map(|percentage| percentage.as_ratio()));
    set(service, UNKNOWN_RATIO, summary.coverage_percentage.map(|percentage| 1.0 - percentage.as_ratio()));
    set(service, LATENCY_P95_SECONDS, summary.response_time_p95.map(|milliseconds| milliseconds / 1000.0));
    set(service, LATENCY_GOOD_RATIO, summary.latency_good_percentage.map(|percentage| percentage.as_ratio()));
}

/// Exports that the figures are unknown, because the ledger cannot be read.
pub fn export_unreadable(service: &str) {
    counter!(LEDGER_READ_FAILURES_TOTAL, "service" => service.to_owned()).increment(1);
    for name in [UPTIME_RATIO, UPTIME_LOWER_RATIO, UNKNOWN_RATIO, LATENCY_P95_SECONDS, LATENCY_GOOD_RATIO] {
        set(service, name, None);
    }
}

fn set(service: &str, name: &'static str, value: Option<f64>) {
    gauge!(name, "service" => service.to_owned(), "window" => WINDOW).set(value.unwrap_or(f64::NAN));
}

/// Counts the minutes of a report that was taken.
pub fn count_recorded(recorded: &RecordResult) {
    counter!(LEDGER_WRITES_TOTAL, "outcome" => "recorded").increment(count(recorded.changed));
    counter!(LEDGER_WRITES_TOTAL, "outcome" => "known").increment(count(recorded.known));
    let contradictions = count(recorded.contradictions.len());
    counter!(LEDGER_WRITES_TOTAL, "outcome" => "refused").increment(contradictions);
    counter!(CONSISTENCY_ERRORS_TOTAL, "check" => "contradiction").increment(contradictions);
}

/// Counts the minutes of a report that was wrong.
pub fn count_refused(minutes: usize) {
    counter!(LEDGER_WRITES_TOTAL, "outcome" => "refused").increment(count(minutes));
}

/// Counts the minutes of a report that could not be stored.
pub fn count_failed(minutes: usize) {
    counter!(LEDGER_WRITES_TOTAL, "outcome" => "failed").increment(count(minutes));
}

/// Counts a damaged row.
pub fn count_damaged_row() {
    counter!(CONSISTENCY_ERRORS_TOTAL, "check" => "damaged_row").increment(1);
}

fn count(minutes: usize) -> u64 {
    u64::try_from(minutes).unwrap_or(u64::MAX)
}
