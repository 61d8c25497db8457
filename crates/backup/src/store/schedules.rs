//! Schedules: the run that is due next, claimed by one worker.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Store, StoreError};
use crate::{
    run::Run,
    schedule::{Planned, ScheduleName},
};

// === impl Store ===

impl Store {
    /// What is planned; none before the first plan.
    pub async fn planned(&self, name: ScheduleName) -> Result<Option<Planned>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let row = sqlx::query_as!(
                Planned,
                "SELECT expression, due_at, planned_at, worker FROM backup.schedules WHERE name = $1",
                name.as_str()
            );
            Ok(row.fetch_optional(connection).await?)
        };
        self.database.query("planned_run", work).await
    }

    /// The first plan. Another worker's stays.
    pub async fn plan(&self, name: ScheduleName, planned: &Planned) -> Result<(), StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query!(
                "INSERT INTO backup.schedules (name, expression, due_at, planned_at, worker, created_at)
                 VALUES ($1, $2, $3, $4, $5, $4) ON CONFLICT DO NOTHING",
                name.as_str(),
                planned.expression,
                planned.due_at,
                planned.planned_at,
                planned.worker
            )
            .execute(connection)
            .await?;
            Ok(())
        };
        self.database.query("plan_run", work).await
    }

    /// Another plan in the place of `old`. False when another worker was first.
    pub async fn replan(&self, name: ScheduleName, old: &Planned, new: &Planned) -> Result<bool, StoreError> {
        let work = async |connection: &mut PgConnection| replace(connection, name, old, new).await;
        self.database.query("replan_run", work).await
    }

    /// Begins the run that `old` says is due, and plans the next, in one transaction. False when another worker was first, or
    /// when a run of this kind is under way. A set that was begun after this was due stands for it.
    pub async fn begin_scheduled(
        &self,
        name: ScheduleName,
        run: &Run,
        old: &Planned,
        new: &Planned,
    ) -> Result<bool, StoreError> {
        let work = async {
            let mut transaction = self.database.begin().await?;
            // Locks the row: a second worker waits here, and then finds another plan than the one it has read.
            if !replace(&mut transaction, name, old, new).await? {
                return Ok(false);
            }
            let is_begun = self.insert(&mut transaction, run).await?;
            if is_begun || is_made_since(&mut transaction, run, old.due_at).await? {
                transaction.commit().await?;
            }
            Ok(is_begun)
        };
        self.database.bounded("begin_scheduled_run", work).await
    }

    /// Forgets a schedule that was switched off: what is missed until it is switched on is not made up for.
    pub async fn forget_schedule(&self, name: ScheduleName) -> Result<(), StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query!("DELETE FROM backup.schedules WHERE name = $1", name.as_str()).execute(connection).await?;
            Ok(())
        };
        self.database.query("forget_schedule", work).await
    }
}

async fn replace(
    connection: &mut PgConnection,
    name: ScheduleName,
    old: &Planned,
    new: &Planned,
) -> Result<bool, StoreError> {
    let replaced = sqlx::query!(
        "UPDATE backup.schedules SET expression = $2, due_at = $3, planned_at = $4, worker = $5
         WHERE name = $1 AND due_at = $6 AND planned_at = $7",
        name.as_str(),
        new.expression,
        new.due_at,
        new.planned_at,
        new.worker,
        old.due_at,
        old.planned_at
    )
    .execute(connection)
    .await?;
    Ok(replaced.rows_affected() == 1)
}

/// Whether `run` would make a set, and one is being made that was begun after that time.
async fn is_made_since(connection: &mut PgConnection, run: &Run, due_at: OffsetDateTime) -> Result<bool, StoreError> {
    let row = sqlx::query!(
        "SELECT id FROM backup.runs WHERE kind = 'create' AND $1 = 'create' AND state = 'running' AND started_at >= $2",
        run.kind.as_str(),
        due_at
    );
    Ok(row.fetch_optional(connection).await?.is_some())
}
