//! All SQL: the runs of this worker, and the tables of a database that is dumped or was restored.

mod tables;

use database::Database;
use sha256::Sha256Digest;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use tables::{Rows, Snapshot, count_rows};

use crate::{
    manifest::Link,
    run::{Run, RunOutcome, RunState, Verdict},
};

/// Runs shown at once.
const LISTED_MAX: i64 = 100;
const MANY_REASONS: usize = 100;

/// The runs in PostgreSQL.
#[derive(Clone)]
pub struct Store {
    database: Database,
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
}

// === impl Store ===

impl Store {
    /// The runs in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Begins a run, unless one of its kind is under way.
    pub async fn begin(&self, run: &Run) -> Result<(), StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query!(
                "INSERT INTO backup.runs (id, kind, set_name, state, requested_by, started_at)
                 VALUES ($1, $2, $3, 'running', $4, $5)",
                run.id,
                run.kind.as_str(),
                run.set.as_ref().map(ToString::to_string),
                run.requested_by,
                run.started_at
            )
            .execute(connection)
            .await
        };
        match self.database.query("begin_run", work).await {
            Ok(_) => Ok(()),
            Err(error) if constraint(&error) == Some("runs_one_running") => Err(StoreError::Busy),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a run. Once more is harmless.
    pub async fn finish(&self, id: Uuid, outcome: &RunOutcome, now: OffsetDateTime) -> Result<(), StoreError> {
        let columns = RunColumns::of(outcome);
        let work = async |connection: &mut PgConnection| {
            sqlx::query!(
                "UPDATE backup.runs
                 SET state = $2, set_name = coalesce($3, set_name), verdict = $4, reasons = $5, error = $6,
                     manifest_sha256 = $7, size_bytes = $8, finished_at = $9
                 WHERE id = $1 AND state = 'running'",
                id,
                <&'static str>::from(columns.state),
                columns.set_name,
                columns.verdict,
                &columns.reasons,
                columns.error,
                columns.manifest_sha256,
                columns.size_bytes,
                now
            )
            .execute(connection)
            .await?;
            Ok(())
        };
        self.database.query("finish_run", work).await
    }

    /// Fails running runs that are not among the active ones of this process: they were interrupted. Only for the process
    /// that has locked the root.
    pub async fn fail_orphaned(&self, active_runs: &[Uuid], now: OffsetDateTime) -> Result<u64, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let done = sqlx::query!(
                "UPDATE backup.runs
                 SET state = 'failed', error = 'interrupted: no worker is at work on this any more', finished_at = $1
                 WHERE state = 'running' AND id <> ALL ($2)",
                now,
                active_runs
            )
            .execute(connection)
            .await?;
            Ok(done.rows_affected())
        };
        self.database.query("fail_interrupted_runs", work).await
    }

    /// A run.
    pub async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query_as!(
                RunRow,
                "SELECT id, kind, set_name, state, verdict, reasons, error, requested_by, started_at, finished_at,
                        size_bytes
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
                        size_bytes
                 FROM backup.runs ORDER BY started_at DESC LIMIT $1",
                LISTED_MAX
            )
            .fetch_all(connection)
            .await?;
            rows.into_iter().map(Run::try_from).collect()
        };
        self.database.query("runs", work).await
    }

    /// The last set that was built, by this database.
    pub async fn last_made(&self) -> Result<Option<(Link, OffsetDateTime)>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT id, set_name AS "set_name!", manifest_sha256 AS "manifest_sha256!", started_at
                   FROM backup.runs
                   WHERE kind = 'create' AND state = 'succeeded' ORDER BY started_at DESC LIMIT 1"#
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

    /// The digest of a set's manifest, if this database has the run that built it.
    pub async fn manifest_of(&self, set_name: &str) -> Result<Option<Sha256Digest>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT id, manifest_sha256 AS "manifest_sha256!" FROM backup.runs
                   WHERE kind = 'create' AND state = 'succeeded' AND set_name = $1
                   ORDER BY started_at DESC LIMIT 1"#,
                set_name
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
                size_bytes: Some(i64::try_from(made.size_bytes).unwrap_or(i64::MAX)),
                ..none
            },
            RunOutcome::Verified(Verdict::Valid) => Self { verdict: Some("VALID"), ..none },
            RunOutcome::Verified(Verdict::Invalid(reasons)) => {
                let reasons = reasons.iter().take(MANY_REASONS).cloned().collect();
                Self { verdict: Some("INVALID"), reasons, ..none }
            }
            RunOutcome::Failed(error) => Self { state: RunState::Failed, error: Some(error.clone()), ..none },
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
            size_bytes: row
                .size_bytes
                .map(|size| u64::try_from(size).map_err(|_| damaged("size_bytes")))
                .transpose()?,
        })
    }
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}
