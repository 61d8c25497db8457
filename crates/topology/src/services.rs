//! The services of this workspace.

use crate::{Database, Names, Network, Service, Socket, Speaks, Workload, name, secrets};

/// All of them.
pub const SERVICES: &[Service] = &[BALANCER, GATEWAY, SERVING, SLA, BACKUP];

/// Who may call what of the admin port (9464) of every service. Its own `peers` below are of its other listener.
pub(crate) const ADMIN_PEERS: [(&str, Names); 3] = [
    ("/", &[name::OPERATOR]),
    ("/metrics", &[name::OPERATOR, name::PROMETHEUS]),
    // The health check of its container asks under the service's own name.
    ("/ready", &[name::OPERATOR, ITSELF]),
];
/// In `ADMIN_PEERS`: the service whose port it is.
pub(crate) const ITSELF: &str = "itself";

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
        secrets: secrets::GATEWAY,
        scrapes: &[("gateway", ADMIN_PORT)],
        ..inner(name::GATEWAY, 10_102, &["gateway-a", "gateway-b"], &["gateway-1"])
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
        ("/rampart.models.v1.DesiredState", &[name::SERVING]),
    ],
    upstreams: &[],
    database: Some(Database { role: "gateway", schema: "gateway", member_of: &[] }),
};

/// Inference.
pub const SERVING: Service = Service {
    workload: Workload {
        secrets: secrets::SERVING,
        scrapes: &[("ml-serving", ADMIN_PORT)],
        ..inner(
            name::SERVING,
            10_103,
            &["ml-serving-primary", "ml-serving-secondary", "ml-serving-tertiary"],
            &["serving-1", "serving-2", "serving-3"],
        )
    },
    peers: &[("/v2", EDGES), ("/api/models", EDGES), ("/inference.GRPCInferenceService", EDGES), HEALTH],
    upstreams: &[name::GATEWAY, name::MLFLOW],
    database: None,
};

/// The ledger of minutes.
pub const SLA: Service = Service {
    workload: Workload {
        scrapes: &[("sla-tracker", ADMIN_PORT)],
        ..inner(name::SLA, 10_105, &["sla-tracker"], &["sla-1"])
    },
    peers: &[("/api/sla", EDGES), ("/rampart.sla.v1.Ledger", &[name::BALANCER]), HEALTH],
    upstreams: &[name::GATEWAY],
    database: Some(Database { role: "sla", schema: "sla", member_of: &[] }),
};

/// Backup sets.
pub const BACKUP: Service = Service {
    workload: Workload {
        secrets: secrets::BACKUP,
        scrapes: &[("backup-worker", ADMIN_PORT)],
        ..inner(name::BACKUP, 10_104, &["backup-worker"], &["backup-1"])
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
const fn inner(name: &'static str, user: u32, instances: Names, dev_instances: Names) -> Workload {
    const SOCKETS: &[Socket] = &[socket(8443, "the service"), socket(ADMIN_PORT, ADMIN)];
    let (networks, sockets) = (&[Network::Internal], SOCKETS);
    Workload { name, user, instances, dev_instances, networks, sockets, dns_names: &[], secrets: &[], scrapes: &[] }
}

const fn socket(port: u16, about: &'static str) -> Socket {
    Socket { port, speaks: Speaks::Tls, about }
}
