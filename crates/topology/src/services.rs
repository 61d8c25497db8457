//! The services of this workspace.

use crate::{Database, Network, Service, Socket, Speaks, Workload, name, secrets};

/// All of them.
pub const SERVICES: &[Service] = &[BALANCER, GATEWAY, SERVING, SLA, BACKUP];

/// The front door.
pub const BALANCER: Service = Service {
    workload: Workload {
        name: name::BALANCER,
        user: 10_101,
        instances: &["balancer-a", "balancer-b"],
        dev_instances: &["balancer-1"],
        networks: &[Network::Edge, Network::Internal],
        sockets: &[socket(8095, "the front door"), socket(ADMIN_PORT, ADMIN)],
        dns_names: &["localhost", "nebula", "127.0.0.1", "front"],
        secrets: &[],
        scrapes: &[("balancer", ADMIN_PORT)],
    },
    peers: &[],
    upstreams: &[name::SERVING, name::GATEWAY, name::SLA, name::BACKUP, name::MLFLOW],
    database: None,
};

/// Authentication and authorization.
pub const GATEWAY: Service = Service {
    workload: Workload {
        name: name::GATEWAY,
        user: 10_102,
        instances: &["gateway-a", "gateway-b"],
        dev_instances: &["gateway-1"],
        secrets: secrets::GATEWAY,
        scrapes: &[("gateway", ADMIN_PORT)],
        ..INNER
    },
    peers: &[
        ("/api", EDGES),
        ("/.well-known", EDGES),
        ("/internal", &[name::EDGE]),
        HEALTH,
        ("/rampart.auth.v1.Authorization", &[name::BALANCER]),
        (
            "/rampart.auth.v1.Authorization/PassportKeys",
            &[name::BALANCER, name::GATEWAY, name::SERVING, name::SLA, name::BACKUP],
        ),
    ],
    upstreams: &[],
    database: Some(Database { role: "gateway", schema: "gateway", member_of: &[] }),
};

/// Inference.
pub const SERVING: Service = Service {
    workload: Workload {
        name: name::SERVING,
        user: 10_103,
        instances: &["ml-serving-primary", "ml-serving-secondary", "ml-serving-tertiary"],
        dev_instances: &["serving-1", "serving-2", "serving-3"],
        secrets: secrets::SERVING,
        scrapes: &[("ml-serving", ADMIN_PORT)],
        ..INNER
    },
    peers: &[("/v2", EDGES), ("/inference.GRPCInferenceService", EDGES), HEALTH],
    upstreams: &[name::GATEWAY, name::MLFLOW],
    database: None,
};

/// The ledger of minutes.
pub const SLA: Service = Service {
    workload: Workload {
        name: name::SLA,
        user: 10_105,
        instances: &["sla-tracker"],
        dev_instances: &["sla-1"],
        scrapes: &[("sla-tracker", ADMIN_PORT)],
        ..INNER
    },
    peers: &[("/api/sla", EDGES), ("/rampart.sla.v1.Ledger", &[name::BALANCER]), HEALTH],
    upstreams: &[name::GATEWAY],
    database: Some(Database { role: "sla", schema: "sla", member_of: &[] }),
};

/// Backup sets.
pub const BACKUP: Service = Service {
    workload: Workload {
        name: name::BACKUP,
        user: 10_104,
        instances: &["backup-worker"],
        dev_instances: &["backup-1"],
        secrets: secrets::BACKUP,
        scrapes: &[("backup-worker", ADMIN_PORT)],
        ..INNER
    },
    peers: &[("/api/backups", EDGES), HEALTH],
    upstreams: &[name::GATEWAY],
    // A dump needs to read everything, and nothing more.
    database: Some(Database { role: "backup", schema: "backup", member_of: &["pg_read_all_data"] }),
};

const ADMIN_PORT: u16 = 9464;
const ADMIN: &str = "health and metrics";
/// Clients come through one of these.
const EDGES: &[&str] = &[name::BALANCER, name::EDGE];
const HEALTH: (&str, &[&str]) = ("/grpc.health.v1.Health", &[name::BALANCER, name::OPERATOR]);

/// What all services have in common that are behind an edge.
const INNER: Workload = Workload {
    name: "",
    user: 0,
    instances: &[],
    dev_instances: &[],
    networks: &[Network::Internal],
    sockets: &[socket(8443, "the service"), socket(ADMIN_PORT, ADMIN)],
    dns_names: &[],
    secrets: &[],
    scrapes: &[],
};

const fn socket(port: u16, about: &'static str) -> Socket {
    Socket { port, speaks: Speaks::Tls, about }
}
