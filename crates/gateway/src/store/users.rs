//! Users.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Caller, ChangeKind, Committed, NewUser, Store, Uncommitted, UserWithCredential, check_caller, revocations,
    user_rows::{Row, by_ids, insert, lock_user, update},
};
use crate::{
    audit::AuditEvent,
    error::StoreError,
    user::{ExpectedState, User, UserChange, UserName},
};

// === impl Store ===

impl Store {
    /// The user of this name, in any case of its letters.
    pub async fn user_by_name(&self, name: &UserName) -> Result<Option<UserWithCredential>, StoreError> {
        self.query("user_by_name", async |connection| {
            let row = sqlx::query!(
                r#"SELECT id, name, kind, tenant, roles, disabled, authz_version, tokens_since, created_at, updated_at, credential
                       FROM gateway.users WHERE lower(name) = lower($1)"#,
                name.as_str()
            )
            .fetch_optional(&mut *connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let credential = row.credential;
            let row = Row {
                id: row.id,
                name: row.name,
                kind: row.kind,
                tenant: row.tenant,
                roles: row.roles,
                disabled: row.disabled,
                authz_version: row.authz_version,
                tokens_since: row.tokens_since,
                created_at: row.created_at,
                updated_at: row.updated_at,
            };
            Ok(Some(UserWithCredential { user: row.try_into()?, credential }))
        }).await
    }

    /// One user.
    pub async fn user(&self, id: Uuid) -> Result<Option<User>, StoreError> {
        self.query("user", async |connection| Ok(by_ids(connection, &[id]).await?.pop())).await
    }

    /// Up to `limit` users by name, after the name `after`.
    pub async fn users_page(&self, after: &str, limit: i64) -> Result<Vec<User>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            sqlx::query_as!(
                Row,
                r#"SELECT id, name, kind, tenant, roles, disabled, authz_version, tokens_since, created_at, updated_at
                       FROM gateway.users WHERE lower(name) > lower($1) ORDER BY lower(name) LIMIT $2"#,
                after,
                limit
            )
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .map(User::try_from)
            .collect()
        };
        self.query("users_page", work).await
    }

    /// Makes a user.
    pub async fn create_user(
        &self,
        caller: Caller,
        new: &NewUser,
        event: AuditEvent,
    ) -> Result<Committed<User>, StoreError> {
        self.commit("create_user", async |transaction, now| {
            check_caller(transaction, caller).await?;
            let user = insert(transaction, new, now).await?;
            let event = event.about_user(user.id).in_tenant(&user.tenant);
            Ok(Uncommitted { id: user.id, value: user, kind: ChangeKind::User, event })
        })
        .await
    }

    /// Alters a user that is in the expected state. `event` gets the difference.
    pub async fn change_user(
        &self,
        caller: Caller,
        id: Uuid,
        expected: &ExpectedState,
        change: &UserChange,
        event: AuditEvent,
    ) -> Result<Committed<User>, StoreError> {
        self.commit("change_user", async |transaction, now| {
            check_caller(transaction, caller).await?;
            let before = lock_expected(transaction, id, expected).await?;
            let after = change.applied_to(&before, now);
            if before.is_active_admin() && !after.is_active_admin() {
                check_another_admin(transaction, id).await?;
            }
            update(transaction, &after, change.credential.as_deref()).await?;
            if change.ends_sessions(&before) {
                revocations::revoke_all_of_user(transaction, id, now).await?;
            }
            let has_other_rights = after.authz_version > before.authz_version;
            let kind = if has_other_rights { ChangeKind::Subject } else { ChangeKind::User };
            let event = with_difference(event.about_user(id).in_tenant(&after.tenant), &before, &after, change);
            Ok(Uncommitted { value: after, kind, id, event })
        })
        .await
    }

    /// Removes a user that is in the expected state, with its logins.
    pub async fn delete_user(
        &self,
        caller: Caller,
        id: Uuid,
        expected: &ExpectedState,
        event: AuditEvent,
    ) -> Result<Committed<()>, StoreError> {
        self.commit("delete_user", async |transaction, _| {
            check_caller(transaction, caller).await?;
            let user = lock_expected(transaction, id, expected).await?;
            if user.is_active_admin() {
                check_another_admin(transaction, id).await?;
            }
            sqlx::query!("DELETE FROM gateway.users WHERE id = $1", id).execute(transaction).await?;
            let event = event.about_user(id).in_tenant(&user.tenant).with("name", user.name.as_str());
            Ok(Uncommitted { value: (), kind: ChangeKind::Subject, id, event })
        })
        .await
    }

    /// Revokes every session and token of a user that is in the expected state.
    pub async fn revoke_user(
        &self,
        caller: Caller,
        id: Uuid,
        expected: &ExpectedState,
        event: AuditEvent,
    ) -> Result<Committed<()>, StoreError> {
        self.commit("revoke_user", async |transaction, now| {
            check_caller(transaction, caller).await?;
            let mut user = lock_expected(transaction, id, expected).await?;
            user.end_tokens();
            user.mark_updated(now);
            update(transaction, &user, None).await?;
            revocations::revoke_all_of_user(transaction, id, now).await?;
            let event = event.about_user(id).in_tenant(&user.tenant);
            Ok(Uncommitted { value: (), kind: ChangeKind::Subject, id, event })
        })
        .await
    }
}

async fn lock_expected(connection: &mut PgConnection, id: Uuid, expected: &ExpectedState) -> Result<User, StoreError> {
    let user = lock_user(connection, id).await?;
    if expected.is_of(&user) { Ok(user) } else { Err(StoreError::UserChanged) }
}

/// Refuses unless another user is an active administrator. Needs the lock of the feed, or two could remove each other.
async fn check_another_admin(connection: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM gateway.users WHERE id <> $1 AND NOT disabled AND 'admin' = ANY (roles)) AS "exists!""#,
        id
    )
    .fetch_one(connection)
    .await?;
    if exists { Ok(()) } else { Err(StoreError::LastAdmin) }
}

/// Adds to the event what changed, without what is secret.
fn with_difference(mut event: AuditEvent, before: &User, after: &User, change: &UserChange) -> AuditEvent {
    if before.roles != after.roles {
        event = event.with("roles", serde_json::json!({ "from": before.roles, "to": after.roles }));
    }
    if before.tenant != after.tenant {
        let (from, to) = (before.tenant.as_str(), after.tenant.as_str());
        event = event.with("tenant", serde_json::json!({ "from": from, "to": to }));
    }
    if before.disabled != after.disabled {
        event = event.with("disabled", after.disabled);
    }
    if change.credential.is_some() {
        event = event.with("credential", "replaced");
    }
    event
}
