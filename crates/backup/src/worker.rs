//! Runs: one of each kind at a time, in tasks of their own, recorded from beginning to end.

mod due;

use std::{
    collections::BTreeSet,
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
    time::{sleep, timeout},
};
use tracing::field::display;
use uuid::Uuid;

use crate::{
    RETRIES, metrics,
    run::{ATTEMPTS_MAX, Run, RunKind, RunOutcome, RunState, Verdict},
    schedule::{Schedule, ScheduleName},
    set_builder::SetBuilder,
    set_name::SetName,
    store::{Store, StoreError},
    verify::Verifier,
};

/// While a run is under way, other workers are told so this often, and its worker learns that they gave it up.
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
    /// Runs that a task of this process works on; any other that is running by the database is orphaned.
    active_runs: Mutex<BTreeSet<Uuid>>,
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
        let (recorded, work) = (self.record_requested(&run), self.build(&run));
        self.begin(run, recorded, work).await?.ok_or_else(|| refuse(StoreError::Busy))
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
        let (recorded, work) = (self.record_requested(&run), self.verify(verifier, set));
        self.begin(run, recorded, work).await?.ok_or_else(|| refuse(StoreError::Busy))
    }

    /// Fails the runs that an earlier process left running, and lets new ones begin.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.0.store.adopt().await?;
        self.fail_orphaned_runs().await?;
        self.forget_schedules_that_are_off().await?;
        self.show_newest().await?;
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
        }
    }

    fn build(&self, run: &Run) -> Work {
        let (this, id, started_at) = (self.clone(), run.id, run.started_at);
        Box::pin(async move {
            let recorded_last = this.0.store.last_made().await.map_err(|error| Chain(&error).to_string())?;
            let made = this.0.builder.build(id, recorded_last, started_at).await;
            made.map(RunOutcome::Built).map_err(|error| Chain(&error).to_string())
        })
    }

    fn verify(&self, verifier: Verifier, set: SetName) -> Work {
        let this = self.clone();
        Box::pin(async move {
            let recorded = this.0.store.manifest_of(&set.to_string()).await;
            let recorded = recorded.map_err(|error| Chain(&error).to_string())?;
            let verdict = verifier.verify(&set, recorded).await;
            verdict.map(RunOutcome::Verified).map_err(|error| Chain(&error).to_string())
        })
    }

    /// Begins a run and does its work in a task, so that a caller that disconnects does not end it. `record` stores that it
    /// began, unless it is not to begin.
    async fn begin(&self, run: Run, record: Recording, work: Work) -> Result<Option<Run>, Problem> {
        if !self.0.is_prepared.load(Ordering::Acquire) {
            return Err(Problem::unavailable("the worker is starting"));
        }
        let (answer, begun) = oneshot::channel();
        let this = self.clone();
        self.0.lifecycle.spawn(run.kind.as_str(), async move {
            let _active = ActiveRun::start(run.id, &this);
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
                this.work(&run, work).await;
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
        let active_runs: Vec<Uuid> = self.0.active_runs.lock().iter().copied().collect();
        let orphaned = self.0.store.fail_orphaned(&active_runs, self.now()).await?;
        if orphaned > 0 {
            tracing::warn!(runs = orphaned, "runs that no worker is at work on any more were marked as failed");
        }
        Ok(orphaned)
    }

    /// Does the work of a run, and stores its outcome.
    async fn work(&self, run: &Run, work: Work) {
        let (begun, stop, run_timeout) = (Instant::now(), self.0.lifecycle.soft_stop(), self.0.settings.run_timeout);
        let outcome = tokio::select! {
            biased;
            worked = timeout(run_timeout, work) => match worked {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => RunOutcome::Failed(error),
                Err(_) => RunOutcome::Failed(format!("took longer than {} s", run_timeout.as_secs())),
            },
            () = self.given_up(run.id) => RunOutcome::Failed("given up: other workers did not see this one any more".to_owned()),
            () = stop.cancelled() => RunOutcome::Interrupted,
        };
        log(run, &outcome);
        metrics::ended(run.kind, &outcome, begun.elapsed(), self.now());
        self.store_outcome(run.id, &outcome).await;
        if matches!(outcome, RunOutcome::Built(_)) {
            self.0.set_made.notify_one();
        }
    }

    /// Tells other workers that a run is under way, until the database says that it is not.
    async fn given_up(&self, id: Uuid) {
        loop {
            sleep(SEEN_PERIOD).await;
            // While the database is away, no other worker learns anything of the run either.
            if matches!(self.0.store.see(id).await, Ok(false)) {
                return;
            }
        }
    }

    /// Stores how a run ended. It would block every other run until then, so this goes on until the database is back.
    /// If the process ends before, the next one marks the run as interrupted.
    async fn store_outcome(&self, id: Uuid, outcome: &RunOutcome) {
        let mut failures = FailureLog::once();
        let is_verified_next = self.0.settings.verifies_created && self.0.verifier.is_some();
        let retried = (|| self.0.store.finish(id, outcome, is_verified_next, self.now())).retry(RETRIES).notify(|error, _| {
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
        worker.0.active_runs.lock().insert(id);
        Self { id, worker: worker.clone() }
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

fn log(run: &Run, outcome: &RunOutcome) {
    let (id, kind, set) = (run.id, run.kind.as_str(), run.set.as_ref().map(display));
    let (reason, message) = match outcome {
        RunOutcome::Built(made) => {
            tracing::info!(run = %id, kind, set = %made.link.name, size_bytes = made.size_bytes, "backup set built");
            return;
        }
        RunOutcome::Verified(Verdict::Valid) => {
            tracing::info!(run = %id, kind, set, "backup set verified, VALID");
            return;
        }
        RunOutcome::Verified(Verdict::Invalid(reasons)) => {
            (reasons.join("; "), "backup set verified, INVALID; do not rely on it")
        }
        RunOutcome::Failed(reason) => {
            (reason.clone(), "backup run failed: no set was made or verified; fix the reason, then begin a new run")
        }
        RunOutcome::Interrupted if run.attempt < ATTEMPTS_MAX => {
            tracing::info!(run = %id, kind, set, "backup run interrupted by the stop of its worker, which begins it again at its next start");
            return;
        }
        RunOutcome::Interrupted => (
            format!("interrupted by the stop of its worker, in each of {ATTEMPTS_MAX} attempts"),
            "backup run failed: no set was made or verified; begin a new run",
        ),
    };
    tracing::error!(run = %id, kind, set, reason, "{message}");
}
