//! Every container of the platform: who it is, and which secrets are its own.

use std::path::Path;

use identity::PeerName;

use crate::secrets;

/// One container.
pub(super) struct Container {
    /// Its name in the compose file; also the instance in its certificate.
    pub(super) name: &'static str,
    /// The service in its certificate: what peer lists speak of.
    pub(super) service: &'static str,
    /// The group that its process runs as.
    pub(super) group: u32,
    /// Whether it is one of our services, which take a new certificate without a restart.
    pub(super) is_ours: bool,
    /// Names by which clients know it, besides its own.
    pub(super) dns_names: &'static [&'static str],
    /// The common name in its certificate, where that matters.
    pub(super) common_name: Option<&'static str>,
    /// What the steward keeps, and the file that it is in the container.
    pub(super) secrets: &'static [(&'static str, &'static str)],
}

const FRONT_NAMES: &[&str] = &["localhost", "nebula", "127.0.0.1", "front"];
/// etcd lets in whose certificate has one of these names.
const ETCD_NAMES: &[&str] = &["etcd", "etcd-client", "localhost", "127.0.0.1"];
const POSTGRES_NAMES: &[&str] = &["detektor-postgres", "etcd-client", "localhost", "127.0.0.1"];

const GATEWAY_SECRETS: &[(&str, &str)] = &[
    ("gateway/database-password", "database-password"),
    ("gateway/access-signing-key.pem", "access-signing-key.pem"),
    ("gateway/passport-signing-key.pem", "passport-signing-key.pem"),
    ("gateway/bootstrap-token", "bootstrap-token"),
];
const BACKUP_SECRETS: &[(&str, &str)] = &[
    ("backup/database-password", "database-password"),
    ("backup/age-identity", "age-identity"),
    ("backup/age-recipient", "age-recipient"),
    ("backup/manifest-signing-key.pem", "manifest-signing-key.pem"),
];
const OPERATOR_SECRETS: &[(&str, &str)] =
    &[("gateway/bootstrap-token", "bootstrap-token"), ("operator/admin-password", "admin-password")];
const POSTGRES_SECRETS: &[(&str, &str)] = &[
    ("postgres/superuser-password", "superuser-password"),
    ("postgres/replication-password", "replication-password"),
    ("postgres/rewind-password", "rewind-password"),
    ("postgres/detektor-password", "roles/detektor"),
    ("gateway/database-password", "roles/gateway"),
    ("sla/database-password", "roles/sla"),
    ("backup/database-password", "roles/backup"),
];

/// All of them.
pub(super) const ALL: [Container; 19] = [
    ours("balancer-a", "balancer", 10_101).names(FRONT_NAMES),
    ours("balancer-b", "balancer", 10_101).names(FRONT_NAMES),
    ours("gateway-a", "gateway", 10_102).secrets(GATEWAY_SECRETS),
    ours("gateway-b", "gateway", 10_102).secrets(GATEWAY_SECRETS),
    ours("ml-serving-primary", "serving", 10_103),
    ours("ml-serving-secondary", "serving", 10_103),
    ours("ml-serving-tertiary", "serving", 10_103),
    ours("backup-worker", "backup", 10_104).secrets(BACKUP_SECRETS),
    ours("sla-tracker", "sla", 10_105).secrets(&[("sla/database-password", "database-password")]),
    ours("operator", "operator", 10_106).secrets(OPERATOR_SECRETS),
    postgres("detektor-postgres-master"),
    postgres("detektor-postgres-slave"),
    third_party("detektor-postgres", "postgres-proxy", 10_012)
        .secrets(&[("postgres/detektor-password", "detektor-password")]),
    third_party("front", "front", 10_012),
    third_party("prometheus", "prometheus", 10_040),
    third_party("alertmanager", "alertmanager", 10_040),
    third_party("etcd-1", "etcd", 10_011).names(ETCD_NAMES),
    third_party("etcd-2", "etcd", 10_011).names(ETCD_NAMES),
    third_party("etcd-3", "etcd", 10_011).names(ETCD_NAMES),
];

const fn ours(name: &'static str, service: &'static str, group: u32) -> Container {
    Container { name, service, group, is_ours: true, dns_names: &[], common_name: None, secrets: &[] }
}

const fn third_party(name: &'static str, service: &'static str, group: u32) -> Container {
    Container { name, service, group, is_ours: false, dns_names: &[], common_name: None, secrets: &[] }
}

/// A node replicates as the user that its common name says.
const fn postgres(name: &'static str) -> Container {
    let mut node = third_party(name, "postgres", 10_010).names(POSTGRES_NAMES).secrets(POSTGRES_SECRETS);
    node.common_name = Some("replicator");
    node
}

/// Makes every secret that is missing in the steward's own folder.
pub(super) fn ensure_secrets(kept: &Path) -> anyhow::Result<()> {
    secrets::ensure(kept)?;
    for name in ["superuser-password", "replication-password", "rewind-password", "detektor-password"] {
        secrets::ensure_random(&kept.join("postgres").join(name))?;
    }
    Ok(())
}

// === impl Container ===

impl Container {
    const fn names(mut self, dns_names: &'static [&'static str]) -> Self {
        self.dns_names = dns_names;
        self
    }

    const fn secrets(mut self, secrets: &'static [(&'static str, &'static str)]) -> Self {
        self.secrets = secrets;
        self
    }

    /// The name in its certificate.
    pub(super) fn peer_name(&self) -> PeerName {
        PeerName { service: self.service.into(), instance: self.name.into() }
    }
}
