//! Configuration: embedded defaults, then a file, then the environment. Later wins; unknown keys are refused.

use std::fmt;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};
use identity::IdentityConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use telemetry::TelemetryConfig;
use transport::ListenConfig;
use vault::VaultConfig;

use crate::default_peers;

/// The defaults of the sections that every service has.
const COMMON_DEFAULTS: &str = include_str!("../config/default.toml");

/// The configuration of one service: what every service has, and its own sections.
#[derive(Debug)]
pub struct ServiceConfig<Own> {
    /// The sections that every service has.
    pub common: CommonConfig,
    /// The service's own.
    pub own: Own,
}

/// The sections that every service has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommonConfig {
    /// `[admin]`: the listener for health and metrics.
    pub admin: ListenConfig,
    /// `[identity]`: the certificate of this process.
    pub identity: IdentityConfig,
    /// `[telemetry]`: logs and traces.
    pub telemetry: TelemetryConfig,
    /// `[runtime]`: the threads that serve requests.
    pub runtime: RuntimeConfig,
    /// `[vault]`: where the identity and the database password come from; without it something else keeps their files.
    #[serde(default)]
    pub vault: Option<VaultConfig>,
}

/// The sections that only one service has. Put `#[serde(deny_unknown_fields)]` on the structure and on every section.
pub trait Configuration: DeserializeOwned {
    /// Everything that is wrong with the values, all of it at once. Reads no file.
    fn validate(&self) -> Vec<Fault>;
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

/// One layer of the configuration, reduced to the common sections or to all others. Each half is extracted on its own,
/// because serde's `flatten` would let unknown keys pass; filtered before the merge, every value keeps its source.
struct Half<P> {
    layer: P,
    is_common: bool,
}

/// Reads the configuration of the service `name`: the defaults of every service, its peers by the map, `defaults` (TOML), then `file`, then
/// the environment, where `RAMPART_<NAME>__SECTION__KEY` is the key `section.key`.
pub fn load<Own: Configuration>(
    name: &str,
    defaults: &str,
    file: Option<&Path>,
) -> Result<ServiceConfig<Own>, ConfigError> {
    let prefix = format!("RAMPART_{}__", name.to_uppercase());
    let half = |is_common| {
        let common_defaults = Half { layer: Toml::string(COMMON_DEFAULTS), is_common };
        let map = Half { layer: Serialized::defaults(default_peers::for_service(name)), is_common };
        let mut layers = Figment::from(common_defaults).merge(map);
        layers = layers.merge(Half { layer: Toml::string(defaults), is_common });
        if let Some(file) = file {
            layers = layers.merge(Half { layer: Toml::file_exact(file), is_common });
        }
        layers.merge(Half { layer: Env::prefixed(&prefix).split("__"), is_common })
    };
    let (common, own) = (extract::<CommonConfig>(&half(true))?, extract::<Own>(&half(false))?);
    let mut faults = common.faults();
    faults.extend(own.validate());
    if faults.is_empty() { Ok(ServiceConfig { common, own }) } else { Err(ConfigError(faults)) }
}

fn extract<T: DeserializeOwned>(layers: &Figment) -> Result<T, ConfigError> {
    layers.extract().map_err(|errors| ConfigError(errors.into_iter().map(Fault::from).collect()))
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

// === impl CommonConfig ===

impl CommonConfig {
    const SECTIONS: [&str; 5] = ["admin", "identity", "telemetry", "runtime", "vault"];

    fn faults(&self) -> Vec<Fault> {
        let vault = self.vault.as_ref().map(VaultConfig::faults).unwrap_or_default();
        let sections = [("telemetry", self.telemetry.faults()), ("runtime", self.runtime.faults()), ("vault", vault)];
        sections.into_iter().flat_map(|(section, faults)| Fault::under(section, faults)).collect()
    }
}

// === impl Half ===

impl<P: Provider> Provider for Half<P> {
    fn metadata(&self) -> Metadata {
        self.layer.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.layer.data()?;
        for sections in data.values_mut() {
            sections.retain(|section, _| CommonConfig::SECTIONS.contains(&section.as_str()) == self.is_common);
        }
        Ok(data)
    }
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

    /// The fault of the value at `path`, unless what it must be `holds`.
    pub fn unless(holds: bool, path: &str, message: &str) -> Option<Self> {
        (!holds).then(|| Self::new(path, message))
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
        let is_section = error.path.len() == 1 && matches!(error.kind, Kind::UnknownField(..));
        let common =
            is_section.then(|| format!(" or a section of every service, {}", CommonConfig::SECTIONS.join(", ")));
        let (common, source) = (common.unwrap_or_default(), source.unwrap_or_default());
        Self::new(error.path.join("."), format!("{}{common}{source}", error.kind))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::num::NonZeroU32;

    use super::*;

    const DEFAULTS: &str = "[work]
size = 1";

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        work: Work,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Work {
        size: NonZeroU32,
    }

    impl Configuration for Config {
        fn validate(&self) -> Vec<Fault> {
            let is_odd = self.work.size.get() % 2 == 1;
            if is_odd { Vec::new() } else { vec![Fault::new("work.size", "must be odd")] }
        }
    }

    fn loaded(text: &str) -> Result<ServiceConfig<Config>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load("tested", DEFAULTS, Some(file.path())).map_err(|error| {
            let message = error.to_string();
            let file = file.path().display().to_string();
            message.replace(&file, "FILE")
        })
    }

    #[test]
    fn a_file_overrides_the_defaults_key_by_key() {
        let config = loaded("[work]\nsize = 3").unwrap();
        assert_eq!(config.own.work.size.get(), 3);
        assert_eq!(config.common.identity.directory, Path::new("identity"));
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
        let error = load::<Config>("tested", DEFAULTS, Some(Path::new("/nonexistent/x.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.toml"), "{error}");
    }
}
