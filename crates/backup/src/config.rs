//! The configuration, one structure for each section of `config/default.toml`, where every key is explained.

use std::{path::PathBuf, time::Duration};

use database::DatabaseConfig;
use secrets::SecretFile;
use serde::Deserialize;
use service::{Configuration, Fault};
use transport::{ListenConfig, UpstreamConfig};

/// The embedded defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

const DATABASES_MAX: usize = 32;
const RUN_TIMEOUT_S_MAX: u64 = 7 * 24 * 3600;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the balancer calls.
    pub listen: ListenConfig,
    /// Where runs are stored, and how to reach what is dumped.
    pub database: DatabaseConfig,
    /// Where the keys of passports come from.
    pub gateway: UpstreamConfig,
    /// What is backed up, where to, and with which keys.
    pub backup: BackupConfig,
}

/// The `[backup]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// The root of all sets.
    pub directory: PathBuf,
    /// The models folder.
    pub models: PathBuf,
    databases: Vec<String>,
    /// The public key that sets are encrypted to.
    pub age_recipient_file: PathBuf,
    /// The key that decrypts sets.
    pub age_identity_file: Option<SecretFile>,
    /// Signs manifests.
    pub signing_key_file: SecretFile,
    scratch: Option<PathBuf>,
    /// Bytes that must be free before a set is begun.
    pub free_bytes_min: u64,
    run_timeout_s: u64,
}

// === impl Config ===

impl Config {
    /// The databases to dump.
    pub fn databases(&self) -> Vec<DatabaseConfig> {
        if self.backup.databases.is_empty() {
            return vec![self.database.clone()];
        }
        let named = |name: &String| DatabaseConfig { name: name.clone(), ..self.database.clone() };
        self.backup.databases.iter().map(named).collect()
    }
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Fault::under("database", self.database.faults());
        faults.extend(Fault::under("gateway", self.gateway.faults()));
        let mut demand = |holds, path: &str, message: &str| faults.extend(Fault::unless(holds, path, message));
        let backup = &self.backup;
        demand(backup.directory.is_absolute(), "backup.directory", "must be an absolute path");
        demand(
            backup.databases.len() <= DATABASES_MAX && backup.databases.iter().all(|name| is_name(name)),
            "backup.databases",
            "must hold at most 32 names of letters, digits, dashes and underscores",
        );
        demand(
            (1..=RUN_TIMEOUT_S_MAX).contains(&backup.run_timeout_s),
            "backup.run_timeout_s",
            "must be from 1 to 604800",
        );
        faults
    }
}

// === impl BackupConfig ===

impl BackupConfig {
    /// Where dumps are restored.
    pub fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// How long a run may take.
    pub fn run_timeout(&self) -> Duration {
        Duration::from_secs(self.run_timeout_s)
    }
}

/// The name becomes part of a file's name.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 63 && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_parse_and_say_what_is_missing() {
        let message = service::load::<Config>("backup", DEFAULTS, None).unwrap_err().to_string();
        let faults: Vec<&str> = message.lines().skip(1).collect();
        assert_eq!(faults.len(), 1, "{message}");
        assert!(faults[0].trim_start().starts_with("gateway.addresses:"), "{message}");
    }

    #[test]
    fn database_of_the_runs_is_dumped_unless_others_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup.toml");
        std::fs::write(&path, "gateway.addresses = [\"gateway:8443\"]").unwrap();
        let mut config: Config = service::load("backup", DEFAULTS, Some(&path)).unwrap().own;
        let names = |config: &Config| config.databases().into_iter().map(|database| database.name).collect::<Vec<_>>();
        assert_eq!(names(&config), ["detektor"]);
        config.backup.databases = vec!["detektor".into(), "mlflow".into()];
        assert_eq!(names(&config), ["detektor", "mlflow"]);
        config.backup.databases = vec!["../x".into()];
        assert_eq!(config.validate().len(), 1);
    }
}
