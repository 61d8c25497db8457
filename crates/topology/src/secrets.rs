//! Secrets that the platform makes for itself, and which container has which of them, as which file.

/// A secret, made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    /// `<owner>/<name>` in the folder where all of them are kept.
    pub path: &'static str,
    /// How it is made.
    pub kind: SecretKind,
}

/// How a secret is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// 256 random bits.
    Random,
    /// The same behind this name, so that a log shows whose it is.
    Named(&'static str),
    /// A key that MinIO encrypts with.
    KmsKey,
    /// Ed25519, PKCS#8 PEM.
    SigningKey,
    /// X25519, for age.
    AgeIdentity,
    /// The public half of the `age-identity` beside it.
    AgeRecipient,
}

/// Secrets, and their files.
type Files = &'static [(Secret, &'static str)];

const BOOTSTRAP_TOKEN: Secret = random("gateway/bootstrap-token");
const MLFLOW_PASSWORD: Secret = random("mlflow/database-password");
const PROMETHEUS_PASSWORD: Secret = random("postgres/prometheus-password");
const MLFLOW_ACCESS: Secret = named("minio/users/mlflow/access-key", "mlflow");
const MLFLOW_SECRET: Secret = random("minio/users/mlflow/secret-key");
const SERVING_ACCESS: Secret = named("minio/users/serving/access-key", "serving");
const SERVING_SECRET: Secret = random("minio/users/serving/secret-key");
const BACKUP_ACCESS: Secret = named("minio/users/backup/access-key", "backup");
const BACKUP_SECRET: Secret = random("minio/users/backup/secret-key");
const ARCHIVE_ACCESS: Secret = named("minio/users/archive/access-key", "archive");
const ARCHIVE_SECRET: Secret = random("minio/users/archive/secret-key");
const TOOLS_ACCESS: Secret = named("minio/users/tools/access-key", "tools");
const TOOLS_SECRET: Secret = random("minio/users/tools/secret-key");

pub(crate) const GATEWAY: Files = &[
    (made("gateway/access-signing-key.pem", SecretKind::SigningKey), "access-signing-key.pem"),
    (made("gateway/passport-signing-key.pem", SecretKind::SigningKey), "passport-signing-key.pem"),
    (BOOTSTRAP_TOKEN, "bootstrap-token"),
];
pub(crate) const BACKUP: Files = &[
    (made("backup/age-identity", SecretKind::AgeIdentity), "age-identity"),
    (made("backup/age-recipient", SecretKind::AgeRecipient), "age-recipient"),
    (made("backup/manifest-signing-key.pem", SecretKind::SigningKey), "manifest-signing-key.pem"),
    (BACKUP_ACCESS, "s3-access-key"),
    (BACKUP_SECRET, "s3-secret-key"),
];
/// All replicas are equal, so they have one key.
pub(crate) const SERVING: Files = &[(SERVING_ACCESS, "s3-access-key"), (SERVING_SECRET, "s3-secret-key")];
pub(crate) const MLFLOW: Files =
    &[(MLFLOW_PASSWORD, "database-password"), (MLFLOW_ACCESS, "s3-access-key"), (MLFLOW_SECRET, "s3-secret-key")];
pub(crate) const TOOLS: Files = &[(TOOLS_ACCESS, "s3-access-key"), (TOOLS_SECRET, "s3-secret-key")];
/// A folder in `users` is a user of MinIO; what it may do is a file of the image.
pub(crate) const MINIO: Files = &[
    (random("minio/root-user"), "root-user"),
    (random("minio/root-password"), "root-password"),
    (made("minio/kms-key", SecretKind::KmsKey), "kms-key"),
    (MLFLOW_ACCESS, "users/mlflow/access-key"),
    (MLFLOW_SECRET, "users/mlflow/secret-key"),
    (SERVING_ACCESS, "users/serving/access-key"),
    (SERVING_SECRET, "users/serving/secret-key"),
    (BACKUP_ACCESS, "users/backup/access-key"),
    (BACKUP_SECRET, "users/backup/secret-key"),
    (ARCHIVE_ACCESS, "users/archive/access-key"),
    (ARCHIVE_SECRET, "users/archive/secret-key"),
    (TOOLS_ACCESS, "users/tools/access-key"),
    (TOOLS_SECRET, "users/tools/secret-key"),
];
pub(crate) const OPERATOR: Files =
    &[(BOOTSTRAP_TOKEN, "bootstrap-token"), (random("operator/admin-password"), "admin-password")];
/// A file in `roles` is a role of the database.
pub(crate) const POSTGRES: Files = &[
    (random("postgres/superuser-password"), "superuser-password"),
    (random("postgres/replication-password"), "replication-password"),
    (random("postgres/rewind-password"), "rewind-password"),
    (random("postgres/detektor-password"), "roles/detektor"),
    (random("gateway/database-password"), "roles/gateway"),
    (random("sla/database-password"), "roles/sla"),
    (random("backup/database-password"), "roles/backup"),
    (MLFLOW_PASSWORD, "roles/mlflow"),
    (random("postgres/vault-password"), "roles/vault"),
    (PROMETHEUS_PASSWORD, "roles/prometheus"),
    (ARCHIVE_ACCESS, "archive-access-key"),
    (ARCHIVE_SECRET, "archive-secret-key"),
    (random("postgres/archive-passphrase"), "archive-passphrase"),
];
pub(crate) const POSTGRES_EXPORTER: Files = &[(PROMETHEUS_PASSWORD, "database-password")];

const fn made(path: &'static str, kind: SecretKind) -> Secret {
    Secret { path, kind }
}

const fn random(path: &'static str) -> Secret {
    made(path, SecretKind::Random)
}

const fn named(path: &'static str, name: &'static str) -> Secret {
    made(path, SecretKind::Named(name))
}

// === impl Secret ===

impl Secret {
    /// Whose it is in the first place.
    pub fn owner(&self) -> &'static str {
        self.path.split_once('/').map_or("", |(owner, _)| owner)
    }
}
