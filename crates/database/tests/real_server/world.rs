//! A database per test; and a server per test for those that freeze or stop it.

use std::sync::Arc;
use std::time::Duration;

use database::{Database, DatabaseConfig};
use testkit::Postgres;

/// Long enough for a loaded machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) postgres: Arc<Postgres>,
    pub(crate) config: DatabaseConfig,
    pub(crate) database: Database,
}

// === impl World ===

impl World {
    /// A database on the server that all these tests share.
    pub(crate) async fn new() -> Self {
        Self::on(Postgres::shared().await).await
    }

    /// A database on a server of its own.
    pub(crate) async fn with_own_server() -> Self {
        Self::on(Arc::new(Postgres::start().await)).await
    }

    /// The role owns the schema `shop`; the bounds are short enough for a test.
    async fn on(postgres: Arc<Postgres>) -> Self {
        let mut config = postgres.database("shop").await;
        config.acquire_timeout_ms = 500;
        config.operation_timeout_ms = 1_000;
        config.connections_max = 2.try_into().unwrap();
        let database = database::connect(&config).unwrap();
        Self { postgres, config, database }
    }

    /// The superuser's SQL in the test's database.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.postgres.sql(&self.config.name, sql).await
    }
}

/// A number from the server, through the pool and inside the bound.
pub(crate) async fn one(database: &Database) -> Result<i32, sqlx::Error> {
    database.bounded("one", sqlx::query_scalar("SELECT 1").fetch_one(&database.pool())).await
}
