//! Keeps the pool's connect options true: the one place that decides where, and with what password, it connects.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use parking_lot::Mutex;
use secrets::Secret;
use sqlx::postgres::PgPool;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::{DatabaseConfig, DatabaseError};

/// How often the password file is looked at and the pool is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// How often it is looked at while somebody waits for another one.
const REFUSED_PERIOD: Duration = Duration::from_millis(50);

/// Connections of the pool, by state.
const CONNECTIONS: &str = "ml_db_pool_connections";

/// Connections that the pool may open.
const CONNECTIONS_MAX: &str = "ml_db_pool_max_connections";

/// Owns the task beside the pool; the task ends with the last clone of the database.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: DatabaseConfig,
    pool: PgPool,
    /// The password that new connections are made with.
    applied: Arc<Mutex<Secret>>,
    task: AbortHandle,
}

// === impl Keeper ===

impl Keeper {
    /// Starts with `password` as the one that the pool's options hold already.
    pub(crate) fn start(config: DatabaseConfig, pool: PgPool, password: Secret) -> Self {
        describe_gauge!(CONNECTIONS, Unit::Count, "Connections of each pool, by state.");
        describe_gauge!(CONNECTIONS_MAX, Unit::Count, "Connections that each pool may open.");
        gauge!(CONNECTIONS_MAX, "pool" => config.pool).set(f64::from(config.connections_max.get()));
        let applied = Arc::new(Mutex::new(password));
        let task = tokio::spawn(keep(config.clone(), pool.clone(), Arc::clone(&applied))).abort_handle();
        Self { config, pool, applied, task }
    }

    pub(crate) fn config(&self) -> &DatabaseConfig {
        &self.config
    }

    /// The password that a connection is made with now, to be shown when it is refused.
    pub(crate) fn applied(&self) -> Secret {
        self.applied.lock().clone()
    }

    /// The server refused `refused`: waits for another password, as long as a caller would for a connection, and takes it
    /// for all further connections. False when none came: then another attempt is pointless.
    ///
    /// Who rotates a password changes it in the server first, so for a moment there is none that is right.
    pub(crate) async fn take_another_password(&self, refused: &Secret) -> bool {
        let waited = timeout(self.config.acquire_timeout(), async {
            while *self.applied.lock() == *refused {
                secrets::refused().notify_waiters();
                if look(&self.config, &self.pool, &self.applied) {
                    return;
                }
                tokio::time::sleep(REFUSED_PERIOD).await;
            }
        });
        let is_new = waited.await.is_ok();
        if !is_new {
            tracing::warn!(file = %self.config.password_file.path().display(), "the server refused the database password and there is no new one");
        }
        is_new
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(config: DatabaseConfig, pool: PgPool, applied: Arc<Mutex<Secret>>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        measure(&pool, config.pool);
        look(&config, &pool, &applied);
    }
}

/// Whether there was a new password and new connections are made with it from now on.
fn look(config: &DatabaseConfig, pool: &PgPool, applied: &Mutex<Secret>) -> bool {
    // A file that cannot be read now is in the middle of being replaced; the server's refusal is reported elsewhere.
    let Ok(found) = config.password_file.read() else { return false };
    let mut applied = applied.lock();
    if found == *applied {
        return false;
    }
    match apply(config, pool, &found) {
        Ok(()) => {
            tracing::info!(fingerprint = found.fingerprint(), "took the new database password");
            *applied = found;
            true
        }
        Err(error) => {
            tracing::warn!(error = %problem::Chain(&error), "the new database password cannot be used");
            false
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
