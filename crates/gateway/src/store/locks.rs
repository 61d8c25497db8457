//! What gateways lock against each other.

use sqlx::PgConnection;

use crate::error::StoreError;

/// Takes a lock until the transaction ends.
///
/// It is a row, since every role of the database may take advisory locks. The update changes nothing but locks it; the insert makes
/// it the first time.
pub(super) async fn take(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO gateway.locks (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name",
        name
    )
    .execute(connection)
    .await?;
    Ok(())
}
