//! Which restore of the database was the last, and whether it is settled (`restores`).

use sqlx::PgConnection;

use crate::error::StoreError;

/// PostgreSQL's code for a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// What a session says of restores. The setting is as it was when the session began; the table is as it is now.
pub(super) struct Restores {
    /// The name of the last one, if the setting has one.
    pub(super) restored_at: Option<String>,
    /// Whether there is no such name, or the table has it.
    pub(super) is_settled: bool,
    /// The highest first number of those that are settled.
    pub(super) first_number: Option<i64>,
}

/// Refuses a database whose last restore is not settled. Returns the number that everything counts from since the last settled
/// one, if there was one; each has another.
pub(super) async fn check_settled(connection: &mut PgConnection) -> Result<Option<i64>, StoreError> {
    match restores(connection).await {
        Ok(restores) if restores.is_settled => Ok(restores.first_number),
        Ok(_) => Err(StoreError::RestoreUnsettled),
        // Under a running gateway, tables go away only with a restore to a time before their migration.
        Err(StoreError::Database(sqlx::Error::Database(error))) if error.code().as_deref() == Some(UNDEFINED_TABLE) => {
            Err(StoreError::RestoreUnsettled)
        }
        Err(error) => Err(error),
    }
}

/// What this session says of restores.
pub(super) async fn restores(connection: &mut PgConnection) -> Result<Restores, StoreError> {
    let restores = sqlx::query_as!(
        Restores,
        r#"WITH setting AS (SELECT nullif(left(current_setting('rampart.restored_at', true), 64), '') AS restored_at)
           SELECT restored_at,
               (restored_at IS NULL OR EXISTS (
                   SELECT FROM gateway.restores WHERE restores.restored_at = setting.restored_at)) AS "is_settled!",
               (SELECT max(first_number) FROM gateway.restores) AS first_number
           FROM setting"#
    )
    .fetch_one(connection)
    .await?;
    Ok(restores)
}
