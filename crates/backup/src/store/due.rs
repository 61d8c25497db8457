//! What is to be begun without a request and without a schedule: runs that were cut off, and verifications of new sets.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{RunRow, Store, StoreError};
use crate::{
    run::{Run, RunKind},
    set_name::SetName,
};

/// A set that is to be verified once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueVerification {
    /// The run that made it.
    pub created_by: Uuid,
    /// The set.
    pub set: SetName,
}

/// The newest sets, by when they were begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The newest set; while there is none, since when there should be.
    pub made_at: Option<OffsetDateTime>,
    /// The newest that was found VALID; while there is none, since when there should be.
    pub verified_at: Option<OffsetDateTime>,
    /// When a set was last found VALID.
    pub restored_at: Option<OffsetDateTime>,
}

// === impl Store ===

impl Store {
    /// The first run of a kind that was cut off, is to be begun again, and can be by this worker: one that makes a set, or one
    /// that verifies a set of this worker.
    pub async fn repeat_due(&self, kind: RunKind) -> Result<Option<Run>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query_as!(
                RunRow,
                "SELECT id, kind, set_name, state, verdict, reasons, error, requested_by, started_at, finished_at,
                        size_bytes, attempt, phase, bytes_done, bytes_expected, cancelled_by
                 FROM backup.runs WHERE repeat_due AND kind = $1 AND (kind = 'create' OR worker = $2)
                 ORDER BY started_at LIMIT 1",
                kind.as_str(),
                self.worker
            )
            .fetch_optional(connection)
            .await?;
            row.map(Run::try_from).transpose()
        };
        self.database.query("repeat_due", work).await
    }

    /// Begins `run` in the place of the one that was cut off. False when another worker was first, or while a run of this kind
    /// is under way.
    pub async fn begin_repeat(&self, cut_off: Uuid, run: &Run) -> Result<bool, StoreError> {
        let work = async {
            let mut transaction = self.database.begin().await?;
            let is_claimed = forget_repeat(&mut transaction, cut_off).await?;
            if !is_claimed || !self.insert(&mut transaction, run).await? {
                return Ok(false);
            }
            transaction.commit().await?;
            Ok(true)
        };
        self.database.bounded("begin_repeat", work).await
    }

    /// Forgets runs that were cut off, whose work a later run does or has done.
    pub async fn forget_obsolete_repeats(&self) -> Result<(), StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query!(
                "UPDATE backup.runs AS cut_off SET repeat_due = false
                 WHERE repeat_due AND EXISTS (
                     SELECT FROM backup.runs AS later
                     WHERE later.kind = cut_off.kind AND later.id <> cut_off.id
                       AND later.started_at >= cut_off.started_at AND later.state IN ('running', 'succeeded')
                       AND (later.kind = 'create' OR later.set_name = cut_off.set_name AND later.worker = cut_off.worker)
                 )"
            )
            .execute(connection)
            .await?;
            Ok(())
        };
        self.database.query("forget_obsolete_repeats", work).await
    }

    /// The first set of this worker that is to be verified once.
    pub async fn verification_due(&self) -> Result<Option<DueVerification>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT id, set_name AS "set_name!" FROM backup.runs
                   WHERE verification_due AND worker = $1 ORDER BY started_at LIMIT 1"#,
                self.worker
            )
            .fetch_optional(connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let damaged = StoreError::Damaged { id: row.id, what: "set_name" };
            let set = row.set_name.parse().map_err(|_| damaged)?;
            Ok(Some(DueVerification { created_by: row.id, set }))
        };
        self.database.query("verification_due", work).await
    }

    /// Of these sets, the one that was verified longest ago; one that never was comes first.
    pub async fn verified_longest_ago(&self, sets: &[String]) -> Result<Option<String>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query!(
                r#"SELECT name AS "name!" FROM unnest($1::text[]) AS name
                   ORDER BY (
                       SELECT max(finished_at) FROM backup.runs
                       WHERE kind = 'verify' AND verdict IS NOT NULL AND set_name = name AND worker = $2
                   ) NULLS FIRST, name LIMIT 1"#,
                sets,
                self.worker
            );
            Ok(row.fetch_optional(connection).await?.map(|row| row.name))
        };
        self.database.query("verified_longest_ago", work).await
    }

    /// The newest sets of all workers.
    pub async fn newest(&self) -> Result<Newest, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let newest = sqlx::query_as!(
                Newest,
                "SELECT coalesce(
                            (SELECT max(started_at) FROM backup.runs WHERE kind = 'create' AND state = 'succeeded'),
                            (SELECT created_at FROM backup.schedules WHERE name = 'create')
                        ) AS made_at,
                        coalesce(
                            (SELECT max(made.started_at) FROM backup.runs AS made
                             JOIN backup.runs AS proof
                               ON proof.set_name = made.set_name AND proof.worker = made.worker AND proof.verdict = 'VALID'
                             WHERE made.kind = 'create' AND made.state = 'succeeded'),
                            (SELECT created_at FROM backup.schedules WHERE name = 'create')
                        ) AS verified_at,
                        (SELECT max(finished_at) FROM backup.runs WHERE verdict = 'VALID') AS restored_at"
            );
            Ok(newest.fetch_one(connection).await?)
        };
        self.database.query("newest_sets", work).await
    }
}

async fn forget_repeat(connection: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let forgotten = sqlx::query!("UPDATE backup.runs SET repeat_due = false WHERE id = $1 AND repeat_due", id);
    Ok(forgotten.execute(connection).await?.rows_affected() == 1)
}
