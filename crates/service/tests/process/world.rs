//! A process of the smallest service, its CA, its log, and clients for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use identity::{Identity, IdentityConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{ca::Ca, poll_until};
use tonic::body::Body;
use tower::ServiceExt;
use transport::Channel;

/// Long enough for a loaded machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where the process finds all it needs, before it is started.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) directory: TempDir,
    settings: BTreeMap<String, String>,
}

/// The process, killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        identity::install_crypto_providers().unwrap();
        let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
        ca.issue("smallest", "smallest-1", &directory.path().join("identity"));
        fs::create_dir(directory.path().join("work")).unwrap();
        Self { ca, directory, settings: BTreeMap::new() }
    }

    /// With an environment variable for the process.
    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.settings.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Makes the file that the process waits for.
    pub(crate) fn say(&self, file: &str) {
        fs::write(self.directory.path().join("work").join(file), "").unwrap();
    }

    pub(crate) fn start(&self) -> Process {
        self.start_with(&["serve"])
    }

    pub(crate) fn start_with(&self, arguments: &[&str]) -> Process {
        Process::start(self.command(arguments))
    }

    /// Runs it to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A client that presents itself as `service`.
    pub(crate) fn client(&self, service: &str, address: SocketAddr) -> Client {
        let directory = self.path(&format!("client-{service}"));
        self.ca.issue(service, &format!("{service}-1"), &directory);
        Client(transport::channel(&load(&directory), "smallest", &[address.to_string()]))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(example());
        command.args(arguments).current_dir(self.directory.path()).envs(&self.settings);
        command
    }
}

pub(crate) fn load(directory: &Path) -> Arc<Identity> {
    Identity::load(&IdentityConfig { directory: directory.to_owned() }).unwrap()
}

/// Built with the tests of this crate, beside them.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("smallest");
    assert!(example.exists(), "{example:?} is missing; run: cargo build -p service --examples");
    example
}

// === impl Process ===

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// The first line of the log with this message.
    pub(crate) fn logged(&self, message: &str) -> Option<Value> {
        self.log.lock().unwrap().iter().find(|line| line["message"] == message).cloned()
    }

    pub(crate) async fn until_logged(&self, message: &str) -> Value {
        poll_until(message, PATIENCE, async || self.logged(message).is_some()).await;
        self.logged(message).unwrap()
    }

    /// Where a listener was bound, once it is.
    pub(crate) async fn address(&self, listener: &str) -> SocketAddr {
        let bound = || {
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line["message"] == "listening" && line["listener"] == listener)?;
            line["address"].as_str()?.parse().ok()
        };
        poll_until("the listener is bound", PATIENCE, async || bound().is_some()).await;
        bound().unwrap()
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        poll_until("the process ends", PATIENCE, async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

// === impl Client ===

/// Calls the process over mTLS.
#[derive(Clone)]
pub(crate) struct Client(Channel);

impl Client {
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.get_with(path, HeaderMap::new()).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: HeaderMap) -> (StatusCode, String) {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        request.headers_mut().extend(headers);
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The answer of `/ready`.
    pub(crate) async fn ready(&self) -> (StatusCode, Value) {
        let (status, body) = self.get("/ready").await;
        (status, serde_json::from_str(&body).unwrap())
    }
}
