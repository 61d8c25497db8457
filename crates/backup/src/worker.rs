//! Runs: begun one at a time, worked on beside the calls that asked for them, and remembered to their end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use authz::Clock;
use parking_lot::Mutex;
use problem::{Chain, Kind as ProblemKind, Problem};
use service::Lifecycle;
use time::OffsetDateTime;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    create::Maker,
    metrics,
    run::{Kind, Outcome, Run, State, Verdict},
    set::SetName,
    store::{Store, StoreError},
    verify::Verifier,
};

/// Between two attempts to remember how a run ended, while the database is away.
const FINISH_PAUSE: Duration = Duration::from_secs(1);

/// The worker. Cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    store: Store,
    maker: Maker,
    /// Absent where the decryption key is kept elsewhere.
    verifier: Option<Verifier>,
    run_timeout: Duration,
    clock: Clock,
    lifecycle: Lifecycle,
    /// Until what an earlier process left running is ended, a new run could be taken for one of those.
    is_prepared: AtomicBool,
    /// Runs that a task of this process begins, does or remembers; what else runs by the database, nobody works on.
    worked_on: Mutex<BTreeSet<Uuid>>,
}

/// A run is worked on while this lives.
struct WorkedOn {
    id: Uuid,
    worker: Worker,
}

// === impl Worker ===

impl Worker {
    /// A worker whose runs end with the lifecycle.
    pub fn new(
        store: Store,
        maker: Maker,
        verifier: Option<Verifier>,
        run_timeout: Duration,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Self {
        let (is_prepared, worked_on) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { store, maker, verifier, run_timeout, clock, lifecycle, is_prepared, worked_on }))
    }

    /// Where runs are remembered.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Begins to make a set.
    pub async fn begin_create(&self, requested_by: String) -> Result<Run, Problem> {
        let run = self.new_run(Kind::Create, None, requested_by);
        let (this, id, started_at) = (self.clone(), run.id, run.started_at);
        self.begin(run, async move {
            let remembered = this.0.store.last_made().await.map_err(|error| told(&error))?;
            let made = this.0.maker.make(id, remembered, started_at).await;
            made.map(Outcome::Made).map_err(|error| told(&error))
        })
        .await
    }

    /// Begins to prove a set.
    pub async fn begin_verify(&self, set: SetName, requested_by: String) -> Result<Run, Problem> {
        let verifier = self.0.verifier.clone().ok_or_else(|| {
            let detail = "this worker has no decryption key (backup.age_identity_file): verify where the key is kept, \
                          with rampart-backup verify";
            Problem::new(ProblemKind::Conflict, detail)
        })?;
        let recorded = self.0.store.manifest_of(&set.to_string()).await.map_err(refuse)?;
        if recorded.is_none() && !set.directory(&verifier.root).is_dir() {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is no set {set}, and none was made here")));
        }
        let run = self.new_run(Kind::Verify, Some(set.clone()), requested_by);
        self.begin(run, async move {
            let verdict = verifier.verify(&set, recorded).await;
            verdict.map(Outcome::Verified).map_err(|error| told(&error))
        })
        .await
    }

    /// What was running when the process before us ended did not come to its end.
    pub async fn fail_interrupted(&self) -> Result<(), StoreError> {
        self.end_strays().await?;
        if let Some((_, at)) = self.0.store.last_made().await? {
            metrics::show_last_success(at);
        }
        self.0.is_prepared.store(true, Ordering::Release);
        Ok(())
    }

    fn new_run(&self, kind: Kind, set: Option<SetName>, requested_by: String) -> Run {
        Run {
            id: Uuid::now_v7(),
            kind,
            set,
            state: State::Running,
            verdict: None,
            error: None,
            requested_by,
            started_at: self.now(),
            finished_at: None,
            size_bytes: None,
        }
    }

    /// Begins a run and does its work beside the caller, who may go away at any moment: what was begun is worked on all the
    /// same, and remembered to its end.
    async fn begin(
        &self,
        run: Run,
        work: impl Future<Output = Result<Outcome, String>> + Send + 'static,
    ) -> Result<Run, Problem> {
        if !self.0.is_prepared.load(Ordering::Acquire) {
            return Err(Problem::unavailable("the worker is starting"));
        }
        let (answer, begun) = oneshot::channel();
        let this = self.clone();
        self.0.lifecycle.spawn(run.kind.as_str(), async move {
            let _worked_on = WorkedOn::start(run.id, &this);
            let (id, kind) = (run.id, run.kind);
            let recorded = this.record(&run).await;
            let is_begun = recorded.is_ok();
            // A caller that went away does not need to know.
            let _gone = answer.send(recorded.map(|()| run).map_err(refuse));
            if is_begun {
                this.work(id, kind, work).await;
            }
        });
        begun.await.unwrap_or_else(|_| Err(Problem::unavailable("the worker is stopping")))
    }

    /// A run may be in the database that nobody works on, because the answer to its beginning was lost.
    async fn record(&self, run: &Run) -> Result<(), StoreError> {
        let recorded = match self.0.store.begin(run).await {
            Err(StoreError::Busy) if self.end_strays().await? > 0 => self.0.store.begin(run).await,
            recorded => recorded,
        };
        if recorded.is_ok() {
            tracing::info!(run = %run.id, kind = run.kind.as_str(), requested_by = run.requested_by, "run begun");
            metrics::begun(run.kind);
        }
        recorded
    }

    async fn end_strays(&self) -> Result<u64, StoreError> {
        let worked_on: Vec<Uuid> = self.0.worked_on.lock().iter().copied().collect();
        let strays = self.0.store.fail_interrupted(&worked_on, self.now()).await?;
        if strays > 0 {
            tracing::warn!(runs = strays, "runs that nobody works on any more are ended");
        }
        Ok(strays)
    }

    /// Does the work of a run, and remembers its end however it comes.
    async fn work(&self, id: Uuid, kind: Kind, work: impl Future<Output = Result<Outcome, String>>) {
        let (begun, stop) = (Instant::now(), self.0.lifecycle.soft_stop());
        let outcome = match stop.run_until_cancelled(timeout(self.0.run_timeout, work)).await {
            Some(Ok(Ok(outcome))) => outcome,
            Some(Ok(Err(error))) => Outcome::Failed(error),
            Some(Err(_)) => Outcome::Failed(format!("took longer than {} s", self.0.run_timeout.as_secs())),
            None => Outcome::Failed("interrupted: the worker was stopped while this ran".to_owned()),
        };
        log(id, kind, &outcome);
        metrics::ended(kind, &outcome, begun.elapsed(), self.now());
        self.remember(id, &outcome).await;
    }

    /// A run that is not remembered as ended would keep every other out, so this goes on until the database is back.
    /// If the process ends before, the next one finds the run and calls it interrupted.
    async fn remember(&self, id: Uuid, outcome: &Outcome) {
        let mut is_first = true;
        while let Err(error) = self.0.store.finish(id, outcome, self.now()).await {
            if is_first {
                tracing::warn!(run = %id, error = %Chain(&error), "the end of a run cannot be stored yet, trying again");
                is_first = false;
            }
            sleep(FINISH_PAUSE).await;
        }
    }

    fn now(&self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0.clock.now()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

// === impl WorkedOn ===

impl WorkedOn {
    fn start(id: Uuid, worker: &Worker) -> Self {
        worker.0.worked_on.lock().insert(id);
        Self { id, worker: worker.clone() }
    }
}

impl Drop for WorkedOn {
    fn drop(&mut self) {
        self.worker.0.worked_on.lock().remove(&self.id);
    }
}

/// The problem that a failed store is to the caller.
pub fn refuse(error: StoreError) -> Problem {
    match error {
        StoreError::Busy => Problem::new(ProblemKind::Conflict, "a run of this kind is going on: wait for its end"),
        StoreError::Damaged { .. } => Problem::internal(error),
        StoreError::Database(error) => database::map_error(error),
    }
}

/// What operators read of a failure: all of its causes, because they are who must mend them.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

fn log(id: Uuid, kind: Kind, outcome: &Outcome) {
    let kind = kind.as_str();
    match outcome {
        Outcome::Made(made) => {
            tracing::info!(run = %id, kind, set = %made.link.name, size_bytes = made.size_bytes, "backup set made");
        }
        Outcome::Verified(Verdict::Valid) => tracing::info!(run = %id, kind, "backup set is VALID"),
        Outcome::Verified(Verdict::Invalid(reasons)) => log_trouble(id, kind, "INVALID", &reasons.join("; ")),
        Outcome::Failed(error) => log_trouble(id, kind, "failed", error),
    }
}

fn log_trouble(id: Uuid, kind: &str, outcome: &str, reason: &str) {
    tracing::error!(run = %id, kind, outcome, reason, "there is no proven backup set of this run: mend the reason, make a new one");
}
