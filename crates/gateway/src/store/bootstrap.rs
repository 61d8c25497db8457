//! The first administrator, created once.

use sqlx::PgConnection;

use super::{ChangeKind, Committed, NewUser, Store, Uncommitted, user_rows};
use crate::{
    audit::{Actor, AuditEvent},
    error::StoreError,
    user::User,
};

// === impl Store ===

impl Store {
    /// Creates the first administrator, unless there ever was one or any user exists. Of several at once, one succeeds.
    pub async fn bootstrap(&self, new: &NewUser, event: AuditEvent) -> Result<Committed<User>, StoreError> {
        self.commit("bootstrap", async |transaction, now| {
            if is_over(transaction).await? {
                return Err(StoreError::BootstrapClosed);
            }
            let user = user_rows::insert(transaction, new, now).await?;
            sqlx::query!("INSERT INTO gateway.bootstrap (used_at, user_id) VALUES ($1, $2)", now, user.id)
                .execute(transaction)
                .await?;
            let event = AuditEvent { actor: Actor::User { id: user.id, session: None }, ..event };
            let event = event.about_user(user.id).in_tenant(&user.tenant).with("name", user.name.as_str());
            Ok(Uncommitted { id: user.id, value: user, kind: ChangeKind::User, event })
        })
        .await
    }

    /// Whether the one-time token is used up.
    pub async fn bootstrap_is_over(&self) -> Result<bool, StoreError> {
        self.query("bootstrap_is_over", async |connection| is_over(connection).await).await
    }
}

async fn is_over(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let is_over = sqlx::query_scalar!(
        r#"SELECT (EXISTS (SELECT FROM gateway.users) OR EXISTS (SELECT FROM gateway.bootstrap)) AS "is_over!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(is_over)
}
