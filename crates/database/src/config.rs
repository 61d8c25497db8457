//! The `[database]` section.

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrets::{Secret, SecretError, SecretFile};
use serde::Deserialize;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Slower statements are worth a line in the log.
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// How to reach PostgreSQL, and with which role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Host name or address; the server's certificate must carry it.
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The other servers of its cluster, `name` or `name:port`. The primary is the one that says so.
    #[serde(default)]
    pub other_hosts: Vec<String>,
    /// Database.
    pub name: String,
    /// Role; also the name of the schema that the service owns.
    pub user: String,
    /// Holds the role's password.
    pub password_file: SecretFile,
    /// Certificates (PEM) of the CAs that the server's certificate may be from.
    pub ca_file: PathBuf,
    /// The service's certificate (PEM); the server requires one.
    pub certificate_file: PathBuf,
    /// Its key, PEM. Both are read anew at each connection.
    pub key_file: PathBuf,
    /// Size of the pool.
    #[serde(default = "default_connections_max")]
    pub connections_max: NonZeroU32,
    /// How long a caller waits for a connection.
    #[serde(default = "default_acquire_timeout_ms")]
    pub acquire_timeout_ms: u64,
    /// How long one statement may take in the server, and one `bounded` operation as a whole.
    #[serde(default = "default_operation_timeout_ms")]
    pub operation_timeout_ms: u64,
    /// How old a connection may grow, 1 s or more. It is replaced while idle, so that a changed role or password, a
    /// renewed certificate or a moved server is noticed.
    #[serde(default = "default_connection_age_max_s")]
    pub connection_age_max_s: u64,
    /// The name of the pool in metrics, for a process that has more than one. Set by code, not by configuration.
    #[serde(skip, default = "default_pool")]
    pub pool: &'static str,
}

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The password file is missing or refused.
    #[error("no password for the database")]
    Password(#[from] SecretError),
    /// The password is not text.
    #[error("the database password in {path} is not UTF-8")]
    PasswordNotText {
        /// The file.
        path: PathBuf,
    },
    /// The CA file is missing or unreadable.
    #[error("cannot read the database's CA file {path}")]
    CaUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The CA file holds no certificate.
    #[error("the database's CA file {path} holds no PEM certificate")]
    CaEmpty {
        /// The file.
        path: PathBuf,
    },
}

// === impl DatabaseConfig ===

impl DatabaseConfig {
    /// What is wrong with the values: key inside the section, and why. Reads no file.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let empty = [("host", &self.host), ("name", &self.name), ("user", &self.user)]
            .into_iter()
            .filter(|(_, value)| value.is_empty())
            .map(|(key, _)| (key, "must not be empty".to_owned()));
        let zero = [
            ("port", u64::from(self.port)),
            ("acquire_timeout_ms", self.acquire_timeout_ms),
            ("operation_timeout_ms", self.operation_timeout_ms),
            ("connection_age_max_s", self.connection_age_max_s),
        ]
        .into_iter()
        .filter(|(_, value)| *value == 0)
        .map(|(key, _)| (key, "must not be 0".to_owned()));
        let mut faults: Vec<_> = empty.chain(zero).collect();
        if let Some(bad) = self.other_hosts.iter().find(|other| self.parse_server(other).is_none()) {
            faults.push(("other_hosts", format!("{bad:?} is neither a name nor name:port")));
        }
        if self.acquire_timeout_ms > self.operation_timeout_ms {
            faults.push(("acquire_timeout_ms", "must not be more than operation_timeout_ms".to_owned()));
        }
        faults
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }

    /// All servers, `host` first.
    pub(crate) fn servers(&self) -> Vec<ServerAddress> {
        let others = self.other_hosts.iter().filter_map(|other| self.parse_server(other));
        std::iter::once(self.first_server()).chain(others).collect()
    }

    pub(crate) fn first_server(&self) -> ServerAddress {
        ServerAddress { host: self.host.clone(), port: self.port }
    }

    fn parse_server(&self, text: &str) -> Option<ServerAddress> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, self.port),
        };
        (!host.is_empty() && port != 0).then(|| ServerAddress { host: host.to_owned(), port })
    }

    pub(crate) fn operation_timeout(&self) -> Duration {
        Duration::from_millis(self.operation_timeout_ms)
    }

    /// Refuses a CA file without a certificate. sqlx reads the file again at each connection, so a renewed
    /// authority needs no restart.
    pub(crate) fn check_ca_file(&self) -> Result<(), DatabaseError> {
        let pem = std::fs::read(&self.ca_file)
            .map_err(|source| DatabaseError::CaUnreadable { path: self.ca_file.clone(), source })?;
        match CertificateDer::pem_slice_iter(&pem).next() {
            Some(Ok(_)) => Ok(()),
            _ => Err(DatabaseError::CaEmpty { path: self.ca_file.clone() }),
        }
    }

    /// Options for one connection to one of the servers, with a bound on each statement.
    pub(crate) fn connect_options(
        &self,
        server: &ServerAddress,
        password: &Secret,
        statement_timeout: Duration,
    ) -> Result<PgConnectOptions, DatabaseError> {
        let password = password
            .expose_str()
            .map_err(|_| DatabaseError::PasswordNotText { path: self.password_file.path().to_owned() })?;
        let bound_ms = statement_timeout.as_millis().to_string();
        Ok(PgConnectOptions::new_without_pgpass()
            .host(&server.host)
            .port(server.port)
            .database(&self.name)
            .username(&self.user)
            .password(password)
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert(&self.ca_file)
            .ssl_client_cert(&self.certificate_file)
            .ssl_client_key(&self.key_file)
            .application_name(&self.user)
            .options([
                ("statement_timeout", bound_ms.as_str()),
                ("lock_timeout", bound_ms.as_str()),
                ("idle_in_transaction_session_timeout", bound_ms.as_str()),
            ])
            .log_statements(log::LevelFilter::Trace)
            .log_slow_statements(log::LevelFilter::Warn, SLOW_STATEMENT))
    }
}

fn default_pool() -> &'static str {
    "main"
}

fn default_port() -> u16 {
    5432
}

fn default_connections_max() -> NonZeroU32 {
    NonZeroU32::new(8).expect("8 is not 0")
}

fn default_acquire_timeout_ms() -> u64 {
    2_000
}

fn default_operation_timeout_ms() -> u64 {
    5_000
}

fn default_connection_age_max_s() -> u64 {
    30 * 60
}
