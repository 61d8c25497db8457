//! The configuration of the pools.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use service::Fault;
use topology::BALANCER;

use super::REPLICAS_MAX;

/// The `[pools]` section: the replicas of each service that the map has behind the balancer. One that is not named has none.
#[derive(Debug, Default, Deserialize)]
pub struct PoolsConfig(BTreeMap<String, PoolConfig>);

/// One pool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolConfig {
    replicas: Vec<ReplicaConfig>,
}

/// Where a replica is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// What the status page and the metrics call it.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

// === impl PoolsConfig ===

impl PoolsConfig {
    /// The replicas of a service.
    pub fn replicas(&self, service: &str) -> &[ReplicaConfig] {
        self.0.get(service).map_or(&[], |pool| &pool.replicas)
    }

    /// What is wrong with it.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, PoolConfig { replicas }) in &self.0 {
            let path = format!("pools.{name}.replicas");
            if !BALANCER.upstreams.contains(&name.as_str()) {
                faults.push(Fault::new(
                    &path,
                    format!("no pool is called so; there are {}", BALANCER.upstreams.join(", ")),
                ));
            }
            if replicas.len() > REPLICAS_MAX {
                faults.push(Fault::new(&path, format!("are more than {REPLICAS_MAX}")));
            }
            let mut names = HashSet::new();
            for replica in replicas {
                if replica.name.is_empty() || !names.insert(&replica.name) {
                    faults.push(Fault::new(&path, format!("{:?} is empty or twice there", replica.name)));
                }
                if !has_host_and_port(&replica.address) {
                    faults.push(Fault::new(&path, format!("{:?} is not host:port", replica.address)));
                }
            }
        }
        faults
    }
}

fn has_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
