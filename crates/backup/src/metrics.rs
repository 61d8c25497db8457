//! Every metric of the backup worker, by name.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use strum::VariantArray as _;
use time::OffsetDateTime;

use crate::run::{RunKind, RunOutcome, Verdict};

const RUNS_TOTAL: &str = "ml_backup_runs_total";
const DURATION_SECONDS: &str = "ml_backup_duration_seconds";
const SIZE_BYTES: &str = "ml_backup_size_bytes";
const LAST_SUCCESS_SECONDS: &str = "ml_backup_last_success_timestamp_seconds";
const LAST_RESTORE_TEST_SECONDS: &str = "ml_backup_last_restore_test_timestamp_seconds";
const VERIFICATION_FAILURES_TOTAL: &str = "ml_backup_verification_failures_total";
const RUNNING: &str = "ml_backup_running";

/// How a run can end.
const OUTCOMES: [&str; 4] = ["made", "valid", "invalid", "failed"];

/// Describes every metric and shows counters at zero.
pub fn register() {
    describe_counter!(RUNS_TOTAL, Unit::Count, "Runs that ended, by kind and outcome.");
    describe_histogram!(DURATION_SECONDS, Unit::Seconds, "Time of a run.");
    describe_gauge!(SIZE_BYTES, Unit::Bytes, "Size of the last set that was made.");
    describe_gauge!(LAST_SUCCESS_SECONDS, Unit::Seconds, "When the last complete set was begun.");
    describe_gauge!(LAST_RESTORE_TEST_SECONDS, Unit::Seconds, "When a set was last found VALID by restoring it.");
    describe_counter!(VERIFICATION_FAILURES_TOTAL, Unit::Count, "Verifications that ended INVALID.");
    describe_gauge!(RUNNING, Unit::Count, "Runs going on.");
    for outcome in OUTCOMES {
        for kind in RunKind::VARIANTS {
            if is_possible(*kind, outcome) {
                counter!(RUNS_TOTAL, "kind" => kind.as_str(), "outcome" => outcome).absolute(0);
            }
        }
    }
    counter!(VERIFICATION_FAILURES_TOTAL).absolute(0);
    for kind in RunKind::VARIANTS {
        gauge!(RUNNING, "kind" => kind.as_str()).set(0.0);
    }
}

/// Counts a run that begins.
pub fn begun(kind: RunKind) {
    gauge!(RUNNING, "kind" => kind.as_str()).set(1.0);
}

/// Counts a run that ended.
pub fn ended(kind: RunKind, outcome: &RunOutcome, elapsed: Duration, now: OffsetDateTime) {
    gauge!(RUNNING, "kind" => kind.as_str()).set(0.0);
    histogram!(DURATION_SECONDS, "kind" => kind.as_str()).record(elapsed);
    let name = match outcome {
        RunOutcome::Built(made) => {
            show_made(made.size_bytes, now);
            "made"
        }
        RunOutcome::Verified(Verdict::Valid) => {
            gauge!(LAST_RESTORE_TEST_SECONDS).set(seconds(now));
            "valid"
        }
        RunOutcome::Verified(Verdict::Invalid(_)) => {
            counter!(VERIFICATION_FAILURES_TOTAL).increment(1);
            "invalid"
        }
        RunOutcome::Failed(_) => "failed",
    };
    counter!(RUNS_TOTAL, "kind" => kind.as_str(), "outcome" => name).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "a set is far smaller than f64 has integers")]
fn show_made(size_bytes: u64, now: OffsetDateTime) {
    gauge!(SIZE_BYTES).set(size_bytes as f64);
    show_last_success(now);
}

/// Exports when the last set was built; read from the store after a restart.
pub fn show_last_success(at: OffsetDateTime) {
    gauge!(LAST_SUCCESS_SECONDS).set(seconds(at));
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far fewer than f64 has integers")]
fn seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp() as f64
}

fn is_possible(kind: RunKind, outcome: &str) -> bool {
    match kind {
        RunKind::Create => matches!(outcome, "made" | "failed"),
        RunKind::Verify => outcome != "made",
    }
}
