//! A database of its own, keys, certificates, and gateways as child processes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use database::DatabaseConfig;
use identity::{Identity, IdentityConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Postgres, TableLock, ca::Ca, poll_until};

use crate::client::Client;

pub(crate) const BOOTSTRAP_TOKEN: &str = "the one-time token of this test";
pub(crate) const ADMIN_PASSWORD: &str = "the admin of this test";

const START_LIMIT: Duration = Duration::from_secs(30);

/// What all gateways of a test have in common.
pub(crate) struct World {
    pub(crate) postgres: Arc<Postgres>,
    pub(crate) database: DatabaseConfig,
    ca: Ca,
    directory: TempDir,
}

/// A gateway process. Killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) main: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

// === impl World ===

impl World {
    /// A database in the shared cluster.
    pub(crate) async fn new() -> Self {
        Self::on(Postgres::shared().await).await
    }

    /// A database in a cluster that may be harmed.
    pub(crate) async fn on(postgres: Arc<Postgres>) -> Self {
        let _again = identity::install_crypto_providers();
        let database = postgres.database("gateway").await;
        let world = Self { postgres, database, ca: Ca::new(), directory: tempfile::tempdir().unwrap() };
        for key in ["access", "passport"] {
            world.write_secret(&format!("{key}.pem"), &authz::generate_pkcs8_pem().unwrap());
        }
        world.write_secret("bootstrap-token", BOOTSTRAP_TOKEN);
        world
    }

    /// A gateway that answers.
    pub(crate) async fn gateway(&self, instance: &str) -> Gateway {
        let gateway = self.start_gateway(instance);
        self.until_serving(&gateway).await;
        gateway
    }

    /// A gateway that listens, and perhaps has no tables yet.
    pub(crate) fn start_gateway(&self, instance: &str) -> Gateway {
        let identity = self.issue("gateway", instance);
        let config = self.directory.path().join(format!("{instance}.toml"));
        fs::write(&config, toml::to_string(&self.config(&identity)).unwrap()).unwrap();
        Gateway::spawn(&config)
    }

    pub(crate) async fn until_serving(&self, gateway: &Gateway) {
        let client = self.client(gateway);
        poll_until("the gateway serves", START_LIMIT, async || client.is_serving().await).await;
    }

    /// A gateway with its first administrator, a client for it and the administrator's token.
    pub(crate) async fn begin() -> (Self, Gateway, Client, String) {
        let world = Self::new().await;
        let gateway = world.gateway("gateway-1").await;
        let client = world.client(&gateway);
        let admin = client.bootstrap().await;
        (world, gateway, client, admin)
    }

    /// The balancer, calling this gateway.
    pub(crate) fn client(&self, gateway: &Gateway) -> Client {
        Client::new(&self.identity("balancer"), gateway.main)
    }

    /// The identity of one instance of a service.
    pub(crate) fn identity(&self, service: &str) -> Arc<Identity> {
        let directory = self.issue(service, &format!("{service}-1"));
        Identity::load(&IdentityConfig { directory }).unwrap()
    }

    /// The text of a secret file.
    pub(crate) fn secret(&self, name: &str) -> String {
        fs::read_to_string(self.secret_path(name)).unwrap()
    }

    /// Everything that is in the audit log, oldest first.
    pub(crate) async fn audit_records(&self) -> Vec<Value> {
        let sql = "SELECT record FROM gateway.audit ORDER BY id";
        let text = self.postgres.sql(&self.database.name, sql).await;
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until a record says all this.
    pub(crate) async fn wait_for_record(&self, event: &str, outcome: &str, reason: Option<&str>) -> Value {
        let mut found = None;
        let matches = |record: &Value| {
            record["event"] == event
                && record["outcome"] == outcome
                && reason.is_none_or(|reason| record["reason"] == reason)
        };
        poll_until(&format!("a record of {event} {outcome} {reason:?}"), Duration::from_secs(10), async || {
            found = self.audit_records().await.into_iter().find(matches);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Locks a table against all access until the value is dropped.
    pub(crate) fn lock(&self, table: &str) -> TableLock {
        self.postgres.lock(&self.database.name, table)
    }

    /// Waits until there is a lock on a table of which the condition is true.
    pub(crate) async fn wait_for_lock(&self, table: &str, condition: &str) {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_locks WHERE relation = '{table}'::regclass AND {condition}
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        poll_until(&format!("{table}: lock {condition}"), Duration::from_secs(10), async || {
            self.postgres.sql(&self.database.name, &sql).await.trim() == "t"
        })
        .await;
    }

    fn config(&self, identity: &Path) -> Value {
        let database = &self.database;
        json!({
            "listen": { "address": "127.0.0.1:0" },
            "admin": { "address": "127.0.0.1:0" },
            "identity": { "directory": identity },
            "telemetry": { "log_filter": "info,gateway=debug" },
            "database": {
                "host": database.host,
                "port": database.port,
                "name": database.name,
                "user": database.user,
                "password_file": database.password_file.path(),
                "ca_file": database.ca_file,
                "certificate_file": database.certificate_file,
                "key_file": database.key_file,
                "operation_timeout_ms": 3_000,
            },
            "tokens": {
                "access_signing_key_file": self.secret_path("access.pem"),
                "passport_signing_key_file": self.secret_path("passport.pem"),
            },
            "bootstrap": { "token_file": self.secret_path("bootstrap-token") },
        })
    }

    fn issue(&self, service: &str, instance: &str) -> PathBuf {
        let directory = self.directory.path().join("identities").join(instance);
        self.ca.issue(service, instance, &directory);
        directory
    }

    fn secret_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_secret(&self, name: &str, text: &str) {
        let path = self.secret_path(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

// === impl Gateway ===

impl Gateway {
    fn spawn(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rampart-gateway"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, addresses) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || keep_log(stderr, &log, &sender)
        });
        let mut listeners = std::collections::HashMap::new();
        while listeners.len() < 2 {
            let Ok((name, address)) = addresses.recv_timeout(START_LIMIT) else {
                panic!("the gateway did not start:\n{}", log.lock().unwrap());
            };
            listeners.insert(name, address);
        }
        Self { child, main: listeners["main"], admin: listeners["admin"], log }
    }

    /// Everything that was logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks the process to stop and says whether it ended well, and in time.
    pub(crate) fn stop(&mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _waited = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the gateway ---\n{}", self.log());
        }
    }
}

fn keep_log(stderr: ChildStderr, log: &Mutex<String>, addresses: &mpsc::Sender<(String, SocketAddr)>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some(listener) = listener(&line) {
            let _receiver_gone = addresses.send(listener);
        }
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}

fn listener(line: &str) -> Option<(String, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let name = find(&line, "listener")?;
    Some((name, find(&line, "address")?.parse().ok()?))
}

/// A field, wherever the log line keeps its fields.
fn find(line: &Value, name: &str) -> Option<String> {
    let at = |value: &Value| value.get(name)?.as_str().map(str::to_owned);
    at(line).or_else(|| line.as_object()?.values().find_map(at))
}
