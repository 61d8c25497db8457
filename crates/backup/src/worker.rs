//! Runs: one of each kind at a time, in tasks of their own, recorded from beginning to end.

mod due;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use authz::Clock;
use backon::Retryable;
use parking_lot::Mutex;
use problem::{Chain, Kind, Problem};
use service::Lifecycle;
use telemetry::FailureLog;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    RETRIES, metrics,
    progress::{Progress, Reached},
    run::{ATTEMPTS_MAX, Run, RunKind, RunOutcome, RunState, Verdict},
    schedule::{Schedule, ScheduleName},
    set_builder::SetBuilder,
    set_name::SetName,
    store::{Seen, Store, StoreError},
    verify::Verifier,
};

/// While a run is under way, the database is told how far it is this often, and asked whether it is to be ended.
const SEEN_PERIOD: Duration = Duration::from_secs(1);

/// The worker. Cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    store: Store,
    builder: SetBuilder,
    /// Absent where the decryption key is stored elsewhere.
    verifier: Option<Verifier>,
    settings: Settings,
    clock: Clock,
    lifecycle: Lifecycle,
    /// Set once the runs that an earlier process left running are failed; a new run could be taken for one of those.
    is_prepared: AtomicBool,
    /// Runs that a task of this process works on, and what wakes it when one is cancelled; any other of this worker that is
    /// running by the database is orphaned.
    active_runs: Mutex<BTreeMap<Uuid, Arc<Notify>>>,
    /// Held while a run is recorded, and while orphaned ones are looked for: a run that is recorded after the active ones were
    /// listed would be taken for orphaned.
    recording: tokio::sync::Mutex<()>,
    /// A set was made, which may have to be verified.
    set_made: Notify,
}

/// How a worker is configured.
pub struct Settings {
    /// How long a run may take.
    pub run_timeout: Duration,
    /// What it begins without a request.
    pub schedules: Vec<(ScheduleName, Schedule)>,
    /// Whether it verifies each set once it is made.
    pub verifies_created: bool,
}

/// The work of a run; on the heap, because it holds that of every phase.
type Work = Pin<Box<dyn Future<Output = Result<RunOutcome, String>> + Send>>;

/// Records that a run began. False if it is not to begin.
type Recording = Pin<Box<dyn Future<Output = Result<bool, StoreError>> + Send>>;

/// A run is active while this lives.
struct ActiveRun {
    id: Uuid,
    worker: Worker,
    cancelled: Arc<Notify>,
}

// === impl Worker ===

impl Worker {
    /// A worker whose runs end with the lifecycle.
    pub fn new(
        store: Store,
        builder: SetBuilder,
        verifier: Option<Verifier>,
        settings: Settings,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            builder,
            verifier,
            settings,
            clock,
            lifecycle,
            is_prepared: AtomicBool::new(false),
            active_runs: Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            set_made: Notify::new(),
        }))
    }

    /// The store of the runs.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Begins to build a set.
    pub async fn begin_create(&self, requested_by: String) -> Result<Run, Problem> {
        let run = self.new_run(RunKind::Create, None, requested_by);
        self.begin(run.clone(), self.record_requested(&run), |progress| self.build(&run, progress))
            .await?
            .ok_or_else(|| refuse(StoreError::Busy))
    }

    /// Begins to verify a set.
    pub async fn begin_verify(&self, set: SetName, requested_by: String) -> Result<Run, Problem> {
        let verifier = self.0.verifier.clone().ok_or_else(|| {
            let detail = "this worker has no decryption key (backup.age_identity_file): verify where the key is kept, \
                          with rampart-backup verify";
            Problem::new(Kind::Conflict, detail)
        })?;
        let recorded = self.0.store.manifest_of(&set.to_string()).await.map_err(refuse)?;
        if recorded.is_none() && !set.directory(&verifier.root).is_dir() {
            return Err(Problem::new(Kind::NotFound, format!("there is no set {set}, and none was made here")));
        }
        let run = self.new_run(RunKind::Verify, Some(set.clone()), requested_by);
        let recorded = self.record_requested(&run);
        self.begin(run, recorded, |progress| self.verify(verifier, set, progress))
            .await?
            .ok_or_else(|| refuse(StoreError::Busy))
    }

    /// Ends a run that is under way, on whichever worker; that one does so within a second. Once more is harmless.
    pub async fn cancel(&self, id: Uuid, by: &str) -> Result<Option<Run>, Problem> {
        let is_under_way = self.0.store.cancel(id, by).await.map_err(refuse)?;
        if is_under_way {
            if let Some(cancelled) = self.0.active_runs.lock().get(&id) {
                cancelled.notify_one();
            }
            // No worker may be at work on it.
            self.fail_orphaned_runs().await.map_err(refuse)?;
        }
        match self.0.store.run(id).await.map_err(refuse)? {
            Some(run) if !is_under_way && run.state != RunState::Cancelled => {
                let detail = format!("the run has ended, it {}: there is nothing to cancel", <&str>::from(run.state));
                Err(Problem::new(Kind::Conflict, detail))
            }
            run => Ok(run),
        }
    }

    /// Fails the runs that an earlier process left running, and lets new ones begin.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.0.store.adopt().await?;
        self.fail_orphaned_runs().await?;
        self.forget_schedules_that_are_off().await?;
        self.show_newest().await?;
        if let Some(bytes) = self.0.store.last_size().await? {
            metrics::show_size(bytes);
        }
        self.0.is_prepared.store(true, Ordering::Release);
        Ok(())
    }

    fn new_run(&self, kind: RunKind, set: Option<SetName>, requested_by: String) -> Run {
        Run {
            id: Uuid::now_v7(),
            kind,
            set,
            state: RunState::Running,
            verdict: None,
            error: None,
            requested_by,
            started_at: self.now(),
            finished_at: None,
            size_bytes: None,
            attempt: 1,
            reached: Reached::default(),
            cancelled_by: None,
        }
    }

    fn build(&self, run: &Run, progress: Progress) -> Work {
        let (this, id, started_at) = (self.clone(), run.id, run.started_at);
        Box::pin(async move {
            let recorded_last = this.0.store.last_made().await.map_err(|error| Chain(&error).to_string())?;
            let last_size = this.0.store.last_size().await.map_err(|error| Chain(&error).to_string())?;
            progress.expect(last_size.unwrap_or_default());
            let made = this.0.builder.build(id, recorded_last, started_at, &progress).await;
            made.map(RunOutcome::Built).map_err(|error| Chain(&error).to_string())
        })
    }

    fn verify(&self, verifier: Verifier, set: SetName, progress: Progress) -> Work {
        let this = self.clone();
        Box::pin(async move {
            let recorded = this.0.store.manifest_of(&set.to_string()).await;
            let recorded = recorded.map_err(|error| Chain(&error).to_string())?;
            let verdict = verifier.verify(&set, recorded, &progress).await;
            verdict.map(RunOutcome::Verified).map_err(|error| Chain(&error).to_string())
        })
    }

    /// Begins a run and does its work in a task, so that a caller that disconnects does not end it. `record` stores that it
    /// began, unless it is not to begin.
    async fn begin(
        &self,
        run: Run,
        record: Recording,
        work: impl FnOnce(Progress) -> Work,
    ) -> Result<Option<Run>, Problem> {
        if !self.0.is_prepared.load(Ordering::Acquire) {
            return Err(Problem::unavailable("the worker is starting"));
        }
        let (answer, begun) = oneshot::channel();
        let (this, progress) = (self.clone(), Progress::default());
        let work = work(progress.clone());
        self.0.lifecycle.spawn(run.kind.as_str(), async move {
            let active = ActiveRun::start(run.id, &this);
            let recorded = record.await;
            let is_begun = matches!(recorded, Ok(true));
            if is_begun {
                let (kind, attempt) = (run.kind.as_str(), run.attempt);
                tracing::info!(run = %run.id, kind, requested_by = run.requested_by, attempt, "run begun");
                metrics::begun(run.kind);
            }
            // A caller that disconnected needs no response.
            let _gone = answer.send(recorded.map(|is_begun| is_begun.then(|| run.clone())).map_err(refuse));
            if is_begun {
                this.work(&run, work, &progress, &active.cancelled).await;
            }
        });
        begun.await.unwrap_or_else(|_| Err(Problem::unavailable("the worker is stopping")))
    }

    /// Records a run. One that is running by the database may be orphaned, because the response to its insertion was lost.
    fn record_requested(&self, run: &Run) -> Recording {
        let (this, run) = (self.clone(), run.clone());
        Box::pin(async move {
            let recording = this.0.recording.lock().await;
            let recorded = this.0.store.begin(&run).await;
            drop(recording);
            let recorded = match recorded {
                Err(StoreError::Busy) if this.fail_orphaned_runs().await? > 0 => {
                    let _recording = this.0.recording.lock().await;
                    this.0.store.begin(&run).await
                }
                recorded => recorded,
            };
            recorded.map(|()| true)
        })
    }

    async fn fail_orphaned_runs(&self) -> Result<u64, StoreError> {
        let _recording = self.0.recording.lock().await;
        let active_runs: Vec<Uuid> = self.0.active_runs.lock().keys().copied().collect();
        let orphaned = self.0.store.fail_orphaned(&active_runs, self.now()).await?;
        if orphaned > 0 {
            tracing::warn!(runs = orphaned, "runs that no worker is at work on any more were marked as failed");
        }
        Ok(orphaned)
    }

    /// Does the work of a run, and stores its outcome.
    async fn work(&self, run: &Run, work: Work, progress: &Progress, cancelled: &Notify) {
        let (begun, stop, run_timeout) = (Instant::now(), self.0.lifecycle.soft_stop(), self.0.settings.run_timeout);
        let outcome = tokio::select! {
            biased;
            worked = timeout(run_timeout, work) => match worked {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => RunOutcome::Failed(error),
                Err(_) => RunOutcome::Failed(format!("took longer than {} s", run_timeout.as_secs())),
            },
            outcome = self.ended_by_others(run.id, progress, cancelled) => outcome,
            () = stop.cancelled() => RunOutcome::Interrupted,
        };
        log(run, &outcome);
        metrics::ended(run.kind, &outcome, begun.elapsed(), self.now());
        self.store_outcome(run.id, &outcome, progress.reached()).await;
        if matches!(outcome, RunOutcome::Built(_)) {
            self.0.set_made.notify_one();
        }
    }

    /// Stores how far a run is, until it was cancelled or the database says that it is over.
    async fn ended_by_others(&self, id: Uuid, progress: &Progress, cancelled: &Notify) -> RunOutcome {
        loop {
            // What comes first: the time to tell how far it is, or a caller who cancels here.
            let _elapsed = timeout(SEEN_PERIOD, cancelled.notified()).await;
            match self.0.store.see(id, progress.reached()).await {
                // While the database is away, no other worker learns anything of the run either.
                Ok(Seen::UnderWay) | Err(_) => {}
                Ok(Seen::Cancelled { by }) => return RunOutcome::Cancelled { by },
                Ok(Seen::Over) => {
                    return RunOutcome::Failed("given up: other workers did not see this one any more".to_owned());
                }
            }
        }
    }

    /// Stores how a run ended. It would block every other run until then, so this goes on until the database is back.
    /// If the process ends before, the next one marks the run as interrupted.
    async fn store_outcome(&self, id: Uuid, outcome: &RunOutcome, reached: Reached) {
        let mut failures = FailureLog::once();
        let is_verified_next = self.0.settings.verifies_created && self.0.verifier.is_some();
        let retried = (|| self.0.store.finish(id, outcome, reached, is_verified_next, self.now())).retry(RETRIES).notify(|error, _| {
            if failures.failed() {
                tracing::warn!(run = %id, error = %Chain(error), "the outcome of a run cannot be stored yet, trying again");
            }
        });
        let _retried_until_stored = retried.await;
    }

    fn now(&self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0.clock.now()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

// === impl ActiveRun ===

impl ActiveRun {
    fn start(id: Uuid, worker: &Worker) -> Self {
        let cancelled = Arc::new(Notify::new());
        worker.0.active_runs.lock().insert(id, Arc::clone(&cancelled));
        Self { id, worker: worker.clone(), cancelled }
    }
}

impl Drop for ActiveRun {
    fn drop(&mut self) {
        self.worker.0.active_runs.lock().remove(&self.id);
    }
}

/// The problem that the caller gets for an error of the store.
pub fn refuse(error: StoreError) -> Problem {
    match error {
        StoreError::Busy => Problem::new(Kind::Conflict, "a run of this kind is going on: wait for its end"),
        StoreError::Damaged { .. } => Problem::internal(error),
        StoreError::Database(error) => database::map_error(error),
    }
}

/// What went well or was wanted is INFO; the rest needs a person.
fn log(run: &Run, outcome: &RunOutcome) {
    let (id, kind, mut set) = (run.id, run.kind.as_str(), run.set.as_ref().map(ToString::to_string));
    let (mut size_bytes, mut by) = (None, None);
    let message = match outcome {
        RunOutcome::Built(made) => {
            (set, size_bytes) = (Some(made.link.name.to_string()), Some(made.size_bytes));
            "backup set built"
        }
        RunOutcome::Verified(Verdict::Valid) => "backup set verified, VALID",
        RunOutcome::Cancelled { by: canceller } => {
            by = Some(canceller.as_str());
            "backup run cancelled, nothing of it stays"
        }
        RunOutcome::Interrupted if run.attempt < ATTEMPTS_MAX => {
            "backup run interrupted by the stop of its worker, which begins it again at its next start"
        }
        RunOutcome::Verified(Verdict::Invalid(_)) | RunOutcome::Failed(_) | RunOutcome::Interrupted => {
            let (reason, message) = fault(outcome);
            tracing::error!(run = %id, kind, set, reason, "{message}");
            return;
        }
    };
    tracing::info!(run = %id, kind, set, size_bytes, by, "{message}");
}

/// Why a run is a fault, and what to do.
fn fault(outcome: &RunOutcome) -> (String, &'static str) {
    match outcome {
        RunOutcome::Verified(Verdict::Invalid(reasons)) => {
            (reasons.join("; "), "backup set verified, INVALID; do not rely on it")
        }
        RunOutcome::Failed(reason) => {
            (reason.clone(), "backup run failed: no set was made or verified; fix the reason, then begin a new run")
        }
        _ => (
            format!("interrupted by the stop of its worker, in each of {ATTEMPTS_MAX} attempts"),
            "backup run failed: no set was made or verified; begin a new run",
        ),
    }
}
