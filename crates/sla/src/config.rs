//! The configuration, one structure for each section of `config/default.toml`, where every key is explained.

use database::DatabaseConfig;
use serde::Deserialize;
use service::{Configuration, Fault};
use transport::{ListenConfig, UpstreamConfig};

use crate::{minute::is_name, percentage::Percentage, summary::Targets};

/// The embedded defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

const SERVICES_MAX: usize = 32;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where balancers call.
    pub listen: ListenConfig,
    /// Where the ledger is.
    pub database: DatabaseConfig,
    /// Where the keys of passports come from.
    pub gateway: UpstreamConfig,
    /// What the ledger is about.
    pub ledger: LedgerConfig,
}

/// Services and targets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// The services that have a ledger.
    pub services: Vec<String>,
    uptime_percentage: f64,
}

// === impl Config ===

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Fault::under("database", self.database.faults());
        faults.extend(Fault::under("gateway", self.gateway.faults()));
        let mut demand = |holds, path: &str, message: &str| faults.extend(Fault::unless(holds, path, message));
        let ledger = &self.ledger;
        demand((1..=SERVICES_MAX).contains(&ledger.services.len()), "ledger.services", "must hold 1 to 32 names");
        demand(
            ledger.services.iter().all(|name| is_name(name)),
            "ledger.services",
            "names are 1 to 63 lower-case letters, digits and dashes",
        );
        demand(
            ledger.uptime().is_some(),
            "ledger.uptime_percentage",
            "must be from 0 to 100 with at most four decimals",
        );
        faults
    }
}

// === impl LedgerConfig ===

impl LedgerConfig {
    /// The targets. `None` only for a configuration that was not validated.
    pub fn targets(&self) -> Option<Targets> {
        Some(Targets { uptime: self.uptime()?, p95_ms: slo::LATENCY_TARGET_MS })
    }

    fn uptime(&self) -> Option<Percentage> {
        // Through its text, because that is what was written: 99.9 * 10,000 is not 999,000 in binary.
        let text = format!("{}", self.uptime_percentage);
        let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
        let ten_thousandths = (decimals.len() <= 4).then(|| format!("{whole}{decimals:0<4}"))?;
        ten_thousandths.parse().ok().and_then(Percentage::from_ten_thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sla.toml");
        std::fs::write(&path, "gateway.addresses = [\"gateway:8443\"]").unwrap();
        service::load("sla", DEFAULTS, Some(&path)).unwrap().own
    }

    fn faults(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = load();
        change(&mut config);
        config.validate().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_parse_and_say_what_is_missing() {
        assert_eq!(faults(|_| {}), Vec::<String>::new());
        assert!(faults(|config| config.gateway.addresses.clear())[0].starts_with("gateway.addresses:"));
    }

    #[test]
    fn target_is_what_was_written() {
        let config = load();
        let targets = config.ledger.targets().unwrap();
        assert_eq!(Some(targets.uptime), Percentage::from_ten_thousandths(999_000));
        for (written, ten_thousandths) in [(99.9999, 999_999), (100.0, 1_000_000), (0.0001, 1), (0.0, 0)] {
            let ledger = LedgerConfig { uptime_percentage: written, ..config.ledger.clone() };
            assert_eq!(ledger.uptime(), Percentage::from_ten_thousandths(ten_thousandths), "{written}");
        }
        for wrong in [100.0001, -1.0, 99.99999, f64::NAN, f64::INFINITY] {
            assert_eq!(faults(|config| config.ledger.uptime_percentage = wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn services_are_names() {
        assert_eq!(faults(|config| config.ledger.services.clear()).len(), 1);
        assert_eq!(faults(|config| config.ledger.services.push("ML services".into())).len(), 1);
    }
}
