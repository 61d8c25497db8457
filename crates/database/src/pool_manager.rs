//! The tasks beside the pool: one reads the password file and measures, one follows the primary.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use secrets::Secret;
use sqlx::postgres::PgPool;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::config::{DatabaseConfig, DatabaseError};
use crate::primary;
use crate::shared_pool::SharedPool;

/// How often the password file is read and the pool is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// Connections of the pool, by state.
const CONNECTIONS: &str = "ml_db_pool_connections";

/// Connections that the pool may open.
const CONNECTIONS_MAX: &str = "ml_db_pool_max_connections";

/// Owns the tasks beside the pool; they end with the last clone of the database.
#[derive(Debug)]
pub(crate) struct PoolManager {
    pub(crate) shared: Arc<SharedPool>,
    tasks: Vec<AbortHandle>,
}

// === impl PoolManager ===

impl PoolManager {
    /// Makes the pool, for the first server until another one is found to be the primary.
    pub(crate) fn start(config: DatabaseConfig, password: Secret) -> Result<Self, DatabaseError> {
        describe_gauge!(CONNECTIONS, Unit::Count, "Connections of each pool, by state.");
        describe_gauge!(CONNECTIONS_MAX, Unit::Count, "Connections that each pool may open.");
        gauge!(CONNECTIONS_MAX, "pool" => config.pool).set(f64::from(config.connections_max.get()));
        let shared = Arc::new(SharedPool::new(config, password)?);
        let mut tasks = vec![tokio::spawn(maintain(Arc::clone(&shared))).abort_handle()];
        if shared.has_other_hosts() {
            tasks.push(tokio::spawn(primary::follow(Arc::clone(&shared))).abort_handle());
        }
        Ok(Self { shared, tasks })
    }
}

impl Drop for PoolManager {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn maintain(shared: Arc<SharedPool>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        measure(&shared.pool(), shared.config.pool);
        shared.reload_password();
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pool has far fewer connections than f64 has integers")]
fn measure(pool: &PgPool, name: &'static str) {
    let (size, idle) = (f64::from(pool.size()), pool.num_idle() as f64);
    gauge!(CONNECTIONS, "pool" => name, "state" => "idle").set(idle);
    gauge!(CONNECTIONS, "pool" => name, "state" => "used").set((size - idle).max(0.0));
}
