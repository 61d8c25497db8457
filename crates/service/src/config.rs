//! Configuration: embedded defaults, then a file, then the environment. Later wins; unknown keys are refused.

use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use identity::IdentityConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use telemetry::TelemetryConfig;
use transport::ListenConfig;
use vault::VaultConfig;

/// The configuration of a service. Put `#[serde(deny_unknown_fields)]` on it and on every section.
pub trait Configuration: DeserializeOwned {
    /// The sections that every service has, as plain fields of it: a flattened one would swallow unknown keys.
    fn sections(&self) -> Sections<'_>;

    /// Everything that is wrong with the values, all of it at once. Reads no file; [`Configuration::sections`] are checked already.
    fn validate(&self) -> Vec<Fault>;
}

/// The sections that every service has.
#[derive(Debug, Clone, Copy)]
pub struct Sections<'a> {
    /// `[admin]`
    pub admin: &'a ListenConfig,
    /// `[identity]`
    pub identity: &'a IdentityConfig,
    /// `[telemetry]`
    pub telemetry: &'a TelemetryConfig,
    /// `[runtime]`
    pub runtime: RuntimeConfig,
    /// `[vault]`, which may be missing: then somebody else keeps the files.
    pub vault: Option<&'a VaultConfig>,
}

/// The `[runtime]` section: the threads that serve requests.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// How many, up to 1,024; 0 is half of the cores that the process may use, and at least one.
    pub workers: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    path: String,
    message: String,
}

/// Why a configuration is refused: every reason, one line each.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the configuration is refused:{}", lines(.0))]
pub struct ConfigError(Vec<Fault>);

/// Reads the configuration of the service `name`: `defaults` (TOML), then `file`, then the environment, where
/// `RAMPART_<NAME>__SECTION__KEY` is the key `section.key`.
pub fn load<C: Configuration>(name: &str, defaults: &str, file: Option<&Path>) -> Result<C, ConfigError> {
    let mut layers = Figment::from(Toml::string(defaults));
    if let Some(file) = file {
        layers = layers.merge(Toml::file_exact(file));
    }
    let prefix = format!("RAMPART_{}__", name.to_uppercase());
    checked(layers.merge(Env::prefixed(&prefix).split("__")))
}

fn checked<C: Configuration>(layers: Figment) -> Result<C, ConfigError> {
    let config: C = layers.extract().map_err(|errors| ConfigError(errors.into_iter().map(Fault::from).collect()))?;
    let mut faults = Fault::under("telemetry", config.sections().telemetry.faults());
    faults.extend(Fault::under("runtime", config.sections().runtime.faults()));
    if let Some(vault) = config.sections().vault {
        faults.extend(Fault::under("vault", vault.faults()));
    }
    faults.extend(config.validate());
    if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

// === impl RuntimeConfig ===

impl RuntimeConfig {
    const WORKERS_MAX: usize = 1_024;

    /// How many threads that is here. Half of the cores, because the services share a machine: threads beyond what the work
    /// needs take it from each other, and every time a request changes threads costs more than most of its steps.
    pub(crate) fn threads(self) -> usize {
        let half = || std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        if self.workers == 0 { half() } else { self.workers }
    }

    fn faults(self) -> Vec<(&'static str, String)> {
        let is_too_many = self.workers > Self::WORKERS_MAX;
        if is_too_many { vec![("workers", format!("must not be more than {}", Self::WORKERS_MAX))] } else { Vec::new() }
    }
}

// === impl Fault ===

impl Fault {
    /// The value at the dotted `path` is wrong, and why.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The faults of a section that checks itself: `Fault::under("database", config.database.faults())`.
    pub fn under(section: &str, faults: Vec<(&'static str, String)>) -> Vec<Self> {
        faults.into_iter().map(|(key, message)| Self::new(format!("{section}.{key}"), message)).collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return formatter.write_str(&self.message);
        }
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

impl From<figment::Error> for Fault {
    fn from(error: figment::Error) -> Self {
        let source = error.metadata.as_ref().map(|metadata| match &metadata.source {
            Some(source) => format!(" (in {source})"),
            None => format!(" (in {})", metadata.name),
        });
        Self::new(error.path.join("."), format!("{}{}", error.kind, source.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const DEFAULTS: &str = r#"
        [admin]
        address = "127.0.0.1:0"
        peers = { "/" = ["operator"] }
        [identity]
        directory = "identity"
        [telemetry]
        [runtime]
        workers = 0
        [work]
        size = 1
    "#;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        admin: ListenConfig,
        identity: IdentityConfig,
        telemetry: TelemetryConfig,
        runtime: RuntimeConfig,
        work: Work,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Work {
        size: NonZeroU32,
    }

    impl Configuration for Config {
        fn sections(&self) -> Sections<'_> {
            Sections {
                admin: &self.admin,
                identity: &self.identity,
                telemetry: &self.telemetry,
                runtime: self.runtime,
                vault: None,
            }
        }

        fn validate(&self) -> Vec<Fault> {
            let is_odd = self.work.size.get() % 2 == 1;
            if is_odd { Vec::new() } else { vec![Fault::new("work.size", "must be odd")] }
        }
    }

    fn loaded(file: &str) -> Result<Config, String> {
        let layers = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(file));
        checked(layers).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_overrides_the_defaults_key_by_key() {
        let config = loaded("[work]\nsize = 3").unwrap();
        assert_eq!(config.work.size.get(), 3);
        assert_eq!(config.identity.directory, Path::new("identity"));
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_path() {
        for (file, path) in [
            ("[work]\nsiez = 3", "work.siez"),
            ("[wrok]\n", "wrok"),
            ("[telemetry]\nlog_fliter = 1", "telemetry.log_fliter"),
        ] {
            let message = loaded(file).unwrap_err();
            assert!(message.contains(&format!("\n  {path}: ")), "{message}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_its_path() {
        let message = loaded("[work]\nsize = \"many\"").unwrap_err();
        assert!(message.contains("\n  work.size: invalid type"), "{message}");
        let message = loaded("[admin.peers]\n\"/metrics\" = []").unwrap_err();
        assert!(message.contains("admin.peers"), "{message}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let message = loaded(
            "[work]\nsize = 2\n[telemetry]\nlog_filter = \"=,\"\ntrace_sample_ratio = 2\n[runtime]\nworkers = 2000",
        )
        .unwrap_err();
        for path in
            ["work.size: must be odd", "telemetry.log_filter: ", "telemetry.trace_sample_ratio: ", "runtime.workers: "]
        {
            assert!(message.contains(path), "{path} in {message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>("nobody", DEFAULTS, Some(Path::new("/nonexistent/x.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.toml"), "{error}");
    }
}
