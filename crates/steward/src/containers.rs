//! Every container of the platform: its identity and its secrets.

use std::path::Path;

use bootstrap::platform_secrets;
use identity::{PeerName, dns_name};
use time::Duration;

/// One container.
pub(super) struct Container {
    /// Its name in the compose file; also the instance in its certificate.
    pub(super) name: &'static str,
    /// The service in its certificate, which peer lists name.
    pub(super) service: &'static str,
    /// The group that its process runs as.
    pub(super) group: u32,
    /// What it may ask of Vault.
    pub(super) access: Access,
    /// How long a certificate lives that the steward signs for it.
    pub(super) lifetime: Duration,
    /// Names that clients dial, besides its own.
    pub(super) dns_names: &'static [&'static str],
    /// The common name in its certificate, where that matters.
    pub(super) common_name: Option<&'static str>,
    /// File in the steward's folder, and file in the container.
    pub(super) secrets: &'static [(&'static str, &'static str)],
}

/// What a container may ask of Vault, with a login that the steward renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: the steward signs its certificate.
    None,
    /// A service: its certificate, and its password of the database if it has one.
    Service,
    /// People's tools: to read secrets of `secret/ml`.
    Tools,
}

const DAY: Duration = Duration::days(1);
/// Third parties reload their certificate on a schedule of their own, so theirs lives longer.
const THIRD_PARTY_LIFETIME: Duration = Duration::days(90);
const FRONT_NAMES: &[&str] = &["localhost", "nebula", "127.0.0.1", "front"];
/// For clients the standby is a balancer.
const EDGE_NAMES: &[&str] = &["balancer.rampart.internal", "localhost", "nebula", "127.0.0.1", "front"];
/// etcd accepts certificates with one of these names.
const ETCD_NAMES: &[&str] = &["etcd", "etcd-client", "localhost", "127.0.0.1"];
const LOCAL_NAMES: &[&str] = &["localhost", "127.0.0.1"];
const POSTGRES_NAMES: &[&str] = &["detektor-postgres", "etcd-client", "localhost", "127.0.0.1"];

const GATEWAY_SECRETS: &[(&str, &str)] = &[
    ("gateway/access-signing-key.pem", "access-signing-key.pem"),
    ("gateway/passport-signing-key.pem", "passport-signing-key.pem"),
    ("gateway/bootstrap-token", "bootstrap-token"),
];
const BACKUP_SECRETS: &[(&str, &str)] = &[
    ("backup/age-identity", "age-identity"),
    ("backup/age-recipient", "age-recipient"),
    ("backup/manifest-signing-key.pem", "manifest-signing-key.pem"),
    ("minio/users/backup/access-key", "s3-access-key"),
    ("minio/users/backup/secret-key", "s3-secret-key"),
];
/// All replicas are equal, so they have one key.
const SERVING_SECRETS: &[(&str, &str)] =
    &[("minio/users/serving/access-key", "s3-access-key"), ("minio/users/serving/secret-key", "s3-secret-key")];
const MLFLOW_SECRETS: &[(&str, &str)] = &[
    ("mlflow/database-password", "database-password"),
    ("minio/users/mlflow/access-key", "s3-access-key"),
    ("minio/users/mlflow/secret-key", "s3-secret-key"),
];
const TOOLS_SECRETS: &[(&str, &str)] =
    &[("minio/users/tools/access-key", "s3-access-key"), ("minio/users/tools/secret-key", "s3-secret-key")];
/// A folder in `users` is a user of MinIO; what it may do is a file of the image.
const MINIO_SECRETS: &[(&str, &str)] = &[
    ("minio/root-user", "root-user"),
    ("minio/root-password", "root-password"),
    ("minio/kms-key", "kms-key"),
    ("minio/users/mlflow/access-key", "users/mlflow/access-key"),
    ("minio/users/mlflow/secret-key", "users/mlflow/secret-key"),
    ("minio/users/serving/access-key", "users/serving/access-key"),
    ("minio/users/serving/secret-key", "users/serving/secret-key"),
    ("minio/users/backup/access-key", "users/backup/access-key"),
    ("minio/users/backup/secret-key", "users/backup/secret-key"),
    ("minio/users/tools/access-key", "users/tools/access-key"),
    ("minio/users/tools/secret-key", "users/tools/secret-key"),
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
    ("mlflow/database-password", "roles/mlflow"),
    ("postgres/vault-password", "roles/vault"),
    ("postgres/prometheus-password", "roles/prometheus"),
];

const EXPORTER_SECRETS: &[(&str, &str)] = &[("postgres/prometheus-password", "database-password")];

/// The container with `psql`.
pub(super) const PSQL_CONTAINER: &str = "detektor-postgres";
/// The database role that people log in with.
pub(super) const DETEKTOR_ROLE: &str = "detektor";
/// Database roles whose passwords Vault rotates.
pub(super) const DATABASE_ROLES: [&str; 4] = ["gateway", "sla", "backup", DETEKTOR_ROLE];

/// All containers.
pub(super) const ALL: [Container; 26] = [
    service("balancer-a", "balancer", 10_101).names(FRONT_NAMES),
    service("balancer-b", "balancer", 10_101).names(FRONT_NAMES),
    service("gateway-a", "gateway", 10_102).secrets(GATEWAY_SECRETS),
    service("gateway-b", "gateway", 10_102).secrets(GATEWAY_SECRETS),
    service("ml-serving-primary", "serving", 10_103).secrets(SERVING_SECRETS),
    service("ml-serving-secondary", "serving", 10_103).secrets(SERVING_SECRETS),
    service("ml-serving-tertiary", "serving", 10_103).secrets(SERVING_SECRETS),
    service("backup-worker", "backup", 10_104).secrets(BACKUP_SECRETS),
    service("sla-tracker", "sla", 10_105),
    third_party("operator", "operator", 10_106).lives(DAY).secrets(OPERATOR_SECRETS),
    postgres("detektor-postgres-master"),
    postgres("detektor-postgres-slave"),
    // Its password of the user detektor comes from Vault.
    third_party(PSQL_CONTAINER, "postgres-proxy", 10_012),
    third_party("front", "front", 10_012),
    third_party("edge", "edge", 10_016).names(EDGE_NAMES),
    third_party("vault", "vault", 10_020).names(LOCAL_NAMES),
    third_party("minio", "minio", 10_021).names(LOCAL_NAMES).secrets(MINIO_SECRETS),
    third_party("mlflow", "mlflow", 10_030).secrets(MLFLOW_SECRETS),
    third_party("example-models", "publisher", 10_030),
    third_party("tools", "tools", 10_022).access(Access::Tools).secrets(TOOLS_SECRETS),
    third_party("prometheus", "prometheus", 10_040).names(LOCAL_NAMES),
    third_party("alertmanager", "alertmanager", 10_040).names(LOCAL_NAMES),
    third_party("postgres-exporter", "postgres-exporter", 10_040).secrets(EXPORTER_SECRETS),
    third_party("etcd-1", "etcd", 10_011).names(ETCD_NAMES),
    third_party("etcd-2", "etcd", 10_011).names(ETCD_NAMES),
    third_party("etcd-3", "etcd", 10_011).names(ETCD_NAMES),
];

const fn service(name: &'static str, service: &'static str, group: u32) -> Container {
    third_party(name, service, group).access(Access::Service)
}

const fn third_party(name: &'static str, service: &'static str, group: u32) -> Container {
    let (access, lifetime) = (Access::None, THIRD_PARTY_LIFETIME);
    Container { name, service, group, access, lifetime, dns_names: &[], common_name: None, secrets: &[] }
}

/// The common name is the database user that a node replicates as.
const fn postgres(name: &'static str) -> Container {
    let mut node = third_party(name, "postgres", 10_010).names(POSTGRES_NAMES).secrets(POSTGRES_SECRETS);
    node.common_name = Some("replicator");
    node
}

/// Makes every secret that is missing in the steward's own folder.
pub(super) fn ensure_secrets(folder: &Path) -> anyhow::Result<()> {
    platform_secrets::ensure(folder)?;
    for user in ["superuser", "replication", "rewind", "detektor", "vault", "prometheus"] {
        platform_secrets::ensure_random(&folder.join("postgres").join(format!("{user}-password")))?;
    }
    platform_secrets::ensure_random(&folder.join("mlflow/database-password"))?;
    ensure_object_storage(&folder.join("minio"))
}

/// MinIO's own keys, and a pair for each of its users.
fn ensure_object_storage(folder: &Path) -> anyhow::Result<()> {
    platform_secrets::ensure_random(&folder.join("root-user"))?;
    platform_secrets::ensure_random(&folder.join("root-password"))?;
    platform_secrets::ensure_kms_key(&folder.join("kms-key"), "rampart")?;
    for user in ["mlflow", "serving", "backup", "tools"] {
        let user_folder = folder.join("users").join(user);
        platform_secrets::ensure_named(&user_folder.join("access-key"), user)?;
        platform_secrets::ensure_random(&user_folder.join("secret-key"))?;
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

    const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    const fn lives(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Every DNS name and address in its certificate.
    pub(super) fn all_names(&self) -> Vec<String> {
        let own = [dns_name(self.service), self.name.to_owned()];
        own.into_iter().chain(self.dns_names.iter().map(|name| (*name).to_owned())).collect()
    }

    /// The name in its certificate.
    pub(super) fn peer_name(&self) -> PeerName {
        PeerName { service: self.service.into(), instance: self.name.into() }
    }
}
