//! Where tokens and logins are revoked: by their row, and by an entry of the feed that every gateway follows.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ChangeKind, Committed, Store, Uncommitted, change_feed, known_networks};
use crate::{audit::AuditEvent, error::StoreError, session::SESSIONS_PER_USER_MAX};

// === impl Store ===

impl Store {
    /// Revokes a session and all its tokens.
    pub async fn revoke_session(&self, id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        self.commit("end_session", async |transaction, now| {
            sqlx::query!("UPDATE gateway.sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now)
                .execute(transaction)
                .await?;
            Ok(Uncommitted { value: (), kind: ChangeKind::Session, id, event })
        })
        .await
    }

    /// Revokes one access token.
    pub async fn revoke_token(&self, token_id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        let change = Uncommitted { value: (), kind: ChangeKind::Token, id: token_id, event };
        self.commit("revoke_token", async |_, _| Ok(change)).await
    }
}

/// Revokes every session of a user. Their access tokens end with the user's `authz_version`.
pub(super) async fn revoke_all_of_user(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE gateway.sessions SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL", user_id, now)
        .execute(&mut *connection)
        .await?;
    // A stolen token may have been used from them.
    known_networks::forget(connection, user_id).await
}

/// Revokes the oldest sessions beyond the limit.
pub(super) async fn revoke_oldest(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let ended = sqlx::query_scalar!(
        r#"UPDATE gateway.sessions SET revoked_at = $2 WHERE id IN (
               SELECT id FROM gateway.sessions WHERE user_id = $1 AND revoked_at IS NULL
               ORDER BY started_at DESC, id OFFSET $3)
           RETURNING id"#,
        user_id,
        now,
        SESSIONS_PER_USER_MAX
    )
    .fetch_all(&mut *connection)
    .await?;
    for id in ended {
        change_feed::append(connection, change_feed::change(ChangeKind::Session, id, now)).await?;
    }
    Ok(())
}
