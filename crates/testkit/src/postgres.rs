//! A real PostgreSQL for tests: one cluster per test process, a database and a role per call.

mod abandoned;
mod lock;
mod port;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use database::DatabaseConfig;
use pg_sandbox::{Cluster, RunningCluster, Tcp};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::ca::Ca;
pub use lock::TableLock;
use port::Port;

const EXPECT_DATABASE: &str = "a test's database can be made";

/// The cluster that the tests of a process share while any of them runs. Weak, because a static is never dropped.
static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

/// A running cluster with TLS and SCRAM, as production has it. It is stopped and removed when dropped.
pub struct Postgres {
    // Dropped first: the server must be gone before its directory.
    running: RunningCluster,
    directory: TempDir,
    port: Port,
    databases: AtomicU32,
}

// === impl Postgres ===

impl Postgres {
    /// The cluster of this test process, for tests that do no harm to it. Hold it as long as it is needed.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Makes and starts a cluster of its own, for a test that freezes or stops it.
    pub async fn start() -> Self {
        abandoned::remove_abandoned();
        let directory = tempfile::Builder::new().prefix(abandoned::DIRECTORY_PREFIX).tempdir().expect(EXPECT_DATABASE);
        abandoned::claim(directory.path());
        // The server runs under another account when the test is root's.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect(EXPECT_DATABASE);
        let files = directory.path().join("identity");
        Ca::new().issue("postgres", "postgres-1", &files);
        let port = Port::take();
        let tcp = Tcp {
            address: port.address,
            certificate_file: files.join("certificate.pem"),
            key_file: files.join("key.pem"),
            ca_file: files.join("ca.pem"),
        };
        let settings = [("fsync", "off"), ("shared_buffers", "16MB"), ("max_connections", "60")];
        let cluster =
            Cluster::open(&directory.path().join("postgres"), Some(tcp), &settings).await.expect(EXPECT_DATABASE);
        let running = cluster.start().await.expect(EXPECT_DATABASE);
        Self { running, directory, port, databases: AtomicU32::new(0) }
    }

    /// A fresh database in which `role` (made here too, under a name of its own) owns the schema `role`.
    pub async fn database(&self, role: &str) -> DatabaseConfig {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let (name, user) = (format!("{role}_{number}"), format!("{role}_{number}"));
        let password = format!("test-{role}-{number}-{}", self.port.address.port());
        let password_file = self.directory.path().join(format!("{user}.password"));
        write_private(&password_file, &password);
        let create = format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'; ");
        self.running.sql("postgres", &create).await.expect(EXPECT_DATABASE);
        self.running.sql("postgres", &format!("CREATE DATABASE {name}")).await.expect(EXPECT_DATABASE);
        let schema = format!("REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA {role} AUTHORIZATION {user};");
        self.running.sql(&name, &schema).await.expect(EXPECT_DATABASE);
        serde_json::from_value(json!({
            "host": "localhost",
            "port": self.port.address.port(),
            "name": name,
            "user": user,
            "password_file": password_file,
            "ca_file": self.directory.path().join("identity/ca.pem"),
            "certificate_file": self.directory.path().join("identity/certificate.pem"),
            "key_file": self.directory.path().join("identity/key.pem"),
        }))
        .expect(EXPECT_DATABASE)
    }

    /// Runs SQL as the superuser and returns what psql printed.
    pub async fn sql(&self, database: &str, sql: &str) -> String {
        self.running.sql(database, sql).await.expect("the superuser's SQL is right")
    }

    /// Locks a table: reads and writes of it wait until the value is dropped.
    pub fn lock(&self, database: &str, table: &str) -> TableLock {
        TableLock::take(&self.running, self.port.address.port(), database, table)
    }

    /// The cluster below, for a signal to its process or its binaries.
    pub fn cluster(&self) -> &RunningCluster {
        &self.running
    }
}

fn write_private(path: &Path, content: &str) {
    fs::write(path, content).expect(EXPECT_DATABASE);
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect(EXPECT_DATABASE);
}
