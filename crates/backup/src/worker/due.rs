//! What begins without a request: scheduled runs, runs that were cut off, and the verification of each new set.

use std::time::Duration;

use problem::{Chain, Problem};
use strum::VariantArray as _;
use telemetry::FailureLog;
use tokio::time::timeout;

use super::{Recording, Worker};
use crate::{
    metrics,
    run::{Run, RunKind},
    schedule::{Decision, Planned, Schedule, ScheduleName},
    set_name::SetName,
    store::StoreError,
};

/// How often it is looked whether something is due.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Why nothing could be begun.
#[derive(Debug, thiserror::Error)]
enum DueError {
    #[error("cannot ask the database what is due")]
    Store(#[from] StoreError),
    #[error("cannot list the sets")]
    Sets(#[from] std::io::Error),
    #[error("cannot begin a run that is due")]
    Begin(#[source] Box<Problem>),
}

// === impl Worker ===

impl Worker {
    /// Begins what is due, again and again.
    pub async fn begin_due_runs(&self) {
        let mut failures = FailureLog::once();
        loop {
            match self.begin_due().await {
                Ok(()) if failures.recovered() => tracing::info!("scheduled backups go on"),
                Ok(()) => {}
                Err(error) => {
                    if failures.failed() {
                        tracing::warn!(error = %Chain(&error), "scheduled backups wait; tried again every few seconds");
                    }
                }
            }
            // What comes first: the time to look again, or a set that was made.
            let _elapsed = timeout(LOOK_PERIOD, self.0.set_made.notified()).await;
        }
    }

    /// A schedule that is off has nothing planned, so that nothing is made up for when it is on again.
    pub(super) async fn forget_schedules_that_are_off(&self) -> Result<(), StoreError> {
        for name in ScheduleName::VARIANTS {
            if !self.0.settings.schedules.iter().any(|(on, _)| on == name) {
                self.0.store.forget_schedule(*name).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn show_newest(&self) -> Result<(), StoreError> {
        metrics::show_newest(&self.0.store.newest().await?);
        Ok(())
    }

    async fn begin_due(&self) -> Result<(), DueError> {
        self.fail_orphaned_runs().await?;
        self.0.store.forget_obsolete_repeats().await?;
        for kind in RunKind::VARIANTS {
            self.begin_repeat(*kind).await?;
        }
        self.begin_due_verification().await?;
        for (name, schedule) in &self.0.settings.schedules {
            self.look_at(*name, schedule).await?;
        }
        self.show_newest().await?;
        Ok(())
    }

    /// Begins a run again that was cut off by the end of its worker.
    async fn begin_repeat(&self, kind: RunKind) -> Result<(), DueError> {
        let Some(cut_off) = self.0.store.repeat_due(kind).await? else { return Ok(()) };
        let attempt = cut_off.attempt.saturating_add(1);
        let run = Run { attempt, ..self.new_run(kind, cut_off.set, cut_off.requested_by) };
        let (this, repeat) = (self.clone(), run.clone());
        let recorded = Box::pin(async move {
            let _recording = this.0.recording.lock().await;
            this.0.store.begin_repeat(cut_off.id, &repeat).await
        });
        if self.begin_run(run, recorded).await? {
            metrics::repeated(kind);
        }
        Ok(())
    }

    /// Verifies a set that was made, once.
    async fn begin_due_verification(&self) -> Result<(), DueError> {
        let Some(due) = self.0.store.verification_due().await? else { return Ok(()) };
        let run = self.new_run(RunKind::Verify, Some(due.set), format!("run:{}", due.created_by));
        let (this, verification) = (self.clone(), run.clone());
        let recorded = Box::pin(async move {
            let _recording = this.0.recording.lock().await;
            match this.0.store.begin(&verification).await {
                Err(StoreError::Busy) => Ok(false),
                recorded => recorded.map(|()| true),
            }
        });
        self.begin_run(run, recorded).await?;
        Ok(())
    }

    async fn look_at(&self, name: ScheduleName, schedule: &Schedule) -> Result<(), DueError> {
        if name == ScheduleName::VerifyOlder && self.0.verifier.is_none() {
            return Ok(());
        }
        let (now, store, schedule_name) = (self.now(), &self.0.store, name.as_str());
        let jitter = draw(schedule.jitter_max());
        let Some(planned) = store.planned(name).await? else {
            if let Some(first) = schedule.plan(now, jitter) {
                store.plan(name, &first).await?;
            }
            return Ok(());
        };
        metrics::show_due(name, planned.due_at);
        let expression = schedule.expression();
        let next = |due_at, worker| Planned { expression: expression.to_owned(), due_at, planned_at: now, worker };
        match schedule.decide(&planned, now, store.worker(), jitter) {
            Decision::Wait => {}
            Decision::Change(due_at) => {
                if store.replan(name, &planned, &next(due_at, planned.worker)).await? {
                    tracing::info!(schedule = schedule_name, expression, %due_at, "the schedule changed");
                }
            }
            Decision::ClockSetBack(due_at) => {
                if store.replan(name, &planned, &next(due_at, planned.worker)).await? {
                    metrics::clock_set_back(name);
                    tracing::warn!(schedule = schedule_name, %now, planned_at = %planned.planned_at, was_due_at = %planned.due_at, %due_at, "the clock was set back; the next scheduled run begins by the clock as it is now, so that no day is left out, and what ran at this time before runs once more; check the clock");
                }
            }
            Decision::Begin { next_due_at, is_late } => {
                self.begin_scheduled(name, planned, next(next_due_at, Some(store.worker())), is_late).await?;
            }
        }
        Ok(())
    }

    async fn begin_scheduled(
        &self,
        name: ScheduleName,
        planned: Planned,
        next: Planned,
        is_late: bool,
    ) -> Result<(), DueError> {
        let (kind, set) = match name {
            ScheduleName::Create => (RunKind::Create, None),
            ScheduleName::VerifyOlder => {
                let Some(set) = self.older_set().await? else {
                    // There is one set or none, and the newest is verified when it is made.
                    self.0.store.replan(name, &planned, &next).await?;
                    return Ok(());
                };
                (RunKind::Verify, Some(set))
            }
        };
        let (schedule, due_at) = (name.as_str(), planned.due_at);
        let run = self.new_run(kind, set, format!("schedule:{schedule}"));
        let (this, scheduled, id) = (self.clone(), run.clone(), run.id);
        let recorded = Box::pin(async move {
            let _recording = this.0.recording.lock().await;
            this.0.store.begin_scheduled(name, &scheduled, &planned, &next).await
        });
        if self.begin_run(run, recorded).await? && is_late {
            metrics::missed(name);
            tracing::info!(run = %id, schedule, %due_at, "a scheduled run was missed, and is made up for once");
        }
        Ok(())
    }

    /// The set that was verified longest ago, other than the newest.
    async fn older_set(&self) -> Result<Option<SetName>, DueError> {
        let mut sets = SetName::list(self.0.builder.root.path())?;
        sets.pop();
        let names: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let oldest = self.0.store.verified_longest_ago(&names).await?;
        Ok(sets.into_iter().find(|set| Some(set.to_string()) == oldest))
    }

    /// Begins a run of either kind. False when it is not to begin now.
    async fn begin_run(&self, run: Run, record: Recording) -> Result<bool, DueError> {
        let begun = match (run.set.clone(), self.0.verifier.clone()) {
            (None, _) => self.begin(run.clone(), record, |progress| self.build(&run, progress)).await,
            (Some(set), Some(verifier)) => {
                self.begin(run, record, |progress| self.verify(verifier, set, progress)).await
            }
            // The key was taken away since; this begins when there is one again.
            (Some(_), None) => Ok(None),
        };
        begun.map(|run| run.is_some()).map_err(|problem| DueError::Begin(Box::new(problem)))
    }
}

/// A time up to the longest, at random.
fn draw(longest: Duration) -> Duration {
    let mut bytes = [0; 8];
    // A system without random bytes begins its runs without jitter.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return Duration::ZERO;
    }
    Duration::from_secs(u64::from_le_bytes(bytes) % longest.as_secs().saturating_add(1))
}
