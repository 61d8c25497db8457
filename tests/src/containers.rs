//! The platform in containers that `scripts/test platform` has started: where it is, and who may do what there.

use std::{
    env, fs,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http::Method;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    docker::{Container, HEALTH_PERIOD, are_healthy, docker},
    front_door::FrontDoor,
    poll::{until, until_every},
    request::{Protocol, Server, Template},
};

/// A whole platform that starts on two cores.
pub const START_LIMIT: Duration = Duration::from_secs(300);
/// The test's platform looks for new passwords every 5 s.
const PASSWORD_TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// The account that `scripts/up` has made.
const ANALYST: &str = "example-analyst";

/// The nodes of PostgreSQL.
const NODES: [&str; 2] = ["detektor-postgres-master", "detektor-postgres-slave"];

const PATRONI_PORT: u16 = 8008;
/// A node that is frozen takes connections and says nothing.
const PATRONI_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Who is what among the nodes of PostgreSQL.
#[derive(Debug)]
pub struct Roles {
    /// Who takes writes.
    pub leader: String,
    /// Who has them too, before they are acknowledged, and may lead next.
    pub sync_standby: Option<String>,
}

/// A running platform.
#[derive(Clone)]
pub struct Containers {
    /// Its name for Docker Compose.
    pub project: String,
    /// What its containers' names begin with.
    pub prefix: String,
    /// The front door.
    pub front: FrontDoor,
    /// Prometheus.
    pub prometheus: SocketAddr,
    /// The folder of the root CA.
    pub certs: PathBuf,
    /// The folder of accounts and tokens.
    pub access: PathBuf,
}

// === impl Containers ===

impl Containers {
    /// The platform that the environment describes.
    ///
    /// # Errors
    /// It describes none.
    pub fn from_environment() -> anyhow::Result<Self> {
        identity::install_crypto_providers()?;
        let value =
            |name: &str| env::var(name).with_context(|| format!("{name} is not set: run scripts/test platform"));
        let (certs, access) = (PathBuf::from(value("RAMPART_CERTS")?), PathBuf::from(value("RAMPART_ACCESS")?));
        let address = |name: &str| {
            let port = value(name)?.parse::<u16>().with_context(|| name.to_owned())?;
            anyhow::Ok(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        let front = FrontDoor {
            address: address("RAMPART_PORT_8095")?,
            ca_file: certs.join("ca.pem"),
            example_file: access.join("example-request.json"),
        };
        let (project, prefix) = (value("COMPOSE_PROJECT_NAME")?, value("RAMPART_PREFIX")?);
        Ok(Self { project, prefix, front, prometheus: address("RAMPART_PORT_9090")?, certs, access })
    }

    /// The container of a service.
    pub fn container(&self, service: &str) -> Container {
        Container { name: format!("{}{service}", self.prefix) }
    }

    /// The services whose containers are meant to run always, in the order of their names.
    ///
    /// # Errors
    /// Docker does not say.
    pub async fn services(&self) -> anyhow::Result<Vec<String>> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        // An image that was built for the project has its label, too, and so has every container of it that another test runs for a moment.
        let of_compose = "label=com.docker.compose.oneoff=False";
        let filters = ["--filter", &*filter, "--filter", of_compose];
        let listed = docker(&[&["ps", "--all"][..], &filters, &["--format", "{{.Names}}"]].concat()).await?;
        ensure!(!listed.is_empty(), "the project {} has no container", self.project);
        let format = "{{.HostConfig.RestartPolicy.Name}} {{.Name}}";
        let arguments: Vec<&str> = ["inspect", "--format", format].into_iter().chain(listed.lines()).collect();
        let policies = docker(&arguments).await?;
        let always = policies.lines().filter_map(|line| line.strip_prefix("always /"));
        let mut services = Vec::new();
        for name in always {
            services.push(name.strip_prefix(&self.prefix).context("a container with another prefix")?.to_owned());
        }
        services.sort();
        Ok(services)
    }

    /// Waits until every container is healthy and every replica is in use: how long that took.
    ///
    /// # Errors
    /// They are not within the limit.
    pub async fn wait_healthy(&self, limit: Duration) -> anyhow::Result<Duration> {
        let containers: Vec<_> = self.services().await?.iter().map(|service| self.container(service)).collect();
        until_every(HEALTH_PERIOD, "everything healthy", limit, async || {
            are_healthy(&containers).await?;
            let (_, status) = self.front.call(Method::GET, "/api/loadbalancer/status", None, None).await?;
            let pools = status.get("pools").and_then(Value::as_object).context("no pools")?;
            ensure!(pools.values().all(|pool| pool.get("healthy") == pool.get("total")), "{status}");
            Ok(())
        })
        .await
    }

    /// A right prediction through the front door, as a first-time client makes it: how long until one came.
    ///
    /// # Errors
    /// None came within the limit.
    pub async fn wait_prediction(&self, limit: Duration) -> anyhow::Result<Duration> {
        until("a prediction", limit, async || {
            let token = self.analyst().await?;
            self.front.golden_prediction(&token).await.map(drop)
        })
        .await
    }

    /// A fresh access token of the analyst.
    ///
    /// # Errors
    /// The login fails.
    pub async fn analyst(&self) -> anyhow::Result<String> {
        self.front.token(&self.analyst_grant()?).await
    }

    /// How the analyst logs in.
    ///
    /// # Errors
    /// `scripts/up` has not made the account.
    pub fn analyst_grant(&self) -> anyhow::Result<Value> {
        let secret = self.secret("analyst-client-secret")?;
        Ok(json!({ "grant_type": "client_credentials", "client_id": ANALYST, "client_secret": secret }))
    }

    /// A fresh access token of the administrator.
    ///
    /// # Errors
    /// The login fails.
    pub async fn admin(&self) -> anyhow::Result<String> {
        let password = self.secret("admin-password")?;
        self.front.token(&json!({ "grant_type": "password", "username": "admin", "password": password })).await
    }

    /// `psql` as a person runs it: rows of `|`-separated columns. For a moment after its password has changed it may still
    /// have the old one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn psql(&self, query: &str) -> anyhow::Result<String> {
        let command = ["psql", "-U", "detektor", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query];
        let container = self.container("detektor-postgres");
        let mut answer = String::new();
        until("psql", PASSWORD_TAKEN_WITHIN, async || {
            answer = container.run(&command).await?;
            Ok(())
        })
        .await?;
        Ok(answer)
    }

    /// Patroni's word on who is what: its leader, and which node may take over without losing a row, if one may.
    ///
    /// # Errors
    /// No node answers, or there is no leader.
    pub async fn patroni(&self) -> anyhow::Result<Roles> {
        let mut said = anyhow::anyhow!("there is no node to ask");
        for node in NODES {
            match timeout(PATRONI_ANSWERS_WITHIN, self.cluster_by(node)).await {
                Ok(Ok(cluster)) => return Roles::parse(&cluster),
                Ok(Err(error)) => said = error,
                Err(_) => said = anyhow::anyhow!("Patroni of {node} did not answer in {PATRONI_ANSWERS_WITHIN:?}"),
            }
        }
        Err(said)
    }

    /// From the host, by Patroni's API: `patronictl` in the container takes half a second of a core, which what is tested then
    /// misses.
    async fn cluster_by(&self, node: &'static str) -> anyhow::Result<Value> {
        let address: IpAddr = self.container(node).address().await?.parse()?;
        let front = self.front.server(Protocol::Http1)?;
        let server = Server { address: (address, PATRONI_PORT).into(), name: ServerName::try_from(node)?, ..front };
        let answer = server.connect().await?.call(&Template::json(Method::GET, "/cluster", None, "")?).await?;
        answer.expect_good()?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    fn secret(&self, name: &str) -> anyhow::Result<String> {
        let path = self.access.join("secrets/operator").join(name);
        Ok(read(&path)?.trim().to_owned())
    }
}

// === impl Roles ===

impl Roles {
    fn parse(cluster: &Value) -> anyhow::Result<Self> {
        let members = cluster.get("members").and_then(Value::as_array).context("no members")?;
        let with_role = |role: &str| {
            let member = members.iter().find(|member| member.get("role").and_then(Value::as_str) == Some(role))?;
            Some(member.get("name")?.as_str()?.to_owned())
        };
        let leader = with_role("leader").with_context(|| format!("no leader: {cluster}"))?;
        Ok(Self { leader, sync_standby: with_role("sync_standby") })
    }
}

/// The value of a query to Prometheus that is one number, if it has data.
///
/// # Errors
/// Prometheus does not answer.
pub async fn prometheus(platform: &Containers, query: &str) -> anyhow::Result<Option<f64>> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let template = Template::json(Method::GET, &format!("/api/v1/query?query={encoded}"), None, "")?;
    let front = platform.front.server(Protocol::Http1)?;
    let server = Server { address: platform.prometheus, name: ServerName::try_from("prometheus")?, ..front };
    let answer = server.connect().await?.call(&template).await?;
    answer.expect_good()?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    let value = body.pointer("/data/result/0/value/1").and_then(Value::as_str);
    Ok(value.map(str::parse).transpose()?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Says what a test leaves out here, and why: `scripts/test` counts it as skipped.
pub fn say_skipped(what: &str) {
    say(&format!("SKIPPED: {what}"));
}

/// Prints a line of figures to the test's output.
pub fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("    {line}\n").as_bytes());
}
