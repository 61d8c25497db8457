//! One platform for one test: a CA, identities, servers behind the balancer, and the balancer.

use std::{path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, ClientBuilder};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{FakeGateway, ca::Ca, poll_until};

use crate::{process::Balancer, upstream::Upstream};

/// How long anything quick may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

pub struct World {
    pub ca: Ca,
    directory: TempDir,
}

impl World {
    pub fn new() -> Self {
        identity::install_crypto_providers().unwrap();
        Self { ca: Ca::new(), directory: tempfile::tempdir().unwrap() }
    }

    /// The directory of an identity, issued when first asked for.
    pub fn identity(&self, instance: &str) -> PathBuf {
        let directory = self.directory.path().join(instance);
        if !directory.exists() {
            self.renew(instance);
        }
        directory
    }

    /// A new certificate for an identity.
    pub fn renew(&self, instance: &str) {
        let service = instance.split('-').next().unwrap();
        self.ca.issue(service, instance, &self.directory.path().join(instance));
    }

    /// A gateway that answers the balancer.
    pub fn gateway(&self, instance: &str) -> FakeGateway {
        FakeGateway::start(&self.identity(instance), &["balancer"], "127.0.0.1:0".parse().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Trusts the CA of this world and no other.
    pub fn client(&self) -> ClientBuilder {
        let root = Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        Client::builder().tls_certs_only([root]).timeout(SOON)
    }
}

/// A world with a gateway, serving replicas and a balancer before them.
pub struct Platform {
    pub world: World,
    pub gateway: FakeGateway,
    pub serving: Vec<Upstream>,
    pub balancer: Balancer,
    pub client: Client,
}

impl Platform {
    pub async fn start(replicas: usize) -> Self {
        Self::start_with(replicas, "").await
    }

    /// `config` is laid over what the test needs anyway.
    pub async fn start_with(replicas: usize, config: &str) -> Self {
        let world = World::new();
        let gateway = world.gateway("gateway-1");
        let serving: Vec<Upstream> = (1..=replicas).map(|n| Upstream::start(&world, &format!("serving-{n}"))).collect();
        let pool = |name: &str, replicas: &[(String, std::net::SocketAddr)]| {
            let replicas: Vec<String> = replicas
                .iter()
                .map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}"))
                .collect();
            format!("pools.{name}.replicas = [{}]\n", replicas.join(", "))
        };
        let of = |upstream: &Upstream| (upstream.name.clone(), upstream.address);
        let pools = pool("serving", &serving.iter().map(of).collect::<Vec<_>>())
            + &pool("gateway", &[("gateway-1".into(), gateway.address)]);
        let balancer = Balancer::start(&world, &format!("{pools}{config}")).await;
        let client = world.client().build().unwrap();
        let platform = Self { world, gateway, serving, balancer, client };
        poll_until("all replicas healthy", SOON, async || platform.healthy_backends().await == replicas).await;
        poll_until("ready", SOON, async || platform.get("/health").await.status() == 200).await;
        platform
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.balancer.front.port())
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn status(&self) -> Value {
        self.get("/api/loadbalancer/status").await.json().await.unwrap()
    }

    pub async fn healthy_backends(&self) -> usize {
        self.status().await["healthy_backends"].as_u64().unwrap() as usize
    }

    /// Waits until so many requests are held, some on each replica.
    pub async fn wait_held(&self, count: usize) {
        poll_until("requests are held by each replica", SOON, async || {
            let counts: Vec<usize> = self.serving.iter().map(|replica| replica.seen.count()).collect();
            !counts.contains(&0) && counts.iter().sum::<usize>() == count
        })
        .await;
    }

    /// Lets them go on.
    pub fn release_held(&self) {
        self.serving.iter().for_each(|replica| replica.seen.release());
    }

    pub async fn wait_healthy(&self, count: usize) {
        poll_until("healthy replicas", SOON, async || self.healthy_backends().await == count).await;
    }
}
