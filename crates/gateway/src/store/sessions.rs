//! Logins and their refresh tokens.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store, change_feed, known_networks,
    refresh_tokens::{insert_token, refresh_token, retire_successor, rotate, session_and_user_of},
    revocations::revoke_oldest,
    user_rows::{UserWithCredential, lock_user, lock_user_shared, update},
};
use crate::{
    audit::{Actor, AuditEvent},
    error::StoreError,
    random_secrets::Digest,
    session::{RefreshToken, RefreshVerdict, SESSIONS_PER_USER_MAX, Session},
    user::User,
};

/// Rows that one pruning deletes at most.
const PRUNE_MAX: i64 = 5_000;

/// A session to be begun. Cannot be printed.
#[derive(Clone, Copy)]
pub struct NewSession<'a> {
    /// Who signs in.
    pub user_id: Uuid,
    /// What the proof was compared with.
    pub credential: &'a str,
    /// What is stored in its place from now on, if anything is: a hash of the same password in its normal form.
    pub replacement: Option<&'a str>,
    /// The client that asks.
    pub client_id: &'a str,
    /// Where it comes from, if that is known.
    pub network: Option<&'a str>,
    /// With a refresh token the session is stored; without, it only names the tokens of this one response.
    pub refresh: Option<&'a Digest>,
}

/// A session, and the user it belongs to.
#[derive(Clone, Debug)]
pub struct SessionWithUser {
    /// The user as it was in that moment.
    pub user: User,
    /// The login.
    pub session: Session,
}

/// What a refresh token can be exchanged for.
#[derive(Clone, Debug)]
pub struct Successors {
    /// What follows from it, with the key of now first and then with former ones.
    pub derived: Vec<Digest>,
    /// In place of a successor that does not follow from it: one of a gateway of the version before, or under a lost key.
    pub random: Digest,
}

/// The result of presenting a refresh token.
#[derive(Clone, Debug)]
pub enum RefreshResult {
    /// It was exchanged for `successor`, now or a moment ago.
    Exchanged {
        /// Whose it is.
        signed_in: Box<SessionWithUser>,
        /// One of those that were offered.
        successor: Digest,
    },
    /// It was not, for a reason of one word.
    Refused {
        /// Why.
        reason: &'static str,
        /// The user it belongs to, if there is one.
        user_id: Option<Uuid>,
    },
    /// It was presented a second time, and the session has to be revoked.
    Reused {
        /// The user it belongs to.
        user_id: Uuid,
        /// The login.
        session_id: Uuid,
    },
}

// === impl Store ===

impl Store {
    /// Begins a session. `None`: meanwhile the credential was changed, or the user disabled.
    pub async fn begin_session(
        &self,
        new: NewSession<'_>,
        event: AuditEvent,
    ) -> Result<Option<SessionWithUser>, StoreError> {
        let now = self.now();
        let NewSession { user_id, credential, replacement, client_id, network, refresh } = new;
        self.database
            .bounded("begin_session", async {
                let mut transaction = self.begin().await?;
                let exceeds_limit =
                    refresh.is_some() && count_active(&mut transaction, user_id, now).await? >= SESSIONS_PER_USER_MAX;
                if exceeds_limit {
                    change_feed::lock(&mut transaction).await?;
                }
                let Some(user) = lock_user_for(&mut transaction, user_id, replacement.is_some()).await? else {
                    return Ok(None);
                };
                if user.user.disabled || user.credential != credential {
                    return Ok(None);
                }
                let user = user.user;
                let mut event = event;
                if let Some(replacement) = replacement {
                    update(&mut transaction, &user, Some(replacement)).await?;
                    event = event.with("credential", "normalised");
                }
                let session = Session::begin(user_id, client_id, now);
                if let Some(digest) = refresh {
                    insert(&mut transaction, &session).await?;
                    insert_token(&mut transaction, digest, session.id, now).await?;
                }
                if let Some(network) = network {
                    known_networks::note(&mut transaction, user_id, network, now).await?;
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

    /// Exchanges the refresh token `presented` for one of `successors`, if that is allowed. Only an exchange is recorded here.
    pub async fn refresh(
        &self,
        presented: &Digest,
        successors: &Successors,
        event: AuditEvent,
    ) -> Result<RefreshResult, StoreError> {
        let now = self.now();
        self.database
            .bounded("refresh", async {
                let mut transaction = self.begin().await?;
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
                let verdict = session.judge_refresh(&token, now);
                match verdict {
                    RefreshVerdict::SessionOver => return refused("session_over"),
                    RefreshVerdict::Reused => return Ok(RefreshResult::Reused { user_id, session_id }),
                    RefreshVerdict::Exchange | RefreshVerdict::Repeat => {}
                }
                let mut event = AuditEvent { actor: Actor::User { id: user_id, session: Some(session_id) }, ..event };
                if verdict == RefreshVerdict::Repeat {
                    event = event.with("repeated", true);
                }
                let given = token.successor.filter(|given| successors.derived.contains(given));
                let successor = match given {
                    Some(given) => given,
                    None => exchange(&mut transaction, (presented, &token), successors, &session, now).await?,
                };
                let user = user.user;
                self.append_audit(&mut transaction, &[event.about_user(user_id).in_tenant(&user.tenant)]).await?;
                transaction.commit().await?;
                Ok(RefreshResult::Exchanged { signed_in: Box::new(SessionWithUser { user, session }), successor })
            })
            .await
    }

    /// The session and the user that a refresh token belongs to.
    pub async fn owner_of_refresh_token(&self, digest: &Digest) -> Result<Option<(Uuid, Uuid)>, StoreError> {
        self.database
            .query("owner_of_refresh_token", async |connection| session_and_user_of(connection, digest).await)
            .await
    }
}

/// Revokes every session there is, and says how many.
pub(super) async fn revoke_all(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, StoreError> {
    let done = sqlx::query!("UPDATE gateway.sessions SET revoked_at = $1 WHERE revoked_at IS NULL", now)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
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

/// The user, locked. A lock that others share cannot become one to write under: two logins could wait for each other.
async fn lock_user_for(
    connection: &mut PgConnection,
    id: Uuid,
    is_changed: bool,
) -> Result<Option<UserWithCredential>, StoreError> {
    if is_changed {
        match lock_user(connection, id).await {
            Ok(_) => {}
            Err(StoreError::UserNotFound) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    lock_user_shared(connection, id).await
}

/// Exchanges a token. A successor that it has already and that cannot be given again is retired.
async fn exchange(
    connection: &mut PgConnection,
    (presented, token): (&Digest, &RefreshToken),
    successors: &Successors,
    session: &Session,
    now: OffsetDateTime,
) -> Result<Digest, StoreError> {
    let next = if token.successor.is_none() {
        *successors.derived.first().unwrap_or(&successors.random)
    } else {
        retire_successor(connection, presented, now).await?;
        successors.random
    };
    insert_token(connection, &next, session.id, now).await?;
    rotate(connection, presented, &next, now).await?;
    extend_idle_expiry(connection, session, now).await?;
    Ok(next)
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
