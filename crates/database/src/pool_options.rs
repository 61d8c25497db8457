//! The bounds of a pool, and the tests that each of its connections must pass.

use std::io;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use tokio::time::timeout;

use crate::config::DatabaseConfig;

/// How long a connection is tested when it comes back, before it is closed hard.
const RELEASE_TEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Idle connections beyond this are closed.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(5 * 60);

pub(crate) fn pool_options(config: &DatabaseConfig) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(config.connections_max.get())
        .acquire_timeout(config.acquire_timeout())
        .max_lifetime(Duration::from_secs(config.connection_age_max_s))
        .idle_timeout(CONNECTION_IDLE_MAX)
        .after_connect(|connection, _| Box::pin(refuse_wrong_server(connection)))
        .after_release(|connection, _| Box::pin(test_in_time(connection)))
}

/// A standby would refuse writes one by one, and an older TLS means a proxy in between.
pub(crate) async fn refuse_wrong_server(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let (is_standby, tls): (bool, Option<String>) = sqlx::query_as(
        "SELECT pg_catalog.pg_is_in_recovery(), \
         (SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid())",
    )
    .fetch_one(connection)
    .await?;
    if is_standby {
        return Err(sqlx::Error::Protocol("the server is a standby, not the primary".to_owned()));
    }
    if tls.as_deref() != Some("TLSv1.3") {
        return Err(sqlx::Error::Protocol(format!("the connection has {tls:?} where TLS 1.3 is required")));
    }
    Ok(())
}

/// sqlx tests a returned connection without a limit of its own; this test comes first and closes a dead one hard.
async fn test_in_time(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match timeout(RELEASE_TEST_TIMEOUT, connection.ping()).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(timed_out()),
    }
}

pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
}
