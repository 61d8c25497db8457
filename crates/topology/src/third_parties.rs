//! Everything else that runs in a container.

use crate::{
    Names,
    Network::{self, Consensus, Edge, Host, Internal, Metrics, People},
    Peers, Socket,
    Speaks::{self, Plain, PostgresTls, ProxyTls, Tls},
    ThirdParty, Workload, name, secrets,
};

/// The container in which people find `psql`. The password of its user comes from Vault.
pub const HUMAN_DATABASE_HOST: &str = "detektor-postgres";
/// The role of the database that people log in with.
pub const HUMAN_DATABASE_ROLE: &str = "detektor";

/// What makes certificates and secrets for the containers. It has no port, and a login to Vault of its own.
pub const STEWARD: Workload = alone(name::STEWARD, 10_002, &["steward"]);

/// All of them but the steward, which signs their certificates.
pub const THIRD_PARTIES: &[ThirdParty] = &[
    ThirdParty {
        // For people and their tools: renewed like a service's.
        certificate_days: 1,
        ..of(Workload {
            dev_instances: &["operator-1"],
            networks: &[Host],
            secrets: secrets::OPERATOR,
            ..alone(name::OPERATOR, 10_106, &["operator"])
        })
    },
    ThirdParty {
        // A node replicates as the user that its common name says.
        common_name: Some("replicator"),
        ..of(Workload {
            dev_instances: &["postgres-1"],
            networks: &[Internal, Consensus],
            sockets: &[socket(5432, PostgresTls, "PostgreSQL"), socket(8008, Tls, "Patroni")],
            dns_names: &[HUMAN_DATABASE_HOST, "etcd-client", "localhost", "127.0.0.1"],
            secrets: secrets::POSTGRES,
            scrapes: &[("patroni", 8008)],
            ..alone(name::POSTGRES, 10_010, &["detektor-postgres-master", "detektor-postgres-slave"])
        })
    },
    ThirdParty {
        peers: SCRAPERS,
        ..of(Workload {
            sockets: &[socket(5432, PostgresTls, "the primary"), METRICS],
            scrapes: HAPROXY,
            ..alone("postgres-proxy", 10_012, &[HUMAN_DATABASE_HOST])
        })
    },
    ThirdParty {
        published: &[8095, 8093, 8096, 8097, 5000],
        peers: SCRAPERS,
        ..of(Workload {
            networks: &[Edge, Metrics],
            sockets: &[
                socket(5000, Tls, "the front door, as the registry"),
                socket(8093, Tls, "the front door, as the SLA tracker"),
                socket(8095, Tls, "the front door"),
                socket(8096, Tls, "the front door, as the explanations"),
                socket(8097, Tls, "the front door, as the load balancer"),
                METRICS,
            ],
            scrapes: HAPROXY,
            ..alone("front", 10_012, &["front"])
        })
    },
    of(Workload {
        networks: &[Edge, Internal],
        sockets: &[
            socket(5000, ProxyTls, "the front door, as the registry (second edge)"),
            socket(8093, ProxyTls, "the front door, as the SLA tracker (second edge)"),
            socket(8095, ProxyTls, "the front door (second edge)"),
            socket(8096, ProxyTls, "the front door, as the explanations (second edge)"),
            socket(8097, ProxyTls, "the front door, as the load balancer (second edge)"),
        ],
        // The standby of the balancers is one of them for clients.
        dns_names: &["balancer.rampart.internal", "localhost", "nebula", "127.0.0.1", "front"],
        ..alone(name::EDGE, 10_016, &["edge"])
    }),
    ThirdParty {
        published: &[8200],
        ..of(Workload {
            networks: &[Internal, People],
            sockets: &[
                socket(8200, Tls, "Vault"),
                socket(8201, Plain, "Vault's port for other nodes, of which there are none (it speaks TLS, 1.2 too)"),
            ],
            dns_names: LOCAL,
            scrapes: &[("vault", 8200)],
            ..alone("vault", 10_020, &["vault"])
        })
    },
    ThirdParty {
        published: &[9000],
        peers: SCRAPERS,
        ..of(Workload {
            networks: &[Internal, People],
            sockets: &[
                socket(9000, Tls, "S3"),
                METRICS,
                socket(9100, Plain, "MinIO itself, behind the TLS proxy in its container"),
            ],
            dns_names: LOCAL,
            secrets: secrets::MINIO,
            scrapes: &[("haproxy", 9464), ("minio", 9464)],
            ..alone("minio", 10_021, &["minio"])
        })
    },
    ThirdParty {
        peers: &[
            // Readers and writers; which of them may change something is for its proxy to say.
            ("/", &[name::BALANCER, name::EDGE, name::PUBLISHER, name::SERVING, name::BACKUP]),
            ("/metrics", &[name::PROMETHEUS, name::OPERATOR]),
        ],
        ..of(Workload {
            sockets: &[
                socket(5000, Tls, "MLflow"),
                METRICS,
                socket(5001, Plain, "MLflow itself, behind the TLS proxy in its container"),
            ],
            secrets: secrets::MLFLOW,
            scrapes: HAPROXY,
            ..alone(name::MLFLOW, 10_030, &["mlflow"])
        })
    },
    ThirdParty { works_once: true, ..of(alone(name::PUBLISHER, 10_030, &["example-models"])) },
    ThirdParty {
        reads_secrets: true,
        ..of(Workload { secrets: secrets::TOOLS, ..alone("tools", 10_022, &["tools"]) })
    },
    ThirdParty {
        published: &[9090],
        ..of(Workload {
            networks: &[Internal, People, Metrics],
            sockets: &[socket(9090, Tls, "Prometheus")],
            dns_names: LOCAL,
            scrapes: &[("prometheus", 9090)],
            ..alone(name::PROMETHEUS, 10_040, &["prometheus"])
        })
    },
    ThirdParty {
        published: &[9093],
        peers: MONITORS,
        ..of(Workload {
            networks: &[Internal, People],
            sockets: &[socket(9093, Tls, "Alertmanager")],
            dns_names: LOCAL,
            scrapes: &[("alertmanager", 9093)],
            ..alone(name::ALERTMANAGER, 10_040, &["alertmanager"])
        })
    },
    ThirdParty {
        peers: MONITORS,
        ..of(Workload {
            sockets: &[socket(9187, Tls, "metrics of PostgreSQL")],
            secrets: secrets::POSTGRES_EXPORTER,
            scrapes: &[("postgres", 9187)],
            ..alone(name::POSTGRES_EXPORTER, 10_040, &["postgres-exporter"])
        })
    },
    of(Workload {
        networks: &[Consensus],
        sockets: &[socket(2379, Tls, "Patroni"), socket(2380, Tls, "the other members")],
        // It lets in whose certificate has one of these.
        dns_names: &["etcd", "etcd-client", "localhost", "127.0.0.1"],
        ..alone("etcd", 10_011, &["etcd-1", "etcd-2", "etcd-3"])
    }),
];

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];
const METRICS: Socket = socket(9464, Tls, "metrics");
const HAPROXY: &[(&str, u16)] = &[("haproxy", 9464)];
const SCRAPERS: Peers = &[("/metrics", &[name::PROMETHEUS, name::OPERATOR])];
/// A container checks its own health, hence its own name.
const MONITORS: Peers = &[("/", &[name::PROMETHEUS, name::OPERATOR, name::ALERTMANAGER, name::POSTGRES_EXPORTER])];

/// Containers that only ask others.
const fn alone(name: &'static str, user: u32, instances: Names) -> Workload {
    let (networks, dev_instances): (&[Network], Names) = (&[Internal], &[]);
    Workload {
        name,
        user,
        instances,
        dev_instances,
        networks,
        sockets: &[],
        dns_names: &[],
        secrets: &[],
        scrapes: &[],
    }
}

const fn of(workload: Workload) -> ThirdParty {
    ThirdParty {
        workload,
        certificate_days: 90,
        works_once: false,
        common_name: None,
        published: &[],
        peers: &[],
        reads_secrets: false,
    }
}

const fn socket(port: u16, speaks: Speaks, about: &'static str) -> Socket {
    Socket { port, speaks, about }
}
