//! The pool, and the ways to use it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ConstantBuilder, Retryable};
use problem::Problem;
use secrets::Secret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Connection, PgConnection, Postgres, Transaction};
use telemetry::FailureLog;
use tokio::time::timeout;

use crate::config::{DatabaseConfig, DatabaseError};
use crate::errors::{is_password_refused, is_transient_migration_error, map_error};
use crate::pool_manager::PoolManager;
use crate::pool_options::{refuse_wrong_server, timed_out};
use crate::primary;

/// A migration may take longer than any query of a request, but not for ever.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(300);

/// For a database that is away, or not made yet.
const MIGRATION_RETRIES: ConstantBuilder =
    ConstantBuilder::new().with_delay(Duration::from_secs(1)).without_max_times();

/// Duration of each `bounded` operation, by operation and outcome.
const OPERATION_DURATION: &str = "ml_db_query_duration_seconds";

/// The database of one service. Clones share one pool.
#[derive(Clone, Debug)]
pub struct Database {
    manager: Arc<PoolManager>,
}

/// Makes the pool. Checks the files but opens no connection, so a service starts while its database is away.
///
/// Must be called inside a Tokio runtime: tasks of its own read the password file and poll the primary.
pub fn connect(config: &DatabaseConfig) -> Result<Database, DatabaseError> {
    config.check_ca_file()?;
    let password = config.password_file.read()?;
    metrics::describe_histogram!(
        OPERATION_DURATION,
        metrics::Unit::Seconds,
        "Time of one bounded database operation, waiting for a connection included."
    );
    let manager = PoolManager::start(config.clone(), password)?;
    Ok(Database { manager: Arc::new(manager) })
}

// === impl Database ===

impl Database {
    /// The pool, for queries inside [`bounded`](Self::bounded). Not to be kept: another primary is another pool.
    pub fn pool(&self) -> PgPool {
        self.manager.shared.pool()
    }

    /// A connection; when the server refuses the password, waits for a new one and tries once more.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let tried = self.manager.shared.password();
        match self.pool().acquire().await {
            Err(error) if self.may_try_again(&error, &tried).await => self.pool().acquire().await,
            acquired => acquired,
        }
    }

    /// A transaction, on a connection got as by [`acquire`](Self::acquire).
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let tried = self.manager.shared.password();
        match self.pool().begin().await {
            Err(error) if self.may_try_again(&error, &tried).await => self.pool().begin().await,
            begun => begun,
        }
    }

    /// Whether a second attempt makes sense; no query was sent yet. There may be a new password; and a pool that was closed
    /// while a caller waited for a connection was that of the old primary.
    async fn may_try_again(&self, error: &sqlx::Error, tried: &Secret) -> bool {
        matches!(error, sqlx::Error::PoolClosed)
            || is_password_refused(error) && self.manager.shared.wait_for_new_password(tried).await
    }

    /// Runs `work` for at most `operation_timeout_ms` and measures it under the name `operation`.
    ///
    /// This is what bounds a query when the server is frozen. An abandoned transaction is rolled back, or its connection is
    /// closed; whether an abandoned commit took place is unknown.
    pub async fn bounded<T, E: From<sqlx::Error>>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.bounded_by(self.manager.shared.config.operation_timeout(), operation, work).await
    }

    /// The same with a limit of its own, for rare work on many rows. Each statement is bounded by `operation_timeout_ms` all
    /// the same, unless its transaction sets `statement_timeout` and `lock_timeout`.
    pub async fn bounded_by<T, E: From<sqlx::Error>>(
        &self,
        limit: Duration,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        let (result, outcome) = match timeout(limit, work).await {
            Ok(Ok(value)) => (Ok(value), "ok"),
            Ok(Err(error)) => (Err(error), "error"),
            Err(_elapsed) => (Err(E::from(timed_out())), "timeout"),
        };
        metrics::histogram!(OPERATION_DURATION, "operation" => operation, "outcome" => outcome)
            .record(started.elapsed());
        result
    }

    /// Runs `work` on one connection, as [`bounded`](Self::bounded) does.
    pub async fn query<T, E: From<sqlx::Error>>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.bounded(operation, async { work(&mut *self.acquire().await?).await }).await
    }

    /// Whether the primary answers now.
    pub async fn ping(&self) -> Result<(), Problem> {
        self.query("ping", async |connection| connection.ping().await).await.map_err(map_error)
    }

    /// Brings `schema` to the state of this binary, on a connection of its own with time for long statements.
    ///
    /// Goes on until the database is there: what passes by itself is tried again every second. An error is what does not
    /// pass, such as a schema that was changed by hand or a migration that fails, and needs a person.
    ///
    /// The table of applied migrations lies in the same schema. Migrations that this binary does not know are left alone:
    /// the release before runs on this release's schema.
    pub async fn migrate(&self, migrator: &Migrator, schema: &str) -> Result<(), MigrateError> {
        let mut failures = FailureLog::once();
        let retried =
            (|| self.migrate_once(migrator, schema)).retry(MIGRATION_RETRIES).when(is_transient_migration_error);
        let reported = retried.notify(|error, _| {
            if failures.failed() {
                tracing::warn!(schema, error = %problem::Chain(error), "database schema cannot be migrated yet; the service is not ready, tried again each second");
            }
        });
        reported.await
    }

    async fn migrate_once(&self, migrator: &Migrator, schema: &str) -> Result<(), MigrateError> {
        let mut migrator = Migrator::with_migrations(migrator.iter().cloned().collect());
        migrator.set_ignore_missing(true);
        migrator.dangerous_set_table_name(format!("{schema}._sqlx_migrations"));
        let work = async {
            if self.manager.shared.has_other_hosts() {
                // Without one, the server that was the primary last says what is wrong.
                drop(primary::find(&self.manager.shared).await);
            }
            let options = self.migration_options().map_err(|error| sqlx::Error::Configuration(error.into()))?;
            let mut connection = options.connect().await?;
            refuse_wrong_server(&mut connection).await?;
            migrator.run_direct(None, &mut connection, false).await?;
            connection.close().await.map_err(MigrateError::from)
        };
        timeout(MIGRATION_TIMEOUT, work).await.unwrap_or_else(|_elapsed| Err(timed_out().into()))
    }

    fn migration_options(&self) -> Result<PgConnectOptions, DatabaseError> {
        let shared = &self.manager.shared;
        shared.config.connect_options(&shared.server(), &shared.config.password_file.read()?, MIGRATION_TIMEOUT)
    }
}
