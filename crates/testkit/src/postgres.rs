//! A real PostgreSQL for tests: one cluster per test process, a database and a role per call.

use std::{
    fs::{self, Permissions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use cluster::{Cluster, Running, Tcp};
use database::DatabaseConfig;
use serde_json::json;
use tempfile::TempDir;

use crate::ca::Ca;

const MADE: &str = "a test's database can be made";
/// Below the kernel's range for outgoing connections, so that a free port stays free.
const PORTS: std::ops::Range<u16> = 18_000..20_000;

/// A running cluster with TLS and SCRAM, as production has it. It is stopped and removed when dropped.
pub struct Postgres {
    // Dropped first: the server must be gone before its directory.
    running: Running,
    directory: TempDir,
    address: SocketAddr,
    databases: AtomicU32,
}

// === impl Postgres ===

impl Postgres {
    /// Makes and starts a cluster of its own.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("rampart-test-").tempdir().expect(MADE);
        // The server runs as somebody else when we are root.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect(MADE);
        let files = directory.path().join("identity");
        Ca::new().issue("postgres", "postgres-1", &files);
        let address = free_address();
        let tcp = Tcp {
            address,
            certificate_file: files.join("certificate.pem"),
            key_file: files.join("key.pem"),
            ca_file: files.join("ca.pem"),
        };
        let settings = [("fsync", "off"), ("shared_buffers", "16MB"), ("max_connections", "60")];
        let cluster = Cluster::open(&directory.path().join("postgres"), Some(tcp), &settings).await.expect(MADE);
        let running = cluster.start().await.expect(MADE);
        Self { running, directory, address, databases: AtomicU32::new(0) }
    }

    /// A fresh database in which `role` (made here too, under a name of its own) owns the schema `role`.
    pub async fn database(&self, role: &str) -> DatabaseConfig {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let (name, user) = (format!("{role}_{number}"), format!("{role}_{number}"));
        let password = format!("test-{role}-{number}-{}", self.address.port());
        let password_file = self.directory.path().join(format!("{user}.password"));
        write_private(&password_file, &password);
        let create = format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'; ");
        self.running.sql("postgres", &create).await.expect(MADE);
        self.running.sql("postgres", &format!("CREATE DATABASE {name}")).await.expect(MADE);
        let schema = format!("REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA {role} AUTHORIZATION {user};");
        self.running.sql(&name, &schema).await.expect(MADE);
        serde_json::from_value(json!({
            "host": "localhost",
            "port": self.address.port(),
            "name": name,
            "user": user,
            "password_file": password_file,
            "ca_file": self.directory.path().join("identity/ca.pem"),
        }))
        .expect(MADE)
    }

    /// Runs SQL as the superuser and returns what psql printed.
    pub async fn sql(&self, database: &str, sql: &str) -> String {
        self.running.sql(database, sql).await.expect("the superuser's SQL is right")
    }

    /// The cluster below, for a signal to its process or its binaries.
    pub fn cluster(&self) -> &Running {
        &self.running
    }
}

fn free_address() -> SocketAddr {
    let start = u16::try_from(std::process::id() % 1_000).expect("below 1,000");
    let candidates = PORTS.clone().cycle().skip(usize::from(start) * 2).take(PORTS.len());
    let addresses = candidates.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut free = addresses.filter(|address| TcpListener::bind(address).is_ok());
    free.next().expect("one of two thousand ports is free")
}

fn write_private(path: &Path, content: &str) {
    fs::write(path, content).expect(MADE);
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect(MADE);
}
