//! The process: started with a configuration, found by what it logs, killed when dropped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use http::Method;
use identity::{Identity, IdentityConfig};
use policy::Role;
use serde_json::Value;
use tempfile::TempDir;

use crate::{FakeGateway, PeerClient, ca::Ca, poll_until};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const EXPECT_FILES: &str = "a test's directory and certificates can be made";

/// Everything around the process; it may be started several times.
pub struct Harness {
    service: &'static str,
    binary: PathBuf,
    ca: Ca,
    directory: TempDir,
    gateway: FakeGateway,
}

/// A running process. Dropping it is `kill -9`.
pub struct RunningService {
    address: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

// === impl Harness ===

impl Harness {
    /// Makes the surroundings of a service. The binary is `env!("CARGO_BIN_EXE_rampart-…")`.
    pub fn new(service: &'static str, binary: &str) -> Self {
        identity::install_crypto_providers().expect(EXPECT_FILES);
        let (directory, ca) = (tempfile::tempdir().expect(EXPECT_FILES), Ca::new());
        ca.issue("gateway", "gateway-1", &directory.path().join("gateway-1"));
        let gateway =
            FakeGateway::start(&directory.path().join("gateway-1"), &[service], (Ipv4Addr::LOCALHOST, 0).into());
        ca.issue(service, &format!("{service}-1"), &directory.path().join("own"));
        Self { service, binary: binary.into(), ca, directory, gateway }
    }

    /// A place for files of the test, removed with the value.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the process with these sections on top of its defaults, and waits until it is ready.
    pub async fn start(&self, config: &str) -> RunningService {
        let service = self.spawn(config);
        let admin = PeerClient::new(&self.identity("operator", "operator-1"), self.service, service.admin, None);
        let is_ready = async || admin.try_call(Method::GET, "/ready").await.is_ok_and(|answer| answer.status == 200);
        poll_until("the service is ready", START_TIMEOUT, is_ready).await;
        service
    }

    /// Starts the process and waits until it listens.
    pub fn spawn(&self, config: &str) -> RunningService {
        let common = format!(
            "[identity]\ndirectory = {:?}\n[gateway]\naddresses = [\"{}\"]\n",
            self.directory.path().join("own"),
            self.gateway.address
        );
        let file = self.directory.path().join("config.toml");
        fs::write(&file, common + config).expect(EXPECT_FILES);
        let mut child = Command::new(&self.binary)
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let (address, admin) = listening_addresses(&mut child);
        RunningService { address, admin, child }
    }

    /// A certificate of a peer.
    pub fn identity(&self, service: &str, instance: &str) -> Arc<Identity> {
        let directory = self.directory.path().join(format!("client-{instance}"));
        self.ca.issue(service, instance, &directory);
        Identity::load(&IdentityConfig { directory }).expect(EXPECT_FILES)
    }

    /// A caller as the balancer forwards it: a person with these roles, or anonymous.
    pub fn client(&self, service: &RunningService, roles: Option<&[Role]>) -> PeerClient {
        let passport = roles.map(|roles| self.gateway.passport(self.service, roles));
        PeerClient::new(&self.identity("balancer", "balancer-1"), self.service, service.address, passport)
    }

    /// A peer with a certificate of its own and no passport.
    pub fn peer(&self, service: &RunningService, name: &str, instance: &str) -> PeerClient {
        PeerClient::new(&self.identity(name, instance), self.service, service.address, None)
    }

    /// What the admin port says of metrics.
    pub async fn metrics(&self, service: &RunningService) -> String {
        let client = PeerClient::new(&self.identity("operator", "operator-1"), self.service, service.admin, None);
        String::from_utf8_lossy(&client.call(Method::GET, "/metrics").await.body).into_owned()
    }
}

// === impl RunningService ===

impl RunningService {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        self.end();
    }
}

/// The addresses of the service's port and of its admin port, from its log, which goes on to the test's output.
pub fn listening_addresses(child: &mut Child) -> (SocketAddr, SocketAddr) {
    let (found, addresses) = mpsc::channel();
    let log = BufReader::new(child.stderr.take().expect("standard error is piped"));
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            show(&line);
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            let field = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
            if let (Some(listener), Some(Ok(address))) = (field("listener"), field("address").map(|text| text.parse()))
            {
                let _unread = found.send((listener, address));
            }
        }
    });
    let deadline = Instant::now() + START_TIMEOUT;
    let (mut service, mut admin) = (None, None);
    loop {
        if let (Some(service), Some(admin)) = (service, admin) {
            return (service, admin);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let (listener, address): (String, SocketAddr) =
            addresses.recv_timeout(left).expect("the service logs where it listens");
        *(if listener == "admin" { &mut admin } else { &mut service }) = Some(address);
    }
}

#[expect(clippy::print_stderr, reason = "this way the test runner keeps it, and shows it when the test fails")]
fn show(line: &str) {
    eprintln!("{line}");
}
