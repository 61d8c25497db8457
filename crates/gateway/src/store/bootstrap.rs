//! The first administrator, created once.

use super::{ChangeKind, Committed, NewUser, Store, change_feed, user_rows};
use crate::{
    audit::{Actor, AuditEvent},
    error::StoreError,
    user::User,
};

// === impl Store ===

impl Store {
    /// Creates the first administrator, unless there ever was one or any user exists. Of several at once, one succeeds.
    pub async fn bootstrap(&self, new: &NewUser, event: AuditEvent) -> Result<Committed<User>, StoreError> {
        let now = self.now();
        self.database
            .bounded("bootstrap", async {
                let mut transaction = self.database.begin().await?;
                change_feed::lock(&mut transaction).await?;
                if is_over(&mut transaction).await? {
                    return Err(StoreError::BootstrapClosed);
                }
                let user = user_rows::insert(&mut transaction, new, now).await?;
                sqlx::query!("INSERT INTO gateway.bootstrap (used_at, user_id) VALUES ($1, $2)", now, user.id)
                    .execute(&mut *transaction)
                    .await?;
                let change = change_feed::change(ChangeKind::User, user.id, now);
                let seq = change_feed::append(&mut transaction, change).await?;
                let event = AuditEvent { actor: Actor::User { id: user.id, session: None }, ..event };
                let event = event.about_user(user.id).in_tenant(&user.tenant).with("name", user.name.as_str());
                self.append_audit(&mut transaction, &[event]).await?;
                transaction.commit().await?;
                Ok(Committed { value: user, seq })
            })
            .await
    }

    /// Whether the one-time token is used up.
    pub async fn bootstrap_is_over(&self) -> Result<bool, StoreError> {
        self.database
            .bounded("bootstrap_is_over", async {
                let mut connection = self.database.acquire().await?;
                is_over(&mut connection).await
            })
            .await
    }
}

async fn is_over(connection: &mut sqlx::PgConnection) -> Result<bool, StoreError> {
    let is_over = sqlx::query_scalar!(
        r#"SELECT (EXISTS (SELECT FROM gateway.users) OR EXISTS (SELECT FROM gateway.bootstrap)) AS "is_over!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(is_over)
}
