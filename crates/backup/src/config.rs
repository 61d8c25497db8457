//! The configuration, one structure for each section of `config/default.toml`, where every key is explained.

use std::{path::PathBuf, time::Duration};

use database::DatabaseConfig;
use secrets::SecretFile;
use serde::Deserialize;
use service::{Configuration, Fault};
use transport::{ListenConfig, UpstreamConfig};

use crate::schedule::{Schedule, ScheduleError};

/// The embedded defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

const DATABASES_MAX: usize = 32;
const RUN_TIMEOUT_S_MAX: u64 = 7 * 24 * 3600;
/// In place of an expression: nothing is begun by this schedule.
const OFF: &str = "off";

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
    /// What is begun without a request.
    pub schedule: ScheduleConfig,
}

/// The `[schedule]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    create: String,
    verify_older: String,
    jitter_s: u64,
    /// Whether each set is verified once it is made.
    pub verify_created: bool,
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
        faults.extend(Fault::under("schedule", self.schedule.faults()));
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

// === impl ScheduleConfig ===

impl ScheduleConfig {
    /// When sets are made; none if that is switched off.
    pub fn create(&self) -> Result<Option<Schedule>, ScheduleError> {
        self.schedule(&self.create)
    }

    /// When an older set is verified; none if that is switched off.
    pub fn verify_older(&self) -> Result<Option<Schedule>, ScheduleError> {
        self.schedule(&self.verify_older)
    }

    fn schedule(&self, expression: &str) -> Result<Option<Schedule>, ScheduleError> {
        if expression == OFF {
            return Ok(None);
        }
        Schedule::parse(expression, Duration::from_secs(self.jitter_s)).map(Some)
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let fault = |key, schedule: Result<_, ScheduleError>| match schedule {
            Ok(_) => None,
            Err(error @ ScheduleError::Jitter(_)) => Some(("jitter_s", format!("{key}: {error}"))),
            Err(error) => Some((key, format!("{error}; five fields in UTC like \"0 2 * * *\", or \"{OFF}\""))),
        };
        [fault("create", self.create()), fault("verify_older", self.verify_older())].into_iter().flatten().collect()
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

    /// Proves that a wrong schedule is found before the start, with its key, and that each can be switched off.
    #[test]
    fn a_wrong_schedule_is_named() {
        let faults = |section: &str| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("backup.toml");
            fs_write(&path, section);
            match service::load::<Config>("backup", DEFAULTS, Some(&path)) {
                Ok(loaded) => Ok(loaded.own.schedule),
                Err(error) => Err(error.to_string()),
            }
        };
        for (section, named) in [
            ("create = \"0 2 * *\"", "schedule.create: "),
            ("create = \"\"", "schedule.create: "),
            ("create = \"0 0 2 * * *\"", "schedule.create: "),
            ("verify_older = \"0 25 * * *\"", "schedule.verify_older: "),
            ("verify_older = \"0 4 30 2 *\"", "schedule.verify_older: "),
            ("jitter_s = 86400", "schedule.jitter_s: create: "),
            ("create = \"*/5 * * * *\"\njitter_s = 300", "schedule.jitter_s: create: "),
        ] {
            let message = faults(section).unwrap_err();
            assert!(message.contains(named), "{section}: {message}");
        }
        let off = faults("create = \"off\"\nverify_older = \"off\"").unwrap();
        assert!(off.create().unwrap().is_none() && off.verify_older().unwrap().is_none());
        assert!(faults("create = \"*/5 * * * *\"\njitter_s = 0").unwrap().create().unwrap().is_some());
    }

    fn fs_write(path: &std::path::Path, section: &str) {
        std::fs::write(path, format!("gateway.addresses = [\"gateway:8443\"]\n[schedule]\n{section}\n")).unwrap();
    }
}
