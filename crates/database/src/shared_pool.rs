//! The pool in use: the one place that decides to which server, and with what password, it connects.

use std::time::Duration;

use parking_lot::Mutex;
use secrets::Secret;
use sqlx::postgres::PgPool;
use telemetry::FailureLog;
use tokio::time::timeout;

use crate::config::{DatabaseConfig, DatabaseError, ServerAddress};
use crate::pool_options::pool_options;

/// How long the close of an old pool is waited for. It gives out no connection from then on, and closes those that come back.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the password file is read while a caller waits for a new password.
const NEW_PASSWORD_PERIOD: Duration = Duration::from_millis(50);

/// Shared by the tasks and the callers.
#[derive(Debug)]
pub(crate) struct SharedPool {
    pub(crate) config: DatabaseConfig,
    state: Mutex<PoolState>,
}

/// Changed together: a pool is made for one server and with one password.
#[derive(Debug)]
struct PoolState {
    server: ServerAddress,
    /// What new connections are made with.
    password: Secret,
    pool: PgPool,
    /// Of the password file. Every caller that waits for a new password reads it again and again.
    invalid_passwords: FailureLog,
}

// === impl SharedPool ===

impl SharedPool {
    /// A pool for the first server, until another one is found to be the primary.
    pub(crate) fn new(config: DatabaseConfig, password: Secret) -> Result<Self, DatabaseError> {
        let server = config.first_server();
        let pool = make_pool(&config, &server, &password)?;
        Ok(Self {
            config,
            state: Mutex::new(PoolState { server, password, pool, invalid_passwords: FailureLog::once() }),
        })
    }

    /// The pool for the server that was last known to be the primary.
    pub(crate) fn pool(&self) -> PgPool {
        self.state.lock().pool.clone()
    }

    /// The password that a connection is made with now, to be shown when it is refused.
    pub(crate) fn password(&self) -> Secret {
        self.state.lock().password.clone()
    }

    /// Where connections are made to now.
    pub(crate) fn server(&self) -> ServerAddress {
        self.state.lock().server.clone()
    }

    /// Whether the primary may be another server than the first.
    pub(crate) fn has_other_hosts(&self) -> bool {
        !self.config.other_hosts.is_empty()
    }

    /// Connects to another server from now on. It gets a pool of its own: a connection does not say to which server it leads,
    /// and one to a frozen server would be waited for. Queries under way on the old one have their own bounds.
    pub(crate) fn switch_to_primary(&self, server: ServerAddress) {
        let mut state = self.state.lock();
        if state.server == server {
            return;
        }
        match make_pool(&self.config, &server, &state.password) {
            Ok(pool) => {
                tracing::info!(host = server.host, "another server is the primary; connections are made to it now");
                let old = std::mem::replace(&mut state.pool, pool);
                state.server = server;
                tokio::spawn(timeout(CLOSE_TIMEOUT, async move { old.close().await }));
            }
            Err(error) => {
                tracing::warn!(host = server.host, error = %problem::Chain(&error), "the primary moved but no connection to it can be configured; the old server stays in use and calls fail");
            }
        }
    }

    /// After the server refused the password `refused`: waits for a new one, as long as a caller waits for a connection, and
    /// uses it for all further connections. False when none came: then another attempt is pointless.
    ///
    /// A rotation changes the password in the server first, so for a moment the file has none that is accepted.
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
            tracing::warn!(file = %self.config.password_file.path().display(), "the database refused the password in this file and Vault wrote no new one in time; this call fails");
        }
        is_new
    }

    /// Whether the file has a new password; new connections are made with it from now on.
    pub(crate) fn reload_password(&self) -> bool {
        // A file that cannot be read now is in the middle of being replaced; the server's refusal is reported elsewhere.
        let Ok(found) = self.config.password_file.read() else { return false };
        let mut state = self.state.lock();
        if found == state.password {
            state.invalid_passwords.recovered();
            return false;
        }
        let options = self.config.connect_options(&state.server, &found, self.config.operation_timeout());
        match options {
            Ok(options) => {
                tracing::info!(fingerprint = found.fingerprint(), "the new database password is in use");
                state.pool.set_connect_options(options);
                state.password = found;
                state.invalid_passwords.recovered();
                true
            }
            Err(error) => {
                if state.invalid_passwords.failed() {
                    tracing::warn!(error = %problem::Chain(&error), "the new password in the file is not valid text; the old one stays in use, correct the file");
                }
                false
            }
        }
    }
}

fn make_pool(config: &DatabaseConfig, server: &ServerAddress, password: &Secret) -> Result<PgPool, DatabaseError> {
    let options = config.connect_options(server, password, config.operation_timeout())?;
    Ok(pool_options(config).connect_lazy_with(options))
}
