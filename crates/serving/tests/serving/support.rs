//! The real service as a process, with a certificate authority, passports and models of the test's own.

pub(crate) mod client;
pub(crate) mod models;
pub(crate) mod onnx;
pub(crate) mod registry;
pub(crate) mod workers;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use identity::{Identity, IdentityConfig};
use policy::Role;
use tempfile::TempDir;
use testkit::{FakeGateway, ca::Ca, listening_addresses};

pub(crate) use client::Client;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running replica; dropping it kills it.
pub(crate) struct Serving {
    pub(crate) models: PathBuf,
    pub(crate) ca: Ca,
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) child: Child,
    gateway: FakeGateway,
}

// === impl Serving ===

impl Serving {
    /// Starts a replica over the models that `write` puts into a folder, and waits until it is ready.
    pub(crate) async fn start(write: impl FnOnce(&Path)) -> Self {
        Self::start_with("", write).await
    }

    /// The same with further sections of the configuration.
    pub(crate) async fn start_with(config: &str, write: impl FnOnce(&Path)) -> Self {
        Self::spawn(|_, _| config.to_owned(), None, write).await.ready().await
    }

    /// The same without models, and with what the test makes of its certificate authority and folder; perhaps not ready.
    pub(crate) async fn start_configured(config: impl FnOnce(&Ca, &Path) -> String) -> Self {
        Self::spawn(config, None, |_| {}).await
    }

    /// The same with further sections of the configuration; perhaps not ready.
    pub(crate) async fn start_listening(config: &str, write: impl FnOnce(&Path)) -> Self {
        Self::spawn(|_, _| config.to_owned(), None, write).await
    }

    /// Kills it, and starts it again over the same folders.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = command(&self.directory.path().join("serving.toml")).spawn().unwrap();
        (self.address, self.admin) = listening_addresses(&mut self.child);
    }

    /// Kills it; [`Self::restart`] starts it again.
    pub(crate) fn kill(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// The gateway that it asks.
    pub(crate) fn gateway(&self) -> &FakeGateway {
        &self.gateway
    }

    /// The same with a home of its own, and nothing else in its environment.
    pub(crate) async fn start_in(home: &Path, write: impl FnOnce(&Path)) -> Self {
        Self::spawn(|_, _| String::new(), Some(home), write).await.ready().await
    }

    /// The same, listening but perhaps not ready.
    pub(crate) async fn start_unready(write: impl FnOnce(&Path)) -> Self {
        Self::spawn(|_, _| String::new(), None, write).await
    }

    pub(crate) async fn ready(self) -> Self {
        let client = self.client("balancer").await;
        testkit::poll_until("the replica is ready", START_TIMEOUT, async || {
            client.get("/v2/health/ready").await.status == 200
        })
        .await;
        self
    }

    async fn spawn(config: impl FnOnce(&Ca, &Path) -> String, home: Option<&Path>, write: impl FnOnce(&Path)) -> Self {
        identity::install_crypto_providers().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (models, ca) = (directory.path().join("models"), Ca::new());
        fs::create_dir(&models).unwrap();
        write(&models);
        let gateway_identity = directory.path().join("gateway-1");
        ca.issue("gateway", "gateway-1", &gateway_identity);
        let gateway = FakeGateway::start(&gateway_identity, &["serving"], (Ipv4Addr::LOCALHOST, 0).into());
        ca.issue("serving", "serving-1", &directory.path().join("serving-1"));
        let file = directory.path().join("serving.toml");
        let config = config(&ca, directory.path());
        fs::write(&file, configuration(directory.path(), &models, gateway.address) + &config).unwrap();
        let mut command = command(&file);
        if let Some(home) = home {
            command.env_clear().env("HOME", home);
        }
        let mut child = command.spawn().unwrap();
        let (address, admin) = listening_addresses(&mut child);
        Self { models, ca, directory, address, admin, child, gateway }
    }

    /// A client with the certificate of a service, and an engineer's passport.
    pub(crate) async fn client(&self, service: &str) -> Client {
        Client::new(&self.identity(service), self.address, Some(self.passport(&[Role::Engineer])))
    }

    /// A client as the balancer has, with whatever passport.
    pub(crate) async fn client_with(&self, passport: Option<String>) -> Client {
        Client::new(&self.identity("balancer"), self.address, passport)
    }

    /// What the admin port says of metrics.
    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(self.admin("/metrics").await.body.to_vec()).unwrap()
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn until_measured(&self, line: &str) {
        testkit::poll_until(line, Duration::from_secs(20), async || {
            self.metrics().await.lines().any(|each| each == line)
        })
        .await;
    }

    /// What the admin port says.
    pub(crate) async fn admin(&self, path: &str) -> client::Answer {
        Client::new(&self.identity("operator"), self.admin, None).get(path).await
    }

    /// A passport to this service.
    pub(crate) fn passport(&self, roles: &[Role]) -> String {
        self.gateway.passport("serving", roles)
    }

    /// A client as the balancer has, with the passport of another engineer than [`Self::client`].
    pub(crate) fn client_of(&self, sub: &str) -> Client {
        let passport = self.gateway.passport_of(sub, "serving", &[Role::Engineer]);
        Client::new(&self.identity("balancer"), self.address, Some(passport))
    }

    pub(crate) fn identity(&self, service: &str) -> Arc<Identity> {
        let directory = self.directory.path().join(format!("client-{service}"));
        self.ca.issue(service, &format!("{service}-1"), &directory);
        Identity::load(&IdentityConfig { directory }).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rampart-serving"));
    command.args(["serve", "--config"]).arg(file).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn configuration(directory: &Path, models: &Path, gateway: SocketAddr) -> String {
    let (library, digest) = onnxruntime();
    format!(
        "[identity]\ndirectory = {:?}\n[gateway]\naddresses = [\"{gateway}\"]\n[models]\ndirectory = {models:?}\n\
         [onnxruntime]\nlibrary = {library:?}\nsha256 = {digest:?}\n",
        directory.join("serving-1"),
    )
}

/// The library and its digest, as `scripts/test` names them.
pub(crate) fn onnxruntime() -> (String, String) {
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; scripts/test sets it"));
    (variable("RAMPART_ONNXRUNTIME"), variable("RAMPART_ONNXRUNTIME_SHA256"))
}
