//! Proves that a revoked token is refused although one of two gateways, cut off from the database, would still grant it.
//! Gateways, database and balancer are real; between one gateway and the database is a relay that the test stops.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::binary,
    front_door::FrontDoor,
    poll::{throughout, until},
};
use http::{Method, StatusCode};
use identity::{Identity, IdentityConfig};
use proto::auth::v1::{AuthorizeRequest, AuthorizeResponse, authorization_client::AuthorizationClient};
use serde_json::{Value, json};
use testkit::{Postgres, ca::Ca};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use transport::Channel;

const PASSWORD: &str = "the admin of this test";
const STATUS: &str = "/api/loadbalancer/status";
const SOON: Duration = Duration::from_secs(30);
const REVOKED_WITHIN: Duration = Duration::from_secs(2);
/// A refusal is cached for a second: in this time both gateways are asked first.
const SEVERAL_CALLS: Duration = Duration::from_secs(4);
const PERIOD: Duration = Duration::from_millis(50);

/// A TCP relay to the database.
struct Relay {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

/// A process that ends with the value, and the file with what it logs.
struct Process {
    child: Child,
    log: PathBuf,
}

/// What the processes have in common.
struct World {
    ca: Ca,
    directory: tempfile::TempDir,
    database: Value,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refused_that_only_a_gateway_without_its_database_would_grant() {
    let postgres = Postgres::shared().await;
    let world = World::new(&postgres).await;
    let database: SocketAddr = ([127, 0, 0, 1], world.port()).into();
    let relay = Relay::start(database).await;
    let (_one, one) = world.gateway("gateway-1", database.port()).await;
    let (_two, two) = world.gateway("gateway-2", relay.address.port()).await;
    let (balancer, front) = world.balancer(one, two).await;

    let grant =
        json!({ "grant_type": "bootstrap", "bootstrap_token": "one-time", "username": "admin", "password": PASSWORD });
    let (status, _) = front.call(Method::POST, "/api/auth/token", None, Some(&grant)).await.unwrap();
    assert!(status.is_success(), "{status}");
    let grant = json!({ "grant_type": "password", "username": "admin", "password": PASSWORD });
    let (_, login) = front.call(Method::POST, "/api/auth/token", None, Some(&grant)).await.unwrap();
    let token = login["access_token"].as_str().unwrap();
    until("the token is good", SOON, async || expect(&front, token, StatusCode::OK).await).await.unwrap();
    let (here, there) = (world.channel(one), world.channel(two));
    authorize(&there, token, "serving").await.expect("it is good for the other gateway, too");

    relay.is_cut.send_replace(true);
    revoke(&here, token).await.unwrap();
    authorize(&here, token, "serving").await.expect_err("it is revoked");
    let granted = authorize(&there, token, "serving").await.expect("the gateway that is cut off does not know");
    assert!(!granted.stale, "and does not know that it is");
    let is_refused = async || expect(&front, token, StatusCode::UNAUTHORIZED).await;
    until("the token is refused", REVOKED_WITHIN, is_refused).await.unwrap();
    throughout(PERIOD, SEVERAL_CALLS, is_refused).await.unwrap();

    drop(balancer);
    let (_balancer, front) = world.balancer(one, two).await;
    let is_refused = async || expect(&front, token, StatusCode::UNAUTHORIZED).await;
    throughout(PERIOD, SEVERAL_CALLS, is_refused).await.unwrap();
    authorize(&there, token, "serving").await.expect("the gateway that is cut off still would");
}

async fn expect(front: &FrontDoor, token: &str, expected: StatusCode) -> anyhow::Result<()> {
    let (status, _) = front.call(Method::GET, STATUS, Some(token), None).await?;
    ensure!(status == expected, "{status}");
    Ok(())
}

async fn authorize(gateway: &Channel, token: &str, audience: &str) -> anyhow::Result<AuthorizeResponse> {
    let request =
        AuthorizeRequest { token: token.to_owned(), audience: audience.to_owned(), ..AuthorizeRequest::default() };
    Ok(AuthorizationClient::new(gateway.clone()).authorize(request).await?.into_inner())
}

/// As the balancer forwards it.
async fn revoke(gateway: &Channel, token: &str) -> anyhow::Result<()> {
    let passport = authorize(gateway, token, "gateway").await?.passport;
    let body = json!({ "token": token }).to_string();
    let request = http::Request::post("/api/auth/revoke")
        .header("content-type", "application/json")
        .header("rampart-passport", passport)
        .body(tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from(body))))?;
    let answer = tower::ServiceExt::oneshot(gateway.clone(), request).await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    Ok(())
}

// === impl Relay ===

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = watch::Sender::new(false);
        let cut = is_cut.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    let relayed = async {
                        let mut server = TcpStream::connect(target).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                        _ = relayed => return,
                    }
                    // Neither data nor an end, as when a network is cut.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, is_cut }
    }
}

// === impl World ===

impl World {
    async fn new(postgres: &Arc<Postgres>) -> Self {
        let _again = identity::install_crypto_providers();
        let database = postgres.database("gateway").await;
        let database = json!({
            "host": database.host,
            "port": database.port,
            "name": database.name,
            "user": database.user,
            "password_file": database.password_file.path(),
            "ca_file": database.ca_file,
            "certificate_file": database.certificate_file,
            "key_file": database.key_file,
        });
        let world = Self { ca: Ca::new(), directory: tempfile::tempdir().unwrap(), database };
        world.write_secret("access.pem", &authz::generate_pkcs8_pem().unwrap());
        world.write_secret("passport.pem", &authz::generate_pkcs8_pem().unwrap());
        world.write_secret("bootstrap-token", "one-time");
        world
    }

    fn port(&self) -> u16 {
        self.database["port"].as_u64().unwrap().try_into().unwrap()
    }

    /// A gateway that reaches its database at this port, and where it listens.
    async fn gateway(&self, instance: &str, database_port: u16) -> (Process, SocketAddr) {
        let mut database = self.database.clone();
        database["port"] = json!(database_port);
        let config = json!({
            "listen": { "address": "127.0.0.1:0" },
            "admin": { "address": "127.0.0.1:0" },
            "identity": { "directory": self.issue("gateway", instance) },
            "database": database,
            "tokens": {
                "access_signing_key_file": self.path("access.pem"),
                "passport_signing_key_file": self.path("passport.pem"),
            },
            "bootstrap": { "token_file": self.path("bootstrap-token") },
        });
        let process = self.start("rampart-gateway", instance, &config);
        let address = process.listener("main").await;
        until("users and revocations are known", SOON, async || process.expect_line("users and revocations loaded", 1))
            .await
            .unwrap();
        (process, address)
    }

    /// A balancer that follows both gateways.
    async fn balancer(&self, one: SocketAddr, two: SocketAddr) -> (Process, FrontDoor) {
        let config = json!({
            "admin": { "address": "127.0.0.1:0" },
            "identity": { "directory": self.issue("balancer", "balancer-1") },
            "pools": { "gateway": { "replicas": [
                { "name": "gateway-1", "address": one }, { "name": "gateway-2", "address": two },
            ] } },
        });
        let process = self.start("rampart-balancer", "balancer-1", &config);
        let address = process.listener("front").await;
        until("both are followed", SOON, async || process.expect_line("revocations are followed", 2)).await.unwrap();
        let ca_file = self.path("identities/balancer-1/ca.pem");
        let front = FrontDoor { address, ca_file, example_file: PathBuf::new() };
        let is_healthy = async || {
            let (_, status) = front.call(Method::GET, STATUS, None, None).await?;
            ensure!(status.pointer("/pools/gateway/healthy") == Some(&json!(2)), "{status}");
            Ok(())
        };
        until("both gateways are healthy", SOON, is_healthy).await.unwrap();
        (process, front)
    }

    /// The balancer's own way to a gateway.
    fn channel(&self, gateway: SocketAddr) -> Channel {
        let directory = self.path("identities/balancer-1");
        let identity = Identity::load(&IdentityConfig { directory }).unwrap();
        transport::channel(&identity, "gateway", &[gateway.to_string()])
    }

    fn start(&self, program: &str, instance: &str, config: &Value) -> Process {
        let file = self.path(&format!("{instance}.toml"));
        fs::write(&file, toml::to_string(config).unwrap()).unwrap();
        let log = self.path(&format!("{instance}.log"));
        let mut command = Command::new(binary(program).unwrap());
        command.args(["serve", "--config"]).arg(file).stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        Process { child: command.spawn().unwrap(), log }
    }

    fn issue(&self, service: &str, instance: &str) -> PathBuf {
        let directory = self.path("identities").join(instance);
        if !directory.exists() {
            self.ca.issue(service, instance, &directory);
        }
        directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_secret(&self, name: &str, text: &str) {
        let path: &Path = &self.path(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

// === impl Process ===

impl Process {
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn expect_line(&self, words: &str, count: usize) -> anyhow::Result<()> {
        let lines = self.lines();
        let found = lines.iter().filter(|line| line.to_string().contains(words)).count();
        ensure!(found >= count, "{words:?} {found} times in {lines:#?}");
        Ok(())
    }

    /// The address of a listener, as it was logged.
    async fn listener(&self, name: &str) -> SocketAddr {
        let mut found = None;
        let is_logged = async || {
            let lines = self.lines();
            let line = lines.iter().find(|line| line["listener"] == name);
            let address = line.and_then(|line| line["address"].as_str()).context("it does not listen")?;
            found = Some(address.parse()?);
            Ok(())
        };
        until("it listens", SOON, is_logged).await.unwrap();
        found.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
