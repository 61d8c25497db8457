//! When runs begin without a request: cron expressions in UTC, with jitter, and what a changed clock means for them.
//!
//! Pure rules. The time that is due next is kept in the database, where one worker claims it (`store/schedules.rs`).

use std::{cmp::Ordering, time::Duration};

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
    time::{CivilDateTime, CronDateTime, Resolution, Weekday},
};
use strum::{IntoStaticStr, VariantArray};
use time::{Date, Month, OffsetDateTime, Time};
use uuid::Uuid;

/// Another worker begins a run that the one which began the last has not begun by then.
const TAKE_OVER_AFTER: time::Duration = time::Duration::minutes(2);
/// A run that begins later than this was missed.
const LATE_AFTER: time::Duration = time::Duration::minutes(10);
/// Clocks of workers may differ by this much. A clock that is further back than the last look was set back.
const CLOCK_TOLERANCE: time::Duration = time::Duration::minutes(15);
/// Occurrences over which the jitter is compared with the time between two.
const COMPARED_OCCURRENCES: usize = 64;

/// The name of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ScheduleName {
    /// A set is made.
    Create,
    /// The set that was verified longest ago is verified.
    VerifyOlder,
}

/// When runs begin.
#[derive(Clone, Debug)]
pub struct Schedule {
    expression: String,
    cron: Cron,
    jitter_max: Duration,
}

/// Why an expression is no schedule.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// It cannot be read.
    #[error("not a cron expression: {0}")]
    Expression(String),
    /// There is no such day.
    #[error("never occurs")]
    Never,
    /// Runs would be skipped.
    #[error("must be shorter than the {0} s between two runs")]
    Jitter(i64),
}

/// What the database has of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The expression that it was planned by.
    pub expression: String,
    /// When the next run begins.
    pub due_at: OffsetDateTime,
    /// The time of the worker that planned it.
    pub planned_at: OffsetDateTime,
    /// The worker that began the last run.
    pub worker: Option<Uuid>,
}

/// What a worker does with a schedule now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Wait,
    /// Plans anew, because the expression is another than before.
    Change(OffsetDateTime),
    /// Plans anew, because the clock was set back past an occurrence, which would be skipped.
    ClockSetBack(OffsetDateTime),
    /// Begins a run.
    Begin {
        /// When the next one is due.
        next_due_at: OffsetDateTime,
        /// Whether it was missed: it stands for all that were.
        is_late: bool,
    },
}

// === impl ScheduleName ===

impl ScheduleName {
    /// The name in the store and the metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Schedule ===

impl Schedule {
    /// Reads an expression. It must occur, and not again within the jitter.
    pub fn parse(expression: &str, jitter_max: Duration) -> Result<Self, ScheduleError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| ScheduleError::Expression(error.to_string()))?;
        let this = Self { expression: expression.to_owned(), cron, jitter_max };
        let mut last = this.next(OffsetDateTime::UNIX_EPOCH).ok_or(ScheduleError::Never)?;
        for _ in 0..COMPARED_OCCURRENCES {
            let Some(next) = this.next(last) else { break };
            if next - last <= jitter_max {
                return Err(ScheduleError::Jitter((next - last).whole_seconds()));
            }
            last = next;
        }
        Ok(this)
    }

    /// The expression.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The longest time that a run begins after its occurrence.
    pub fn jitter_max(&self) -> Duration {
        self.jitter_max
    }

    /// The plan of a worker that finds none: nothing was missed.
    pub fn plan(&self, now: OffsetDateTime, jitter: Duration) -> Option<Planned> {
        let due_at = self.next(now)? + jitter;
        Some(Planned { expression: self.expression.clone(), due_at, planned_at: now, worker: None })
    }

    /// What `worker` does now. `jitter` is drawn by the caller, up to [`jitter_max`](Self::jitter_max).
    ///
    /// A run is due at one occurrence of many, so that several which were missed are one. While the clock goes forward, the
    /// planned occurrence is never behind the next one. It is when the clock went back past an occurrence; then the
    /// occurrence is repeated, since a set more is better than a day without one.
    pub fn decide(&self, planned: &Planned, now: OffsetDateTime, worker: Uuid, jitter: Duration) -> Decision {
        let Some(next) = self.next(now) else { return Decision::Wait };
        let due_at = planned.due_at;
        if due_at <= now {
            let is_of_another = planned.worker.is_some_and(|last| last != worker);
            if is_of_another && now - due_at < TAKE_OVER_AFTER {
                return Decision::Wait;
            }
            return Decision::Begin { next_due_at: next + jitter, is_late: now - due_at > LATE_AFTER };
        }
        if planned.expression != self.expression {
            return Decision::Change(next + jitter);
        }
        let is_set_back = planned.planned_at > now + CLOCK_TOLERANCE;
        if is_set_back && due_at > next + self.jitter_max {
            return Decision::ClockSetBack(next + jitter);
        }
        Decision::Wait
    }

    fn next(&self, after: OffsetDateTime) -> Option<OffsetDateTime> {
        self.cron.find_next_occurrence(&UtcTime(after), false).ok().map(|UtcTime(time)| time)
    }
}

/// A time as croner searches it. In UTC each wall clock time occurs once.
#[derive(Clone)]
struct UtcTime(OffsetDateTime);

impl CronDateTime for UtcTime {
    fn to_civil(&self) -> CivilDateTime {
        let (date, time) = (self.0.date(), self.0.time());
        let [hour, minute, second] = [time.hour(), time.minute(), time.second()].map(u32::from);
        CivilDateTime::from_ymd_hms_opt(
            date.year(),
            u32::from(u8::from(date.month())),
            u32::from(date.day()),
            hour,
            minute,
            second,
        )
        .expect("a time has a valid date and a valid time of day")
    }

    fn civil_weekday(&self) -> Weekday {
        match self.0.weekday() {
            time::Weekday::Monday => Weekday::Monday,
            time::Weekday::Tuesday => Weekday::Tuesday,
            time::Weekday::Wednesday => Weekday::Wednesday,
            time::Weekday::Thursday => Weekday::Thursday,
            time::Weekday::Friday => Weekday::Friday,
            time::Weekday::Saturday => Weekday::Saturday,
            time::Weekday::Sunday => Weekday::Sunday,
        }
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let small = |number: u32| u8::try_from(number).ok();
        let date = || {
            let month = Month::try_from(small(civil.month())?).ok()?;
            Date::from_calendar_date(civil.year(), month, small(civil.day())?).ok()
        };
        let time = || Time::from_hms(small(civil.hour())?, small(civil.minute())?, small(civil.second())?).ok();
        let date = date().ok_or(CronError::InvalidDate)?;
        let time = time().ok_or(CronError::InvalidTime)?;
        Ok(Resolution::Single(Self(date.with_time(time).assume_utc())))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(time::Duration::seconds(seconds)).map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);
    const MINUTE: Duration = Duration::from_secs(60);

    fn daily() -> Schedule {
        Schedule::parse("0 2 * * *", 5 * MINUTE).unwrap()
    }

    fn planned(due_at: OffsetDateTime, planned_at: OffsetDateTime) -> Planned {
        Planned { expression: "0 2 * * *".to_owned(), due_at, planned_at, worker: Some(ME) }
    }

    #[test]
    fn expressions_are_read_in_utc() {
        let next = |expression: &str, after| Schedule::parse(expression, Duration::ZERO).unwrap().next(after).unwrap();
        assert_eq!(next("0 2 * * *", datetime!(2026-11-22 01:59:59 UTC)), datetime!(2026-11-22 02:00 UTC));
        assert_eq!(next("0 2 * * *", datetime!(2026-11-22 02:00 UTC)), datetime!(2026-11-23 02:00 UTC));
        assert_eq!(next("30 4 * * SUN", datetime!(2026-11-22 05:00 UTC)), datetime!(2026-11-29 04:30 UTC));
        assert_eq!(next("0 0 29 2 *", datetime!(2026-11-22 05:00 UTC)), datetime!(2028-02-29 00:00 UTC));
        assert_eq!(next("*/15 * * * *", datetime!(2026-12-31 23:50 UTC)), datetime!(2027-01-01 00:00 UTC));
        // The night in which European clocks are set back has each hour once.
        let autumn = datetime!(2026-10-25 00:30 UTC);
        let hours: Vec<u8> = std::iter::successors(Some(autumn), |time| Some(next("30 * * * *", *time)))
            .take(4)
            .map(|time| time.hour())
            .collect();
        assert_eq!(hours, [0, 1, 2, 3]);
    }

    /// Proves catch-up: of all runs that were missed one is made, and the next is in the future.
    #[test]
    fn missed_runs_are_one() {
        let planned = planned(datetime!(2026-11-19 02:03 UTC), datetime!(2026-11-18 02:00 UTC));
        let now = datetime!(2026-11-22 09:00 UTC);
        let next_due_at = datetime!(2026-11-23 02:01 UTC);
        assert_eq!(daily().decide(&planned, now, ME, MINUTE), Decision::Begin { next_due_at, is_late: true });
    }

    #[test]
    fn a_run_begins_when_it_is_due_and_not_before() {
        let planned = planned(datetime!(2026-11-22 02:03 UTC), datetime!(2026-11-21 02:01 UTC));
        let decide = |now| daily().decide(&planned, now, ME, MINUTE);
        assert_eq!(decide(datetime!(2026-11-22 02:02:59 UTC)), Decision::Wait);
        let next_due_at = datetime!(2026-11-23 02:01 UTC);
        assert_eq!(decide(datetime!(2026-11-22 02:03 UTC)), Decision::Begin { next_due_at, is_late: false });
    }

    /// Proves that the sets of one chain go on in one place while its worker is there, and elsewhere when it is not.
    #[test]
    fn the_worker_that_began_the_last_run_begins_the_next() {
        let planned = planned(datetime!(2026-11-22 02:00 UTC), datetime!(2026-11-21 02:00 UTC));
        let decide = |now| daily().decide(&planned, now, OTHER, Duration::ZERO);
        assert_eq!(decide(datetime!(2026-11-22 02:01:59 UTC)), Decision::Wait);
        assert!(matches!(decide(datetime!(2026-11-22 02:02 UTC)), Decision::Begin { is_late: false, .. }));
    }

    /// Proves that a clock set back a day leads to no day without a set, and that this is told; and that a clock set back
    /// by minutes changes nothing.
    #[test]
    fn a_clock_that_is_set_back_skips_no_run() {
        let begun_at = datetime!(2026-11-22 02:03 UTC);
        let planned = planned(datetime!(2026-11-23 02:04 UTC), begun_at);
        let decide = |now| daily().decide(&planned, now, ME, MINUTE);
        let again = Decision::ClockSetBack(datetime!(2026-11-22 02:01 UTC));
        assert_eq!(decide(datetime!(2026-11-21 10:00 UTC)), again);
        assert_eq!(decide(datetime!(2026-11-22 01:45 UTC)), again);
        assert_eq!(decide(datetime!(2026-11-22 01:55 UTC)), Decision::Wait, "nothing is skipped, and nothing repeated");
        assert_eq!(decide(datetime!(2026-11-22 09:00 UTC)), Decision::Wait);
        // Set back, but not past an occurrence.
        let planned = Planned { planned_at: datetime!(2026-11-22 20:00 UTC), ..planned };
        assert_eq!(daily().decide(&planned, datetime!(2026-11-22 10:00 UTC), ME, MINUTE), Decision::Wait);
    }

    /// Proves that a clock which was far ahead for a while leaves no plan for that far time.
    #[test]
    fn a_clock_that_was_ahead_is_forgotten() {
        let planned = planned(datetime!(2031-01-02 02:00 UTC), datetime!(2031-01-01 12:00 UTC));
        let due_at = datetime!(2026-11-23 02:00 UTC);
        let now = datetime!(2026-11-22 12:00 UTC);
        assert_eq!(daily().decide(&planned, now, ME, Duration::ZERO), Decision::ClockSetBack(due_at));
    }

    #[test]
    fn another_expression_is_planned_anew_unless_a_run_is_due() {
        let planned = Planned {
            expression: "0 3 * * *".to_owned(),
            ..planned(datetime!(2026-11-22 03:00 UTC), datetime!(2026-11-21 03:00 UTC))
        };
        let decide = |now| daily().decide(&planned, now, ME, Duration::ZERO);
        assert_eq!(decide(datetime!(2026-11-22 01:00 UTC)), Decision::Change(datetime!(2026-11-22 02:00 UTC)));
        assert!(matches!(decide(datetime!(2026-11-22 03:00 UTC)), Decision::Begin { .. }));
    }
}
