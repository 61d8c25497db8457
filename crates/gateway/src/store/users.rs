//! Users.

use policy::{Role, Roles};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Caller, ChangeKind, Committed, Store, change_feed, check_caller, sessions};
use crate::{
    audit::AuditEvent,
    error::StoreError,
    user::{Tenant, USERS_MAX, User, UserChange, UserKind, UserName},
};

/// A user to be made. Cannot be printed, like everything with a credential in it.
#[derive(Clone)]
pub struct NewUser {
    /// To sign in with.
    pub name: UserName,
    /// A person or a machine.
    pub kind: UserKind,
    /// Its tenant.
    pub tenant: Tenant,
    /// What it may do.
    pub roles: Roles,
    /// The hash of its password or client secret.
    pub credential: String,
}

/// A user with what its proof is compared with.
#[derive(Clone)]
pub struct UserWithCredential {
    /// The user.
    pub user: User,
    /// The hash of its password or client secret.
    pub credential: String,
}

/// A row of `gateway.users`.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) tenant: String,
    pub(super) roles: Vec<String>,
    pub(super) disabled: bool,
    pub(super) authz_version: i64,
    pub(super) tokens_since: i64,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
}

// === impl Store ===

impl Store {
    /// The user of this name, in any case of its letters.
    pub async fn user_by_name(&self, name: &UserName) -> Result<Option<UserWithCredential>, StoreError> {
        self.database
            .bounded("user_by_name", async {
                let mut connection = self.database.acquire().await?;
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
            })
            .await
    }

    /// One user.
    pub async fn user(&self, id: Uuid) -> Result<Option<User>, StoreError> {
        self.database
            .bounded("user", async {
                let mut connection = self.database.acquire().await?;
                Ok(by_ids(&mut connection, &[id]).await?.pop())
            })
            .await
    }

    /// Up to `limit` users by name, after the name `after`.
    pub async fn users_page(&self, after: &str, limit: i64) -> Result<Vec<User>, StoreError> {
        self.database
            .bounded("users_page", async {
                let mut connection = self.database.acquire().await?;
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
            })
            .await
    }

    /// Makes a user.
    pub async fn create_user(
        &self,
        caller: Caller,
        new: &NewUser,
        event: AuditEvent,
    ) -> Result<Committed<User>, StoreError> {
        let now = self.now();
        self.database
            .bounded("create_user", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                check_caller(&mut transaction, caller).await?;
                let user = insert(&mut transaction, new, now).await?;
                let change = change_feed::change(ChangeKind::User, user.id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                self.append_audit(&mut transaction, &[event.about_user(user.id).in_tenant(&user.tenant)]).await?;
                transaction.commit().await?;
                Ok(Committed { value: user, seq })
            })
            .await
    }

    /// Alters a user. `event` gets the difference.
    pub async fn change_user(
        &self,
        caller: Caller,
        id: Uuid,
        change: &UserChange,
        event: AuditEvent,
    ) -> Result<Committed<User>, StoreError> {
        let now = self.now();
        self.database
            .bounded("change_user", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                check_caller(&mut transaction, caller).await?;
                let before = lock_user(&mut transaction, id).await?;
                let after = change.applied_to(&before, now);
                if before.is_active_admin() && !after.is_active_admin() {
                    check_another_admin(&mut transaction, id).await?;
                }
                update(&mut transaction, &after, change.credential.as_deref()).await?;
                if change.ends_sessions(&before) {
                    sessions::revoke_all_of_user(&mut transaction, id, now).await?;
                }
                let has_other_rights = after.authz_version > before.authz_version;
                let kind = if has_other_rights { ChangeKind::Subject } else { ChangeKind::User };
                let seq = change_feed::append(&mut transaction, change_feed::change(kind, id, now)).await?;
                let event = with_difference(event.about_user(id).in_tenant(&after.tenant), &before, &after, change);
                self.append_audit(&mut transaction, &[event]).await?;
                transaction.commit().await?;
                Ok(Committed { value: after, seq })
            })
            .await
    }

    /// Removes a user with its logins.
    pub async fn delete_user(&self, caller: Caller, id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        let now = self.now();
        self.database
            .bounded("delete_user", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                check_caller(&mut transaction, caller).await?;
                let user = lock_user(&mut transaction, id).await?;
                if user.is_active_admin() {
                    check_another_admin(&mut transaction, id).await?;
                }
                sqlx::query!("DELETE FROM gateway.users WHERE id = $1", id).execute(&mut *transaction).await?;
                let change = change_feed::change(ChangeKind::Subject, id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                let event = event.about_user(id).in_tenant(&user.tenant).with("name", user.name.as_str());
                self.append_audit(&mut transaction, &[event]).await?;
                transaction.commit().await?;
                Ok(Committed { value: (), seq })
            })
            .await
    }

    /// Ends every login and token of a user.
    pub async fn revoke_user(&self, caller: Caller, id: Uuid, event: AuditEvent) -> Result<Committed<()>, StoreError> {
        let now = self.now();
        self.database
            .bounded("revoke_user", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                check_caller(&mut transaction, caller).await?;
                let mut user = lock_user(&mut transaction, id).await?;
                user.end_tokens();
                user.updated_at = now;
                update(&mut transaction, &user, None).await?;
                sessions::revoke_all_of_user(&mut transaction, id, now).await?;
                let change = change_feed::change(ChangeKind::Subject, id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                self.append_audit(&mut transaction, &[event.about_user(id).in_tenant(&user.tenant)]).await?;
                transaction.commit().await?;
                Ok(Committed { value: (), seq })
            })
            .await
    }
}

/// The roles of a row. A name of a later version is skipped: it can grant nothing here.
pub(super) fn roles_of(names: &[String]) -> Roles {
    names.iter().filter_map(|name| name.parse::<Role>().ok()).collect()
}

fn names_of(roles: Roles) -> Vec<String> {
    roles.iter().map(|role| role.as_str().to_owned()).collect()
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    new: &NewUser,
    now: OffsetDateTime,
) -> Result<User, StoreError> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM gateway.users"#).fetch_one(&mut *connection).await?;
    if count >= USERS_MAX {
        return Err(StoreError::UserLimitReached);
    }
    let user = User {
        id: Uuid::new_v4(),
        name: new.name.clone(),
        kind: new.kind,
        tenant: new.tenant.clone(),
        roles: new.roles,
        disabled: false,
        authz_version: 1,
        tokens_since: 1,
        created_at: now,
        updated_at: now,
    };
    sqlx::query!(
        r#"INSERT INTO gateway.users
               (id, name, kind, tenant, roles, credential, disabled, authz_version, tokens_since, created_at, updated_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)"#,
        user.id,
        user.name.as_str(),
        user.kind.as_str(),
        user.tenant.as_str(),
        &names_of(user.roles),
        new.credential,
        user.disabled,
        user.authz_version,
        user.tokens_since,
        now
    )
    .execute(connection)
    .await
    .map_err(|error| match error.as_database_error().and_then(|error| error.constraint()) {
        Some("users_name_key") => StoreError::NameTaken,
        _ => error.into(),
    })?;
    Ok(user)
}

async fn update(connection: &mut PgConnection, user: &User, credential: Option<&str>) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE gateway.users
           SET tenant = $2, roles = $3, disabled = $4, authz_version = $5, tokens_since = $6, updated_at = $7,
               credential = coalesce($8, credential)
           WHERE id = $1"#,
        user.id,
        user.tenant.as_str(),
        &names_of(user.roles),
        user.disabled,
        user.authz_version,
        user.tokens_since,
        user.updated_at,
        credential
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn lock_user(connection: &mut PgConnection, id: Uuid) -> Result<User, StoreError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, name, kind, tenant, roles, disabled, authz_version, tokens_since, created_at, updated_at
           FROM gateway.users WHERE id = $1 FOR UPDATE"#,
        id
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::UserNotFound)?
    .try_into()
}

/// Refuses unless somebody else can administer users. Needs the lock of the feed, or two could remove each other.
async fn check_another_admin(connection: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM gateway.users WHERE id <> $1 AND NOT disabled AND 'admin' = ANY (roles)) AS "exists!""#,
        id
    )
    .fetch_one(connection)
    .await?;
    if exists { Ok(()) } else { Err(StoreError::LastAdmin) }
}

pub(super) async fn by_ids(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<User>, StoreError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, name, kind, tenant, roles, disabled, authz_version, tokens_since, created_at, updated_at
           FROM gateway.users WHERE id = ANY ($1)"#,
        ids
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(User::try_from)
    .collect()
}

pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<User>, StoreError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, name, kind, tenant, roles, disabled, authz_version, tokens_since, created_at, updated_at FROM gateway.users"#
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(User::try_from)
    .collect()
}

/// What is different, without what is secret.
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

// === impl User ===

impl TryFrom<Row> for User {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |what: &str| StoreError::Inconsistent { table: "users", what: format!("{what} of {}", row.id) };
        Ok(Self {
            id: row.id,
            name: row.name.parse().map_err(|_| wrong("name"))?,
            kind: row.kind.parse().map_err(|_| wrong("kind"))?,
            tenant: row.tenant.parse().map_err(|_| wrong("tenant"))?,
            roles: roles_of(&row.roles),
            disabled: row.disabled,
            authz_version: row.authz_version,
            tokens_since: row.tokens_since,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
