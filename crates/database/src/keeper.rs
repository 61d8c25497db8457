//! Keeps the pool's connect options true: the one place that decides where, and with what password, it connects.

use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use secrets::Secret;
use sqlx::postgres::PgPool;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::config::{DatabaseConfig, DatabaseError};

/// How often the password file is looked at and the pool is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// Connections of the pool, by state.
const CONNECTIONS: &str = "ml_db_pool_connections";

/// Connections that the pool may open.
const CONNECTIONS_MAX: &str = "ml_db_pool_max_connections";

/// Owns the task beside the pool; the task ends with the last clone of the database.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: DatabaseConfig,
    pool: PgPool,
    task: AbortHandle,
}

// === impl Keeper ===

impl Keeper {
    /// Starts with `password` as the one that the pool's options hold already.
    pub(crate) fn start(config: DatabaseConfig, pool: PgPool, password: Secret) -> Self {
        describe_gauge!(CONNECTIONS, Unit::Count, "Connections of each pool, by state.");
        describe_gauge!(CONNECTIONS_MAX, Unit::Count, "Connections that each pool may open.");
        gauge!(CONNECTIONS_MAX, "pool" => config.pool).set(f64::from(config.connections_max.get()));
        let task = tokio::spawn(keep(config.clone(), pool.clone(), password)).abort_handle();
        Self { config, pool, task }
    }

    pub(crate) fn config(&self) -> &DatabaseConfig {
        &self.config
    }

    /// Takes the password as it is now for all further connections. False when the file cannot be used: then another
    /// attempt is pointless.
    pub(crate) fn take_password_again(&self) -> bool {
        match self
            .config
            .password_file
            .read()
            .map_err(DatabaseError::from)
            .and_then(|new| apply(&self.config, &self.pool, &new))
        {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %problem::Chain(&error), "the server refused the database password and there is no new one");
                false
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(config: DatabaseConfig, pool: PgPool, mut password: Secret) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        measure(&pool, config.pool);
        // A file that cannot be read now is in the middle of being replaced; the server's refusal is reported elsewhere.
        let Ok(found) = config.password_file.read() else { continue };
        if found == password {
            continue;
        }
        match apply(&config, &pool, &found) {
            Ok(()) => {
                tracing::info!(fingerprint = found.fingerprint(), "took the new database password");
                password = found;
            }
            Err(error) => tracing::warn!(error = %problem::Chain(&error), "the new database password cannot be used"),
        }
    }
}

fn apply(config: &DatabaseConfig, pool: &PgPool, password: &Secret) -> Result<(), DatabaseError> {
    pool.set_connect_options(config.connect_options(password, config.operation_timeout())?);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a pool has far fewer connections than f64 has integers")]
fn measure(pool: &PgPool, name: &'static str) {
    let (size, idle) = (f64::from(pool.size()), pool.num_idle() as f64);
    gauge!(CONNECTIONS, "pool" => name, "state" => "idle").set(idle);
    gauge!(CONNECTIONS, "pool" => name, "state" => "used").set((size - idle).max(0.0));
}
