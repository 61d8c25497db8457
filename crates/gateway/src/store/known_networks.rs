//! The networks from which a user has logged in.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Store;
use crate::{error::StoreError, user::UserName};

/// How long a network is known after the last login from it.
const KNOWN_FOR: Duration = Duration::days(30);

/// A row is written again after this, and not at each login.
const NOTED_EVERY: Duration = Duration::DAY;

/// Rows that are deleted at once.
const PRUNE_MAX: i64 = 5_000;

// === impl Store ===

impl Store {
    /// Whether the user has logged in from this network in the last 30 days.
    pub async fn is_known_network(&self, name: &UserName, network: &str) -> Result<bool, StoreError> {
        let since = self.now() - KNOWN_FOR;
        let work = async |connection: &mut PgConnection| {
            Ok(sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM gateway.known_networks JOIN gateway.users ON users.id = user_id
                       WHERE lower(name) = lower($1) AND network = $2 AND last_success > $3) AS "is_known!""#,
                name.as_str(),
                network,
                since
            )
            .fetch_one(connection)
            .await?)
        };
        self.query("is_known_network", work).await
    }
}

/// Notes a login.
pub(super) async fn note(
    connection: &mut PgConnection,
    user_id: Uuid,
    network: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"INSERT INTO gateway.known_networks AS known (user_id, network, last_success) VALUES ($1, $2, $3)
               ON CONFLICT (user_id, network) DO UPDATE SET last_success = excluded.last_success
               WHERE known.last_success < $4"#,
        user_id,
        network,
        now,
        now - NOTED_EVERY
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets all of a user.
pub(super) async fn forget(connection: &mut PgConnection, user_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM gateway.known_networks WHERE user_id = $1", user_id).execute(connection).await?;
    Ok(())
}

/// Deletes networks that are known no longer.
pub(super) async fn prune(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        r#"DELETE FROM gateway.known_networks WHERE (user_id, network) IN (
               SELECT user_id, network FROM gateway.known_networks WHERE last_success < $1
               ORDER BY user_id, network LIMIT $2 FOR UPDATE SKIP LOCKED)"#,
        now - KNOWN_FOR,
        PRUNE_MAX
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
