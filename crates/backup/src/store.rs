//! All SQL: the runs of workers, their schedules, and the tables of a database that is dumped or was restored.

mod due;
mod schedules;
mod tables;

use database::Database;
use sha256::Sha256Digest;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use due::{DueVerification, Newest};
pub use tables::{Rows, Snapshot, count_rows};

use crate::{
    manifest::Link,
    progress::{Phase, Reached},
    run::{ATTEMPTS_MAX, Run, RunKind, RunOutcome, RunState, Verdict},
};

/// Runs shown at once.
const LISTED_MAX: i64 = 100;
const MANY_REASONS: usize = 100;
/// A worker says each second that it is at work on a run. One that has not for so long is gone, or cannot store its outcome.
const UNSEEN_MAX_S: f64 = 120.0;

/// The runs in PostgreSQL, as one worker sees them.
#[derive(Clone)]
pub struct Store {
    database: Database,
    worker: Uuid,
}

/// Why a run could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another run of this kind is under way.
    #[error("a run of this kind is going on")]
    Busy,
    /// A row is not what was written.
    #[error("run {id} is damaged: {what}")]
    Damaged {
        /// The run.
        id: Uuid,
        /// Which column.
        what: &'static str,
    },
    /// The query failed.
    #[error("query of the runs failed")]
    Database(#[from] sqlx::Error),
}

struct RunRow {
    id: Uuid,
    kind: String,
    set_name: Option<String>,
    state: String,
    verdict: Option<String>,
    reasons: Vec<String>,
    error: Option<String>,
    requested_by: String,
    started_at: OffsetDateTime,
    finished_at: Option<OffsetDateTime>,
    size_bytes: Option<i64>,
    attempt: i32,
    phase: Option<String>,
    bytes_done: i64,
    bytes_expected: Option<i64>,
    cancelled_by: Option<String>,
}

/// What the database says of a run that this worker is at work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is under way.
    UnderWay,
    /// It is, and is to be ended.
    Cancelled {
        /// The caller that wants so.
        by: String,
    },
    /// It is not under way any more: other workers gave it up.
    Over,
}

// === impl Store ===

impl Store {
    /// The runs in this database, for a worker with this id.
    pub fn new(database: Database, worker: Uuid) -> Self {
        Self { database, worker }
    }

    /// The id of the worker.
    pub fn worker(&self) -> Uuid {
        self.worker
    }

    /// Begins a run, unless one of its kind is under way.
    pub async fn begin(&self, run: &Run) -> Result<(), StoreError> {
        let work = async {
            let mut transaction = self.database.begin().await?;
            if !self.insert(&mut transaction, run).await? {
                return Err(StoreError::Busy);
            }
            Ok(transaction.commit().await?)
        };
        self.database.bounded("begin_run", work).await
    }

    /// Adds a run, unless one of its kind is under way. A verification is none any more that is to be begun.
    async fn insert(&self, connection: &mut PgConnection, run: &Run) -> Result<bool, StoreError> {
        let set_name = run.set.as_ref().map(ToString::to_string);
        let inserted = sqlx::query!(
            "INSERT INTO backup.runs (id, kind, set_name, state, requested_by, started_at, worker, seen_at, attempt)
             VALUES ($1, $2, $3, 'running', $4, $5, $6, clock_timestamp(), $7)
             ON CONFLICT (kind) WHERE state = 'running' DO NOTHING",
            run.id,
            run.kind.as_str(),
            set_name,
            run.requested_by,
            run.started_at,
            self.worker,
            i32::try_from(run.attempt).unwrap_or(i32::MAX)
        )
        .execute(&mut *connection)
        .await?;
        let is_inserted = inserted.rows_affected() == 1;
        if is_inserted && run.kind == RunKind::Verify {
            sqlx::query!(
                "UPDATE backup.runs SET verification_due = false
                 WHERE set_name = $1 AND worker = $2 AND verification_due",
                set_name,
                self.worker
            )
            .execute(connection)
            .await?;
        }
        Ok(is_inserted)
    }

    /// Ends a run. Once more is harmless. `is_verified_next` is for a set that was made.
    pub async fn finish(
        &self,
        id: Uuid,
        outcome: &RunOutcome,
        reached: Reached,
        is_verified_next: bool,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let columns = RunColumns::of(outcome);
        let is_interrupted = matches!(outcome, RunOutcome::Interrupted);
        let is_verified_next = is_verified_next && matches!(outcome, RunOutcome::Built(_));
        let work = async |connection: &mut PgConnection| {
            sqlx::query!(
                "UPDATE backup.runs
                 SET state = $2, set_name = coalesce($3, set_name), verdict = $4, reasons = $5, error = $6,
                     manifest_sha256 = $7, size_bytes = $8, finished_at = $9, verification_due = $10,
                     repeat_due = $11 AND attempt < $12 AND cancelled_by IS NULL,
                     phase = $13, bytes_done = $14, bytes_expected = $15
                 WHERE id = $1 AND state = 'running'",
                id,
                <&'static str>::from(columns.state),
                columns.set_name,
                columns.verdict,
                &columns.reasons,
                columns.error,
                columns.manifest_sha256,
                columns.size_bytes,
                now,
                is_verified_next,
                is_interrupted,
                attempts_max(),
                reached.phase.map(Phase::as_str),
                signed(reached.bytes_done),
                reached.bytes_expected.map(signed)
            )
            .execute(connection)
            .await?;
            Ok(())
        };
        self.database.query("finish_run", work).await
    }

    /// Fails runs that no worker is at work on any more, and lets them be begun again: those of this worker that are not among
    /// its active ones, and those of other workers that have not been seen for a while.
    pub async fn fail_orphaned(&self, active_runs: &[Uuid], now: OffsetDateTime) -> Result<u64, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let done = sqlx::query!(
                "UPDATE backup.runs
                 SET state = CASE WHEN cancelled_by IS NULL THEN 'failed' ELSE 'cancelled' END,
                     error = 'interrupted: no worker is at work on this any more', finished_at = $1,
                     repeat_due = attempt < $4 AND cancelled_by IS NULL
                 WHERE state = 'running'
                   AND CASE WHEN coalesce(worker, $3) = $3 THEN id <> ALL ($2)
                            ELSE seen_at < clock_timestamp() - make_interval(secs => $5) END",
                now,
                active_runs,
                self.worker,
                attempts_max(),
                UNSEEN_MAX_S
            )
            .execute(connection)
            .await?;
            Ok(done.rows_affected())
        };
        self.database.query("fail_interrupted_runs", work).await
    }

    /// Says that this worker is at work on a run and how far it is, and reads what the database says of it.
    pub async fn see(&self, id: Uuid, reached: Reached) -> Result<Seen, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                "UPDATE backup.runs
                 SET seen_at = clock_timestamp(), phase = $2, bytes_done = $3, bytes_expected = $4
                 WHERE id = $1 AND state = 'running' RETURNING cancelled_by",
                id,
                reached.phase.map(Phase::as_str),
                signed(reached.bytes_done),
                reached.bytes_expected.map(signed)
            )
            .fetch_optional(connection)
            .await?;
            Ok(match row.map(|row| row.cancelled_by) {
                None => Seen::Over,
                Some(None) => Seen::UnderWay,
                Some(Some(by)) => Seen::Cancelled { by },
            })
        };
        self.database.query("see_run", work).await
    }

    /// Asks for the end of a run, of whichever worker. False when it is not under way.
    pub async fn cancel(&self, id: Uuid, by: &str) -> Result<bool, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let asked = sqlx::query!(
                "UPDATE backup.runs SET cancelled_by = coalesce(cancelled_by, $2) WHERE id = $1 AND state = 'running'",
                id,
                by
            );
            Ok(asked.execute(connection).await?.rows_affected() == 1)
        };
        self.database.query("cancel_run", work).await
    }

    /// Takes the runs of the release before, which had one worker.
    pub async fn adopt(&self) -> Result<(), StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query!("UPDATE backup.runs SET worker = $1 WHERE worker IS NULL", self.worker)
                .execute(connection)
                .await?;
            Ok(())
        };
        self.database.query("adopt_runs", work).await
    }

    /// A run.
    pub async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query_as!(
                RunRow,
                "SELECT id, kind, set_name, state, verdict, reasons, error, requested_by, started_at, finished_at,
                        size_bytes, attempt, phase, bytes_done, bytes_expected, cancelled_by
                 FROM backup.runs WHERE id = $1",
                id
            )
            .fetch_optional(connection)
            .await?;
            row.map(Run::try_from).transpose()
        };
        self.database.query("run", work).await
    }

    /// The latest runs, the last begun first.
    pub async fn runs(&self) -> Result<Vec<Run>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let rows = sqlx::query_as!(
                RunRow,
                "SELECT id, kind, set_name, state, verdict, reasons, error, requested_by, started_at, finished_at,
                        size_bytes, attempt, phase, bytes_done, bytes_expected, cancelled_by
                 FROM backup.runs ORDER BY started_at DESC, id DESC LIMIT $1",
                LISTED_MAX
            )
            .fetch_all(connection)
            .await?;
            rows.into_iter().map(Run::try_from).collect()
        };
        self.database.query("runs", work).await
    }

    /// The last set that was built by this worker, by this database.
    pub async fn last_made(&self) -> Result<Option<(Link, OffsetDateTime)>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT id, set_name AS "set_name!", manifest_sha256 AS "manifest_sha256!", started_at
                   FROM backup.runs
                   WHERE kind = 'create' AND state = 'succeeded' AND worker = $1
                   ORDER BY started_at DESC, id DESC LIMIT 1"#,
                self.worker
            )
            .fetch_optional(connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let damaged = |what| StoreError::Damaged { id: row.id, what };
            let name = row.set_name.parse().map_err(|_| damaged("set_name"))?;
            let manifest_sha256 =
                Sha256Digest::try_from(row.manifest_sha256.as_slice()).map_err(|_| damaged("manifest_sha256"))?;
            Ok(Some((Link { name, manifest_sha256 }, row.started_at)))
        };
        self.database.query("last_made_set", work).await
    }

    /// Bytes of the last set that was built by this worker: what the next will probably have.
    pub async fn last_size(&self) -> Result<Option<u64>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                "SELECT size_bytes FROM backup.runs
                 WHERE kind = 'create' AND state = 'succeeded' AND worker = $1 ORDER BY started_at DESC, id DESC LIMIT 1",
                self.worker
            );
            let size = row.fetch_optional(connection).await?.and_then(|row| row.size_bytes);
            Ok(size.and_then(|size| u64::try_from(size).ok()))
        };
        self.database.query("last_set_size", work).await
    }

    /// The digest of a set's manifest, if this database has the run that built it.
    pub async fn manifest_of(&self, set_name: &str) -> Result<Option<Sha256Digest>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT id, manifest_sha256 AS "manifest_sha256!" FROM backup.runs
                   WHERE kind = 'create' AND state = 'succeeded' AND set_name = $1 AND worker = $2
                   ORDER BY started_at DESC, id DESC LIMIT 1"#,
                set_name,
                self.worker
            )
            .fetch_optional(connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let damaged = StoreError::Damaged { id: row.id, what: "manifest_sha256" };
            Sha256Digest::try_from(row.manifest_sha256.as_slice()).map(Some).map_err(|_| damaged)
        };
        self.database.query("manifest_of_set", work).await
    }
}

/// An outcome as columns of a run.
struct RunColumns {
    state: RunState,
    set_name: Option<String>,
    verdict: Option<&'static str>,
    reasons: Vec<String>,
    error: Option<String>,
    manifest_sha256: Option<Vec<u8>>,
    size_bytes: Option<i64>,
}

// === impl RunColumns ===

impl RunColumns {
    fn of(outcome: &RunOutcome) -> Self {
        let none = Self {
            state: RunState::Succeeded,
            set_name: None,
            verdict: None,
            reasons: Vec::new(),
            error: None,
            manifest_sha256: None,
            size_bytes: None,
        };
        match outcome {
            RunOutcome::Built(made) => Self {
                set_name: Some(made.link.name.to_string()),
                manifest_sha256: Some(made.link.manifest_sha256.as_bytes().to_vec()),
                size_bytes: Some(signed(made.size_bytes)),
                ..none
            },
            RunOutcome::Verified(Verdict::Valid) => Self { verdict: Some("VALID"), ..none },
            RunOutcome::Verified(Verdict::Invalid(reasons)) => {
                let reasons = reasons.iter().take(MANY_REASONS).cloned().collect();
                Self { verdict: Some("INVALID"), reasons, ..none }
            }
            RunOutcome::Failed(error) => Self { state: RunState::Failed, error: Some(error.clone()), ..none },
            RunOutcome::Cancelled { by } => {
                Self { state: RunState::Cancelled, error: Some(format!("cancelled by {by}")), ..none }
            }
            RunOutcome::Interrupted => {
                let error = "interrupted: the worker was stopped while this ran".to_owned();
                Self { state: RunState::Failed, error: Some(error), ..none }
            }
        }
    }
}

impl TryFrom<RunRow> for Run {
    type Error = StoreError;

    fn try_from(row: RunRow) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::Damaged { id: row.id, what };
        let set = row.set_name.map(|name| name.parse()).transpose();
        Ok(Self {
            id: row.id,
            kind: row.kind.parse().map_err(|_| damaged("kind"))?,
            set: set.map_err(|_| damaged("set_name"))?,
            state: row.state.parse().map_err(|_| damaged("state"))?,
            verdict: match row.verdict.as_deref() {
                None => None,
                Some("VALID") => Some(Verdict::Valid),
                Some("INVALID") => Some(Verdict::Invalid(row.reasons)),
                Some(_) => return Err(damaged("verdict")),
            },
            error: row.error,
            requested_by: row.requested_by,
            started_at: row.started_at,
            finished_at: row.finished_at,
            size_bytes: row.size_bytes.map(unsigned).transpose().map_err(|()| damaged("size_bytes"))?,
            attempt: u32::try_from(row.attempt).map_err(|_| damaged("attempt"))?,
            reached: Reached {
                phase: row.phase.map(|phase| phase.parse()).transpose().map_err(|_| damaged("phase"))?,
                bytes_done: unsigned(row.bytes_done).map_err(|()| damaged("bytes_done"))?,
                bytes_expected: row.bytes_expected.map(unsigned).transpose().map_err(|()| damaged("bytes_expected"))?,
            },
            cancelled_by: row.cancelled_by,
        })
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn unsigned(bytes: i64) -> Result<u64, ()> {
    u64::try_from(bytes).map_err(drop)
}

fn attempts_max() -> i32 {
    i32::try_from(ATTEMPTS_MAX).unwrap_or(i32::MAX)
}
