//! Keeps the pool true: the one place that decides to which server, and with what password, it connects.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use parking_lot::Mutex;
use secrets::Secret;
use sqlx::postgres::PgPool;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::{DatabaseConfig, DatabaseError, Server};
use crate::pool::pool_options;
use crate::primary;

/// How often the password file is looked at and the pool is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// How long an old pool is waited for; it is closed at once, and what is given back to it later is, too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked at while somebody waits for another one.
const NEW_PASSWORD_PERIOD: Duration = Duration::from_millis(50);

/// Connections of the pool, by state.
const CONNECTIONS: &str = "ml_db_pool_connections";

/// Connections that the pool may open.
const CONNECTIONS_MAX: &str = "ml_db_pool_max_connections";

/// Owns the tasks beside the pool; they end with the last clone of the database.
#[derive(Debug)]
pub(crate) struct PoolManager {
    shared: Arc<SharedPool>,
    tasks: Vec<AbortHandle>,
}

/// What the tasks and the callers share.
#[derive(Debug)]
pub(crate) struct SharedPool {
    pub(crate) config: DatabaseConfig,
    state: Mutex<State>,
}

/// They change together: a pool is made for one server and with one password.
#[derive(Debug)]
struct State {
    server: Server,
    /// What new connections are made with.
    password: Secret,
    pool: PgPool,
}

// === impl PoolManager ===

impl PoolManager {
    /// Makes the pool, for the first server until another one is found to be the primary.
    pub(crate) fn start(config: DatabaseConfig, password: Secret) -> Result<Self, DatabaseError> {
        describe_gauge!(CONNECTIONS, Unit::Count, "Connections of each pool, by state.");
        describe_gauge!(CONNECTIONS_MAX, Unit::Count, "Connections that each pool may open.");
        gauge!(CONNECTIONS_MAX, "pool" => config.pool).set(f64::from(config.connections_max.get()));
        let server = config.first_server();
        let pool = make_pool(&config, &server, &password)?;
        let shared = Arc::new(SharedPool { config, state: Mutex::new(State { server, password, pool }) });
        let mut tasks = vec![tokio::spawn(maintain(Arc::clone(&shared))).abort_handle()];
        if shared.has_other_hosts() {
            tasks.push(tokio::spawn(primary::follow(Arc::clone(&shared))).abort_handle());
        }
        Ok(Self { shared, tasks })
    }

    pub(crate) fn shared(&self) -> &SharedPool {
        &self.shared
    }
}

impl Drop for PoolManager {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

// === impl SharedPool ===

impl SharedPool {
    /// The pool for the server that was last known to be the primary.
    pub(crate) fn pool(&self) -> PgPool {
        self.state.lock().pool.clone()
    }

    /// The password that a connection is made with now, to be shown when it is refused.
    pub(crate) fn password(&self) -> Secret {
        self.state.lock().password.clone()
    }

    /// Where connections are made to now.
    pub(crate) fn server(&self) -> Server {
        self.state.lock().server.clone()
    }

    /// Whether the primary may be another server than the first.
    pub(crate) fn has_other_hosts(&self) -> bool {
        !self.config.other_hosts.is_empty()
    }

    /// From now on another server: it gets a pool of its own, because a connection does not say where it leads, and one to
    /// a frozen server would be waited for. What is under way on the old one has its own bounds.
    pub(crate) fn switch_to_primary(&self, server: Server) {
        let mut state = self.state.lock();
        if state.server == server {
            return;
        }
        match make_pool(&self.config, &server, &state.password) {
            Ok(pool) => {
                tracing::info!(host = server.host, "took another server as the primary");
                let old = std::mem::replace(&mut state.pool, pool);
                state.server = server;
                tokio::spawn(timeout(CLOSE_TIMEOUT, async move { old.close().await }));
            }
            Err(error) => {
                tracing::warn!(error = %problem::Chain(&error), "the primary is another server, which cannot be used");
            }
        }
    }

    /// The server refused `refused`: waits for another password, as long as a caller would for a connection, and takes it
    /// for all further connections. False when none came: then another attempt is pointless.
    ///
    /// Who rotates a password changes it in the server first, so for a moment there is none that is right.
    pub(crate) async fn wait_for_new_password(&self, refused: &Secret) -> bool {
        let waited = timeout(self.config.acquire_timeout(), async {
            while self.password() == *refused {
                secrets::rejection_signal().notify_waiters();
                if self.reload_password() {
                    return;
                }
                tokio::time::sleep(NEW_PASSWORD_PERIOD).await;
            }
        });
        let is_new = waited.await.is_ok();
        if !is_new {
            tracing::warn!(file = %self.config.password_file.path().display(), "the server refused the database password and there is no new one");
        }
        is_new
    }

    /// Whether there was a new password and new connections are made with it from now on.
    fn reload_password(&self) -> bool {
        // A file that cannot be read now is in the middle of being replaced; the server's refusal is reported elsewhere.
        let Ok(found) = self.config.password_file.read() else { return false };
        let mut state = self.state.lock();
        if found == state.password {
            return false;
        }
        let options = self.config.connect_options(&state.server, &found, self.config.operation_timeout());
        match options {
            Ok(options) => {
                tracing::info!(fingerprint = found.fingerprint(), "took the new database password");
                state.pool.set_connect_options(options);
                state.password = found;
                true
            }
            Err(error) => {
                tracing::warn!(error = %problem::Chain(&error), "the new database password cannot be used");
                false
            }
        }
    }
}

fn make_pool(config: &DatabaseConfig, server: &Server, password: &Secret) -> Result<PgPool, DatabaseError> {
    let options = config.connect_options(server, password, config.operation_timeout())?;
    Ok(pool_options(config).connect_lazy_with(options))
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
