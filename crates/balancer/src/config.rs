//! The configuration, and everything that can be wrong with it.

use serde::Deserialize;
use service::{Configuration, Fault};

use crate::{
    access::AccessConfig,
    callers::CallersConfig,
    front::FrontConfig,
    pool::{HealthSettings, PeerSettings, PoolsConfig},
    proxy::{CorsConfig, ProxyConfig},
    routes::RouteLimits,
    sla::SlaConfig,
};

/// The defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// Everything that can be configured.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener for clients.
    pub front: FrontConfig,
    /// Limits by kind of route.
    pub routes: RouteLimits,
    /// The replicas.
    #[serde(default)]
    pub pools: PoolsConfig,
    /// Connections to them.
    pub peers: PeerSettings,
    /// Checks of them.
    pub health: HealthSettings,
    /// Attempts, and what is logged of them.
    pub proxy: ProxyConfig,
    /// Pages of other origins.
    pub cors: CorsConfig,
    /// Tokens and passports.
    pub access: AccessConfig,
    /// What each caller may take.
    pub callers: CallersConfig,
    /// Reports to the SLA tracker.
    pub sla: SlaConfig,
}

// === impl Config ===

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let limits = &self.front.limits;
        let positive = [
            ("front.limits.connections_max", limits.connections_max as u64),
            ("front.limits.connections_per_address_max", limits.connections_per_address_max as u64),
            ("front.limits.handshake_timeout_ms", limits.handshake_timeout_ms),
            ("front.limits.header_timeout_ms", limits.header_timeout_ms),
            ("front.limits.body_pause_max_ms", limits.body_pause_max_ms),
            ("front.limits.idle_timeout_ms", limits.idle_timeout_ms),
            ("front.limits.connection_age_max_s", limits.connection_age_max_s),
            ("front.limits.streams_max", u64::from(limits.streams_max)),
            ("routes.inference_time_max_ms", self.routes.inference_time_max_ms),
            ("routes.api_time_max_ms", self.routes.api_time_max_ms),
            ("routes.registry_time_max_ms", self.routes.registry_time_max_ms),
            ("routes.artifact_time_max_ms", self.routes.artifact_time_max_ms),
            ("peers.connect_timeout_ms", self.peers.connect_timeout_ms),
            ("peers.streams_max", self.peers.streams_max as u64),
            ("peers.in_flight_max", self.peers.in_flight_max as u64),
            ("health.interval_ms", self.health.interval_ms),
            ("health.timeout_ms", self.health.timeout_ms),
            ("health.good_checks", u64::from(self.health.good_checks)),
            ("proxy.attempts_max", self.proxy.attempts_max as u64),
            ("access.remembered_max", self.access.remembered_max as u64),
            ("access.calls_max", self.access.calls_max as u64),
            ("access.call_timeout_ms", self.access.call_timeout_ms),
            ("sla.report_interval_s", self.sla.report_interval_s),
        ];
        let mut faults: Vec<Fault> = positive
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(path, _)| Fault::new(path, "must be more than 0"))
            .collect();
        if !(1024..=1024 * 1024).contains(&limits.header_bytes_max) {
            faults.push(Fault::new("front.limits.header_bytes_max", "must be from 1 KiB to 1 MiB"));
        }
        faults.extend(self.pools.faults());
        faults.extend(self.callers.faults());
        faults.extend(self.cors.faults());
        faults
    }
}

#[cfg(test)]
mod tests {
    use topology::name::SERVING;

    use super::*;

    fn load(file: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer.toml");
        std::fs::write(&path, file).unwrap();
        let config = service::load("balancer", DEFAULTS, Some(&path)).map_err(|error| error.to_string())?;
        Ok(config.own)
    }

    #[test]
    fn the_defaults_are_a_configuration() {
        let config = load("").unwrap();
        assert!(config.pools.replicas(SERVING).is_empty());
        assert_eq!(config.front.limits.header_bytes_max, 32 * 1024);
    }

    #[test]
    fn replicas_have_names_and_addresses() {
        let config = load(r#"pools.serving.replicas = [{ name = "serving-1", address = "127.0.0.1:8001" }]"#).unwrap();
        assert_eq!(config.pools.replicas(SERVING)[0].name, "serving-1");
    }

    #[test]
    fn every_fault_is_reported_with_its_path() {
        let message = load(
            r#"
            front.limits.header_bytes_max = 10
            proxy.attempts_max = 0
            pools.sla.replicas = [{ name = "a", address = "nowhere" }, { name = "a", address = "x:1" }]
            "#,
        )
        .unwrap_err();
        for path in ["front.limits.header_bytes_max", "proxy.attempts_max", "\"nowhere\"", "\"a\" is empty or twice"] {
            assert!(message.contains(path), "{path} in {message}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(load("[front]\nadress = \"127.0.0.1:1\"").unwrap_err().contains("front.adress"));
        assert!(load("pools.severing.replicas = []").unwrap_err().contains("pools.severing"));
        assert!(load("pools.serving.replica = []").unwrap_err().contains("pools.serving.replica"));
    }
}
