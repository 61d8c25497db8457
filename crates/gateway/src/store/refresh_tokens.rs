//! Rows of `gateway.refresh_tokens`, by the digest of the token.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{error::StoreError, random_secrets::Digest, session::RefreshToken};

pub(super) async fn session_and_user_of(
    connection: &mut PgConnection,
    digest: &Digest,
) -> Result<Option<(Uuid, Uuid)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT sessions.id, sessions.user_id
           FROM gateway.refresh_tokens JOIN gateway.sessions ON sessions.id = refresh_tokens.session_id
           WHERE refresh_tokens.digest = $1"#,
        digest.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.id, row.user_id)))
}

pub(super) async fn refresh_token(
    connection: &mut PgConnection,
    digest: &Digest,
) -> Result<Option<RefreshToken>, StoreError> {
    // An exchanged token without a successor row was replaced by one that has expired: its response did arrive.
    let row = sqlx::query!(
        r#"SELECT presented.rotated_at, presented.successor,
                  (successor.digest IS NULL OR successor.rotated_at IS NOT NULL) AS "successor_used!"
           FROM gateway.refresh_tokens presented
           LEFT JOIN gateway.refresh_tokens successor ON successor.digest = presented.successor
           WHERE presented.digest = $1"#,
        digest.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| RefreshToken {
        rotated_at: row.rotated_at,
        successor: row.successor.and_then(|digest| digest.try_into().ok()),
        successor_used: row.successor_used,
    }))
}

pub(super) async fn insert_token(
    connection: &mut PgConnection,
    digest: &Digest,
    session_id: Uuid,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO gateway.refresh_tokens (digest, session_id, issued_at) VALUES ($1, $2, $3)",
        digest.as_slice(),
        session_id,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks a token as exchanged. The time of the first exchange stays, or the grace period would never end.
pub(super) async fn rotate(
    connection: &mut PgConnection,
    digest: &Digest,
    successor: &Digest,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE gateway.refresh_tokens SET rotated_at = coalesce(rotated_at, $2), successor = $3 WHERE digest = $1",
        digest.as_slice(),
        now,
        successor.as_slice()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A successor that cannot be given again must not stay valid beside the one that replaces it.
pub(super) async fn retire_successor(
    connection: &mut PgConnection,
    digest: &Digest,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE gateway.refresh_tokens SET rotated_at = $2
           WHERE digest = (SELECT successor FROM gateway.refresh_tokens WHERE digest = $1)"#,
        digest.as_slice(),
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
