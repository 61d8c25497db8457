//! What gateways lock against each other.

use sqlx::PgConnection;

use crate::error::StoreError;

/// Takes a lock until the transaction ends. It is a row, since every role of the database may take advisory locks.
pub(super) async fn take(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    while !lock_row(connection, name).await? {
        sqlx::query!("INSERT INTO gateway.locks (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Whether there is such a row.
async fn lock_row(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let row = sqlx::query!("SELECT name FROM gateway.locks WHERE name = $1 FOR UPDATE", name);
    Ok(row.fetch_optional(connection).await?.is_some())
}
