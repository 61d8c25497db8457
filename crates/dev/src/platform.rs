//! All processes together: started in order, watched, stopped in the opposite order.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use bootstrap::{
    accounts::{ADMIN, ALL_ROLES},
    client::{Client, Proxies},
    platform_secrets, say,
};
use pg_sandbox::{Cluster, Tcp};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::sleep;
use topology::{Database, PLATFORM, SERVICES, Secret, name};

use super::{
    Arguments,
    certificates::Certificates,
    configs::{self, Addresses},
    layout::{CLUSTER_FOLDER, Layout},
    ports::Ports,
    process::{Program, SupervisedProcess},
};

const POSTGRES_START_TIMEOUT: Duration = Duration::from_secs(30);

/// The database server and the services.
pub(super) struct Platform {
    addresses: Addresses,
    certificates: Certificates,
    options: configs::Options,
    cluster: Option<Cluster>,
    processes: Vec<SupervisedProcess>,
    /// The front door's URL.
    pub(super) front: String,
}

// === impl Platform ===

impl Platform {
    /// Makes keys and certificates, chooses ports. Starts nothing yet.
    pub(super) fn prepare(arguments: &Arguments, layout: &Layout) -> anyhow::Result<Self> {
        let options = configs::Options::new(arguments)?;
        // Those of the services and of the operator; third parties do not run here.
        let is_ours = |secret: &Secret| secret.owner() == name::OPERATOR || topology::service(secret.owner()).is_some();
        let secrets = PLATFORM.workloads().flat_map(|workload| workload.secrets.iter().map(|(secret, _)| *secret));
        platform_secrets::ensure(&layout.access.secrets(), secrets.filter(is_ours))?;
        let lifetime = Duration::from_secs(arguments.certificate_lifetime_s.into());
        let certificates = Certificates::open(layout, lifetime)?;
        let addresses = Addresses::choose(&mut Ports::default(), arguments.port)?;
        let front = format!("https://localhost:{}", addresses.front.port());
        Ok(Self { addresses, certificates, options, cluster: None, processes: Vec::new(), front })
    }

    /// Starts the database, then all services at once: each waits by itself for what it needs.
    pub(super) async fn start(&mut self, layout: &Layout) -> anyhow::Result<()> {
        say("starting PostgreSQL");
        self.start_database(layout).await?;
        let instances: Vec<&str> = configs::instances().map(|(_, instance)| instance).collect();
        say(&format!("starting {}", instances.join(", ")));
        configs::write_all(layout, &self.addresses, &self.options)?;
        let directory = binaries()?;
        for (service, instance) in configs::instances() {
            let config = layout.config(instance).display().to_string();
            self.processes.push(SupervisedProcess::start(Program {
                name: instance.to_owned(),
                executable: directory.join(service.binary()),
                arguments: vec!["serve".into(), "--config".into(), config],
                stop_signal: Signal::TERM,
                run_as: None,
                log: layout.log(instance),
            })?);
        }
        Ok(())
    }

    pub(super) fn client(&self, layout: &Layout) -> anyhow::Result<Client> {
        Client::new(&self.front, &layout.ca_file(), Proxies::Never)
    }

    /// Renews every certificate at half its life, without end.
    pub(super) async fn renew_certificates(&self, layout: &Layout) -> anyhow::Result<()> {
        loop {
            sleep(self.certificates.period()).await;
            self.certificates.issue_all(layout)?;
            if let Some(cluster) = &self.cluster
                && let Err(error) = cluster.reload_certificates().await
            {
                say(&format!("PostgreSQL keeps its old certificate for now: {error:#}"));
            }
        }
    }

    /// Writes `state.json` for scripts and tests: addresses and paths, never secrets.
    pub(super) fn write_state(&self, layout: &Layout) -> anyhow::Result<PathBuf> {
        let roles = [ADMIN].into_iter().chain(ALL_ROLES);
        let tokens: serde_json::Map<_, _> =
            roles.map(|role| (role.to_owned(), json!(layout.access.token(role)))).collect();
        let pids: serde_json::Map<_, _> =
            self.processes.iter().map(|process| (process.name.clone(), json!(process.pid()))).collect();
        let state = json!({
            "front": self.front,
            "ca_file": layout.ca_file(),
            "tokens": tokens,
            "identities": layout.root().join("identity"),
            "data": layout.root(),
            "models": self.options.models,
            "onnxruntime": { "library": self.options.onnxruntime, "sha256": self.options.onnxruntime_sha256 },
            "listeners": self.addresses.listeners,
            "database": self.addresses.database,
            "pids": pids,
        });
        let path = layout.root().join("state.json");
        secrets::replace_file(&path, format!("{state:#}\n").as_bytes(), 0o600, None)?;
        Ok(path)
    }

    /// Stops the services together, and the database after them.
    pub(super) async fn stop(mut self) {
        let database =
            if self.cluster.is_some() && !self.processes.is_empty() { Some(self.processes.remove(0)) } else { None };
        let mut stopping = tokio::task::JoinSet::new();
        for process in self.processes {
            stopping.spawn(process.stop());
        }
        while stopping.join_next().await.is_some() {}
        if let Some(database) = database {
            database.stop().await;
        }
    }

    async fn start_database(&mut self, layout: &Layout) -> anyhow::Result<()> {
        let identity = layout.identity("postgres-1");
        let tcp = Tcp {
            address: self.addresses.database,
            certificate_file: identity.join("certificate.pem"),
            key_file: identity.join("key.pem"),
            ca_file: identity.join("ca.pem"),
        };
        // A throw-away cluster need not survive a power cut; one that is kept must.
        let fsync = if layout.is_kept() { "on" } else { "off" };
        let settings = [("fsync", fsync), ("max_connections", "60"), ("log_connections", "off")];
        let cluster = Cluster::open(&layout.root().join(CLUSTER_FOLDER), Some(tcp), &settings).await?;
        let (executable, arguments) = cluster.server();
        self.processes.push(SupervisedProcess::start(Program {
            name: "postgres".into(),
            executable,
            arguments,
            stop_signal: Signal::INT,
            run_as: cluster.account().ids(),
            log: layout.log("postgres"),
        })?);
        cluster
            .wait_ready(POSTGRES_START_TIMEOUT)
            .await
            .with_context(|| format!("see {}", layout.log("postgres").display()))?;
        make_roles(&cluster, layout).await?;
        self.cluster = Some(cluster);
        Ok(())
    }
}

/// One database, and a login role and a schema for each service.
async fn make_roles(cluster: &Cluster, layout: &Layout) -> anyhow::Result<()> {
    let exists = cluster.sql("postgres", "SELECT 1 FROM pg_database WHERE datname = 'detektor'").await?;
    if exists.is_empty() {
        cluster.sql("postgres", "CREATE DATABASE detektor").await?;
    }
    let mut sql =
        String::from("REVOKE ALL ON DATABASE detektor FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;\n");
    for (service, Database { role, schema, member_of }) in SERVICES.iter().filter_map(|it| Some((it, it.database?))) {
        let file = layout.access.secret(service.workload.name, "database-password");
        let password = std::fs::read_to_string(file).context("database password")?;
        sql.push_str(&format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} LOGIN; END IF; END $$;
             ALTER ROLE {role} PASSWORD '{password}';
             GRANT CONNECT ON DATABASE detektor TO {role};
             CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role};\n"
        ));
        for group in member_of {
            sql.push_str(&format!("GRANT {group} TO {role};\n"));
        }
    }
    cluster.sql("detektor", &sql).await.map(drop).context("cannot make the database roles")
}

/// The folder of this binary, which holds those of the services, too.
fn binaries() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this binary")?;
    let directory = own.parent().context("this binary has no directory")?;
    for service in SERVICES {
        let path = directory.join(service.binary());
        if !path.exists() {
            bail!("{} is missing: build the whole workspace (cargo build --workspace)", path.display());
        }
    }
    Ok(directory.to_owned())
}
