//! The configuration, as `config/default.toml` explains it key by key.

use std::num::NonZeroUsize;

use database::DatabaseConfig;
use secrets::SecretFile;
use serde::Deserialize;
use service::{Configuration, Fault};
use transport::ListenConfig;

/// The defaults, embedded.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");

/// More concurrent hashes than this would be gigabytes.
const CONCURRENCY_MAX: usize = 64;

/// In a longer queue callers give up before their turn.
const QUEUE_MAX: usize = 1_024;

/// Signing keys, and the audiences of passports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Signs access tokens.
    pub access_signing_key_file: SecretFile,
    /// Former keys whose access tokens are still accepted.
    #[serde(default)]
    pub access_passive_key_files: Vec<SecretFile>,
    /// Signs passports.
    pub passport_signing_key_file: SecretFile,
    /// Former keys whose passports are still accepted.
    #[serde(default)]
    pub passport_passive_key_files: Vec<SecretFile>,
    /// Services that a passport can be for.
    pub audiences: Vec<String>,
}

/// How the first administrator is created.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapConfig {
    /// Holds the one-time token.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
}

/// How many passwords are hashed at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordsConfig {
    /// At once.
    pub concurrency: NonZeroUsize,
    /// Waiting.
    pub queue_max: usize,
}

/// All settings of a gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener for the other services.
    pub listen: ListenConfig,
    /// Where users, logins and the audit log are.
    pub database: DatabaseConfig,
    /// Keys.
    pub tokens: TokensConfig,
    /// The first administrator.
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// Password hashing.
    pub passwords: PasswordsConfig,
}

// === impl Config ===

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Fault::under("database", self.database.faults());
        for (index, audience) in self.tokens.audiences.iter().enumerate() {
            if !topology::CALLERS.contains(&audience.as_str()) {
                let why = format!("no service is called {audience:?}; there are {}", topology::CALLERS.join(", "));
                faults.push(Fault::new(format!("tokens.audiences[{index}]"), why));
            }
        }
        if self.passwords.concurrency.get() > CONCURRENCY_MAX {
            faults.push(Fault::new("passwords.concurrency", format!("must not be more than {CONCURRENCY_MAX}")));
        }
        if self.passwords.queue_max > QUEUE_MAX {
            faults.push(Fault::new("passwords.queue_max", format!("must not be more than {QUEUE_MAX}")));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load(toml: &str) -> Result<Config, service::ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        Ok(service::load("gateway", DEFAULT_TOML, Some(file.path()))?.own)
    }

    #[test]
    fn the_embedded_defaults_are_a_configuration() {
        load("").unwrap();
    }

    #[test]
    fn every_fault_is_reported_with_its_path() {
        let error = load("[tokens]\naudiences = [\"mlflow\"]\n[passwords]\nconcurrency = 65\nqueue_max = 1025\n");
        let text = error.unwrap_err().to_string();
        for path in ["tokens.audiences[0]", "passwords.concurrency", "passwords.queue_max"] {
            assert!(text.contains(path), "{text}");
        }
        let unknown = load("[tokens]\nsigning_key = \"a\"\n").unwrap_err().to_string();
        assert!(unknown.contains("signing_key"), "{unknown}");
    }
}
