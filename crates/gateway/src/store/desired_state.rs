//! Which models should serve.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, locks};
use crate::{
    audit::AuditEvent,
    desired_state::{DesiredModel, MODELS_MAX, ModelChange, ModelName},
    error::StoreError,
};

/// The lock under which generations and commits have the same order.
const LOCK: &str = "models";

// === impl Store ===

impl Store {
    /// Every model that the state knows, by name.
    pub async fn desired_models(&self) -> Result<Vec<DesiredModel>, StoreError> {
        self.query("desired_models", async |connection: &mut PgConnection| all(connection).await).await
    }

    /// The same, after those that the state does not know were added as loaded.
    pub async fn add_models(&self, names: &[ModelName]) -> Result<Vec<DesiredModel>, StoreError> {
        let (now, names) = (self.now(), names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>());
        let work = async {
            let mut transaction = self.begin().await?;
            lock(&mut transaction).await?;
            sqlx::query!(
                r#"INSERT INTO gateway.models (name, loaded, generation, changed_at)
                       SELECT name, true, (SELECT coalesce(max(generation), 0) + 1 FROM gateway.models), $2
                       FROM unnest($1::text[]) AS name
                   ON CONFLICT (name) DO NOTHING"#,
                &names,
                now
            )
            .execute(&mut *transaction)
            .await?;
            make_room(&mut transaction).await?;
            let models = all(&mut transaction).await?;
            transaction.commit().await?;
            Ok(models)
        };
        self.database.bounded("add_models", work).await
    }

    /// The same, after one was loaded or unloaded. Without a change there is no new generation and no audit record.
    pub async fn change_model(&self, change: &ModelChange, event: AuditEvent) -> Result<Vec<DesiredModel>, StoreError> {
        let now = self.now();
        let work = async {
            let mut transaction = self.begin().await?;
            lock(&mut transaction).await?;
            if set(&mut transaction, &change.model, change.loaded, change.user, now).await? {
                make_room(&mut transaction).await?;
                self.append_audit(&mut transaction, &[event]).await?;
            }
            let models = all(&mut transaction).await?;
            transaction.commit().await?;
            Ok(models)
        };
        self.database.bounded("change_model", work).await
    }
}

/// Takes the lock of the state: from here to the commit, no other transaction changes it.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    locks::take(connection, LOCK).await
}

/// Moves the generation of the state to this one, unless it is higher. A state without models has none. Needs [`lock`].
pub(super) async fn move_generation(connection: &mut PgConnection, generation: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE gateway.models SET generation = $1 WHERE generation = (SELECT max(generation) FROM gateway.models WHERE generation < $1)",
        generation
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn all(connection: &mut PgConnection) -> Result<Vec<DesiredModel>, StoreError> {
    let models = sqlx::query_as!(DesiredModel, "SELECT name, loaded, generation FROM gateway.models ORDER BY name");
    Ok(models.fetch_all(connection).await?)
}

/// Whether that changed anything.
async fn set(
    connection: &mut PgConnection,
    model: &ModelName,
    loaded: bool,
    user: Uuid,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        r#"INSERT INTO gateway.models AS known (name, loaded, generation, changed_by, changed_at)
               SELECT $1, $2, coalesce(max(generation), 0) + 1, $3, $4 FROM gateway.models
           ON CONFLICT (name) DO UPDATE SET loaded = excluded.loaded, generation = excluded.generation,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at
           WHERE known.loaded <> excluded.loaded"#,
        model.as_str(),
        loaded,
        user,
        now
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets loaded models, the oldest first, when there are too many: a model without a row is loaded, too.
async fn make_room(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        r#"DELETE FROM gateway.models WHERE name IN (
               SELECT name FROM gateway.models WHERE loaded ORDER BY generation, name
               LIMIT greatest((SELECT count(*) FROM gateway.models) - $1, 0))"#,
        MODELS_MAX
    )
    .execute(&mut *connection)
    .await?;
    let unloaded = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM gateway.models WHERE NOT loaded"#);
    if unloaded.fetch_one(connection).await? > MODELS_MAX {
        return Err(StoreError::ModelLimitReached);
    }
    Ok(())
}
