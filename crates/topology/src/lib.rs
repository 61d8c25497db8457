#![doc = include_str!("../README.md")]

pub mod name;
mod secrets;
mod services;
mod third_parties;

pub use secrets::{Secret, SecretKind};
pub use services::{BACKUP, BALANCER, GATEWAY, SERVICES, SERVING, SLA};
pub use third_parties::{HUMAN_DATABASE_HOST, HUMAN_DATABASE_ROLE, STEWARD, THIRD_PARTIES};

/// A list of names.
pub type Names = &'static [&'static str];
/// Path prefix (whole segments) → who may call below it. The longest prefix decides alone.
pub type Peers = &'static [(&'static str, Names)];

/// Who can call a service at all, by the name in its certificate: the principals of the policies, in the order of their matrix.
pub const CALLERS: [&str; 8] = [
    name::BALANCER,
    name::EDGE,
    name::GATEWAY,
    name::SERVING,
    name::SLA,
    name::BACKUP,
    name::OPERATOR,
    name::PROMETHEUS,
];

/// The platform as it is.
pub const PLATFORM: Map = Map { services: SERVICES, third_parties: THIRD_PARTIES, callers: &CALLERS };

/// The whole map, as a value: tests look at one with another service in it.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// [`SERVICES`].
    pub services: &'static [Service],
    /// [`THIRD_PARTIES`].
    pub third_parties: &'static [ThirdParty],
    /// [`CALLERS`].
    pub callers: Names,
}

/// A service of this workspace. Its certificates come from Vault.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its name and its containers.
    pub workload: Workload,
    /// Who may call what of its own listener; the front door is for clients and has no list. `ADMIN_PEERS` is of its admin port.
    pub peers: Peers,
    /// Whose replicas it calls, by name.
    pub upstreams: Names,
    /// Its place in the database, if it has one. Vault changes the password.
    pub database: Option<Database>,
}

/// Everything else that runs in a container and has a certificate, which the steward signs.
#[derive(Clone, Copy, Debug)]
pub struct ThirdParty {
    /// Its name and its containers.
    pub workload: Workload,
    /// How many days a certificate lasts. Who reads it only when told to has more.
    pub certificate_days: u16,
    /// Whether its work is done once, at the start: its certificate lasts an hour from the steward's start and is not renewed.
    pub works_once: bool,
    /// The common name in its certificate, where that matters.
    pub common_name: Option<&'static str>,
    /// Ports of it that are published on the host under the same number: for clients, or on loopback for people.
    pub published: &'static [u16],
    /// Who may call what of it, where it asks for certificates of certain names.
    pub peers: Peers,
    /// Whether it has a login to Vault with which people read secrets.
    pub reads_secrets: bool,
}

/// One name, one user, and all containers that are equal in both.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// In certificates, `spiffe://<trust domain>/svc/NAME/INSTANCE`.
    pub name: &'static str,
    /// User and group of the process.
    pub user: u32,
    /// The containers, by their names in the compose file; also the instances in their certificates.
    pub instances: Names,
    /// The instances that `rampart dev` makes a certificate for.
    pub dev_instances: Names,
    /// Networks of the containers.
    pub networks: &'static [Network],
    /// What listens in each of them.
    pub sockets: &'static [Socket],
    /// Names and addresses by which clients know it, besides those of service and container.
    pub dns_names: Names,
    /// Secrets, and the file that each is in the container's `/state/secrets`.
    pub secrets: &'static [(Secret, &'static str)],
    /// Prometheus' jobs, and the port that each asks.
    pub scrapes: &'static [(&'static str, u16)],
}

/// A container.
#[derive(Clone, Copy, Debug)]
pub struct Instance {
    /// Its name.
    pub name: &'static str,
    /// What runs in it.
    pub workload: &'static Workload,
    /// The same if it is no service.
    pub third_party: Option<&'static ThirdParty>,
}

/// A place in the database.
#[derive(Clone, Copy, Debug)]
pub struct Database {
    /// The role that logs in.
    pub role: &'static str,
    /// The schema that it owns.
    pub schema: &'static str,
    /// Roles of PostgreSQL's own that it is a member of.
    pub member_of: Names,
}

/// A socket that listens. What speaks no TLS listens on loopback, and everything else on every address.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// TCP.
    pub port: u16,
    /// What a client must say first.
    pub speaks: Speaks,
    /// What it is.
    pub about: &'static str,
}

/// What is spoken at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// TLS 1.3.
    Tls,
    /// The same after a PROXY header.
    ProxyTls,
    /// The same after PostgreSQL's question for it.
    PostgresTls,
    /// On loopback only.
    Plain,
}

/// A network of the compose file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What clients reach.
    Edge,
    /// Services and what they need.
    Internal,
    /// etcd and Patroni.
    Consensus,
    /// Prometheus and the front.
    Metrics,
    /// What is published on the host's loopback.
    People,
    /// The host's own.
    Host,
}

/// The service of this name.
pub fn service(name: &str) -> Option<&'static Service> {
    PLATFORM.services.iter().find(|service| service.workload.name == name)
}

// === impl Map ===

impl Map {
    /// Everything that has a certificate.
    pub fn workloads(&self) -> impl Iterator<Item = &'static Workload> + use<> {
        let services = self.services.iter().map(|service| &service.workload);
        services.chain(self.third_parties.iter().map(|third_party| &third_party.workload))
    }

    /// Every container that the steward looks after.
    pub fn instances(&self) -> impl Iterator<Item = Instance> + use<> {
        let services = self.services.iter().map(|service| (&service.workload, None));
        let all = services.chain(self.third_parties.iter().map(|it| (&it.workload, Some(it))));
        all.flat_map(|(workload, third_party)| {
            workload.instances.iter().map(move |name| Instance { name, workload, third_party })
        })
    }

    /// Roles of the database whose passwords Vault changes.
    pub fn rotated_roles(&self) -> impl Iterator<Item = &'static str> + use<> {
        let databases = self.services.iter().filter_map(|service| service.database);
        databases.map(|database| database.role).chain([HUMAN_DATABASE_ROLE])
    }
}

// === impl Service ===

impl Service {
    /// The name of its executable.
    pub fn binary(&self) -> String {
        format!("rampart-{}", self.workload.name)
    }

    /// Who may call what of its admin port: `ADMIN_PEERS`, with its own name in it.
    pub fn admin_peers(&self) -> [(&'static str, Vec<&'static str>); 3] {
        let caller = |name: &&'static str| if *name == services::ITSELF { self.workload.name } else { name };
        services::ADMIN_PEERS.map(|(path, callers)| (path, callers.iter().map(caller).collect()))
    }

    /// The port on which its peers, or clients, reach it.
    pub fn port(&self) -> u16 {
        self.workload.sockets.first().map_or(0, |socket| socket.port)
    }
}

// === impl Network ===

impl Network {
    /// All that the compose file defines.
    pub const ALL: [Self; 5] = [Self::Edge, Self::Internal, Self::Consensus, Self::Metrics, Self::People];

    /// As the compose file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Internal => "internal",
            Self::Consensus => "consensus",
            Self::Metrics => "metrics",
            Self::People => "people",
            Self::Host => "host",
        }
    }

    /// Whether nothing outside can be reached from it.
    pub fn is_internal(self) -> bool {
        matches!(self, Self::Internal | Self::Consensus | Self::Metrics)
    }
}

// === impl Speaks ===

impl Speaks {
    /// As the list of sockets has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::ProxyTls => "proxy-tls",
            Self::PostgresTls => "postgres-tls",
            Self::Plain => "plain",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn names_of_workloads_and_of_containers_are_unique() {
        let names: Vec<&str> = PLATFORM.workloads().map(|workload| workload.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        let instances: Vec<&str> = PLATFORM.instances().map(|instance| instance.name).collect();
        assert_eq!(instances.iter().collect::<BTreeSet<_>>().len(), instances.len(), "{instances:?}");
    }

    #[test]
    fn callers_are_the_names_in_the_peer_lists_of_services() {
        let mut listed = BTreeSet::new();
        for service in SERVICES {
            listed.extend(service.peers.iter().flat_map(|(_, callers)| callers.iter().copied()));
            listed.extend(service.admin_peers().into_iter().flat_map(|(_, callers)| callers));
        }
        assert_eq!(listed, CALLERS.into_iter().collect());
    }

    #[test]
    fn every_caller_and_every_upstream_is_on_the_map() {
        let names: BTreeSet<&str> = PLATFORM.workloads().map(|workload| workload.name).collect();
        let upstreams = SERVICES.iter().flat_map(|service| service.upstreams);
        let callers =
            THIRD_PARTIES.iter().flat_map(|third_party| third_party.peers.iter().flat_map(|(_, callers)| *callers));
        for name in CALLERS.iter().chain(upstreams).chain(callers) {
            assert!(names.contains(name), "{name} is no workload");
        }
    }

    /// What one container keeps secret no other may learn by a mistake in a number.
    #[test]
    fn only_workloads_of_one_image_share_a_user() {
        let mut by_user: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for workload in PLATFORM.workloads() {
            by_user.entry(workload.user).or_default().push(workload.name);
        }
        by_user.retain(|_, names| names.len() > 1);
        let shared: Vec<_> = by_user.into_values().collect();
        let monitoring = ["prometheus", "alertmanager", "postgres-exporter"];
        assert_eq!(shared, [&["postgres-proxy", "front"][..], &["mlflow", "publisher"], &monitoring]);
    }

    #[test]
    fn a_secret_is_made_in_one_way_and_a_file_has_one_secret() {
        let mut kinds = BTreeMap::new();
        for workload in PLATFORM.workloads() {
            let files: BTreeSet<&str> = workload.secrets.iter().map(|(_, file)| *file).collect();
            assert_eq!(files.len(), workload.secrets.len(), "{}", workload.name);
            for (secret, _) in workload.secrets {
                assert_eq!(*kinds.entry(secret.path).or_insert(secret.kind), secret.kind, "{}", secret.path);
            }
        }
    }
}
