//! Every metric of the backup worker, by name.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use strum::VariantArray as _;
use time::OffsetDateTime;

use crate::{
    run::{RunKind, RunOutcome, Verdict},
    schedule::ScheduleName,
    store::Newest,
};

const RUNS_TOTAL: &str = "ml_backup_runs_total";
const DURATION_SECONDS: &str = "ml_backup_duration_seconds";
const SIZE_BYTES: &str = "ml_backup_size_bytes";
const LAST_SUCCESS_SECONDS: &str = "ml_backup_last_success_timestamp_seconds";
const LAST_RESTORE_TEST_SECONDS: &str = "ml_backup_last_restore_test_timestamp_seconds";
const VERIFICATION_FAILURES_TOTAL: &str = "ml_backup_verification_failures_total";
const RUNNING: &str = "ml_backup_running";
const LAST_VERIFIED_SECONDS: &str = "ml_backup_last_verified_set_timestamp_seconds";
const DUE_SECONDS: &str = "ml_backup_schedule_due_timestamp_seconds";
const MISSED_TOTAL: &str = "ml_backup_schedule_missed_total";
const CLOCK_SET_BACK_TOTAL: &str = "ml_backup_clock_set_back_total";
const REPEATED_TOTAL: &str = "ml_backup_repeated_runs_total";

/// How a run can end.
const OUTCOMES: [&str; 6] = ["made", "valid", "invalid", "failed", "cancelled", "interrupted"];

/// Describes every metric and shows counters at zero.
pub fn register() {
    describe_counter!(RUNS_TOTAL, Unit::Count, "Runs that ended, by kind and outcome.");
    describe_histogram!(DURATION_SECONDS, Unit::Seconds, "Time of a run.");
    describe_gauge!(SIZE_BYTES, Unit::Bytes, "Size of the last set that was made.");
    describe_gauge!(
        LAST_SUCCESS_SECONDS,
        Unit::Seconds,
        "When the newest set was begun; while there is none, since when there should be."
    );
    describe_gauge!(
        LAST_VERIFIED_SECONDS,
        Unit::Seconds,
        "When the newest set that was found VALID was begun; while there is none, since when there should be."
    );
    describe_gauge!(LAST_RESTORE_TEST_SECONDS, Unit::Seconds, "When a set was last found VALID by restoring it.");
    describe_counter!(VERIFICATION_FAILURES_TOTAL, Unit::Count, "Verifications that ended INVALID.");
    describe_gauge!(RUNNING, Unit::Count, "Runs going on.");
    describe_gauge!(DUE_SECONDS, Unit::Seconds, "When the next run of a schedule begins; zero while there is none.");
    describe_counter!(
        MISSED_TOTAL,
        Unit::Count,
        "Scheduled runs that began late, because no worker ran when they were due."
    );
    describe_counter!(
        CLOCK_SET_BACK_TOTAL,
        Unit::Count,
        "Schedules that were planned anew because the clock was set back."
    );
    describe_counter!(REPEATED_TOTAL, Unit::Count, "Runs that were begun again after the end of their worker.");
    gauge!(SIZE_BYTES).set(0.0);
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
        counter!(REPEATED_TOTAL, "kind" => kind.as_str()).absolute(0);
    }
    for name in ScheduleName::VARIANTS {
        gauge!(DUE_SECONDS, "schedule" => name.as_str()).set(0.0);
        counter!(MISSED_TOTAL, "schedule" => name.as_str()).absolute(0);
        counter!(CLOCK_SET_BACK_TOTAL, "schedule" => name.as_str()).absolute(0);
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
        RunOutcome::Cancelled { .. } => "cancelled",
        RunOutcome::Interrupted => "interrupted",
    };
    counter!(RUNS_TOTAL, "kind" => kind.as_str(), "outcome" => name).increment(1);
}

/// Exports the size of the last set; read from the store after a restart.
#[expect(clippy::cast_precision_loss, reason = "a set is far smaller than f64 has integers")]
pub fn show_size(bytes: u64) {
    gauge!(SIZE_BYTES).set(bytes as f64);
}

fn show_made(size_bytes: u64, now: OffsetDateTime) {
    show_size(size_bytes);
    gauge!(LAST_SUCCESS_SECONDS).set(seconds(now));
}

/// Exports what the store has of the newest sets: other workers make and verify some, and so did earlier processes.
pub fn show_newest(newest: &Newest) {
    let shown = [
        (LAST_SUCCESS_SECONDS, newest.made_at),
        (LAST_VERIFIED_SECONDS, newest.verified_at),
        (LAST_RESTORE_TEST_SECONDS, newest.restored_at),
    ];
    for (name, at) in shown {
        if let Some(at) = at {
            gauge!(name).set(seconds(at));
        }
    }
}

/// Exports when the next run of a schedule begins.
pub fn show_due(schedule: ScheduleName, at: OffsetDateTime) {
    gauge!(DUE_SECONDS, "schedule" => schedule.as_str()).set(seconds(at));
}

/// Counts a scheduled run that began late.
pub fn missed(schedule: ScheduleName) {
    counter!(MISSED_TOTAL, "schedule" => schedule.as_str()).increment(1);
}

/// Counts a schedule that was planned anew because the clock was set back.
pub fn clock_set_back(schedule: ScheduleName) {
    counter!(CLOCK_SET_BACK_TOTAL, "schedule" => schedule.as_str()).increment(1);
}

/// Counts a run that was begun again.
pub fn repeated(kind: RunKind) {
    counter!(REPEATED_TOTAL, "kind" => kind.as_str()).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far fewer than f64 has integers")]
fn seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp() as f64
}

fn is_possible(kind: RunKind, outcome: &str) -> bool {
    match kind {
        RunKind::Create => matches!(outcome, "made" | "failed" | "cancelled" | "interrupted"),
        RunKind::Verify => outcome != "made",
    }
}
