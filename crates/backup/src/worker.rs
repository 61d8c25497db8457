//! Runs: one of each kind at a time, in tasks of their own, recorded from beginning to end.

use std::{
    collections::BTreeSet,
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
use tokio::{sync::oneshot, time::timeout};
use tracing::field::display;
use uuid::Uuid;

use crate::{
    RETRIES, metrics,
    run::{Run, RunKind, RunOutcome, RunState, Verdict},
    set_builder::SetBuilder,
    set_name::SetName,
    store::{Store, StoreError},
    verify::Verifier,
};

/// The worker. Cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    store: Store,
    builder: SetBuilder,
    /// Absent where the decryption key is stored elsewhere.
    verifier: Option<Verifier>,
    run_timeout: Duration,
    clock: Clock,
    lifecycle: Lifecycle,
    /// Set once the runs that an earlier process left running are failed; a new run could be taken for one of those.
    is_prepared: AtomicBool,
    /// Runs that a task of this process works on; any other that is running by the database is orphaned.
    active_runs: Mutex<BTreeSet<Uuid>>,
}

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
        run_timeout: Duration,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Self {
        let (is_prepared, active_runs) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { store, builder, verifier, run_timeout, clock, lifecycle, is_prepared, active_runs }))
    }

    /// The store of the runs.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Begins to build a set.
    pub async fn begin_create(&self, requested_by: String) -> Result<Run, Problem> {
        let run = self.new_run(RunKind::Create, None, requested_by);
        let (this, id, started_at) = (self.clone(), run.id, run.started_at);
        self.begin(run, async move {
            let recorded_last = this.0.store.last_made().await.map_err(|error| Chain(&error).to_string())?;
            let made = this.0.builder.build(id, recorded_last, started_at).await;
            made.map(RunOutcome::Built).map_err(|error| Chain(&error).to_string())
        })
        .await
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
        self.begin(run, async move {
            let verdict = verifier.verify(&set, recorded).await;
            verdict.map(RunOutcome::Verified).map_err(|error| Chain(&error).to_string())
        })
        .await
    }

    /// Fails the runs that an earlier process left running, and lets new ones begin.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.fail_orphaned_runs().await?;
        if let Some((_, at)) = self.0.store.last_made().await? {
            metrics::show_last_success(at);
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
        }
    }

    /// Begins a run and does its work in a task, so that a caller that disconnects does not end it.
    async fn begin(
        &self,
        run: Run,
        work: impl Future<Output = Result<RunOutcome, String>> + Send + 'static,
    ) -> Result<Run, Problem> {
        if !self.0.is_prepared.load(Ordering::Acquire) {
            return Err(Problem::unavailable("the worker is starting"));
        }
        let (answer, begun) = oneshot::channel();
        let this = self.clone();
        self.0.lifecycle.spawn(run.kind.as_str(), async move {
            let _active = ActiveRun::start(run.id, &this);
            let recorded = this.record(&run).await;
            let is_begun = recorded.is_ok();
            // A caller that disconnected needs no response.
            let _gone = answer.send(recorded.map(|()| run.clone()).map_err(refuse));
            if is_begun {
                this.work(&run, work).await;
            }
        });
        begun.await.unwrap_or_else(|_| Err(Problem::unavailable("the worker is stopping")))
    }

    /// Records a run. One that is running by the database may be orphaned, because the response to its insertion was lost.
    async fn record(&self, run: &Run) -> Result<(), StoreError> {
        let recorded = match self.0.store.begin(run).await {
            Err(StoreError::Busy) if self.fail_orphaned_runs().await? > 0 => self.0.store.begin(run).await,
            recorded => recorded,
        };
        if recorded.is_ok() {
            tracing::info!(run = %run.id, kind = run.kind.as_str(), requested_by = run.requested_by, "run begun");
            metrics::begun(run.kind);
        }
        recorded
    }

    async fn fail_orphaned_runs(&self) -> Result<u64, StoreError> {
        let active_runs: Vec<Uuid> = self.0.active_runs.lock().iter().copied().collect();
        let orphaned = self.0.store.fail_orphaned(&active_runs, self.now()).await?;
        if orphaned > 0 {
            tracing::warn!(runs = orphaned, "orphaned runs were marked as failed");
        }
        Ok(orphaned)
    }

    /// Does the work of a run, and stores its outcome.
    async fn work(&self, run: &Run, work: impl Future<Output = Result<RunOutcome, String>>) {
        let (begun, stop) = (Instant::now(), self.0.lifecycle.soft_stop());
        let outcome = match stop.run_until_cancelled(timeout(self.0.run_timeout, work)).await {
            Some(Ok(Ok(outcome))) => outcome,
            Some(Ok(Err(error))) => RunOutcome::Failed(error),
            Some(Err(_)) => RunOutcome::Failed(format!("took longer than {} s", self.0.run_timeout.as_secs())),
            None => RunOutcome::Failed("interrupted: the worker was stopped while this ran".to_owned()),
        };
        log(run, &outcome);
        metrics::ended(run.kind, &outcome, begun.elapsed(), self.now());
        self.store_outcome(run.id, &outcome).await;
    }

    /// Stores how a run ended. It would block every other run until then, so this goes on until the database is back.
    /// If the process ends before, the next one marks the run as interrupted.
    async fn store_outcome(&self, id: Uuid, outcome: &RunOutcome) {
        let mut failures = FailureLog::once();
        let retried = (|| self.0.store.finish(id, outcome, self.now())).retry(RETRIES).notify(|error, _| {
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
    };
    tracing::error!(run = %id, kind, set, reason, "{message}");
}
