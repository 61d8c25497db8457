//! Logins and their refresh tokens.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ChangeKind, Committed, Store, change_feed, users};
use crate::{
    audit::{Actor, AuditEvent},
    error::StoreError,
    opaque::Digest,
    session::{RefreshToken, RefreshVerdict, SESSIONS_PER_USER_MAX, Session},
    user::User,
};

/// Rows that one pruning deletes at most.
const PRUNE_MAX: i64 = 5_000;

/// A login to be begun. Cannot be printed.
#[derive(Clone, Copy)]
pub struct NewSession<'a> {
    /// Who signs in.
    pub user_id: Uuid,
    /// What the proof was compared with.
    pub credential: &'a str,
    /// The client that asks.
    pub client_id: &'a str,
    /// With a refresh token the login is kept; without, it is only a name for the tokens of this one answer.
    pub refresh: Option<&'a Digest>,
}

/// A login, begun or going on.
#[derive(Clone, Debug)]
pub struct SessionWithUser {
    /// The user as it was in that moment.
    pub user: User,
    /// The login.
    pub session: Session,
}

/// What came of a refresh token.
#[derive(Clone, Debug)]
pub enum RefreshResult {
    /// It was exchanged.
    Exchanged(Box<SessionWithUser>),
    /// It was not, for a reason of one word.
    Refused {
        /// Why.
        reason: &'static str,
        /// Whose it is, if it is anybody's.
        user_id: Option<Uuid>,
    },
    /// It came a second time, and the login has to end.
    Reused {
        /// Whose it is.
        user_id: Uuid,
        /// The login.
        session_id: Uuid,
    },
}

// === impl Store ===

impl Store {
    /// Begins a login. `None`: meanwhile the proof does not match any more, or the user may not sign in.
    pub async fn begin_session(
        &self,
        new: NewSession<'_>,
        event: AuditEvent,
    ) -> Result<Option<SessionWithUser>, StoreError> {
        let now = self.now();
        let NewSession { user_id, credential, client_id, refresh } = new;
        self.database
            .bounded("begin_session", async {
                let mut transaction = self.database.begin().await?;
                let exceeds_limit =
                    refresh.is_some() && count_active(&mut transaction, user_id, now).await? >= SESSIONS_PER_USER_MAX;
                if exceeds_limit {
                    change_feed::lock(&mut transaction).await?;
                }
                let Some(user) = lock_user_shared(&mut transaction, user_id).await? else { return Ok(None) };
                if user.user.disabled || user.credential != credential {
                    return Ok(None);
                }
                let user = user.user;
                let session = Session::begin(user_id, client_id, now);
                if let Some(digest) = refresh {
                    insert(&mut transaction, &session).await?;
                    insert_token(&mut transaction, digest, session.id, now).await?;
                }
                if exceeds_limit {
                    revoke_oldest(&mut transaction, user_id, now).await?;
                }
                let event = AuditEvent { actor: Actor::User { id: user_id, session: Some(session.id) }, ..event };
                self.append_audit(&mut transaction, &[event.about_user(user_id).in_tenant(&user.tenant)]).await?;
                transaction.commit().await?;
                Ok(Some(SessionWithUser { user, session }))
            })
            .await
    }

    /// Exchanges the refresh token `presented` for `next`, if that is allowed. Only an exchange is recorded here.
    pub async fn refresh(
        &self,
        presented: &Digest,
        next: &Digest,
        event: AuditEvent,
    ) -> Result<RefreshResult, StoreError> {
        let now = self.now();
        self.database
            .bounded("refresh", async {
                let mut transaction = self.database.begin().await?;
                let Some((session_id, user_id)) = session_and_user_of(&mut transaction, presented).await? else {
                    return Ok(RefreshResult::Refused { reason: "unknown", user_id: None });
                };
                let refused = |reason| Ok(RefreshResult::Refused { reason, user_id: Some(user_id) });
                let Some(user) = lock_user_shared(&mut transaction, user_id).await? else {
                    return refused("user_gone");
                };
                let Some(session) = lock_session(&mut transaction, session_id).await? else {
                    return refused("session_gone");
                };
                let Some(token) = refresh_token(&mut transaction, presented).await? else {
                    return refused("session_gone");
                };
                if user.user.disabled {
                    return refused("user_disabled");
                }
                match session.judge_refresh(&token, now) {
                    RefreshVerdict::SessionOver => return refused("session_over"),
                    RefreshVerdict::Reused => return Ok(RefreshResult::Reused { user_id, session_id }),
                    RefreshVerdict::ExchangeAgain => retire_successor(&mut transaction, presented, now).await?,
                    RefreshVerdict::Exchange => {}
                }
                let user = user.user;
                insert_token(&mut transaction, next, session_id, now).await?;
                rotate(&mut transaction, presented, next, now).await?;
                extend_idle_expiry(&mut transaction, &session, now).await?;
                let event = AuditEvent { actor: Actor::User { id: user_id, session: Some(session_id) }, ..event };
                self.append_audit(&mut transaction, &[event.about_user(user_id).in_tenant(&user.tenant)]).await?;
                transaction.commit().await?;
                Ok(RefreshResult::Exchanged(Box::new(SessionWithUser { user, session })))
            })
            .await
    }

    /// The login and the user that a refresh token belongs to.
    pub async fn owner_of_refresh_token(&self, digest: &Digest) -> Result<Option<(Uuid, Uuid)>, StoreError> {
        self.database
            .bounded("owner_of_refresh_token", async {
                let mut connection = self.database.acquire().await?;
                session_and_user_of(&mut connection, digest).await
            })
            .await
    }

    /// Ends a login and all its tokens.
    pub async fn revoke_session(&self, id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        let now = self.now();
        self.database
            .bounded("end_session", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                sqlx::query!(
                    "UPDATE gateway.sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
                    id,
                    now
                )
                .execute(&mut *transaction)
                .await?;
                let change = change_feed::change(ChangeKind::Session, id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                self.append_audit(&mut transaction, &[event]).await?;
                transaction.commit().await?;
                Ok(Committed { value: (), seq })
            })
            .await
    }

    /// Ends one access token.
    pub async fn revoke_token(&self, token_id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        let now = self.now();
        self.database
            .bounded("revoke_token", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                let change = change_feed::change(ChangeKind::Token, token_id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                self.append_audit(&mut transaction, &[event]).await?;
                transaction.commit().await?;
                Ok(Committed { value: (), seq })
            })
            .await
    }
}

/// Ends every login of a user. Their access tokens end with the user's `authz_version`.
pub(super) async fn revoke_all_of_user(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE gateway.sessions SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL", user_id, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes logins that are over; their refresh tokens go with them.
pub(super) async fn prune(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        r#"DELETE FROM gateway.sessions WHERE id IN (
               SELECT id FROM gateway.sessions WHERE least(expires_at, idle_expires_at, revoked_at) < $1
               ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)"#,
        now - time::Duration::HOUR,
        PRUNE_MAX
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn count_active(connection: &mut PgConnection, user_id: Uuid, now: OffsetDateTime) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM gateway.sessions
           WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND idle_expires_at > $2"#,
        user_id,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Ends the oldest logins beyond the limit.
async fn revoke_oldest(connection: &mut PgConnection, user_id: Uuid, now: OffsetDateTime) -> Result<(), StoreError> {
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

/// The user, who cannot be altered by anybody until the end of the transaction.
async fn lock_user_shared(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<users::UserWithCredential>, StoreError> {
    let row = sqlx::query!("SELECT credential FROM gateway.users WHERE id = $1 FOR SHARE", id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let user = users::by_ids(connection, &[id]).await?.pop();
    Ok(user.map(|user| users::UserWithCredential { user, credential: row.credential }))
}

async fn lock_session(connection: &mut PgConnection, id: Uuid) -> Result<Option<Session>, StoreError> {
    let session = sqlx::query_as!(
        Session,
        r#"SELECT id, user_id, client_id, started_at, expires_at, idle_expires_at, rotations, revoked_at
           FROM gateway.sessions WHERE id = $1 FOR UPDATE"#,
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(session)
}

async fn session_and_user_of(
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

async fn refresh_token(connection: &mut PgConnection, digest: &Digest) -> Result<Option<RefreshToken>, StoreError> {
    // An exchanged token without a successor was itself replaced: there its answer did arrive, by another way.
    let token = sqlx::query_as!(
        RefreshToken,
        r#"SELECT presented.rotated_at, (successor.digest IS NULL OR successor.rotated_at IS NOT NULL) AS "successor_used!"
           FROM gateway.refresh_tokens presented
           LEFT JOIN gateway.refresh_tokens successor ON successor.digest = presented.successor
           WHERE presented.digest = $1"#,
        digest.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(token)
}

async fn insert(connection: &mut PgConnection, session: &Session) -> Result<(), StoreError> {
    sqlx::query!(
        r#"INSERT INTO gateway.sessions (id, user_id, client_id, started_at, expires_at, idle_expires_at)
           VALUES ($1, $2, $3, $4, $5, $6)"#,
        session.id,
        session.user_id,
        session.client_id,
        session.started_at,
        session.expires_at,
        session.idle_expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_token(
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

/// Marks a token as exchanged. The moment of the first exchange stays, or the grace would never end.
async fn rotate(
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

/// The token whose answer was lost must not live beside the one that replaces it.
async fn retire_successor(
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

async fn extend_idle_expiry(
    connection: &mut PgConnection,
    session: &Session,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE gateway.sessions SET idle_expires_at = $2, rotations = rotations + 1 WHERE id = $1",
        session.id,
        session.idle_expiry_from(now)
    )
    .execute(connection)
    .await?;
    Ok(())
}
