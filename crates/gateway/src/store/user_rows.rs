//! Rows of `gateway.users`: read, locked, written. Everything that needs a user within its own transaction asks here.

use policy::{Role, Roles};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::StoreError,
    user::{Tenant, USERS_MAX, User, UserKind, UserName},
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

/// A user with its stored credential.
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
        <&'static str>::from(user.kind),
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

pub(super) async fn update(
    connection: &mut PgConnection,
    user: &User,
    credential: Option<&str>,
) -> Result<(), StoreError> {
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

/// Revokes every token of every user, with a version of at least `version`, and says how many users there are. Each user is in
/// another state than before: a condition on one that was read before does not hold.
pub(super) async fn end_all_tokens(
    connection: &mut PgConnection,
    version: i64,
    now: OffsetDateTime,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        r#"UPDATE gateway.users SET authz_version = greatest(authz_version + 1, $1),
               tokens_since = greatest(authz_version + 1, $1),
               updated_at = greatest(updated_at + interval '1 microsecond', $2)"#,
        version,
        now
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn lock_user(connection: &mut PgConnection, id: Uuid) -> Result<User, StoreError> {
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

/// The user, locked against changes until the end of the transaction.
pub(super) async fn lock_user_shared(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<UserWithCredential>, StoreError> {
    let row = sqlx::query!("SELECT credential FROM gateway.users WHERE id = $1 FOR SHARE", id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let user = by_ids(connection, &[id]).await?.pop();
    Ok(user.map(|user| UserWithCredential { user, credential: row.credential }))
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
